//! Finds the IP address of the client that sent a request, also behind a proxy
//! (`docs/operations.md#client-addresses`).

use std::net::{IpAddr, Ipv6Addr};

use hyper::header::{HeaderMap, HeaderValue};
use ipnet::IpNet;

use crate::event::network_contains;
use crate::wire::forwarded::{self, ForwardedHeader};

/// The proxies that the gateway trusts to name the client of a request.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// The networks of the trusted proxies (`server.proxies`).
    pub networks: Vec<IpNet>,
    /// The header in which the proxies send the address of the client
    /// (`server.forwarded`). `None` if the proxies send no such header.
    pub field: Option<ForwardedHeader>,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The address of the peer, or the address in its PROXY header.
    pub address: IpAddr,
    /// Whether the gateway trusts the peer to name the client in a header.
    pub believed: bool,
}

/// The client of a request. Streams and rates are counted per client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The address of the client.
    pub address: IpAddr,
    /// Whether the request came through a trusted proxy. The connection of a proxy
    /// carries requests of several clients, so the gateway then counts streams per
    /// client and not per connection.
    pub via_proxy: bool,
}

impl Proxies {
    /// Returns whether the address belongs to a trusted proxy.
    pub fn contain(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network_contains(network, address))
    }

    /// Returns the client of a request. `fields` are the headers of the request.
    /// `peer` is the other end of the connection.
    pub(in crate::api) fn client(&self, fields: &HeaderMap, peer: Peer) -> Client {
        let Some(field) = self.field.filter(|_| peer.believed) else {
            return Client { address: peer.address.to_canonical(), via_proxy: peer.believed };
        };
        let lines = fields.get_all(field.name()).iter().map(HeaderValue::as_bytes);
        let address = forwarded::client(field, lines, peer.address, &self.networks);
        Client { address, via_proxy: true }
    }
}

/// Returns the part of an IP address that identifies a client. For IPv6, this is the
/// /64 network, because a provider gives each customer a /64. For IPv4, it is the
/// whole address.
pub fn client_key(address: IpAddr) -> IpAddr {
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

    #[test]
    fn a_header_names_the_client_only_if_the_peer_is_trusted() {
        let mut fields = HeaderMap::new();
        fields.append("x-forwarded-for", HeaderValue::from_static("192.0.2.1"));
        fields.append("x-forwarded-for", HeaderValue::from_static("192.0.2.2"));
        fields.append("forwarded", HeaderValue::from_static("for=192.0.2.3"));
        let proxies = |field| Proxies { networks: vec!["10.0.0.0/8".parse().unwrap()], field };
        let client = |field, address: &str, believed| {
            let peer = Peer { address: address.parse().unwrap(), believed };
            proxies(field).client(&fields, peer).address.to_string()
        };
        let (listed, standard) =
            (Some(ForwardedHeader::XForwardedFor), Some(ForwardedHeader::Forwarded));
        assert_eq!(client(listed, "10.0.0.1", true), "192.0.2.2");
        assert_eq!(client(standard, "::ffff:10.0.0.1", true), "192.0.2.3");
        assert_eq!(client(None, "10.0.0.1", true), "10.0.0.1");
        assert_eq!(client(listed, "::ffff:10.0.0.1", false), "10.0.0.1");
        assert_eq!(client(listed, "192.0.2.9", true), "192.0.2.9");
    }
}
