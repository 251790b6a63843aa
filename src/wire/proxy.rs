//! The PROXY protocol: what a proxy says ahead of a connection's own bytes
//! about who is at its other end. Sections are those of HAProxy's paper, "The
//! PROXY protocol, versions 1 & 2".
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
//! A receiver must not guess whether there is a header (§2): who may send one
//! must, and nobody else's is believed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header that is taken, in bytes. Senders keep to a segment of 536
/// (§2), some with certificates' names in their TLVs do not; the format itself
/// would have 64 KiB. A longer one is invalid.
pub const HEADER_BYTES_MAX: usize = 4096;

/// Longest header of version 1, its CR LF included (§2.1).
const LINE_BYTES_MAX: usize = 107;

/// What a header of version 1 begins with.
const LINE: &[u8; 6] = b"PROXY ";

/// What a header of version 2 begins with (§2.2); no request of HTTP does.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2's head: the signature and four bytes.
const HEAD_BYTES: usize = SIGNATURE.len() + 4;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A header's, all of them; its rest is still to come.
    Incomplete,
    /// A header, and perhaps what follows it.
    Header {
        /// Its bytes, at most [`HEADER_BYTES_MAX`].
        length: usize,
        /// Whom the proxy speaks for; none where it speaks for itself (LOCAL)
        /// or cannot say (UNKNOWN, UNSPEC, a Unix socket).
        source: Option<SocketAddr>,
    },
    /// No header, for this reason. Nothing that follows makes it one.
    Invalid(&'static str),
}

use Decoded::{Header, Incomplete, Invalid};

/// Decodes the first bytes of a connection.
pub fn decode(start: &[u8]) -> Decoded {
    match start.first() {
        None => Incomplete,
        Some(b'P') => line(start),
        Some(_) => binary(start),
    }
}

/// Whether as much of `expected` as is there is what it must be.
fn begins(start: &[u8], expected: &[u8]) -> bool {
    start.iter().zip(expected).all(|(byte, expected)| byte == expected)
}

/// Version 1 (§2.1).
fn line(start: &[u8]) -> Decoded {
    if !begins(start, LINE) {
        return Invalid("it begins with no header");
    }
    let seen = &start[..start.len().min(LINE_BYTES_MAX)];
    let whole = seen.len() == LINE_BYTES_MAX;
    match seen.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        None if whole => Invalid("the line is longer than any of version 1"),
        None => Incomplete,
        Some(end) => match &seen[end..] {
            [b'\r', b'\n', ..] => fields(&seen[LINE.len()..end], end + 2),
            [b'\r'] if !whole => Incomplete,
            _ => Invalid("the line does not end with CR LF"),
        },
    }
}

/// What is in a line of `length` bytes, behind `PROXY`.
fn fields(text: &[u8], length: usize) -> Decoded {
    // What a proxy says of one that it does not know is to be ignored.
    if text == b"UNKNOWN" || text.starts_with(b"UNKNOWN ") {
        return Header { length, source: None };
    }
    match str::from_utf8(text).ok().and_then(endpoints) {
        source @ Some(_) => Header { length, source },
        None => Invalid("the line names no two addresses of its family, with ports"),
    }
}

/// The source, where all of the line is as it must be.
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

/// A port without a sign or a zero in front (§2.1).
fn port(text: &str) -> Option<u16> {
    let plain = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| plain)
}

/// Version 2 (§2.2).
fn binary(start: &[u8]) -> Decoded {
    if !begins(start, SIGNATURE) {
        return Invalid("it begins with no header");
    }
    let Some((head, rest)) = start.split_first_chunk::<HEAD_BYTES>() else { return Incomplete };
    let [.., command, family, high, low] = *head;
    let block_bytes = usize::from(u16::from_be_bytes([high, low]));
    let length = HEAD_BYTES + block_bytes;
    if length > HEADER_BYTES_MAX {
        return Invalid("the header is longer than is taken");
    }
    // Bytes of addresses and ports, and of one address where it is looked at.
    let (endpoints, address) = match (command, family >> 4, family & 0xf) {
        // LOCAL, whatever else it says, and what the proxy does not know.
        (0x20, ..) | (0x21, 0..=3, 0) | (0x21, 0, 1..=2) => (0, 0),
        // A client by datagrams (QUIC) is one all the same.
        (0x21, 1, 1..=2) => (12, 4),
        (0x21, 2, 1..=2) => (36, 16),
        (0x21, 3, 1..=2) => (216, 0),
        (0x21, ..) => return Invalid("its family or transport is not one of version 2"),
        _ => return Invalid("its version or command is not one of version 2"),
    };
    if block_bytes < endpoints {
        return Invalid("it is shorter than its family's addresses");
    }
    match rest.get(..block_bytes) {
        None => Incomplete,
        Some(block) => Header { length, source: source(block, address) },
    }
}

/// The source in a block whose addresses are so long.
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

    /// A header of version 2 with these bytes behind its length.
    fn version_2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend((block.len() as u16).to_be_bytes());
        header.extend(block);
        header
    }

    /// Addresses and ports of `192.0.2.1:56324`, and a TLV.
    const FOUR: &[u8] = b"\xc0\0\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbb\x04\0\x01x";

    /// Addresses and ports of `[2001:db8::1]:56324`.
    const SIX: &[u8] =
        b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\xdc\x04\x01\xbb";

    /// Alone, cut anywhere, and with bytes behind it.
    fn check(header: &[u8], source: Option<&str>) {
        let expected =
            Header { length: header.len(), source: source.map(|source| source.parse().unwrap()) };
        assert_eq!(decode(header), expected, "{}", header.escape_ascii());
        for cut in 0..header.len() {
            assert_eq!(decode(&header[..cut]), Incomplete, "{}", header[..cut].escape_ascii());
        }
        for behind in [&b"\r"[..], b"GET / HTTP/1.1\r\n\r\n", &[0; 5000]] {
            assert_eq!(decode(&[header, behind].concat()), expected);
        }
    }

    #[test]
    fn a_line_names_its_source() {
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
    fn a_block_names_its_source() {
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

    fn refuse(start: &[u8]) {
        for bytes in [start, &[start, &[b'\r'; 5000]].concat(), &[start, b"\r\nmore"].concat()] {
            let decoded = decode(bytes);
            assert!(matches!(decoded, Invalid(_)), "{decoded:?}: {}", start.escape_ascii());
        }
    }

    #[test]
    fn another_line_is_refused_as_soon_as_it_shows() {
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
            refuse(start.as_bytes());
        }
        refuse(b"PROXY TCP4 192.0.2.1\xff 192.0.2.2 1 2\r\n");
        let long = format!("PROXY UNKNOWN {:93}", "");
        assert_eq!(decode(&long.as_bytes()[..106]), Incomplete);
        refuse(long.as_bytes());
        let late = format!("PROXY UNKNOWN {:92}\r\n", "");
        assert_eq!((late.len(), decode(&late.as_bytes()[..106])), (108, Incomplete));
        refuse(late.as_bytes());
    }

    #[test]
    fn another_block_is_refused_as_soon_as_it_shows() {
        refuse(b"\r\n\r\n\0\r\nQUIT\r");
        refuse(b"\n");
        refuse(b"\0");
        for command in [0x00, 0x01, 0x11, 0x22, 0x2f, 0x31] {
            refuse(&version_2(command, 0x11, FOUR));
        }
        for family in [0x13, 0x41, 0x1f, 0xf1, 0x03] {
            refuse(&version_2(0x21, family, &[0; 300]));
        }
        refuse(&version_2(0x21, 0x11, &FOUR[..11]));
        refuse(&version_2(0x21, 0x21, FOUR));
        refuse(&version_2(0x21, 0x31, &[0; 215]));
        let long = version_2(0x20, 0, &[0; HEADER_BYTES_MAX - HEAD_BYTES + 1]);
        refuse(&long[..HEAD_BYTES]);
        refuse(&version_2(0x20, 0, &vec![0; 65_535]));
    }

    /// What is there decides, and more of it changes nothing.
    fn judge(bytes: &[u8]) -> Result<(), TestCaseError> {
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
        fn no_bytes_are_too_strange(bytes: Vec<u8>) {
            judge(&bytes)?;
        }

        #[test]
        fn no_line_is_too_strange(text in "PROXY (TCP[46]|UNKNOWN)?[0-9a-f.: \r\n]{0,120}") {
            judge(text.as_bytes())?;
        }

        #[test]
        fn no_block_is_too_strange(
            command in 0x1fu8..0x23, family: u8, block in prop::collection::vec(any::<u8>(), 0..260),
        ) {
            judge(&version_2(command, family, &block))?;
        }

        #[test]
        fn what_a_proxy_says_is_what_is_read(source: u128, port: u16, behind: Vec<u8>) {
            let address = Ipv6Addr::from_bits(source);
            let expected = Some(SocketAddr::new(address.into(), port));
            let line = format!("PROXY TCP6 {address} ::1 {port} 443\r\n").into_bytes();
            let mut block = address.octets().to_vec();
            block.extend([0; 16]);
            block.extend(port.to_be_bytes());
            block.extend([0; 2]);
            for header in [line, version_2(0x21, 0x21, &block)] {
                let expected = Header { length: header.len(), source: expected };
                prop_assert_eq!(decode(&[&header[..], &behind].concat()), expected);
            }
        }
    }
}
