//! Rate limits: a token bucket for each client address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::api::request::address::client_key;
use crate::deliver::TokenBucket;
use crate::wire::problem::{Code, Problem};

/// The largest number of clients for which the gateway stores a token bucket.
const BUCKETS_MAX: usize = 65_536;

/// The token buckets of all clients. A full bucket is equal to a new one, so the
/// bucket of an idle client is soon dropped.
pub struct Buckets {
    policy: Policy,
    rate: u32,
    /// The number of tokens of a full bucket.
    burst: u32,
    begun: Instant,
    by_client: Mutex<Generations>,
}

/// The rate that a token bucket limits: requests or published events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Requests (`limits.request_rate`).
    Requests,
    /// Published events. Every write counts as a published event
    /// (`limits.publish_rate`).
    Events,
}

impl Policy {
    /// Returns the name of this policy in the headers `RateLimit` and
    /// `RateLimit-Policy`.
    pub fn name(self) -> &'static str {
        match self {
            Policy::Requests => "client",
            Policy::Events => "events",
        }
    }

    /// Returns the value of the metrics label `reason` for requests or events that
    /// this policy refuses.
    pub fn reason(self) -> &'static str {
        match self {
            Policy::Requests => "rate",
            Policy::Events => "publish-rate",
        }
    }
}

/// The token buckets of the most recent clients, in two generations of up to
/// [`BUCKETS_MAX`] / 2. When the young generation is full, it becomes the old
/// generation, and all buckets of the previous old generation are dropped. If the
/// bucket of a client was dropped, some thirty thousand other clients have sent
/// requests since the last request of this client. Its next request starts with a
/// full bucket. No client is refused because there is no space for its bucket:
/// otherwise one client with many addresses could lock out all others.
#[derive(Default)]
struct Generations {
    young: HashMap<IpAddr, TokenBucket>,
    old: HashMap<IpAddr, TokenBucket>,
}

impl Generations {
    fn get(&mut self, client: IpAddr, rate: u32) -> &mut TokenBucket {
        if self.young.len() >= BUCKETS_MAX / 2 && !self.young.contains_key(&client) {
            self.old = std::mem::take(&mut self.young);
        }
        let older = &mut self.old;
        let bucket = || older.remove(&client).unwrap_or_else(|| TokenBucket::new(rate.into()));
        self.young.entry(client).or_insert_with(bucket)
    }
}

/// The error if the token bucket of a client is empty. The response is 429.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimited {
    /// The time until a token is available.
    pub retry: Duration,
    /// The rate at which the bucket refills, in tokens per second.
    pub rate: u32,
    /// The number of tokens of a full bucket.
    pub burst: u32,
    /// The rate that the bucket limits: requests or published events.
    pub policy: Policy,
}

impl RateLimited {
    /// Returns the 429 problem for an empty token bucket. The members of the problem
    /// contain the rate and the time to wait. The `RateLimit` headers of the
    /// response have the same values.
    pub fn problem(self) -> Problem {
        let RateLimited { retry, rate, burst, policy } = self;
        let unit = match policy {
            Policy::Requests => "requests",
            Policy::Events => "events",
        };
        let millis = retry.as_millis().max(1) as u64;
        let detail = format!(
            "the limit is {rate} {unit} per second and {burst} in a burst; wait {millis} ms"
        );
        let window = burst.div_ceil(rate.max(1)).max(1);
        Problem::new(Code::TooManyRequests, detail)
            .with("policy", policy.name())
            .with("quota", burst.max(rate))
            .with("window", window)
            .with("retryAfter", millis.div_ceil(1000))
    }
}

impl Buckets {
    /// Creates token buckets with up to `burst` tokens, which refill at `rate`
    /// tokens per second. Returns `None` if `rate` is zero, which means no limit.
    pub fn new(policy: Policy, rate: u32, burst: u32) -> Option<Buckets> {
        let (begun, by_client) = (Instant::now(), Mutex::default());
        (rate > 0).then(|| Buckets { policy, rate, burst: burst.max(1), begun, by_client })
    }

    /// Takes one token from the bucket of the client at `address`.
    ///
    /// # Errors
    /// [`RateLimited`] if the bucket is empty.
    pub fn take(&self, address: IpAddr) -> Result<(), RateLimited> {
        self.take_at(address, 1, self.begun.elapsed()).map(|_| ())
    }

    /// Takes up to `count` tokens from the bucket of the client at `address`, and
    /// returns their number.
    ///
    /// # Errors
    /// [`RateLimited`] if the bucket is empty.
    pub fn take_some(&self, address: IpAddr, count: u32) -> Result<u32, RateLimited> {
        self.take_at(address, count, self.begun.elapsed())
    }

    fn take_at(&self, address: IpAddr, count: u32, now: Duration) -> Result<u32, RateLimited> {
        let Buckets { policy, rate, burst, .. } = *self;
        let full = Duration::from_secs(burst.into()) / rate;
        let mut by_client = self.by_client.lock();
        let bucket = by_client.get(client_key(address), rate);
        match bucket.tokens(full, now) {
            Ok(tokens) => {
                let taken = tokens.min(count.into());
                bucket.charge(taken, now);
                Ok(taken as u32)
            }
            Err(due) => Err(RateLimited { retry: due.saturating_sub(now), rate, burst, policy }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let buckets = Buckets::new(Policy::Requests, 10, 3).unwrap();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        for _ in 0..3 {
            assert!(buckets.take_at(address, 1, at(0)).is_ok());
        }
        let wait = buckets.take_at(address, 1, at(0)).unwrap_err();
        let policy = Policy::Requests;
        assert_eq!(wait, RateLimited { retry: at(100), rate: 10, burst: 3, policy });
        assert!(buckets.take_at(address, 1, at(99)).is_err());
        assert!(buckets.take_at(address, 1, at(100)).is_ok());
        assert!(buckets.take_at("192.0.2.2".parse().unwrap(), 1, at(100)).is_ok());
    }

    #[test]
    fn one_ipv6_network_is_one_client() {
        let buckets = Buckets::new(Policy::Requests, 1, 1).unwrap();
        assert!(buckets.take_at("2001:db8:1:2::1".parse().unwrap(), 1, at(0)).is_ok());
        assert!(buckets.take_at("2001:db8:1:2:ffff::9".parse().unwrap(), 1, at(0)).is_err());
        assert!(buckets.take_at("2001:db8:1:3::1".parse().unwrap(), 1, at(0)).is_ok());
    }

    #[test]
    fn memory_is_bounded_and_no_client_is_refused_for_it() {
        let buckets = Buckets::new(Policy::Requests, 1, 1).unwrap();
        let client = |n: u32| IpAddr::V4(n.into());
        let take = |n| buckets.take_at(client(n), 1, at(0));
        for n in 0..3 * BUCKETS_MAX as u32 {
            assert!(take(n).is_ok());
            assert!(take(n).is_err(), "its bucket is kept");
            if n >= BUCKETS_MAX as u32 / 4 {
                assert!(take(n - BUCKETS_MAX as u32 / 4).is_err(), "and those of the others");
            }
        }
        let by_client = buckets.by_client.lock();
        assert!(by_client.young.len() + by_client.old.len() <= BUCKETS_MAX);
    }

    #[test]
    fn a_client_takes_the_tokens_that_are_left() {
        let buckets = Buckets::new(Policy::Events, 10, 3).unwrap();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(buckets.take_at(address, 2, at(0)), Ok(2));
        assert_eq!(buckets.take_at(address, 9, at(0)), Ok(1));
        assert_eq!(buckets.take_at(address, 9, at(50)).unwrap_err().retry, at(50));
        assert_eq!(buckets.take_at(address, 9, at(200)), Ok(2));
    }

    #[test]
    fn no_rate_is_no_limit() {
        assert!(Buckets::new(Policy::Requests, 0, 0).is_none());
    }
}
