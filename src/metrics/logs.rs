//! The series of each log: for the most active logs one each, for the rest one
//! in sum. They are written at each scrape and not kept in the exporter, which
//! would show the last value of a log that has no series any more.

use std::collections::HashMap;
use std::fmt::Write as _;

/// Logs that have series of their own.
const LOGS_MAX: usize = 1000;

/// The value of the label `log` for all other logs in sum. A log of this name
/// is counted among them.
const OTHER: &str = "other";

/// What a scrape shows of one log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogValues<'a> {
    /// The configured name.
    pub name: &'a str,
    /// Events appended since the process started.
    pub appended: u64,
    /// Times that the log's time stepped back since the process started.
    pub clock_steps: u64,
    /// Events that the log keeps.
    pub events: u64,
    /// Bytes of these events, as stored.
    pub bytes: u64,
    /// Resources of a collection.
    pub resources: u64,
    /// The last trimmed offset.
    pub earliest: u64,
    /// The newest offset.
    pub head: u64,
}

/// One metric of logs.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&LogValues<'_>) -> u64,
    /// Whether the sum over several logs means anything.
    is_sum: bool,
}

const METRICS: [Metric; 7] = [
    Metric {
        name: "streamgate_events_appended_total",
        kind: "counter",
        help: "Events committed, by log",
        value: |log| log.appended,
        is_sum: true,
    },
    Metric {
        name: "streamgate_clock_steps_total",
        kind: "counter",
        help: "Times that a log's time stepped back after a clock that was ahead, by log",
        value: |log| log.clock_steps,
        is_sum: true,
    },
    Metric {
        name: "streamgate_log_events",
        kind: "gauge",
        help: "Events that a log keeps",
        value: |log| log.events,
        is_sum: true,
    },
    Metric {
        name: "streamgate_log_bytes",
        kind: "gauge",
        help: "Bytes of events that a log keeps",
        value: |log| log.bytes,
        is_sum: true,
    },
    Metric {
        name: "streamgate_log_resources",
        kind: "gauge",
        help: "Resources of a collection",
        value: |log| log.resources,
        is_sum: true,
    },
    Metric {
        name: "streamgate_log_earliest_offset",
        kind: "gauge",
        help: "The last trimmed offset of a log",
        value: |log| log.earliest,
        is_sum: false,
    },
    Metric {
        name: "streamgate_log_head_offset",
        kind: "gauge",
        help: "The newest offset of a log",
        value: |log| log.head,
        is_sum: false,
    },
];

/// Appends the series of `logs` to the exposition text. Of two logs of one
/// name the first has the series; what was appended to either is counted.
pub(super) fn write(text: &mut String, logs: &[LogValues<'_>]) {
    let (shown, other) = divide(unite(logs));
    for Metric { name, kind, help, value, is_sum } in &METRICS {
        if shown.is_empty() {
            break;
        }
        // Writing to a `String` does not fail, and the name of a log has no
        // character that a label value has to escape.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        let other = other.as_ref().filter(|_| *is_sum);
        for log in shown.iter().chain(other) {
            let _ = writeln!(text, "{name}{{log=\"{}\"}} {}", log.name, value(log));
        }
        text.push('\n');
    }
}

fn unite<'a>(logs: &[LogValues<'a>]) -> Vec<LogValues<'a>> {
    let mut united: Vec<LogValues<'a>> = Vec::with_capacity(logs.len());
    let mut places = HashMap::new();
    for log in logs {
        let place = *places.entry(log.name).or_insert(united.len());
        match united.get_mut(place) {
            Some(first) => {
                first.appended += log.appended;
                first.clock_steps += log.clock_steps;
            }
            None => united.push(*log),
        }
    }
    united
}

/// The logs to which most was appended since the process started, and the sum
/// of the others, if there are any.
///
/// Ranked by the counter itself, the others are those with the lowest counts.
/// The sum of the lowest counts never falls while counts grow, so the counter
/// of the others never does either, although logs enter and leave their
/// number. Ranked by a rate it would fall, and `rate()` would take that for a
/// restart.
fn divide(mut logs: Vec<LogValues<'_>>) -> (Vec<LogValues<'_>>, Option<LogValues<'_>>) {
    if logs.len() <= LOGS_MAX {
        return (logs, None);
    }
    let rank = |log: &LogValues<'_>| (log.name == OTHER, u64::MAX - log.appended);
    logs.select_nth_unstable_by(LOGS_MAX, |a, b| {
        rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(b.name))
    });
    let none = LogValues { name: OTHER, ..LogValues::default() };
    let other = logs.drain(LOGS_MAX..).fold(none, |sum, log| LogValues {
        appended: sum.appended + log.appended,
        clock_steps: sum.clock_steps + log.clock_steps,
        events: sum.events + log.events,
        bytes: sum.bytes + log.bytes,
        resources: sum.resources + log.resources,
        ..sum
    });
    (logs, Some(other))
}

#[cfg(test)]
mod tests;
