//! How many control frames one connection may send.

use std::time::Duration;

/// Seconds' worth of tokens in a full bucket: a client that opens a hundred
/// streams at once and leaves them at once is no flood.
const BURST_SECS: u32 = 10;

/// A token bucket, kept as the moment at which it will be full again (the
/// generic cell rate algorithm), so that a quiet connection costs nothing.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Tokens a second; zero is no limit.
    rate: u32,
    full_at: Duration,
}

impl Bucket {
    /// A full bucket that refills at `rate` tokens a second; zero is no limit.
    pub(super) fn new(rate: u32) -> Bucket {
        Bucket { rate, full_at: Duration::ZERO }
    }

    /// Takes `count` tokens at `now`, counted from any one moment; false when
    /// there are not so many.
    pub(super) fn take(&mut self, count: u32, now: Duration) -> bool {
        let Some(each) = Duration::from_secs(1).checked_div(self.rate) else { return true };
        let full_at = self.full_at.max(now) + each * count;
        if full_at.saturating_sub(now) > Duration::from_secs(BURST_SECS.into()) {
            return false;
        }
        self.full_at = full_at;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_ten_seconds_at_once_and_then_its_rate() {
        let at = Duration::from_millis;
        let mut bucket = Bucket::new(10);
        assert!(bucket.take(60, at(5000)));
        assert!(bucket.take(40, at(5000)));
        assert!(!bucket.take(1, at(5000)));
        assert!(!bucket.take(1, at(5099)));
        assert!(bucket.take(1, at(5100)));
        assert!(!bucket.take(10, at(6000)));
        assert!(bucket.take(9, at(6000)));
        assert!(!bucket.take(101, at(60_000)), "more than it ever holds");
        assert!(bucket.take(100, at(60_000)));
    }

    #[test]
    fn no_rate_is_no_limit() {
        assert!(Bucket::new(0).take(u32::MAX, Duration::ZERO));
    }
}
