//! Randomness for jitter and names; nothing secret comes from here.

use uuid::Uuid;

/// 64 random bits.
pub fn bits() -> u64 {
    Uuid::new_v4().as_u64_pair().1 << 2 | Uuid::new_v4().as_u64_pair().0 >> 62
}

/// A number in `0.0..1.0`.
pub fn unit() -> f64 {
    (bits() >> 11) as f64 / (1u64 << 53) as f64
}

/// A duration drawn evenly from `range`.
pub fn within(range: &std::ops::Range<std::time::Duration>) -> std::time::Duration {
    range.start + (range.end.saturating_sub(range.start)).mul_f64(unit())
}
