//! The metric series of the logs. Each of the most active logs has its own series.
//! One more series has the sum of the other logs. The series are written at each
//! scrape and are not stored in the exporter. Otherwise the exporter would continue
//! to show the last value of a log that no longer has its own series.

use std::collections::HashMap;
use std::fmt::Write as _;

/// The maximum number of logs that have their own series.
const LOGS_MAX: usize = 1000;

/// The value of the label `log` in the series with the sum of the other logs. If
/// there are more than `LOGS_MAX` logs, a log with this name is part of the sum.
const OTHER: &str = "other";

/// The values of one log at the time of a scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogValues<'a> {
    /// The configured name of the log.
    pub name: &'a str,
    /// The number of events appended since the process started.
    pub appended: u64,
    /// The number of times since the process started that an event got an earlier
    /// time than the event before it.
    pub clock_steps: u64,
    /// The number of events that the log keeps.
    pub events: u64,
    /// The size of the events that the log keeps, in bytes.
    pub bytes: u64,
    /// The number of resources, if the log belongs to a collection.
    pub resources: u64,
    /// The last trimmed offset: the position before the oldest event that the log
    /// still keeps.
    pub earliest: u64,
    /// The offset of the newest event.
    pub head: u64,
}

/// A metric that has one series per log.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&LogValues<'_>) -> u64,
    /// Whether a sum over several logs is meaningful. If not, the series with the
    /// sum of the other logs is omitted.
    is_sum: bool,
}

const METRICS: [Metric; 7] = [
    Metric {
        name: "streamgate_events_appended_total",
        kind: "counter",
        help: "Committed events, by log",
        value: |log| log.appended,
        is_sum: true,
    },
    Metric {
        name: "streamgate_clock_steps_total",
        kind: "counter",
        help: "Backward steps of a log's time after a clock that was ahead, by log",
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
        help: "Size of the events that a log keeps, in bytes",
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

/// Appends the series of `logs` to `text`, in the Prometheus text format. If two
/// logs have the same name, the gauges show the values of the first log, and the
/// counters show the sum.
pub(super) fn write(text: &mut String, logs: &[LogValues<'_>]) {
    let (shown, other) = divide(merge(logs));
    for Metric { name, kind, help, value, is_sum } in &METRICS {
        if shown.is_empty() {
            break;
        }
        // A write to a `String` cannot fail, so the result is ignored. The name of a
        // log contains no character that must be escaped in a label value.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        let other = other.as_ref().filter(|_| *is_sum);
        for log in shown.iter().chain(other) {
            let _ = writeln!(text, "{name}{{log=\"{}\"}} {}", log.name, value(log));
        }
        text.push('\n');
    }
}

/// Merges the logs that have the same name into one. Adds their counters. Keeps the
/// gauges of the first of them.
fn merge<'a>(logs: &[LogValues<'a>]) -> Vec<LogValues<'a>> {
    let mut merged: Vec<LogValues<'a>> = Vec::with_capacity(logs.len());
    let mut indexes = HashMap::new();
    for log in logs {
        let index = *indexes.entry(log.name).or_insert(merged.len());
        match merged.get_mut(index) {
            Some(first) => {
                first.appended += log.appended;
                first.clock_steps += log.clock_steps;
            }
            None => merged.push(*log),
        }
    }
    merged
}

/// Divides the logs. Returns the `LOGS_MAX` logs with the most appended events since
/// the process started, and the sum of the other logs. The sum is `None` if there
/// are no other logs.
///
/// The other logs are the ones with the lowest counters of appended events. The
/// counter of each log only grows. So the sum of the lowest counters never falls,
/// although logs join and leave this group. If the logs were ranked by rate, the sum
/// could fall, and `rate()` in Prometheus would treat the fall as a restart of the
/// process.
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
