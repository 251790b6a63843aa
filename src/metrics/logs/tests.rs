use proptest::prelude::*;

use super::*;

fn log(name: &str, appended: u64) -> LogValues<'_> {
    LogValues { name, appended, events: appended, head: appended, ..LogValues::default() }
}

fn written(logs: &[LogValues<'_>]) -> String {
    let mut text = String::new();
    write(&mut text, logs);
    text
}

/// Returns the counter of the logs without their own series.
fn other(text: &str) -> Option<u64> {
    let line = "streamgate_events_appended_total{log=\"other\"} ";
    text.lines().find_map(|it| it.strip_prefix(line)?.parse().ok())
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("t{n}")).collect()
}

#[test]
fn each_metric_has_one_help_and_one_type_line() {
    assert_eq!(written(&[]), "");
    let text = written(&[log("news", 3), log("ticks", 5)]);
    let head = "# HELP streamgate_log_events Events that a log keeps\n\
                # TYPE streamgate_log_events gauge\n\
                streamgate_log_events{log=\"news\"} 3\n\
                streamgate_log_events{log=\"ticks\"} 5\n\n";
    assert!(text.contains(head), "{text}");
    assert_eq!(text.matches("# TYPE ").count(), METRICS.len());
}

#[test]
fn two_logs_of_the_same_name_share_one_series() {
    let text = written(&[log("news", 3), log("news", 4)]);
    assert!(text.contains("streamgate_events_appended_total{log=\"news\"} 7\n"), "{text}");
    assert_eq!(text.matches("streamgate_log_head_offset{").count(), 1);
    assert!(text.contains("streamgate_log_head_offset{log=\"news\"} 3\n"), "{text}");
}

#[test]
fn a_log_named_other_joins_the_sum_if_there_are_too_many_logs() {
    let names = names(LOGS_MAX);
    let mut logs: Vec<_> = names.iter().map(|name| log(name, 1)).collect();
    logs[7] = log(OTHER, 1 << 20);
    assert_eq!(other(&written(&logs)), Some(1 << 20));
    assert!(written(&logs).contains("streamgate_log_head_offset{log=\"other\"}"));
    logs.push(log("one-more", 1));
    let text = written(&logs);
    assert_eq!(other(&text), Some(1 << 20), "the most active log is in the sum");
    assert!(text.contains("{log=\"one-more\"} 1\n"));
    assert!(!text.contains("streamgate_log_head_offset{log=\"other\"}"));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 32,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Appends random numbers of events to random logs and adds random numbers
    /// of logs.
    #[test]
    fn the_counter_of_the_other_logs_never_falls(
        steps in prop::collection::vec((any::<prop::sample::Index>(), 1..1000u64, 0..2usize), 1..40),
    ) {
        let names = names(LOGS_MAX + 3 + steps.len());
        let mut counts = vec![0; LOGS_MAX + 3];
        let mut before = 0;
        for (which, appended, more) in steps {
            counts.extend(vec![0; more]);
            // Most appends go to a few logs, so that their ranks change.
            let few = which.index(8) * (counts.len() / 8);
            counts[few] += appended;
            let logs: Vec<_> =
                names.iter().zip(&counts).map(|(name, &count)| log(name, count)).collect();
            let text = written(&logs);
            let now = other(&text).unwrap();
            prop_assert!(now >= before, "{now} after {before}");
            before = now;
            let series = text.matches("streamgate_events_appended_total{").count();
            prop_assert_eq!(series, LOGS_MAX + 1);
        }
    }
}
