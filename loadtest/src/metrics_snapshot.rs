//! The metrics of a gateway at one moment.

use std::io;

use prometheus_parse::{Sample, Scrape, Value};

/// A scrape of `/metrics`.
pub struct MetricsSnapshot(Scrape);

impl MetricsSnapshot {
    /// Parses the Prometheus text format.
    ///
    /// # Errors
    /// If the text has no sample.
    pub fn parse(text: &str) -> io::Result<MetricsSnapshot> {
        let scrape = Scrape::parse(text.lines().map(|line| Ok(line.to_owned())))?;
        if scrape.samples.is_empty() {
            return Err(io::Error::other(format!("/metrics has no sample: {text:?}")));
        }
        Ok(MetricsSnapshot(scrape))
    }

    /// Returns the sum of the counters or gauges of that name that have all of
    /// `labels`. `None` if there is no such series.
    #[allow(clippy::cast_sign_loss, reason = "the gateway's counts are never negative")]
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        let matches = |sample: &&Sample| {
            labels.iter().all(|(label, value)| sample.labels.get(label) == Some(*value))
        };
        let value = |sample: &Sample| match sample.value {
            Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => Some(value),
            Value::Histogram(_) | Value::Summary(_) => None,
        };
        let sum = self.series(name).filter(matches).filter_map(value).reduce(|a, b| a + b);
        sum.map(|sum| sum as u64)
    }

    /// Returns the values of a label among the series of that name, sorted.
    pub fn label_values(&self, name: &str, label: &str) -> Vec<String> {
        let value = |sample: &Sample| sample.labels.get(label).map(str::to_owned);
        let mut values: Vec<String> = self.series(name).filter_map(value).collect();
        values.sort();
        values.dedup();
        values
    }

    fn series<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s Sample> {
        self.0.samples.iter().filter(move |sample| sample.metric == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_their_labels() {
        let text = "# TYPE closed_total counter\n\
            closed_total{protocol=\"sse\",reason=\"drain\"} 3\n\
            closed_total{protocol=\"ws\",reason=\"drain\"} 4\n\
            closed_total{protocol=\"ws\",reason=\"idle\"} 5\n\
            closed_totals 9\n\
            open 2.0\n";
        let metrics = MetricsSnapshot::parse(text).unwrap();
        let check = |name, labels: &[(&str, &str)], expected| {
            assert_eq!(metrics.count(name, labels), expected, "{name} {labels:?}");
        };
        check("closed_total", &[], Some(12));
        check("closed_total", &[("reason", "drain")], Some(7));
        check("closed_total", &[("protocol", "ws"), ("reason", "drain")], Some(4));
        check("closed_total", &[("reason", "stalled")], None);
        check("open", &[], Some(2));
        check("none", &[], None);
        assert_eq!(metrics.label_values("closed_total", "reason"), ["drain", "idle"]);
        assert!(MetricsSnapshot::parse("not found").is_err());
    }
}
