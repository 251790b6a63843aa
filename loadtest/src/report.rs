//! What was measured, as Markdown: to standard output, and into the section
//! of a file.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use crate::latency;
use crate::measure::Sample;
use crate::scenario::{FLOOR, Scenario};

/// The samples of one target, by round.
pub struct Rounds {
    /// The target's name.
    pub target: String,
    /// The parts of each round, in the same order.
    pub rounds: Vec<Vec<Sample>>,
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

/// The section of a scenario: heading, command, table.
pub fn section(scenario: &Scenario, all: &[Rounds], command: &str) -> String {
    let mut out = String::new();
    let rounds = all.iter().map(|rounds| rounds.rounds.len()).max().unwrap_or(0);
    let _ = write!(
        out,
        "## {}\n\n{}\n\n{}. `{command}`: {rounds} rounds, each target once a round; medians, \
         the least and the most in brackets.\n\n",
        scenario.name,
        scenario.about,
        machine()
    );
    let parts = all.first().and_then(|rounds| rounds.rounds.first()).map_or(0, Vec::len);
    let columns: Vec<&Column> = COLUMNS
        .iter()
        .filter(|(_, value)| {
            all.iter().flat_map(|r| r.rounds.iter().flatten()).any(|s| value(s).is_some())
        })
        .collect();
    let floor = all.iter().find(|rounds| rounds.target == FLOOR);
    let mut heads = vec!["target".to_owned()];
    for (title, _) in &columns {
        heads.push((*title).to_owned());
        if floor.is_some() && COMPARED.contains(title) {
            heads.push("× floor".to_owned());
        }
    }
    heads.push("lost, repeated, out of order, gaps, cut".to_owned());
    let _ = writeln!(out, "| {} |\n|{}", heads.join(" | "), "---|".repeat(heads.len()));
    for part in 0..parts {
        for rounds in all {
            let _ = writeln!(out, "| {} |", row(rounds, floor, part, &columns).join(" | "));
        }
    }
    out
}

fn row(rounds: &Rounds, floor: Option<&Rounds>, part: usize, columns: &[&Column]) -> Vec<String> {
    let samples: Vec<&Sample> = rounds.rounds.iter().filter_map(|round| round.get(part)).collect();
    let name = samples.first().map_or("", |sample| sample.part);
    let mut cells = vec![format!("{} {name}", rounds.target).trim_end().to_owned()];
    for (title, value) in columns {
        let values: Vec<f64> = samples.iter().filter_map(|sample| value(sample)).collect();
        cells.push(spread(values));
        let Some(floor) = floor.filter(|_| COMPARED.contains(title)) else { continue };
        let theirs = floor.rounds.iter().filter_map(|round| round.get(part));
        let pairs = samples.iter().zip(theirs);
        let ratio = |(ours, theirs): (&&Sample, &Sample)| Some(value(ours)? / value(theirs)?);
        cells.push(if rounds.target == FLOOR {
            "1".to_owned()
        } else {
            spread(pairs.filter_map(ratio).collect())
        });
    }
    let sum = |count: fn(&Sample) -> u64| samples.iter().map(|sample| count(sample)).sum::<u64>();
    cells.push(format!(
        "{}, {}, {}, {}, {}",
        sum(|s| s.tally.lost),
        sum(|s| s.tally.repeated),
        sum(|s| s.tally.disordered),
        sum(|s| s.tally.gaps),
        sum(|s| s.tally.ended)
    ));
    cells
}

fn quantile(sample: &Sample, quantile: f64) -> Option<f64> {
    let is_live = sample.cpu_per_publish.is_some();
    is_live.then(|| latency::ms(&sample.tally.latency, quantile))
}

/// The median, with the least and the most where they say more.
fn spread(mut values: Vec<f64>) -> String {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    let (Some(&least), Some(&most)) = (values.first(), values.last()) else {
        return "–".to_owned();
    };
    let median = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
    if values.len() == 1 {
        return short(median);
    }
    format!("{} ({}–{})", short(median), short(least), short(most))
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
