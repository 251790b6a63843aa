//! Random numbers for jitter. They are predictable, so they must not be used as
//! secrets.

use std::ops::Range;
use std::time::Duration;

/// Returns a random number in `0.0..1.0`.
pub fn unit() -> f64 {
    fastrand::f64()
}

/// Returns a random duration from `range`, with uniform distribution. Returns
/// the start of the range if the range is empty.
pub fn within(range: &Range<Duration>) -> Duration {
    range.start + range.end.saturating_sub(range.start).mul_f64(unit())
}
