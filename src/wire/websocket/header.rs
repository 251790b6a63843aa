//! The header of a WebSocket frame (RFC 6455 §5.2).

/// The largest header of a client's frame, in bytes: the first two bytes, eight
/// bytes of extended length and four bytes of mask.
pub(super) const HEADER_BYTES_MAX: usize = 14;

/// The fields of a frame header. The decoder checks which combinations of fields
/// are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Whether the frame is the last one of its message (the FIN bit).
    pub(super) is_final: bool,
    /// Whether one of the three reserved bits is set.
    pub(super) reserved_bits: bool,
    /// The type of the frame, from its opcode.
    pub(super) frame_type: FrameType,
    /// The mask of the payload. It is `None` if the payload is not masked.
    pub(super) mask: Option<[u8; 4]>,
    /// The length of the payload in bytes.
    pub(super) length: u64,
    /// The length of the header in bytes. The payload starts at this position.
    pub(super) payload_at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameType {
    Data(Data),
    Control(Control),
    Reserved,
}

/// The types of data frames, which carry messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Continuation,
    Text,
    Binary,
}

/// The types of control frames. A control frame can arrive between the fragments of
/// a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    Close,
    Ping,
    Pong,
}

impl FrameType {
    fn of(first: u8) -> FrameType {
        match first & 0x0f {
            0x0 => FrameType::Data(Data::Continuation),
            0x1 => FrameType::Data(Data::Text),
            0x2 => FrameType::Data(Data::Binary),
            0x8 => FrameType::Control(Control::Close),
            0x9 => FrameType::Control(Control::Ping),
            0xa => FrameType::Control(Control::Pong),
            _ => FrameType::Reserved,
        }
    }
}

impl Header {
    /// Parses the header at the start of `input`. Returns `None` if the header is
    /// incomplete.
    pub(super) fn parse(input: &[u8]) -> Option<Header> {
        let (&[first, second], mut rest) = input.split_first_chunk()?;
        let length = match second & 0x7f {
            126 => u64::from(u16::from_be_bytes(take(&mut rest)?)),
            127 => u64::from_be_bytes(take(&mut rest)?),
            short => u64::from(short),
        };
        let mask = if second & 0x80 == 0 { None } else { Some(take(&mut rest)?) };
        Some(Header {
            is_final: first & 0x80 != 0,
            reserved_bits: first & 0x70 != 0,
            frame_type: FrameType::of(first),
            mask,
            length,
            payload_at: input.len() - rest.len(),
        })
    }

    /// Returns whether the length has its shortest form and is below 2^63, which
    /// RFC 6455 §5.2 requires.
    pub(super) fn is_length_minimal(&self) -> bool {
        let length_bytes = match self.length {
            0..=125 => 0,
            126..=0xffff => 2,
            _ => 8,
        };
        let mask_bytes = if self.mask.is_some() { 4 } else { 0 };
        self.payload_at == 2 + length_bytes + mask_bytes && i64::try_from(self.length).is_ok()
    }
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(*bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
    use tokio_tungstenite::tungstenite::protocol::frame::coding as foreign;

    use super::*;

    fn frame_type(opcode: foreign::OpCode) -> FrameType {
        match opcode {
            foreign::OpCode::Data(foreign::Data::Continue) => FrameType::Data(Data::Continuation),
            foreign::OpCode::Data(foreign::Data::Text) => FrameType::Data(Data::Text),
            foreign::OpCode::Data(foreign::Data::Binary) => FrameType::Data(Data::Binary),
            foreign::OpCode::Control(foreign::Control::Close) => FrameType::Control(Control::Close),
            foreign::OpCode::Control(foreign::Control::Ping) => FrameType::Control(Control::Ping),
            foreign::OpCode::Control(foreign::Control::Pong) => FrameType::Control(Control::Pong),
            _ => FrameType::Reserved,
        }
    }

    proptest! {
        /// Compares both parsers. tungstenite rejects a reserved opcode, and this
        /// parser returns it.
        #[test]
        fn the_parser_returns_the_same_header_as_tungstenite(
            first: u8,
            second: u8,
            rest in proptest::collection::vec(any::<u8>(), 0..13),
        ) {
            let input = [&[first, second], rest.as_slice()].concat();
            for end in 0..=input.len() {
                let input = &input[..end];
                let mut cursor = Cursor::new(input);
                let own = Header::parse(input);
                match FrameHeader::parse(&mut cursor) {
                    Ok(None) => prop_assert_eq!(own, None),
                    Err(_) => prop_assert_eq!(own.map(|it| it.frame_type), Some(FrameType::Reserved)),
                    Ok(Some((header, length))) => {
                        let own = own.unwrap();
                        let header_bytes = cursor.position() as usize;
                        let minimal = header_bytes == header.len(length) && length >> 63 == 0;
                        prop_assert_eq!(own.is_length_minimal(), minimal);
                        prop_assert_eq!(own, Header {
                            is_final: header.is_final,
                            reserved_bits: header.rsv1 || header.rsv2 || header.rsv3,
                            frame_type: frame_type(header.opcode),
                            mask: header.mask,
                            length,
                            payload_at: header_bytes,
                        });
                    }
                }
            }
        }
    }
}
