//! The client address of a request, from the header fields `X-Forwarded-For`
//! and `Forwarded` (RFC 7239).
//!
//! Each of these fields contains a list. A proxy appends to the end of this list the
//! address from which it received the request. A client can send such a field too,
//! so the list is read from its end. The element that a trusted proxy appended is
//! the address that this proxy saw. The first address, from the end, that does not
//! belong to a trusted proxy is the client. Elements to the left of this address are
//! ignored. A client controls only the text to the left of the elements that the
//! proxies append. This text cannot change where these elements begin.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::event::network_contains;

/// The header field in which proxies name the address of their client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`: a list of addresses.
    XForwardedFor,
    /// `Forwarded` (RFC 7239): a list of elements. Each element has pairs of a name
    /// and a value. The pair `for` has the address.
    Forwarded,
}

impl ForwardedHeader {
    /// Returns the name of the header field in lower case.
    pub fn name(self) -> &'static str {
        match self {
            ForwardedHeader::XForwardedFor => "x-forwarded-for",
            ForwardedHeader::Forwarded => "forwarded",
        }
    }
}

/// Returns the client address of a request. `lines` are the lines of the header
/// field in their order. The search starts at `peer`, the address of the other end
/// of the connection. It continues in the list of the header field, from the last
/// element to the first. It returns the first address that is not in `proxies`. If
/// all addresses are in `proxies`, it returns the address in the first element of
/// the list.
///
/// If the element of a trusted proxy is missing or has no valid address (for example
/// `unknown`, `_hidden` or an invalid text), the function returns the address of
/// this proxy. The limit on the size of the request head also limits the cost of
/// this search.
pub fn client<'a>(
    field: ForwardedHeader,
    lines: impl DoubleEndedIterator<Item = &'a [u8]>,
    peer: IpAddr,
    proxies: &[IpNet],
) -> IpAddr {
    let mut address = peer.to_canonical();
    let mut hops = lines.rev().flat_map(|line| Hops { field, rest: Some(line) });
    while proxies.iter().any(|network| network_contains(network, address)) {
        match hops.next() {
            Some(Some(hop)) => address = hop.to_canonical(),
            Some(None) | None => break,
        }
    }
    address
}

/// An iterator over the elements of one header line, from the last to the first. An
/// item is the address in the element, or `None` if the element has no valid
/// address.
struct Hops<'a> {
    field: ForwardedHeader,
    rest: Option<&'a [u8]>,
}

impl Iterator for Hops<'_> {
    type Item = Option<IpAddr>;

    fn next(&mut self) -> Option<Option<IpAddr>> {
        let line = self.rest?;
        let comma = match self.field {
            ForwardedHeader::XForwardedFor => line.iter().rposition(|&byte| byte == b','),
            ForwardedHeader::Forwarded => last_comma(line),
        };
        let element = &line[comma.map_or(0, |comma| comma + 1)..];
        self.rest = comma.map(|comma| &line[..comma]);
        Some(match self.field {
            ForwardedHeader::XForwardedFor => address(element.trim_ascii()),
            ForwardedHeader::Forwarded => for_address(element),
        })
    }
}

/// Returns the position of the last comma outside of quoted strings. The scan goes
/// from right to left, so the first quote that it finds is the end of a string. The
/// next quote to the left that is not escaped is the start of this string.
fn last_comma(line: &[u8]) -> Option<usize> {
    let mut quoted = false;
    for (at, &byte) in line.iter().enumerate().rev() {
        match byte {
            b',' if !quoted => return Some(at),
            b'"' if !quoted || !is_escaped(line, at) => quoted = !quoted,
            _ => {}
        }
    }
    None
}

/// Returns whether an odd number of backslashes precedes the byte at `at`.
fn is_escaped(line: &[u8], at: usize) -> bool {
    line[..at].iter().rev().take_while(|&&byte| byte == b'\\').count() % 2 == 1
}

/// Returns the address in the pair `for` of a `Forwarded` element
/// (RFC 7239 §4). Returns `None` if the element is malformed, or if it does not
/// have exactly one pair `for`.
fn for_address(element: &[u8]) -> Option<IpAddr> {
    let mut rest = element.trim_ascii();
    let mut found = None;
    loop {
        let equals = rest.iter().position(|&byte| byte == b'=')?;
        let (name, after) = (&rest[..equals], &rest[equals + 1..]);
        if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
            return None;
        }
        let (value, after) = value(after)?;
        if name.eq_ignore_ascii_case(b"for") && found.replace(address(&value)).is_some() {
            return None;
        }
        rest = match after.trim_ascii_start() {
            [] => return found?,
            [b';', rest @ ..] => rest.trim_ascii_start(),
            _ => return None,
        };
    }
}

/// Returns the value of a pair, which is at the start of `text`, and the rest of
/// `text`. RFC 7239 requires quotes around an address with brackets or a port. This
/// function also accepts such an address without quotes.
fn value(text: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let plain = |byte: &u8| is_token(*byte) || b"[]:".contains(byte);
        let end = text.iter().position(|byte| !plain(byte)).unwrap_or(text.len());
        return (end > 0).then(|| (Cow::Borrowed(&text[..end]), &text[end..]));
    };
    let end = quoted.iter().position(|byte| b"\"\\".contains(byte))?;
    if quoted[end] == b'"' {
        return Some((Cow::Borrowed(&quoted[..end]), &quoted[end + 1..]));
    }
    // A backslash escapes the next byte (RFC 9110 §5.6.4).
    let mut plain = Vec::new();
    let mut bytes = quoted.iter();
    loop {
        match bytes.next()? {
            b'"' => return Some((Cow::Owned(plain), bytes.as_slice())),
            b'\\' => plain.push(*bytes.next()?),
            byte => plain.push(*byte),
        }
    }
}

/// Returns whether `byte` is allowed in a token (RFC 9110 §5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns the address in `text`. A port can follow the address. An IPv6 address can
/// be in brackets. If a port follows an IPv6 address, the brackets are required.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Some(text) = text.strip_prefix('[') {
        let (address, port) = text.split_once(']')?;
        let valid = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return address.parse().ok().filter(|_| valid).map(IpAddr::V6);
    }
    let (address, port) = text.split_once(':')?;
    address.parse().ok().filter(|_| is_port(port)).map(IpAddr::V4)
}

/// Returns whether `text` is a port: a number or an obfuscated identifier
/// (RFC 7239 §6).
fn is_port(text: &str) -> bool {
    let obfuscated = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match text.strip_prefix('_') {
        Some(name) => !name.is_empty() && name.bytes().all(obfuscated),
        None => (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PEER: &str = "10.0.0.1";

    fn proxies() -> Vec<IpNet> {
        ["10.0.0.0/8", "2001:db8:5::/48"].map(|text| text.parse().unwrap()).to_vec()
    }

    fn client_of(field: ForwardedHeader, lines: &[&str], peer: &str) -> String {
        let lines = lines.iter().map(|line| line.as_bytes());
        client(field, lines, peer.parse().unwrap(), &proxies()).to_string()
    }

    fn check(field: ForwardedHeader, lines: &[&str], expected: &str) {
        assert_eq!(client_of(field, lines, PEER), expected, "{lines:?}");
    }

    /// The accepted spellings of an address, in both fields.
    const SPELLINGS: [(&str, &str); 9] = [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:8080", "192.0.2.1"),
        ("192.0.2.1:_hidden.port", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:DB8::1]:443", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:1", "192.0.2.1"),
        ("0.0.0.0", "0.0.0.0"),
    ];

    /// Texts that are not a valid address, in both fields.
    const INVALID: [&str; 17] = [
        "unknown",
        "_hidden",
        "_",
        "localhost",
        "192.0.2",
        "192.0.2.01",
        "192.0.2.256",
        "192.0.2.1:",
        "192.0.2.1:123456",
        "192.0.2.1:+1",
        "192.0.2.1:_",
        "[192.0.2.1]",
        "[2001:db8::1",
        "[2001:db8::1]443",
        "2001:db8::1]",
        "fe80::1%eth0",
        "[fe80::1%1]:443",
    ];

    #[test]
    fn every_usual_spelling_of_an_address_is_accepted() {
        for (text, expected) in SPELLINGS {
            check(ForwardedHeader::XForwardedFor, &[text], expected);
            check(ForwardedHeader::Forwarded, &[&format!("for={text}")], expected);
            check(ForwardedHeader::Forwarded, &[&format!("for=\"{text}\"")], expected);
        }
    }

    #[test]
    fn a_proxy_that_names_no_valid_address_is_the_client() {
        for invalid in
            INVALID.into_iter().chain(["", " ", "\u{e9}", "\"192.0.2.1\"", "1.2.3.4 5.6.7.8"])
        {
            check(ForwardedHeader::XForwardedFor, &[invalid], PEER);
            check(ForwardedHeader::XForwardedFor, &[&format!("192.0.2.9, {invalid}")], PEER);
            check(ForwardedHeader::XForwardedFor, &["192.0.2.9", invalid], PEER);
            check(
                ForwardedHeader::XForwardedFor,
                &[&format!("192.0.2.9,{invalid}, 10.0.0.2")],
                "10.0.0.2",
            );
        }
        for invalid in INVALID {
            for quote in ["", "\""] {
                let invalid = format!("for={quote}{invalid}{quote};proto=http");
                check(ForwardedHeader::Forwarded, &[&format!("for=192.0.2.9, {invalid}")], PEER);
                let inner = format!("for=192.0.2.9, {invalid}, for=10.0.0.2");
                check(ForwardedHeader::Forwarded, &[&inner], "10.0.0.2");
            }
        }
    }

    #[test]
    fn the_last_hop_that_is_not_a_trusted_proxy_is_the_client() {
        let check =
            |lines: &[&str], expected| check(ForwardedHeader::XForwardedFor, lines, expected);
        check(&[], PEER);
        check(&["198.51.100.7, 192.0.2.1"], "192.0.2.1");
        check(&["198.51.100.7,192.0.2.1 ,\t10.9.9.9:80"], "192.0.2.1");
        check(&["198.51.100.7", "192.0.2.1", "10.0.0.2, 2001:db8:5::1"], "192.0.2.1");
        check(&["nonsense, 192.0.2.1, 10.0.0.2"], "192.0.2.1");
        check(&["10.0.0.3, 10.0.0.2"], "10.0.0.3");
        check(&["10.0.0.3", "", "10.0.0.2"], "10.0.0.2");
        assert_eq!(
            client_of(ForwardedHeader::XForwardedFor, &["192.0.2.1"], "::ffff:10.0.0.1"),
            "192.0.2.1"
        );
        assert_eq!(
            client_of(ForwardedHeader::XForwardedFor, &["192.0.2.1"], "198.51.100.7"),
            "198.51.100.7"
        );
        assert_eq!(
            client_of(ForwardedHeader::XForwardedFor, &["192.0.2.1"], "::ffff:11.0.0.1"),
            "11.0.0.1"
        );
        let peer = PEER.parse().unwrap();
        let lines = [&b"192.0.2.1"[..]];
        assert_eq!(client(ForwardedHeader::XForwardedFor, lines.into_iter(), peer, &[]), peer);
    }

    #[test]
    fn a_forwarded_element_is_parsed_as_rfc_7239_requires() {
        for (line, expected) in [
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=192.0.2.43, for=198.51.100.17", "198.51.100.17"),
            ("for=192.0.2.43,FOR=\"10.1.1.1:_x\"", "192.0.2.43"),
            ("proto=https;for=192.0.2.43;host=\"a,b;for=6.6.6.6\"", "192.0.2.43"),
            ("by=\"_a\\\"b,c\";for=192.0.2.43", "192.0.2.43"),
            ("host=\"a\\\\\";for=192.0.2.43", "192.0.2.43"),
            ("for=\"192.0.\\2.43\"", "192.0.2.43"),
            ("for=192.0.2.43 ; proto=http", "192.0.2.43"),
            ("for=\"192.0.2.43\" ;proto=http , for=10.0.0.7", "192.0.2.43"),
            // The following elements have no valid address.
            ("", PEER),
            ("proto=http", PEER),
            ("for", PEER),
            ("for=", PEER),
            ("for=\"\"", PEER),
            ("=192.0.2.43", PEER),
            ("for =192.0.2.43", PEER),
            ("for= 192.0.2.43", PEER),
            ("for=192.0.2.43;", PEER),
            ("for=192.0.2.43;proto", PEER),
            ("for=192.0.2.43;;proto=http", PEER),
            ("for=192.0.2.43 proto=http", PEER),
            ("for=192.0.2.43;for=192.0.2.43", PEER),
            ("for=192.0.2.43,", PEER),
            ("for=\"192.0.2.43", PEER),
            ("for=192.0.2.43\"", PEER),
            ("for=\"192.0.2.43\\\"", PEER),
            ("for=\"192.0.2.43\"x", PEER),
            ("for='192.0.2.43'", PEER),
            ("192.0.2.43", PEER),
        ] {
            check(ForwardedHeader::Forwarded, &[line], expected);
        }
        check(
            ForwardedHeader::Forwarded,
            &["for=192.0.2.43", "for=10.0.0.2;by=\"x,y\""],
            "192.0.2.43",
        );
        check(ForwardedHeader::Forwarded, &["for=192.0.2.43", "proto=http"], PEER);
    }

    fn element(field: ForwardedHeader, hop: &str) -> String {
        match field {
            ForwardedHeader::XForwardedFor => hop.to_owned(),
            ForwardedHeader::Forwarded => format!("by=\"_p\\\\, \\\"\";for=\"{hop}\";host=\"a,b\""),
        }
    }

    proptest! {
        /// A client sends a line, and trusted proxies append their elements.
        #[test]
        fn a_client_cannot_spoof_its_address(
            spoof in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..60),
                "(for=|\"|\\\\|,|;|=|192.0.2.9|10.0.0.2| ){0,12}".prop_map(String::into_bytes),
            ],
            same_line: bool,
            inner in 0usize..3,
        ) {
            for field in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
                let mut hops = vec![element(field, "198.51.100.7")];
                hops.extend((0..inner).map(|_| element(field, "10.0.0.2")));
                let appended = hops.join(", ");
                let joined = [&spoof[..], b", ", appended.as_bytes()].concat();
                let lines: Vec<&[u8]> =
                    if same_line { vec![&joined] } else { vec![&spoof, appended.as_bytes()] };
                let found = client(field, lines.into_iter(), PEER.parse().unwrap(), &proxies());
                prop_assert_eq!(found.to_string(), "198.51.100.7");
            }
        }

        #[test]
        fn arbitrary_lines_never_panic(
            lines: Vec<Vec<u8>>,
            text in "[for=\"\\\\,;:\\[\\]_0-9.]{0,60}",
        ) {
            let all: [IpNet; 2] = ["0.0.0.0/0", "::/0"].map(|text| text.parse().unwrap());
            for field in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
                let lines = lines.iter().map(Vec::as_slice).chain([text.as_bytes()]);
                client(field, lines, PEER.parse().unwrap(), &all);
            }
        }

        #[test]
        fn an_address_is_read_back_as_it_was_written(bits: u128, port: u16) {
            for address in [IpAddr::V6(bits.into()), IpAddr::V4((bits as u32).into())] {
                let socket = std::net::SocketAddr::new(address, port).to_string();
                prop_assert_eq!(super::address(address.to_string().as_bytes()), Some(address));
                prop_assert_eq!(super::address(socket.as_bytes()), Some(address));
            }
        }
    }
}
