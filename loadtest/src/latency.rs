//! Histograms of latencies, in nanoseconds.

use hdrhistogram::Histogram;

/// The longest latency that the histogram records as it is.
const LATENCY_MAX: u64 = 600_000_000_000;

/// Returns an empty histogram.
pub fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, LATENCY_MAX, 3).expect("the bounds are valid")
}

/// Returns the histogram of some latencies.
pub fn from_values(latencies: impl Iterator<Item = u64>) -> Histogram<u64> {
    let mut histogram = empty();
    latencies.for_each(|latency| histogram.saturating_record(latency));
    histogram
}

/// Returns a quantile, in milliseconds.
pub fn ms(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1e6
}
