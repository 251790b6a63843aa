//! The section of a measurement: its table and its chart.

use std::fmt::Write as _;
use std::io;

use super::run::{ALONE, Sample};
use super::settings::{BASELINE, GATEWAY, Measure, Scenario};
use crate::latency;
use crate::report::builds::{BESIDE, Better, Figure};
use crate::report::chart::{Bar, Chart};
use crate::report::figures::{Spread, spread};
use crate::report::machine::machine;

/// The samples of one target, by round.
pub struct Series {
    /// The target's name.
    pub target: String,
    /// The target's version, if it is a peer.
    pub version: Option<String>,
    /// The parts of each round. Empty for a round that failed.
    pub rounds: Vec<Vec<Sample>>,
    /// The errors of a peer, as sentences.
    pub failures: Vec<String>,
}

/// A row of the table: one part of one target.
struct Row<'r> {
    target: &'r str,
    label: String,
    /// By round.
    samples: Vec<Option<&'r Sample>>,
}

/// A column: its title, and the figure of a sample.
type Column = (&'static str, fn(&Sample) -> Option<f64>);

const CPU: Column = ("CPU µs per delivery", |sample| sample.cpu_per_delivery);
const PUBLISH: Column = ("CPU µs per event published", |sample| sample.cpu_per_publish);
const RATE: Column = ("deliveries/s", |sample| {
    sample.wall.map(|wall| sample.stats.deliveries as f64 / wall.as_secs_f64())
});
const P50: Column = ("p50 ms", |sample| quantile(sample, 0.5));
const P99: Column = ("p99 ms", |sample| quantile(sample, 0.99));
const TOOK: Column = ("seconds", |sample| sample.wall.map(|wall| wall.as_secs_f64()));
const SECONDS: Column = ("CPU seconds", |sample| sample.cpu);
const RSS: Column = ("RSS MiB", |sample| Some(sample.rss_max as f64 / 1_048_576.0));
const EACH: Column = ("KiB per connection", |sample| sample.rss_per_connection.map(|b| b / 1024.0));
const GENERATOR: Column = ("generator µs", |sample| sample.generator);
const RUN: Column = ("events a read", |sample| {
    sample.wall.map(|_| sample.stats.deliveries as f64 / sample.stats.reads.max(1) as f64)
});
const COLUMNS: [Column; 11] =
    [CPU, PUBLISH, RATE, P50, P99, TOOK, SECONDS, RUN, RSS, EACH, GENERATOR];

/// Columns that are also given as a ratio to the baseline.
const COMPARED: [&str; 3] = [CPU.0, RATE.0, P99.0];

impl Series {
    /// Creates a series without rounds.
    pub fn new(target: &str, version: Option<String>) -> Series {
        let (rounds, failures) = (Vec::new(), Vec::new());
        Series { target: target.to_owned(), version, rounds, failures }
    }

    /// Records a round in which a peer failed.
    pub fn fail(&mut self, round: usize, error: &io::Error) {
        let line = format!("{} failed in round {round}: {error}.", self.target);
        eprintln!("loadtest: {line}");
        self.failures.push(line);
        self.rounds.push(Vec::new());
    }
}

/// Returns the section of a scenario: heading, command, table, and a link to
/// the chart. `left_out` are the targets that are not installed.
pub fn section(scenario: &Scenario, all: &[Series], left_out: &[String], command: &str) -> String {
    let mut out = String::new();
    let rounds = all.iter().map(|rounds| rounds.rounds.len()).max().unwrap_or(0);
    let _ = write!(
        out,
        "## {}\n\n{}\n\n{}. `{command}`: {rounds} rounds, each target once a round; medians, \
         the least and the most in brackets.\n\n",
        scenario.name,
        scenario.about.trim(),
        machine()
    );
    for line in all.iter().flat_map(|rounds| &rounds.failures) {
        let _ = writeln!(out, "{line}\n");
    }
    if !left_out.is_empty() {
        let _ = writeln!(out, "Left out, since not installed: {}.\n", left_out.join(", "));
    }
    let rows = rows(all);
    let columns: Vec<&Column> = COLUMNS
        .iter()
        .filter(|(_, value)| rows.iter().flat_map(Row::measured).any(|s| value(s).is_some()))
        .collect();
    let against = against(scenario, all);
    let mut heads = vec!["target".to_owned()];
    for (title, _) in &columns {
        heads.push((*title).to_owned());
        if let Some(base) = against.filter(|_| COMPARED.contains(title)) {
            heads.push(format!("× {base}"));
        }
    }
    heads.push("lost, repeated, out of order, gaps, disconnected".to_owned());
    let _ = writeln!(out, "| {} |\n|{}", heads.join(" | "), "---|".repeat(heads.len()));
    for row in &rows {
        let base = if against == Some(ALONE) {
            rows.iter().find(|base| base.target == row.target && base.part() == Some(ALONE))
        } else {
            let mut baselines = rows.iter().filter(|baseline| baseline.target == BASELINE);
            let same = baselines.clone().find(|baseline| baseline.part() == row.part());
            same.or_else(|| baselines.next())
        };
        let _ = writeln!(out, "| {} |", cells(row, base, &columns).join(" | "));
    }
    if chart(scenario, all).is_some() {
        let name = &scenario.name;
        let _ = writeln!(out, "\n![{name}, as a chart](charts/{name}.svg)");
    }
    out
}

/// Returns what the ratios refer to: the baseline, or else the part without
/// stalled readers.
fn against(scenario: &Scenario, all: &[Series]) -> Option<&'static str> {
    match scenario.measure {
        _ if all.iter().any(|rounds| rounds.target == BASELINE) => Some(BASELINE),
        Measure::Stalled { .. } => Some(ALONE),
        _ => None,
    }
}

/// Returns the chart of a scenario, if it has one: the cost of a delivery, or
/// of a connection.
pub fn chart(scenario: &Scenario, all: &[Series]) -> Option<String> {
    let (title, value) = match scenario.measure {
        Measure::Fanout(_) => CPU,
        Measure::Idle { .. } => EACH,
        Measure::Stalled { .. } | Measure::Reconnect { .. } => return None,
    };
    let bar = |row: &Row| {
        let values = row.measured().filter_map(value).collect();
        Some(Bar { label: row.label.clone(), spread: Spread::of(values)? })
    };
    let bars: Vec<Bar> = rows(all).iter().filter_map(bar).collect();
    let title = format!("{}: {title}", scenario.name);
    (!bars.is_empty()).then(|| Chart { title, bars }.svg())
}

/// Returns the cost of a delivery, or of a connection, of both builds.
pub fn builds(all: &[Series]) -> Vec<Figure> {
    let rows = rows(all);
    let mut figures = Vec::new();
    for own in rows.iter().filter(|row| row.target == GATEWAY) {
        let is_other = |row: &&Row| row.target == BESIDE && row.part() == own.part();
        let Some(other) = rows.iter().find(is_other) else { continue };
        for (title, value) in [CPU, EACH] {
            let pairs = own.samples.iter().zip(&other.samples);
            let pairs = pairs.filter_map(|(own, other)| Some((value((*own)?)?, value((*other)?)?)));
            let name = format!("{} {title}", own.part().unwrap_or_default());
            figures.push(Figure::new(name.trim(), Better::Lower, pairs));
        }
    }
    figures
}

/// Returns the rows, part by part, each with all targets in order.
fn rows(all: &[Series]) -> Vec<Row<'_>> {
    let samples = || all.iter().flat_map(|rounds| rounds.rounds.iter().flatten());
    let mut parts: Vec<&str> = Vec::new();
    for sample in samples() {
        if !parts.contains(&sample.part) {
            parts.push(sample.part);
        }
    }
    let label = |rounds: &Series, part: &str| {
        let version = rounds.version.as_deref().unwrap_or_default();
        let mut words = vec![rounds.target.as_str(), version, part];
        words.retain(|word| !word.is_empty());
        words.join(" ")
    };
    let mut rows = Vec::new();
    for part in parts {
        for rounds in all {
            let mut samples = Vec::new();
            for round in &rounds.rounds {
                samples.push(round.iter().find(|sample| sample.part == part));
            }
            if samples.iter().any(Option::is_some) {
                rows.push(Row { target: &rounds.target, label: label(rounds, part), samples });
            }
        }
    }
    rows
}

impl Row<'_> {
    fn measured(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().copied().flatten()
    }

    fn part(&self) -> Option<&str> {
        self.measured().next().map(|sample| sample.part)
    }
}

fn cells(row: &Row, base: Option<&Row>, columns: &[&Column]) -> Vec<String> {
    let mut cells = vec![row.label.clone()];
    for (title, value) in columns {
        cells.push(spread(row.measured().filter_map(value).collect()));
        let Some(base) = base.filter(|_| COMPARED.contains(title)) else { continue };
        let pairs = row.samples.iter().copied().zip(base.samples.iter().copied());
        let ratio = |(ours, theirs): (Option<&Sample>, Option<&Sample>)| {
            Some(value(ours?)? / value(theirs?)?)
        };
        cells.push(if std::ptr::eq(row, base) {
            "1".to_owned()
        } else {
            spread(pairs.filter_map(ratio).collect())
        });
    }
    let faults = row.measured().map(|sample| sample.stats.faults());
    let sums = faults.fold([0; 5], |mut sums, faults| {
        sums.iter_mut().zip(faults).for_each(|(sum, fault)| *sum += fault);
        sums
    });
    cells.push(sums.map(|sum| sum.to_string()).join(", "));
    cells
}

fn quantile(sample: &Sample, quantile: f64) -> Option<f64> {
    let is_live = sample.cpu_per_publish.is_some();
    is_live.then(|| latency::ms(&sample.stats.latency, quantile))
}
