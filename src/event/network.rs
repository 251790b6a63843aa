//! Networks, as configurations name them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The addresses that begin with the same bits, as in `10.0.0.0/8` or
/// `2001:db8::/32`; one address where there is no prefix.
///
/// An IPv4 address in IPv6's clothes (`::ffff:192.0.2.1`, as a socket for both
/// gives it) is the IPv4 address, in a network's text and in what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Zero behind the prefix.
    first: IpAddr,
    /// How many bits are the same; at most the address's own.
    prefix: u32,
}

/// Why a text is not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadNetwork {
    /// What is before the slash is no address.
    Address,
    /// What is behind the slash is no number up to this one.
    Prefix(u32),
    /// Bits are set behind the prefix. This network has the same prefix
    /// without them.
    HostBits(Network),
}

impl Network {
    /// Whether the address is one of its.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (ours, width) = bits(self.first);
        let (theirs, their_width) = bits(address.to_canonical());
        width == their_width && cut(ours ^ theirs, width - self.prefix) == 0
    }
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Network, BadNetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| BadNetwork::Address)?;
        let (_, width) = bits(address);
        let prefix = match prefix {
            None => width,
            Some(text) => {
                number(text).filter(|prefix| *prefix <= width).ok_or(BadNetwork::Prefix(width))?
            }
        };
        let (address, prefix) = match address.to_canonical() {
            // The 96 bits before a mapped address are those that map it.
            four @ IpAddr::V4(_) if width == 128 && prefix >= 96 => (four, prefix - 96),
            _ => (address, prefix),
        };
        let network = Network { first: first(address, prefix), prefix };
        if network.first == address { Ok(network) } else { Err(BadNetwork::HostBits(network)) }
    }
}

/// The address's bits, and how many there are.
fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(four) => (four.to_bits().into(), 32),
        IpAddr::V6(six) => (six.to_bits(), 128),
    }
}

/// The bits without the last `host` of them, of which there may be all.
fn cut(bits: u128, host: u32) -> u128 {
    bits.checked_shr(host).unwrap_or(0)
}

/// The address with zeroes behind the prefix.
fn first(address: IpAddr, prefix: u32) -> IpAddr {
    let (bits, width) = bits(address);
    let first = cut(bits, width - prefix).checked_shl(width - prefix).unwrap_or(0);
    match address {
        IpAddr::V4(_) => IpAddr::V4((first as u32).into()),
        IpAddr::V6(_) => IpAddr::V6(first.into()),
    }
}

/// A number as people write prefixes: one to three digits.
fn number(text: &str) -> Option<u32> {
    let digits = (1..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl fmt::Display for BadNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadNetwork::Address => {
                write!(
                    f,
                    "write an address with or without a prefix, as in \"10.0.0.0/8\" or \"::1\""
                )
            }
            BadNetwork::Prefix(longest) => {
                write!(f, "its prefix is not a number from 0 to {longest}")
            }
            BadNetwork::HostBits(network) => write!(
                f,
                "bits are set behind its prefix; write \"{network}\", or the address without a prefix"
            ),
        }
    }
}

impl std::error::Error for BadNetwork {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    #[test]
    fn a_network_has_the_addresses_that_begin_like_it() {
        for (text, within, without) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::10.1.2.3"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.6/31", "192.0.2.7", "192.0.2.8"),
            ("0.0.0.0/0", "255.255.255.255", "::"),
            ("::1", "::1", "127.0.0.1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::/0", "ffff::", "0.0.0.0"),
            ("::/0", "::1", "::ffff:0.0.0.0"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "11.0.0.0"),
            ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("::ffff:0:0/96", "255.0.0.1", "::1"),
        ] {
            assert!(network(text).contains(within.parse().unwrap()), "{text} has {within}");
            assert!(!network(text).contains(without.parse().unwrap()), "{text} has no {without}");
        }
    }

    #[test]
    fn a_text_that_is_none_says_why() {
        use BadNetwork::{Address, HostBits, Prefix};
        for (text, why) in [
            ("", Address),
            ("/8", Address),
            ("proxy.internal", Address),
            ("10.0.0/8", Address),
            ("010.0.0.0/8", Address),
            ("fe80::1%eth0", Address),
            ("10.0.0.0:80", Address),
            (" 10.0.0.0", Address),
            ("10.0.0.0/", Prefix(32)),
            ("10.0.0.0/33", Prefix(32)),
            ("10.0.0.0/+8", Prefix(32)),
            ("10.0.0.0/255.0.0.0", Prefix(32)),
            ("::/129", Prefix(128)),
            ("::/4294967296", Prefix(128)),
            ("10.1.2.3/8", HostBits(network("10.0.0.0/8"))),
            ("2001:db8::1/32", HostBits(network("2001:db8::/32"))),
            ("::ffff:10.1.2.3/104", HostBits(network("10.0.0.0/8"))),
            ("::ffff:10.1.2.3/90", HostBits(network("::ffc0:0:0/90"))),
            ("0.0.0.1/0", HostBits(network("0.0.0.0/0"))),
            ("::1/0", HostBits(network("::/0"))),
        ] {
            assert_eq!(text.parse::<Network>(), Err(why), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "[0-9a-f:./%]{0,24}") {
            if let Ok(network) = text.parse::<Network>() {
                prop_assert!(network.contains(network.first));
                prop_assert_eq!(network.to_string().parse(), Ok(network));
            }
        }

        #[test]
        fn what_a_network_has_begins_with_its_bits(a: u128, b: u128, prefix in 0u32..=128) {
            let (a, b) = (IpAddr::V6(a.into()), IpAddr::V6(b.into()));
            prop_assume!(a.to_canonical() == a && b.to_canonical() == b);
            let network = Network { first: first(a, prefix), prefix };
            prop_assert!(network.contains(a));
            prop_assert_eq!(network.contains(b), first(b, prefix) == network.first);
        }
    }
}
