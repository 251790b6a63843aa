//! The wait before a retry.

use std::time::Duration;

/// Exponential backoff with full jitter: the wait is a uniform random time between
/// zero and a bound that doubles with each failure. A restart of the gateway
/// disconnects all clients at the same time. The jitter spreads the retries of these
/// clients over time.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Backoff {
    first: Duration,
    cap: Duration,
    failures: u32,
    failures_max: u32,
}

impl Backoff {
    /// Creates a backoff whose bound grows from 500 ms to 30 s. It allows at most
    /// `failures_max` failures in a row.
    pub(in crate::cli) fn new(failures_max: u32) -> Backoff {
        let (first, cap) = (Duration::from_millis(500), Duration::from_secs(30));
        Backoff { first, cap, failures: 0, failures_max }
    }

    /// Records a successful attempt. The bound starts again at 500 ms.
    pub(in crate::cli) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Records a failed attempt, and returns the time to wait before the next retry.
    /// Returns `None` after too many failures in a row.
    pub(in crate::cli) fn next(&mut self) -> Option<Duration> {
        if self.failures >= self.failures_max {
            return None;
        }
        let bound = self.bound();
        self.failures += 1;
        Some(crate::random::within(&(Duration::ZERO..bound)))
    }

    fn bound(&self) -> Duration {
        let factor = 1 << self.failures.min(16);
        self.first.saturating_mul(factor).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_cap() {
        let mut backoff = Backoff::new(100);
        let mut bounds = Vec::new();
        for _ in 0..9 {
            let bound = backoff.bound();
            assert!(backoff.next().unwrap() <= bound);
            bounds.push(bound.as_millis());
        }
        assert_eq!(bounds, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        backoff.reset();
        assert_eq!(backoff.bound().as_millis(), 500);
    }

    #[test]
    fn failures_in_a_row_are_counted() {
        let mut backoff = Backoff::new(2);
        assert!(backoff.next().is_some());
        assert!(backoff.next().is_some());
        assert_eq!(backoff.next(), None);
        backoff.reset();
        assert!(backoff.next().is_some());
        assert_eq!(Backoff::new(0).next(), None);
    }
}
