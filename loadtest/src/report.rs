//! What was measured, as Markdown: to standard output, and into the section
//! of a file.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use crate::chart::{Bar, Chart};
use crate::latency;
use crate::measure::{ALONE, Sample};
use crate::scenario::{FLOOR, Measure, Scenario};

/// The samples of one target, by round.
pub struct Series {
    /// The target's name.
    pub target: String,
    /// Its version, if it is a peer.
    pub version: Option<String>,
    /// The parts of each round; none of one that failed.
    pub rounds: Vec<Vec<Sample>>,
    /// What a peer failed with.
    pub failures: Vec<String>,
}

/// A row of a table: one part of one target.
struct Row<'r> {
    target: &'r str,
    label: String,
    /// By round.
    samples: Vec<Option<&'r Sample>>,
}

/// The median of some values, the least of them and the most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

/// A column: its title, and its value in one sample.
type Column = (&'static str, fn(&Sample) -> Option<f64>);

const CPU: Column = ("CPU µs per delivery", |sample| sample.cpu_per_delivery);
const PUBLISH: Column = ("CPU µs per event published", |sample| sample.cpu_per_publish);
const RATE: Column = ("deliveries/s", |sample| {
    sample.wall.map(|wall| sample.tally.deliveries as f64 / wall.as_secs_f64())
});
const P50: Column = ("p50 ms", |sample| quantile(sample, 0.5));
const P99: Column = ("p99 ms", |sample| quantile(sample, 0.99));
const TOOK: Column = ("seconds", |sample| sample.wall.map(|wall| wall.as_secs_f64()));
const SECONDS: Column = ("CPU seconds", |sample| sample.cpu);
const RSS: Column = ("RSS MiB", |sample| Some(sample.rss_max as f64 / 1_048_576.0));
const EACH: Column = ("KiB per connection", |sample| sample.rss_per_connection.map(|b| b / 1024.0));
const GENERATOR: Column = ("generator µs", |sample| sample.generator);
const RUN: Column = ("events a read", |sample| {
    sample.wall.map(|_| sample.tally.deliveries as f64 / sample.tally.reads.max(1) as f64)
});
const COLUMNS: [Column; 11] =
    [CPU, PUBLISH, RATE, P50, P99, TOOK, SECONDS, RUN, RSS, EACH, GENERATOR];

/// Columns that are also given against the floor's.
const COMPARED: [&str; 3] = [CPU.0, RATE.0, P99.0];

impl Series {
    /// None yet, of the target of that name.
    pub fn of(target: &str, version: Option<String>) -> Series {
        let (rounds, failures) = (Vec::new(), Vec::new());
        Series { target: target.to_owned(), version, rounds, failures }
    }

    /// A round that a peer did not get through.
    pub fn fail(&mut self, round: usize, error: &io::Error) {
        let line = format!("{} failed in round {round}: {error}.", self.target);
        eprintln!("loadtest: {line}");
        self.failures.push(line);
        self.rounds.push(Vec::new());
    }
}

/// The section of a scenario: heading, command, table, and where its chart is.
/// `left_out` are targets that are not installed.
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
    heads.push("lost, repeated, out of order, gaps, cut".to_owned());
    let _ = writeln!(out, "| {} |\n|{}", heads.join(" | "), "---|".repeat(heads.len()));
    for row in &rows {
        let base = if against == Some(ALONE) {
            rows.iter().find(|base| base.target == row.target && base.part() == Some(ALONE))
        } else {
            let mut floors = rows.iter().filter(|floor| floor.target == FLOOR);
            let same = floors.clone().find(|floor| floor.part() == row.part());
            same.or_else(|| floors.next())
        };
        let _ = writeln!(out, "| {} |", cells(row, base, &columns).join(" | "));
    }
    if chart(scenario, all).is_some() {
        let name = &scenario.name;
        let _ = writeln!(out, "\n![{name}, as a chart](charts/{name}.svg)");
    }
    out
}

/// What ratios are of: the floor, or where there is none, what readers get
/// that have nobody beside them.
fn against(scenario: &Scenario, all: &[Series]) -> Option<&'static str> {
    match scenario.measure {
        _ if all.iter().any(|rounds| rounds.target == FLOOR) => Some(FLOOR),
        Measure::Stalled { .. } => Some(ALONE),
        _ => None,
    }
}

/// The chart of a scenario that has one: the cost of a delivery, or of a
/// connection.
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

/// One part after the other, of all targets in their order.
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
    let faults = row.measured().map(|sample| sample.tally.faults());
    let sums = faults.fold([0; 5], |mut sums, faults| {
        sums.iter_mut().zip(faults).for_each(|(sum, fault)| *sum += fault);
        sums
    });
    cells.push(sums.map(|sum| sum.to_string()).join(", "));
    cells
}

fn quantile(sample: &Sample, quantile: f64) -> Option<f64> {
    let is_live = sample.cpu_per_publish.is_some();
    is_live.then(|| latency::ms(&sample.tally.latency, quantile))
}

impl Spread {
    /// Of these values; none of no values.
    pub fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        let (&least, &most) = (values.first()?, values.last()?);
        let median = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Spread { median, least, most })
    }
}

/// The median, with the least and the most where they say more.
pub fn spread(values: Vec<f64>) -> String {
    let is_one = values.iter().filter(|value| value.is_finite()).count() == 1;
    match Spread::of(values) {
        None => "–".to_owned(),
        Some(Spread { median, .. }) if is_one => short(median),
        Some(Spread { median, least, most }) => {
            format!("{} ({}–{})", short(median), short(least), short(most))
        }
    }
}

/// Three digits that count.
pub fn short(value: f64) -> String {
    match value.abs() {
        huge if huge >= 1e6 => format!("{:.2}M", value / 1e6),
        large if large >= 1e4 => format!("{:.0}k", value / 1e3),
        middle if middle >= 100.0 => format!("{value:.0}"),
        small if small >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The date, and what it was measured on.
pub fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field =
        |line: &str| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned());
    let models: Vec<String> = cpuinfo.lines().filter_map(field).collect();
    let model = models.first().map_or("unknown processor", String::as_str);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.split('-').next().unwrap_or_default().trim().to_owned();
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    format!("{date}, {} × {model}, Linux {kernel}", models.len())
}

/// Puts a section into a file of sections, in the place of the one with the
/// same heading, or at the end.
///
/// # Errors
/// If the file cannot be read or written.
pub fn put(path: &Path, section: &str) -> io::Result<()> {
    let text = std::fs::read_to_string(path)?;
    std::fs::write(path, replaced(&text, section))
}

/// Writes a scenario's chart beside the file that its section goes to.
///
/// # Errors
/// If that cannot be written.
pub fn put_chart(scenario: &Scenario, chart: &str) -> io::Result<()> {
    let folder = scenario.report.with_file_name("charts");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join(format!("{}.svg", scenario.name)), chart)
}

fn replaced(text: &str, section: &str) -> String {
    let heading = section.lines().next().unwrap_or_default();
    let start = text.find(&format!("\n{heading}\n")).map(|at| at + 1);
    let Some(start) = start else { return format!("{}\n\n{section}", text.trim_end()) };
    let rest = &text[start + heading.len()..];
    let rest = rest.find("\n## ").map_or("", |at| &rest[at..]);
    format!("{}{section}{rest}", &text[..start])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_takes_its_own_place() {
        let text = "# Top\n\n## a\n\nold\n\n## b\n\nkept\n";
        assert_eq!(replaced(text, "## a\n\nnew\n"), "# Top\n\n## a\n\nnew\n\n## b\n\nkept\n");
        assert_eq!(replaced(text, "## b\n\nnew\n"), "# Top\n\n## a\n\nold\n\n## b\n\nnew\n");
        assert_eq!(replaced(text, "## c\n\nnew\n"), format!("{text}\n## c\n\nnew\n"));
    }

    #[test]
    fn a_spread_is_the_median_and_its_bounds() {
        assert_eq!(spread(vec![3.0, 1.0, 2.0]), "2.00 (1.00–3.00)");
        assert_eq!(spread(vec![1.0, 2.0]), "1.50 (1.00–2.00)");
        assert_eq!(spread(vec![1_234_567.0]), "1.23M");
        assert_eq!(spread(Vec::new()), "–");
    }
}
