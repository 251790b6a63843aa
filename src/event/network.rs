//! IP networks in the configuration.
//!
//! A socket for both IP versions reports an IPv4 client as an IPv4-mapped IPv6
//! address (`::ffff:192.0.2.1`). [`IpNet`] treats such an address as IPv6. The
//! functions of this module treat it as the IPv4 address: [`parse_network`] in the
//! text of a network, and [`network_contains`] in the address of a client.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// The prefix length of the network `::ffff:0:0/96`, which holds exactly the
/// IPv4-mapped addresses (RFC 4291 §2.5.5.2).
const MAPPED_PREFIX: u8 = 96;

/// The reason why a text is not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidNetwork {
    /// The part before the slash is not an IP address.
    Address,
    /// The prefix length after the slash is not a number from 0 to this value.
    Prefix(u8),
    /// The address has set bits after the prefix. The value is the network with the
    /// same prefix in which these bits are zero.
    HostBits(IpNet),
}

/// Returns the network in `text`. The text is an address and a prefix length,
/// for example `10.0.0.0/8` or `2001:db8::/32`, or a single address.
///
/// # Errors
/// [`InvalidNetwork`], whose text says what to write instead.
pub fn parse_network(text: &str) -> Result<IpNet, InvalidNetwork> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| InvalidNetwork::Address)?;
    let most = IpNet::from(address).max_prefix_len();
    let prefix = match prefix {
        None => most,
        Some(text) => prefix_length(text, most).ok_or(InvalidNetwork::Prefix(most))?,
    };
    let network = match address.to_canonical() {
        four @ IpAddr::V4(_) if address.is_ipv6() && prefix >= MAPPED_PREFIX => {
            IpNet::new(four, prefix - MAPPED_PREFIX)
        }
        _ => IpNet::new(address, prefix),
    };
    let network = network.map_err(|_| InvalidNetwork::Prefix(most))?;
    let truncated = network.trunc();
    if truncated == network { Ok(network) } else { Err(InvalidNetwork::HostBits(truncated)) }
}

/// Returns whether `network` contains `address`.
pub fn network_contains(network: &IpNet, address: IpAddr) -> bool {
    network.contains(&address.to_canonical())
}

/// Returns the number in `text`, or `None` if `text` is not one to three digits or
/// the number is greater than `most`. The function checks the digits itself, because
/// `u8::from_str` also accepts a sign, for example `+8`.
fn prefix_length(text: &str, most: u8) -> Option<u8> {
    let digits = (1..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let prefix = if digits { text.parse().ok() } else { None };
    prefix.filter(|prefix| *prefix <= most)
}

impl fmt::Display for InvalidNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidNetwork::Address => write!(
                f,
                "write an address with or without a prefix, for example \"10.0.0.0/8\" or \"::1\""
            ),
            InvalidNetwork::Prefix(most) => {
                write!(f, "the prefix length must be a number from 0 to {most}")
            }
            InvalidNetwork::HostBits(network) => write!(
                f,
                "bits after the prefix are set; write \"{network}\", or the address without a prefix"
            ),
        }
    }
}

impl std::error::Error for InvalidNetwork {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> IpNet {
        parse_network(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn contains(network: &IpNet, address: &str) -> bool {
        network_contains(network, address.parse().unwrap())
    }

    #[test]
    fn a_network_contains_the_addresses_with_its_prefix() {
        for (text, inside, outside) in [
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
            assert!(contains(&network(text), inside), "{text} contains {inside}");
            assert!(!contains(&network(text), outside), "{text} does not contain {outside}");
        }
    }

    #[test]
    fn an_error_says_why_a_text_is_not_a_network() {
        use InvalidNetwork::{Address, HostBits, Prefix};
        for (text, reason) in [
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
            assert_eq!(parse_network(text), Err(reason), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_parser_never_panics(text in "[0-9a-f:./%]{0,24}") {
            if let Ok(network) = parse_network(&text) {
                prop_assert!(network_contains(&network, network.network()));
                prop_assert_eq!(parse_network(&network.to_string()), Ok(network));
            }
        }
    }
}
