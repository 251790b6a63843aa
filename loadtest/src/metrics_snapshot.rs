//! What a gateway's `/metrics` says.

/// Metrics in Prometheus' text format.
pub struct MetricsSnapshot(
    /// The text.
    pub String,
);

impl MetricsSnapshot {
    /// The sum of a metric's series that have all of these labels, which are
    /// counts; none where there is no such series.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        let value = |(series, value): (&str, &str)| {
            let has =
                |(label, value): &(&str, &str)| series.contains(&format!("{label}=\"{value}\""));
            labels.iter().all(has).then(|| value.split('.').next()?.parse::<u64>().ok())?
        };
        self.series(name).filter_map(value).reduce(|sum, value| sum + value)
    }

    /// The values that a label has among a metric's series.
    pub fn labels(&self, name: &str, label: &str) -> Vec<String> {
        let start = format!("{label}=\"");
        let value = |(series, _): (&str, &str)| {
            let from = series.find(&start)? + start.len();
            let length = series[from..].find('"')?;
            Some(series[from..from + length].to_owned())
        };
        let mut values: Vec<String> = self.series(name).filter_map(value).collect();
        values.sort();
        values.dedup();
        values
    }

    /// The labels and the value of each series of a metric.
    fn series<'t>(&'t self, name: &'t str) -> impl Iterator<Item = (&'t str, &'t str)> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with(['{', ' ']).then(|| rest.rsplit_once(' '))?
        })
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
        let metrics = MetricsSnapshot(text.to_owned());
        let check = |name, labels: &[(&str, &str)], expected| {
            assert_eq!(metrics.count(name, labels), expected, "{name} {labels:?}");
        };
        check("closed_total", &[], Some(12));
        check("closed_total", &[("reason", "drain")], Some(7));
        check("closed_total", &[("protocol", "ws"), ("reason", "drain")], Some(4));
        check("closed_total", &[("reason", "stalled")], None);
        check("open", &[], Some(2));
        check("none", &[], None);
        assert_eq!(metrics.labels("closed_total", "reason"), ["drain", "idle"]);
    }
}
