//! Random numbers for jitter. Secrets must not come from here.

use std::ops::Range;
use std::time::Duration;

/// Returns a number in `0.0..1.0`.
pub fn unit() -> f64 {
    fastrand::f64()
}

/// Returns a duration drawn evenly from `range`; its start if the range is
/// empty.
pub fn within(range: &Range<Duration>) -> Duration {
    range.start + range.end.saturating_sub(range.start).mul_f64(unit())
}
