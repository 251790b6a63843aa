//! A token bucket that limits the rate of one connection or client.

use std::time::Duration;

/// A token bucket. It stores only the time at which it will be full again (the
/// generic cell rate algorithm). So a bucket without traffic needs no timer and no
/// update. All times that are passed to one bucket must count from the same instant.
#[derive(Debug)]
pub struct TokenBucket {
    /// The number of tokens that refill per second. Zero means no limit.
    rate: u64,
    full_at: Duration,
}

impl TokenBucket {
    /// Creates a full bucket that refills with `rate` tokens per second. Zero means
    /// no limit.
    pub fn new(rate: u64) -> TokenBucket {
        TokenBucket { rate, full_at: Duration::ZERO }
    }

    /// Returns the time in which `tokens` tokens refill.
    fn worth(&self, tokens: u64) -> Duration {
        let nanos = u128::from(tokens) * 1_000_000_000 / u128::from(self.rate.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Returns the number of tokens in the bucket at the time `now`. `saved` sets
    /// the size of the bucket: the tokens that refill in this time, but at least
    /// one.
    ///
    /// # Errors
    /// The time at which the next token is available, if the bucket is empty.
    pub fn tokens(&self, saved: Duration, now: Duration) -> Result<u64, Duration> {
        if self.rate == 0 {
            return Ok(u64::MAX);
        }
        let saved = saved.max(self.worth(1));
        let left = (now + saved).saturating_sub(self.full_at.max(now));
        // Rounding can make a token incomplete by one nanosecond. Such a token
        // counts as complete.
        match (left.as_nanos() + 1) * u128::from(self.rate) / 1_000_000_000 {
            0 => Err((self.full_at + self.worth(1)).saturating_sub(saved)),
            tokens => Ok(u64::try_from(tokens).unwrap_or(u64::MAX)),
        }
    }

    /// Takes `tokens` tokens at the time `now`, even if the bucket has fewer. The
    /// bucket then has a debt, which delays its next token.
    pub fn charge(&mut self, tokens: u64, now: Duration) {
        if self.rate > 0 {
            self.full_at = self.full_at.max(now).saturating_add(self.worth(tokens));
        }
    }

    /// Takes `count` tokens at the time `now`. `saved` sets the size of the bucket,
    /// as in [`tokens`](Self::tokens). If the bucket has fewer than `count` tokens,
    /// takes none and returns false.
    pub fn take(&mut self, count: u64, saved: Duration, now: Duration) -> bool {
        let enough = self.tokens(saved, now).is_ok_and(|tokens| tokens >= count);
        if enough {
            self.charge(count, now);
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_full_bucket_holds_no_more_tokens() {
        let mut bucket = TokenBucket::new(10);
        let mut take = |count, ms| bucket.take(count, at(10_000), at(ms));
        assert!(take(60, 5000));
        assert!(take(40, 5000));
        assert!(!take(1, 5000));
        assert!(!take(1, 5099));
        assert!(take(1, 5100));
        assert!(!take(10, 6000));
        assert!(take(9, 6000));
        assert!(!take(101, 60_000), "the bucket never holds so many tokens");
        assert!(take(100, 60_000));
    }

    #[test]
    fn an_empty_bucket_returns_the_time_of_the_next_token() {
        let mut bucket = TokenBucket::new(100);
        let saved = at(100);
        assert_eq!(bucket.tokens(saved, at(0)), Ok(10));
        bucket.charge(10, at(0));
        assert_eq!(bucket.tokens(saved, at(0)), Err(at(10)));
        assert_eq!(bucket.tokens(saved, at(10)), Ok(1));
        assert_eq!(bucket.tokens(saved, at(60_000)), Ok(10), "the bucket is full");
    }

    #[test]
    fn a_slow_bucket_gives_one_token_at_a_time() {
        let mut bucket = TokenBucket::new(2);
        assert_eq!(bucket.tokens(at(100), at(0)), Ok(1));
        bucket.charge(1, at(0));
        assert_eq!(bucket.tokens(at(100), at(499)), Err(at(500)));
        assert_eq!(bucket.tokens(at(100), at(500)), Ok(1));
    }

    #[test]
    fn a_debt_delays_the_next_token() {
        let mut bucket = TokenBucket::new(1000);
        bucket.charge(5000, at(0));
        assert!(bucket.tokens(at(100), at(4899)).is_err());
        assert_eq!(bucket.tokens(at(100), at(5000)), Ok(100));
    }

    #[test]
    fn no_rate_is_no_limit() {
        let mut bucket = TokenBucket::new(0);
        bucket.charge(u64::MAX, at(0));
        assert!(bucket.take(u64::MAX, at(0), at(0)));
    }
}
