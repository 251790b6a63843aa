//! HTTP/1.1 chunks and WebSocket frames. A read may end anywhere in either.

/// The state of a decoder of a chunked body (RFC 9112 §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkDecoder {
    /// In a size: the value so far, and whether digits may follow.
    Size(u32, bool),
    /// In a payload, with the number of bytes to come.
    Payload(u32),
    /// In the line break after a payload.
    Break,
    /// After the last chunk.
    End,
}

impl ChunkDecoder {
    /// The state before the first chunk.
    pub const START: ChunkDecoder = ChunkDecoder::Size(0, true);

    /// Decodes `bytes` and appends the payload to `text`.
    pub fn decode(&mut self, mut bytes: &[u8], text: &mut Vec<u8>) {
        while let Some(&byte) = bytes.first() {
            match *self {
                ChunkDecoder::Payload(left) => {
                    let (payload, rest) = bytes.split_at(bytes.len().min(left as usize));
                    text.extend_from_slice(payload);
                    bytes = rest;
                    let left = left - payload.len() as u32;
                    *self =
                        if left == 0 { ChunkDecoder::Break } else { ChunkDecoder::Payload(left) };
                    continue;
                }
                ChunkDecoder::End => return,
                ChunkDecoder::Break if byte == b'\n' => *self = ChunkDecoder::START,
                ChunkDecoder::Break => {}
                ChunkDecoder::Size(0, _) if byte == b'\n' => *self = ChunkDecoder::End,
                ChunkDecoder::Size(size, _) if byte == b'\n' => *self = ChunkDecoder::Payload(size),
                ChunkDecoder::Size(size, digits) => {
                    *self = match char::from(byte).to_digit(16) {
                        Some(digit) if digits => ChunkDecoder::Size(size << 4 | digit, true),
                        _ => ChunkDecoder::Size(size, false),
                    }
                }
            }
            bytes = &bytes[1..];
        }
    }
}

/// The state of a decoder of WebSocket frames whose payloads together are one
/// stream. A frame may be longer than any buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PayloadDecoder {
    /// In a header: its bytes so far.
    Header(Vec<u8>),
    /// In a payload: the number of bytes to come, and whether they belong to a
    /// data frame.
    Payload(u64, bool),
    /// After a close frame.
    End,
}

impl PayloadDecoder {
    /// The state before the first frame.
    pub const START: PayloadDecoder = PayloadDecoder::Header(Vec::new());

    /// Decodes `bytes` and appends the payloads of data frames to `text`.
    pub fn decode(&mut self, mut bytes: &[u8], text: &mut Vec<u8>) {
        while !bytes.is_empty() {
            match self {
                PayloadDecoder::End => return,
                PayloadDecoder::Header(header) => {
                    header.push(bytes[0]);
                    bytes = &bytes[1..];
                    let length = match header.get(1).map(|second| second & 0x7f) {
                        None => continue,
                        Some(126) => header.get(2..4).map(big_endian),
                        Some(127) => header.get(2..10).map(big_endian),
                        Some(short) => Some(u64::from(short)),
                    };
                    let (Some(length), opcode) = (length, header[0] & 0x0f) else { continue };
                    *self = match (opcode, length) {
                        (8, _) => PayloadDecoder::End,
                        (_, 0) => PayloadDecoder::START,
                        (opcode, length) => PayloadDecoder::Payload(length, opcode <= 2),
                    };
                }
                &mut PayloadDecoder::Payload(left, counts) => {
                    let (payload, rest) = bytes.split_at(bytes.len().min(left as usize));
                    if counts {
                        text.extend_from_slice(payload);
                    }
                    bytes = rest;
                    *self = match left - payload.len() as u64 {
                        0 => PayloadDecoder::START,
                        left => PayloadDecoder::Payload(left, counts),
                    };
                }
            }
        }
    }
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// A WebSocket frame from a server (RFC 6455 §5.2).
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'b> {
    /// The opcode: 1 text, 8 close, 9 ping.
    pub opcode: u8,
    /// The payload.
    pub payload: &'b [u8],
    /// The length of the frame with its header.
    pub length: usize,
}

/// Returns the frame at the start of `bytes`. `None` if it is not complete.
pub fn frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (header, payload) = match second & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        short => (2, usize::from(short)),
    };
    let length = header + payload;
    Some(Frame { opcode: first & 0x0f, payload: bytes.get(header..length)?, length })
}

/// Appends a text frame as a server sends it.
pub fn write_text(out: &mut Vec<u8>, payload: &[u8]) {
    out.push(0x81);
    match payload.len() {
        short @ 0..=125 => out.push(short as u8),
        middle @ 126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            out.push(127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

/// Returns a client's frame with a payload of at most 125 bytes, such as a
/// close (opcode 8), a pong (10) or a command (1). The masking key is 0, which
/// leaves the payload as it is.
pub fn control(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80 | opcode, 0x80 | payload.len().min(125) as u8, 0, 0, 0, 0];
    out.extend_from_slice(&payload[..payload.len().min(125)]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_may_break_anywhere() {
        let body = b"0003\r\nabc\r\n10;x=1\r\n0123456789abcdef\r\n0\r\n\r\n";
        for cut in 0..body.len() {
            let (mut chunks, mut text) = (ChunkDecoder::START, Vec::new());
            chunks.decode(&body[..cut], &mut text);
            chunks.decode(&body[cut..], &mut text);
            assert_eq!(text, b"abc0123456789abcdef", "cut at {cut}");
            assert_eq!(chunks, ChunkDecoder::End);
        }
    }

    #[test]
    fn payloads_may_break_anywhere() {
        let mut bytes = vec![0x02, 3, b'a', b'b', b'c', 0x89, 1, b'!', 0x80, 126, 0, 130];
        bytes.extend([b'd'; 130]);
        bytes.extend([0x82, 127, 0, 0, 0, 0, 0, 0, 0, 1, b'e', 0x82, 0, 0x88, 0, 0x82, 1, b'f']);
        let expected = format!("abc{}e", "d".repeat(130)).into_bytes();
        for cut in 0..bytes.len() {
            let (mut payloads, mut text) = (PayloadDecoder::START, Vec::new());
            payloads.decode(&bytes[..cut], &mut text);
            payloads.decode(&bytes[cut..], &mut text);
            assert_eq!(text, expected, "cut at {cut}");
            assert_eq!(payloads, PayloadDecoder::End);
        }
    }

    #[test]
    fn a_frame_is_complete_or_not_returned() {
        for size in [0, 125, 126, 70_000] {
            let (payload, mut bytes) = (vec![b'x'; size], Vec::new());
            write_text(&mut bytes, &payload);
            assert_eq!(frame(&bytes[..bytes.len() - 1]), None);
            let found = frame(&bytes).unwrap();
            assert_eq!((found.opcode, found.payload, found.length), (1, &payload[..], bytes.len()));
        }
    }
}
