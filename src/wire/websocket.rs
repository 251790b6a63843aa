//! The decoder for WebSocket frames of clients, and the frames of the server (RFC
//! 6455). No connection needs a read buffer of its own.
//!
//! The gateway reads the bytes of a client into a buffer that many connections
//! share, and gives them to the [`Decoder`] of the connection. The decoder holds
//! bytes of its own only while a frame or a fragmented message is incomplete. It
//! rejects a message at the first invalid byte, so the result does not depend on how
//! the network splits the bytes. It allocates memory only for bytes that have
//! arrived, and not for the length that a frame header announces.
//!
//! A frame of the server is unmasked and never fragmented, so the same bytes can
//! be sent on every WebSocket.

mod header;

use std::fmt;

use bytes::Bytes;

use super::close::CloseCode;
use header::{Control, Data, FrameType, HEADER_BYTES_MAX, Header};

/// The largest payload of a control frame, in bytes (RFC 6455 §5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// The limits for the messages of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest number of bytes in a message, in all its fragments together. If a
    /// frame header announces more, the gateway closes the connection with 1009.
    pub message_bytes_max: usize,
    /// The largest number of fragments in a message. If there are more, the gateway
    /// closes the connection with 1008. `message_bytes_max` does not limit empty
    /// fragments: a message of four million empty fragments costs a third of a
    /// second of CPU time.
    pub message_fragments_max: u32,
}

impl Default for Limits {
    /// Returns 1 MiB, the default of `limits.body_bytes`, and 1,024 fragments.
    fn default() -> Limits {
        Limits { message_bytes_max: 1 << 20, message_fragments_max: 1024 }
    }
}

/// A complete message or control frame from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Bytes),
    /// A ping. The server must answer with a [`pong`] of the same payload.
    Ping(Bytes),
    /// A pong, with or without a preceding ping.
    Pong(Bytes),
    /// A close frame. The server must answer with [`close_reply`]. The decoder
    /// ignores all later bytes.
    Close {
        /// The close code, if the client sent one.
        code: Option<u16>,
        /// The reason. It is empty if the client sent none.
        reason: String,
    },
}

/// A protocol error of a client, and the close code for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolError {
    /// The close code that the gateway sends.
    pub close: CloseCode,
    /// The description of the error. It is written in the close frame and in the log
    /// lines of the gateway.
    pub detail: &'static str,
}

/// A decoder for the frames of one client. A decoder has heap memory only while a
/// frame or a message is incomplete.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The first bytes of an incomplete header.
    header: [u8; HEADER_BYTES_MAX],
    header_len: u8,
    /// Whether the client sent a close frame or broke the protocol. All later input
    /// is dropped.
    ended: bool,
    /// The frame whose payload is incomplete.
    frame: Option<Frame>,
    /// The payload of an incomplete control frame. It is separate from the
    /// message, because control frames can arrive between fragments.
    control: Vec<u8>,
    message: Option<Box<PartialMessage>>,
    /// The number of control frames and empty fragments since the last call of
    /// [`Decoder::take_control_frames`].
    control_frames: u32,
}

/// The part of a frame header that is needed until the payload is complete.
#[derive(Clone, Copy, Debug)]
struct Frame {
    kind: FrameKind,
    left: usize,
    /// The mask, rotated so that its first byte belongs to the next byte of the
    /// payload.
    mask: [u8; 4],
}

#[derive(Clone, Copy, Debug)]
enum FrameKind {
    Data { last: bool },
    Control(Control),
}

/// An incomplete message: the unmasked fragments that have arrived.
#[derive(Debug, Default)]
struct PartialMessage {
    text: bool,
    bytes: Vec<u8>,
    /// The number of bytes at the start of `bytes` that were checked and are valid
    /// UTF-8.
    checked: usize,
    fragments: u32,
}

impl ProtocolError {
    fn protocol(detail: &'static str) -> ProtocolError {
        ProtocolError { close: CloseCode::Protocol, detail }
    }

    fn not_utf8() -> ProtocolError {
        ProtocolError { close: CloseCode::NotUtf8, detail: "text is not utf-8" }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail)
    }
}

impl std::error::Error for ProtocolError {}

impl Decoder {
    /// Decodes all of `input`. Calls `out` for each message and control frame that
    /// `input` completes, in the order of their arrival.
    ///
    /// # Errors
    /// The protocol error of the client. Before that, `out` is called for each
    /// message and control frame that was complete. All later input is dropped, as
    /// after [`Message::Close`].
    pub fn feed(
        &mut self,
        mut input: &[u8],
        limits: Limits,
        mut out: impl FnMut(Message),
    ) -> Result<(), ProtocolError> {
        while let Some(incoming) = self.next(&mut input, limits)? {
            out(incoming);
        }
        Ok(())
    }

    /// Returns the next message or control frame that `input` completes. Removes the
    /// decoded bytes from the start of `input`. The caller can handle each message
    /// before the next one is decoded. Returns `None` when all of `input` is
    /// decoded.
    ///
    /// # Errors
    /// See [`feed`](Decoder::feed).
    pub fn next(
        &mut self,
        input: &mut &[u8],
        limits: Limits,
    ) -> Result<Option<Message>, ProtocolError> {
        if self.ended {
            *input = &[];
            return Ok(None);
        }
        let result = self.advance(input, limits);
        if matches!(result, Err(_) | Ok(Some(Message::Close { .. }))) {
            *self = Decoder { ended: true, ..Decoder::default() };
            *input = &[];
        }
        result
    }

    /// Returns whether the decoder is in its initial state. The caller can drop such
    /// a decoder, and create a new one for the next bytes.
    pub fn is_at_rest(&self) -> bool {
        !self.unfinished() && !self.ended
    }

    /// Returns whether a frame or a message is incomplete. The deadline for a
    /// message applies while this is true.
    pub fn unfinished(&self) -> bool {
        self.header_len > 0 || self.frame.is_some() || self.message.is_some()
    }

    /// Returns the number of control frames and empty message fragments that began
    /// since the last call. Such frames cost CPU time, but they do not count towards
    /// the limit on the bytes of a message.
    pub fn take_control_frames(&mut self) -> u32 {
        std::mem::take(&mut self.control_frames)
    }

    /// Returns the number of bytes of memory that hold incomplete frames and
    /// messages.
    pub fn buffered_bytes(&self) -> usize {
        self.control.capacity() + self.message.as_ref().map_or(0, |m| m.bytes.capacity())
    }

    fn advance(
        &mut self,
        input: &mut &[u8],
        limits: Limits,
    ) -> Result<Option<Message>, ProtocolError> {
        loop {
            let mut frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.header(input)? {
                    Some(header) => self.begin_frame(&header, limits)?,
                    None => return Ok(None),
                },
            };
            let part = input.split_off(..frame.left.min(input.len())).expect("within input");
            frame.left -= part.len();
            let message = match frame.kind {
                FrameKind::Data { last } => self.data(part, &mut frame, last)?,
                FrameKind::Control(control) => self.control(part, &mut frame, control)?,
            };
            if frame.left > 0 {
                self.frame = Some(frame);
                return Ok(None);
            }
            if message.is_some() {
                return Ok(message);
            }
        }
    }

    /// Returns the next frame header, or `None` if `input` ends before the header is
    /// complete.
    fn header(&mut self, input: &mut &[u8]) -> Result<Option<Header>, ProtocolError> {
        let start = usize::from(self.header_len);
        let copied = input.len().min(HEADER_BYTES_MAX - start);
        self.header[start..start + copied].copy_from_slice(&input[..copied]);
        let Some(header) = Header::parse(&self.header[..start + copied]) else {
            self.header_len += copied as u8;
            *input = &input[copied..];
            return Ok(None);
        };
        self.header_len = 0;
        *input = &input[header.payload_at - start..];
        if header.frame_type == FrameType::Reserved {
            return Err(ProtocolError::protocol("reserved opcode"));
        }
        if !header.is_length_minimal() {
            return Err(ProtocolError::protocol("payload length not in its shortest form"));
        }
        Ok(Some(header))
    }

    /// Returns the frame that `header` describes. Returns an error if RFC 6455 or a
    /// limit forbids the frame.
    fn begin_frame(&mut self, header: &Header, limits: Limits) -> Result<Frame, ProtocolError> {
        let length = header.length;
        if header.reserved_bits {
            return Err(ProtocolError::protocol("reserved bit without an extension"));
        }
        let Some(mask) = header.mask else {
            return Err(ProtocolError::protocol("unmasked frame"));
        };
        let kind = match header.frame_type {
            FrameType::Control(control) => {
                if !header.is_final {
                    return Err(ProtocolError::protocol("fragmented control frame"));
                }
                if length > CONTROL_BYTES_MAX as u64 {
                    return Err(ProtocolError::protocol("control frame over 125 bytes"));
                }
                self.control_frames += 1;
                FrameKind::Control(control)
            }
            FrameType::Data(data) => {
                self.fragment(data, length, limits)?;
                let whole = data != Data::Continuation && header.is_final;
                self.control_frames += u32::from(length == 0 && !whole);
                FrameKind::Data { last: header.is_final }
            }
            FrameType::Reserved => return Err(ProtocolError::protocol("reserved opcode")),
        };
        Ok(Frame { kind, left: length as usize, mask })
    }

    /// Checks a data frame against the limits, and counts it as a fragment of its
    /// message. The frame starts a new message or continues the incomplete message.
    fn fragment(&mut self, data: Data, length: u64, limits: Limits) -> Result<(), ProtocolError> {
        match (data, &self.message) {
            (Data::Continuation, None) => {
                return Err(ProtocolError::protocol("continuation frame without a message"));
            }
            (Data::Text | Data::Binary, Some(_)) => {
                return Err(ProtocolError::protocol("new message inside a fragmented message"));
            }
            (Data::Continuation, Some(_)) | (Data::Text | Data::Binary, None) => {}
        }
        let message = self.message.get_or_insert_default();
        message.text |= data == Data::Text;
        message.fragments += 1;
        if message.fragments > limits.message_fragments_max {
            return Err(ProtocolError {
                close: CloseCode::Policy,
                detail: "message with too many fragments",
            });
        }
        if length > limits.message_bytes_max.saturating_sub(message.bytes.len()) as u64 {
            return Err(ProtocolError {
                close: CloseCode::TooBig,
                detail: "message above the limit",
            });
        }
        Ok(())
    }

    fn data(
        &mut self,
        part: &[u8],
        frame: &mut Frame,
        last: bool,
    ) -> Result<Option<Message>, ProtocolError> {
        let message = self.message.as_mut().expect("begin_frame() has created the message");
        unmask(&mut message.bytes, part, frame);
        if frame.left > 0 || !last {
            return message.check().map(|()| None);
        }
        let message = self.message.take().expect("the message was checked to be present");
        if message.text {
            let text = String::from_utf8(message.bytes).map_err(|_| ProtocolError::not_utf8())?;
            return Ok(Some(Message::Text(text)));
        }
        Ok(Some(Message::Binary(message.bytes.into())))
    }

    fn control(
        &mut self,
        part: &[u8],
        frame: &mut Frame,
        control: Control,
    ) -> Result<Option<Message>, ProtocolError> {
        unmask(&mut self.control, part, frame);
        if frame.left > 0 {
            return Ok(None);
        }
        let payload = Bytes::from(std::mem::take(&mut self.control));
        match control {
            Control::Ping => Ok(Some(Message::Ping(payload))),
            Control::Pong => Ok(Some(Message::Pong(payload))),
            Control::Close => parse_close(&payload).map(Some),
        }
    }
}

impl PartialMessage {
    /// Returns an error if the text that has arrived cannot be the start of valid
    /// UTF-8. Each byte is checked once. Only the bytes of an incomplete character
    /// at the end are checked again, at most three more times.
    fn check(&mut self) -> Result<(), ProtocolError> {
        if !self.text {
            return Ok(());
        }
        match std::str::from_utf8(&self.bytes[self.checked..]) {
            Ok(text) => self.checked += text.len(),
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(ProtocolError::not_utf8()),
        }
        Ok(())
    }
}

/// Appends `part`, the next bytes of the payload of `frame`, to `to`, and removes
/// the mask of these bytes (RFC 6455 §5.3). Memory is reserved for the bytes that
/// have arrived, and not for the length that a header announces. The first
/// reservation is exact, because the first bytes are usually the whole payload.
fn unmask(to: &mut Vec<u8>, part: &[u8], frame: &mut Frame) {
    if to.is_empty() {
        to.reserve_exact(part.len());
    }
    let start = to.len();
    to.extend_from_slice(part);
    let mask = u32::from_ne_bytes(frame.mask);
    let (words, rest) = to[start..].as_chunks_mut();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ mask).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(frame.mask) {
        *byte ^= mask;
    }
    frame.mask.rotate_left(part.len() % 4);
}

/// Parses the payload of a close frame (RFC 6455 §5.5.1).
fn parse_close(payload: &[u8]) -> Result<Message, ProtocolError> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        if payload.is_empty() {
            return Ok(Message::Close { code: None, reason: String::new() });
        }
        return Err(ProtocolError::protocol("close code must have two bytes"));
    };
    let code = u16::from_be_bytes(*code);
    // RFC 6455 §7.4 and its registry: 1004 to 1006 and 1015 must not be sent,
    // 1016 to 2999 are not assigned.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(ProtocolError::protocol("close code that must not be sent"));
    }
    let reason = std::str::from_utf8(reason).map_err(|_| ProtocolError {
        close: CloseCode::NotUtf8,
        detail: "close reason is not utf-8",
    })?;
    Ok(Message::Close { code: Some(code), reason: reason.to_owned() })
}

/// The first byte of a frame that the server sends: the opcode and the FIN bit,
/// which marks the final fragment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Opcode {
    Text = 0x81,
    Close = 0x88,
    Ping = 0x89,
    Pong = 0x8a,
}

/// Appends the header of an unmasked frame with `length` payload bytes (RFC 6455
/// §5.2).
pub(super) fn frame_header(out: &mut Vec<u8>, opcode: Opcode, length: usize) {
    out.push(opcode as u8);
    match length {
        0..=125 => out.push(length as u8),
        126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// Returns a text frame with `payload`, which must be UTF-8.
pub fn text(payload: &[u8]) -> Bytes {
    frame(Opcode::Text, payload)
}

/// Returns a ping frame with at most the first 125 bytes of `payload`.
pub fn ping(payload: &[u8]) -> Bytes {
    frame(Opcode::Ping, &payload[..payload.len().min(CONTROL_BYTES_MAX)])
}

/// Returns a pong frame with at most the first 125 bytes of `payload`.
pub fn pong(payload: &[u8]) -> Bytes {
    frame(Opcode::Pong, &payload[..payload.len().min(CONTROL_BYTES_MAX)])
}

/// Returns a close frame with the code and its reason. If `detail` is not empty, it
/// follows the reason. `detail` is truncated if the payload would be longer than 125
/// bytes, the limit for control frames.
pub fn close(close: CloseCode, detail: &str) -> Bytes {
    let mut payload = close.code().to_be_bytes().to_vec();
    payload.extend_from_slice(close.reason().as_bytes());
    if !detail.is_empty() {
        let detail = &detail[..detail.floor_char_boundary(CONTROL_BYTES_MAX - payload.len() - 2)];
        payload.extend_from_slice(b": ");
        payload.extend_from_slice(detail.as_bytes());
    }
    frame(Opcode::Close, &payload)
}

/// Returns the answer to a client's close frame: a close frame with the same
/// code (RFC 6455 §5.5.1).
pub fn close_reply(code: Option<u16>) -> Bytes {
    match code {
        Some(code) => frame(Opcode::Close, &code.to_be_bytes()),
        None => frame(Opcode::Close, &[]),
    }
}

fn frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(HEADER_BYTES_MAX + payload.len());
    frame_header(&mut out, opcode, payload.len());
    out.extend_from_slice(payload);
    out.into()
}

#[cfg(test)]
mod tests;
