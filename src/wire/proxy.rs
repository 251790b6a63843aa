//! The PROXY protocol: a header with the client address that a proxy sends before
//! all other bytes of a connection. Section numbers refer to HAProxy's
//! specification, "The PROXY protocol, versions 1 & 2".
//!
//! ```text
//! version 1   "PROXY TCP4 " source " " destination " " port " " port CR LF
//!             "PROXY TCP6 " …
//!             "PROXY UNKNOWN" (" " anything)? CR LF
//! version 2   signature(12)  version(4 bits) command(4)
//!             family(4) transport(4)  length(16, big-endian)  block(length)
//!   block     source(4 | 16) destination(4 | 16) port(2) port(2)  TLVs
//! ```
//!
//! A receiver must not guess whether there is a header (§2). A trusted proxy
//! must send a header. A header from any other peer is not accepted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The largest length of an accepted header, in bytes. A longer header is invalid.
/// §2 asks senders to keep the header within one TCP segment of 536 bytes, but some
/// senders exceed this size with certificate names in TLVs. The format allows 64
/// KiB.
pub const HEADER_BYTES_MAX: usize = 4096;

/// The largest length of a version 1 header, with its CR LF (§2.1).
const LINE_BYTES_MAX: usize = 107;

/// The first bytes of a version 1 header.
const LINE: &[u8; 6] = b"PROXY ";

/// The first bytes of a version 2 header (§2.2). No HTTP request begins with
/// them.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The length of the fixed part of a version 2 header: the signature and four
/// bytes.
const HEAD_BYTES: usize = SIGNATURE.len() + 4;

/// The result of parsing the first bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseOutcome {
    /// The bytes are the start of a header. The rest of the header has not arrived.
    Incomplete,
    /// The bytes start with a complete header. Other bytes can follow it.
    Header {
        /// The length of the header, at most [`HEADER_BYTES_MAX`].
        length: usize,
        /// The client address. It is `None` if the proxy itself opened the
        /// connection (LOCAL) or does not know the address (UNKNOWN, UNSPEC, a
        /// Unix socket).
        source: Option<SocketAddr>,
    },
    /// The bytes are not a valid header. The value is the reason. More bytes do not
    /// change this result.
    Invalid(&'static str),
}

use ParseOutcome::{Header, Incomplete, Invalid};

/// Parses the first bytes of a connection.
pub fn decode(start: &[u8]) -> ParseOutcome {
    match start.first() {
        None => Incomplete,
        Some(b'P') => line(start),
        Some(_) => binary(start),
    }
}

/// Returns whether `start` and `expected` are equal up to the end of the shorter
/// one.
fn agree(start: &[u8], expected: &[u8]) -> bool {
    start.iter().zip(expected).all(|(byte, expected)| byte == expected)
}

/// Parses a header of version 1 (§2.1).
fn line(start: &[u8]) -> ParseOutcome {
    if !agree(start, LINE) {
        return Invalid("the connection does not begin with a PROXY header");
    }
    let line = &start[..start.len().min(LINE_BYTES_MAX)];
    let full = line.len() == LINE_BYTES_MAX;
    match line.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        None if full => Invalid("the version 1 header is longer than 107 bytes"),
        None => Incomplete,
        Some(end) => match &line[end..] {
            [b'\r', b'\n', ..] => fields(&line[LINE.len()..end], end + 2),
            [b'\r'] if !full => Incomplete,
            _ => Invalid("the version 1 header does not end with CR LF"),
        },
    }
}

/// Parses the fields after `PROXY` in a version 1 header. `length` is the length of
/// the whole header.
fn fields(text: &[u8], length: usize) -> ParseOutcome {
    // A receiver must ignore the rest of the line after UNKNOWN (§2.1).
    if text == b"UNKNOWN" || text.starts_with(b"UNKNOWN ") {
        return Header { length, source: None };
    }
    match str::from_utf8(text).ok().and_then(endpoints) {
        source @ Some(_) => Header { length, source },
        None => Invalid("the version 1 header must have two addresses and two ports"),
    }
}

/// Returns the source address of a version 1 header, or `None` if a field of the
/// header is invalid.
fn endpoints(line: &str) -> Option<SocketAddr> {
    let mut words = line.split(' ');
    let mut word = || words.next();
    let (family, source, destination) = (word()?, word()?, word()?);
    let (source_port, _) = (port(word()?)?, port(word()?)?);
    let (source, _): (IpAddr, IpAddr) = match family {
        "TCP4" => (four(source)?, four(destination)?),
        "TCP6" => (six(source)?, six(destination)?),
        _ => return None,
    };
    word().is_none().then(|| SocketAddr::new(source, source_port))
}

fn four(text: &str) -> Option<IpAddr> {
    text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

fn six(text: &str) -> Option<IpAddr> {
    text.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

/// Returns the port in `text`. A sign and leading zeros are invalid (§2.1).
fn port(text: &str) -> Option<u16> {
    let plain = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| plain)
}

/// Parses a header of version 2 (§2.2).
fn binary(start: &[u8]) -> ParseOutcome {
    if !agree(start, SIGNATURE) {
        return Invalid("the connection does not begin with a PROXY header");
    }
    let Some((head, rest)) = start.split_first_chunk::<HEAD_BYTES>() else { return Incomplete };
    let [.., command, family, high, low] = *head;
    let block_bytes = usize::from(u16::from_be_bytes([high, low]));
    let length = HEAD_BYTES + block_bytes;
    if length > HEADER_BYTES_MAX {
        return Invalid("the version 2 header is longer than 4096 bytes");
    }
    // The length of all addresses and ports, and the length of one address. The
    // second length is 0 if the gateway does not use the address.
    let (endpoints, address) = match (command, family >> 4, family & 0xf) {
        // The command LOCAL with any family, and the command PROXY with an unknown
        // family or transport (UNSPEC).
        (0x20, ..) | (0x21, 0..=3, 0) | (0x21, 0, 1..=2) => (0, 0),
        // The transport can be a stream or datagrams (QUIC).
        (0x21, 1, 1..=2) => (12, 4),
        (0x21, 2, 1..=2) => (36, 16),
        (0x21, 3, 1..=2) => (216, 0),
        (0x21, ..) => return Invalid("the version 2 header has an invalid family or transport"),
        _ => return Invalid("the version 2 header has an invalid version or command"),
    };
    if block_bytes < endpoints {
        return Invalid("the version 2 header is too short for the addresses of its family");
    }
    match rest.get(..block_bytes) {
        None => Incomplete,
        Some(block) => Header { length, source: source(block, address) },
    }
}

/// Returns the source address in the block of a version 2 header. Each address
/// of the block has `address_bytes` bytes.
fn source(block: &[u8], address_bytes: usize) -> Option<SocketAddr> {
    let (source, rest) = block.split_at_checked(address_bytes)?;
    let address = match address_bytes {
        4 => IpAddr::from(<[u8; 4]>::try_from(source).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(source).ok()?),
        _ => return None,
    };
    let (port, _) = rest.get(address_bytes..)?.split_first_chunk()?;
    Some(SocketAddr::new(address, u16::from_be_bytes(*port)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns a version 2 header with `block` after its length.
    fn version_2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend((block.len() as u16).to_be_bytes());
        header.extend(block);
        header
    }

    /// The addresses and ports of `192.0.2.1:56324`, and a TLV.
    const FOUR: &[u8] = b"\xc0\0\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbb\x04\0\x01x";

    /// The addresses and ports of `[2001:db8::1]:56324`.
    const SIX: &[u8] =
        b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\xdc\x04\x01\xbb";

    /// Checks a header alone, each prefix of the header, and the header with other bytes after it.
    fn check(header: &[u8], source: Option<&str>) {
        let expected =
            Header { length: header.len(), source: source.map(|source| source.parse().unwrap()) };
        assert_eq!(decode(header), expected, "{}", header.escape_ascii());
        for cut in 0..header.len() {
            assert_eq!(decode(&header[..cut]), Incomplete, "{}", header[..cut].escape_ascii());
        }
        for rest in [&b"\r"[..], b"GET / HTTP/1.1\r\n\r\n", &[0; 5000]] {
            assert_eq!(decode(&[header, rest].concat()), expected);
        }
    }

    #[test]
    fn a_version_1_header_names_its_source() {
        for (line, source) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", Some("192.0.2.1:56324")),
            ("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", Some("0.0.0.0:0")),
            ("PROXY TCP6 2001:db8::1 FE80::2 56324 443\r\n", Some("[2001:db8::1]:56324")),
            (
                "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
                Some("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
            ),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN \r\n", None),
            ("PROXY UNKNOWN 192.0.2.1 \t whatever\r\n", None),
            (
                "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
                None,
            ),
        ] {
            check(line.as_bytes(), source);
        }
        check(b"PROXY UNKNOWN \xff\0\r\n", None);
    }

    #[test]
    fn a_version_2_header_names_its_source() {
        check(&version_2(0x21, 0x11, FOUR), Some("192.0.2.1:56324"));
        check(&version_2(0x21, 0x11, &FOUR[..12]), Some("192.0.2.1:56324"));
        check(&version_2(0x21, 0x12, FOUR), Some("192.0.2.1:56324"));
        check(&version_2(0x21, 0x21, SIX), Some("[2001:db8::1]:56324"));
        check(&version_2(0x21, 0x22, &[SIX, &[7; 500]].concat()), Some("[2001:db8::1]:56324"));
        check(&version_2(0x21, 0x31, &[b'/'; 216]), None);
        check(&version_2(0x21, 0x00, b""), None);
        check(&version_2(0x21, 0x00, FOUR), None);
        check(&version_2(0x21, 0x10, FOUR), None);
        for family in [0x00, 0x11, 0x21, 0xff] {
            check(&version_2(0x20, family, b""), None);
            check(&version_2(0x20, family, FOUR), None);
        }
        check(&version_2(0x20, 0, &[0; HEADER_BYTES_MAX - HEAD_BYTES]), None);
    }

    fn check_invalid(start: &[u8]) {
        for bytes in [start, &[start, &[b'\r'; 5000]].concat(), &[start, b"\r\nmore"].concat()] {
            let decoded = decode(bytes);
            assert!(matches!(decoded, Invalid(_)), "{decoded:?}: {}", start.escape_ascii());
        }
    }

    #[test]
    fn an_invalid_version_1_header_is_rejected_at_its_first_invalid_byte() {
        for start in [
            "GET / HTTP/1.1",
            "PRI * HTTP/2.0",
            "POST",
            "PROXy",
            "PROXY\t",
            "PROXY\r\n",
            " PROXY",
            "PROXY \n",
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY UNKNOWN a\rb\r\n",
            "PROXY UNKNOWN a\nb\r\n",
            "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            "PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n",
            "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 -2\r\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
            "PROXY TCP4 ::1 ::2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP6 ::1 192.0.2.2 1 2\r\n",
            "PROXY TCP6 fe80::1%1 ::2 1 2\r\n",
            "PROXY TCP6 [::1] [::2] 1 2\r\n",
        ] {
            check_invalid(start.as_bytes());
        }
        check_invalid(b"PROXY TCP4 192.0.2.1\xff 192.0.2.2 1 2\r\n");
        let long = format!("PROXY UNKNOWN {:93}", "");
        assert_eq!(decode(&long.as_bytes()[..106]), Incomplete);
        check_invalid(long.as_bytes());
        let late = format!("PROXY UNKNOWN {:92}\r\n", "");
        assert_eq!((late.len(), decode(&late.as_bytes()[..106])), (108, Incomplete));
        check_invalid(late.as_bytes());
    }

    #[test]
    fn an_invalid_version_2_header_is_rejected_at_its_first_invalid_byte() {
        check_invalid(b"\r\n\r\n\0\r\nQUIT\r");
        check_invalid(b"\n");
        check_invalid(b"\0");
        for command in [0x00, 0x01, 0x11, 0x22, 0x2f, 0x31] {
            check_invalid(&version_2(command, 0x11, FOUR));
        }
        for family in [0x13, 0x41, 0x1f, 0xf1, 0x03] {
            check_invalid(&version_2(0x21, family, &[0; 300]));
        }
        check_invalid(&version_2(0x21, 0x11, &FOUR[..11]));
        check_invalid(&version_2(0x21, 0x21, FOUR));
        check_invalid(&version_2(0x21, 0x31, &[0; 215]));
        let long = version_2(0x20, 0, &[0; HEADER_BYTES_MAX - HEAD_BYTES + 1]);
        check_invalid(&long[..HEAD_BYTES]);
        check_invalid(&version_2(0x20, 0, &vec![0; 65_535]));
    }

    /// Checks that each prefix of `bytes` is incomplete or has the result of all
    /// bytes.
    fn check_prefixes(bytes: &[u8]) -> Result<(), TestCaseError> {
        let whole = decode(bytes);
        if let Header { length, .. } = whole {
            prop_assert!(length <= bytes.len().min(HEADER_BYTES_MAX));
        }
        for cut in 0..bytes.len() {
            let part = decode(&bytes[..cut]);
            prop_assert!(part == Incomplete || part == whole, "{cut}: {part:?}, {whole:?}");
            prop_assert!(part != Incomplete || cut < HEADER_BYTES_MAX);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn more_of_arbitrary_bytes_never_changes_a_final_result(bytes: Vec<u8>) {
            check_prefixes(&bytes)?;
        }

        #[test]
        fn more_of_a_line_never_changes_a_final_result(
            text in "PROXY (TCP[46]|UNKNOWN)?[0-9a-f.: \r\n]{0,120}",
        ) {
            check_prefixes(text.as_bytes())?;
        }

        #[test]
        fn more_of_a_block_never_changes_a_final_result(
            command in 0x1fu8..0x23, family: u8, block in prop::collection::vec(any::<u8>(), 0..260),
        ) {
            check_prefixes(&version_2(command, family, &block))?;
        }

        #[test]
        fn both_versions_give_the_address_that_the_proxy_sent(
            source: u128, port: u16, rest: Vec<u8>,
        ) {
            let address = Ipv6Addr::from_bits(source);
            let expected = Some(SocketAddr::new(address.into(), port));
            let line = format!("PROXY TCP6 {address} ::1 {port} 443\r\n").into_bytes();
            let mut block = address.octets().to_vec();
            block.extend([0; 16]);
            block.extend(port.to_be_bytes());
            block.extend([0; 2]);
            for header in [line, version_2(0x21, 0x21, &block)] {
                let expected = Header { length: header.len(), source: expected };
                prop_assert_eq!(decode(&[&header[..], &rest].concat()), expected);
            }
        }
    }
}
