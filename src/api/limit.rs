//! How often a client may ask: a token bucket for each address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Addresses whose buckets are kept. Past it the full buckets are forgotten,
/// which changes nothing for them; if every one is in use, a new address
/// shares one bucket with the others that found no room.
const BUCKETS_MAX: usize = 65_536;

/// One bucket an address, kept as the moment at which it will be full again
/// (the generic cell rate algorithm), so that an idle client costs nothing.
pub struct Buckets {
    rate: u32,
    /// Time that one token takes to come back.
    token: Duration,
    /// Tokens of a full bucket.
    burst: u32,
    begun: Instant,
    full_at: Mutex<HashMap<Client, Duration>>,
}

/// Whose bucket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Client {
    /// One address; of IPv6 its /64, which is what one customer is given.
    Address(IpAddr),
    /// All that found no room.
    Others,
}

/// What a refused client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Until a token is there.
    pub retry: Duration,
    /// Tokens a second.
    pub rate: u32,
    /// Tokens of a full bucket.
    pub burst: u32,
}

impl Buckets {
    /// Buckets of `burst` tokens that refill at `rate` a second; none when
    /// the rate is zero, which is no limit.
    pub fn new(rate: u32, burst: u32) -> Option<Buckets> {
        let token = Duration::from_secs(1).checked_div(rate)?;
        let full_at = Mutex::default();
        Some(Buckets { rate, token, burst: burst.max(1), begun: Instant::now(), full_at })
    }

    /// Takes a token of `address`.
    ///
    /// # Errors
    /// How long to wait, when there is none.
    pub fn take(&self, address: IpAddr) -> Result<(), Wait> {
        self.take_at(address, self.begun.elapsed())
    }

    fn take_at(&self, address: IpAddr, now: Duration) -> Result<(), Wait> {
        let mut full_at = self.full_at.lock();
        let mut client = Client::Address(network(address));
        if full_at.len() >= BUCKETS_MAX && !full_at.contains_key(&client) {
            full_at.retain(|_, full_at| *full_at > now);
            if full_at.len() >= BUCKETS_MAX {
                client = Client::Others;
            }
        }
        let slot = full_at.entry(client).or_default();
        let taken = (*slot).max(now) + self.token;
        let retry = taken.saturating_sub(now + self.token * self.burst);
        if retry > Duration::ZERO {
            return Err(Wait { retry, rate: self.rate, burst: self.burst });
        }
        *slot = taken;
        Ok(())
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        four @ IpAddr::V4(_) => four,
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
        let buckets = Buckets::new(10, 3).unwrap();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        for _ in 0..3 {
            assert!(buckets.take_at(address, at(0)).is_ok());
        }
        let wait = buckets.take_at(address, at(0)).unwrap_err();
        assert_eq!(wait, Wait { retry: at(100), rate: 10, burst: 3 });
        assert!(buckets.take_at(address, at(99)).is_err());
        assert!(buckets.take_at(address, at(100)).is_ok());
        assert!(buckets.take_at("192.0.2.2".parse().unwrap(), at(100)).is_ok());
    }

    #[test]
    fn one_ipv6_network_is_one_client() {
        let buckets = Buckets::new(1, 1).unwrap();
        assert!(buckets.take_at("2001:db8:1:2::1".parse().unwrap(), at(0)).is_ok());
        assert!(buckets.take_at("2001:db8:1:2:ffff::9".parse().unwrap(), at(0)).is_err());
        assert!(buckets.take_at("2001:db8:1:3::1".parse().unwrap(), at(0)).is_ok());
    }

    #[test]
    fn memory_is_bounded_and_others_share() {
        let buckets = Buckets::new(1, 1).unwrap();
        for n in 0..BUCKETS_MAX as u32 {
            assert!(buckets.take_at(IpAddr::V4(n.into()), at(0)).is_ok());
        }
        let beyond = |n: u32| IpAddr::V4((BUCKETS_MAX as u32 + n).into());
        assert!(buckets.take_at(beyond(0), at(1)).is_ok());
        assert!(buckets.take_at(beyond(1), at(1)).is_err(), "it shares the last bucket");
        assert!(buckets.take_at(beyond(1), at(1001)).is_ok(), "the full ones were forgotten");
        assert!(buckets.full_at.lock().len() < BUCKETS_MAX);
    }

    #[test]
    fn no_rate_is_no_limit() {
        assert!(Buckets::new(0, 0).is_none());
    }
}
