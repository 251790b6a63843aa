//! WebSocket frames (RFC 6455), without a buffer for each connection.
//!
//! What a client sends is read into a buffer that many connections share and
//! goes through the connection's [`Decoder`], which keeps bytes of its own
//! only while a frame or a fragmented message is unfinished. A message is
//! refused at the first byte that shows it to be wrong, so the answer does not
//! depend on how the network cut it, and nothing is buffered on the word of a
//! length field.
//!
//! What the server sends is unmasked and never fragmented: one encoding serves
//! every socket.

mod header;

use std::fmt;

use bytes::Bytes;

use super::close::Close;
use header::{Control, Data, FrameType, HEADER_BYTES_MAX, Header};

/// Longest payload of a control frame (RFC 6455 §5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// What a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes in a message, all its fragments together. Beyond: 1009, as
    /// soon as a header announces it.
    pub message_bytes_max: usize,
    /// Most fragments in a message. Beyond: 1008. Without it, one message of
    /// four million empty fragments costs a third of a second of processor
    /// time and no bytes of the limit above.
    pub message_fragments_max: u32,
}

impl Default for Limits {
    /// 1 MiB, as `limits.body_bytes`, and 1,024 fragments.
    fn default() -> Limits {
        Limits { message_bytes_max: 1 << 20, message_fragments_max: 1024 }
    }
}

/// What a client has sent, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Bytes),
    /// A ping, due the same payload back as [`pong`].
    Ping(Bytes),
    /// A pong, asked for or not.
    Pong(Bytes),
    /// The client is closing; nothing after it is read. Due [`close_reply`].
    Close {
        /// Its code, where it gave one.
        code: Option<u16>,
        /// Its reason, empty where it gave none.
        reason: String,
    },
}

/// What a client did wrong, and the code to close with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The code to close with.
    pub close: Close,
    /// What was wrong, for the reason of the close frame and the log.
    pub detail: &'static str,
}

/// Reads one client's frames. A new one holds nothing on the heap, and so does
/// one between two messages.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The start of a header whose rest has not arrived.
    header: [u8; HEADER_BYTES_MAX],
    header_len: u8,
    /// Closed by the client or broken: whatever else comes is dropped.
    ended: bool,
    /// The frame whose payload has not wholly arrived.
    frame: Option<Frame>,
    /// The payload so far of an unfinished control frame. It is not the
    /// message's: control frames may come between fragments.
    control: Vec<u8>,
    message: Option<Box<Message>>,
    /// Frames that say nothing, since they were last asked for.
    control_frames: u32,
}

/// A frame's header, reduced to what its payload still needs.
#[derive(Clone, Copy, Debug)]
struct Frame {
    kind: Kind,
    left: usize,
    /// Turned so that its first byte is the next one due.
    mask: [u8; 4],
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Data { last: bool },
    Control(Control),
}

/// A message so far: its fragments, unmasked.
#[derive(Debug, Default)]
struct Message {
    text: bool,
    bytes: Vec<u8>,
    /// How many of `bytes` are known to be UTF-8.
    checked: usize,
    fragments: u32,
}

// === impl Violation ===

impl Violation {
    fn protocol(detail: &'static str) -> Violation {
        Violation { close: Close::Protocol, detail }
    }

    fn not_utf8() -> Violation {
        Violation { close: Close::NotUtf8, detail: "text is not utf-8" }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail)
    }
}

impl std::error::Error for Violation {}

// === impl Decoder ===

impl Decoder {
    /// Gives all of `input` to the decoder, and each thing that it completes,
    /// in order, to `out`.
    ///
    /// # Errors
    /// What the client did wrong, after what was whole before it. From then
    /// on, as after a [`Incoming::Close`], all input is dropped.
    pub fn feed(
        &mut self,
        mut input: &[u8],
        limits: Limits,
        mut out: impl FnMut(Incoming),
    ) -> Result<(), Violation> {
        while let Some(incoming) = self.next(&mut input, limits)? {
            out(incoming);
        }
        Ok(())
    }

    /// The next thing that `input` completes, for callers that deal with one
    /// before they look at the next. `input` is moved past what was used;
    /// `None` when all of it is.
    ///
    /// # Errors
    /// As [`feed`](Decoder::feed).
    pub fn next(
        &mut self,
        input: &mut &[u8],
        limits: Limits,
    ) -> Result<Option<Incoming>, Violation> {
        if self.ended {
            *input = &[];
            return Ok(None);
        }
        let result = self.advance(input, limits);
        if matches!(result, Err(_) | Ok(Some(Incoming::Close { .. }))) {
            *self = Decoder { ended: true, ..Decoder::default() };
            *input = &[];
        }
        result
    }

    /// Whether it need not be kept: the next one may begin anew.
    pub fn is_at_rest(&self) -> bool {
        !self.unfinished() && !self.ended
    }

    /// Whether a frame or a message has begun and not ended, so that its
    /// deadline runs.
    pub fn unfinished(&self) -> bool {
        self.header_len > 0 || self.frame.is_some() || self.message.is_some()
    }

    /// How many control frames and empty fragments of messages have begun
    /// since this was last asked. They cost time and no bytes of any limit.
    pub fn take_control_frames(&mut self) -> u32 {
        std::mem::take(&mut self.control_frames)
    }

    /// How many bytes are kept for what is unfinished.
    pub fn buffered_bytes(&self) -> usize {
        self.control.capacity() + self.message.as_ref().map_or(0, |m| m.bytes.capacity())
    }

    fn advance(
        &mut self,
        input: &mut &[u8],
        limits: Limits,
    ) -> Result<Option<Incoming>, Violation> {
        loop {
            let mut frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.header(input)? {
                    Some(header) => self.begin(&header, limits)?,
                    None => return Ok(None),
                },
            };
            let taken = input.split_off(..frame.left.min(input.len())).expect("within input");
            frame.left -= taken.len();
            let incoming = match frame.kind {
                Kind::Data { last } => self.data(taken, &mut frame, last)?,
                Kind::Control(control) => self.control(taken, &mut frame, control)?,
            };
            if frame.left > 0 {
                self.frame = Some(frame);
                return Ok(None);
            }
            if incoming.is_some() {
                return Ok(incoming);
            }
        }
    }

    /// Returns the next frame's header once all of it has arrived.
    fn header(&mut self, input: &mut &[u8]) -> Result<Option<Header>, Violation> {
        let held = usize::from(self.header_len);
        let wanted = input.len().min(HEADER_BYTES_MAX - held);
        self.header[held..held + wanted].copy_from_slice(&input[..wanted]);
        let Some(header) = Header::parse(&self.header[..held + wanted]) else {
            self.header_len += wanted as u8;
            *input = &input[wanted..];
            return Ok(None);
        };
        self.header_len = 0;
        *input = &input[header.payload_at - held..];
        if header.frame_type == FrameType::Reserved {
            return Err(Violation::protocol("reserved opcode"));
        }
        if !header.is_length_minimal() {
            return Err(Violation::protocol("length in a wrong form"));
        }
        Ok(Some(header))
    }

    /// What a header begins, once it is allowed to.
    fn begin(&mut self, header: &Header, limits: Limits) -> Result<Frame, Violation> {
        let length = header.length;
        if header.reserved_bits {
            return Err(Violation::protocol("reserved bit without an extension"));
        }
        let Some(mask) = header.mask else {
            return Err(Violation::protocol("unmasked frame"));
        };
        let kind = match header.frame_type {
            FrameType::Control(control) => {
                if !header.is_final {
                    return Err(Violation::protocol("fragmented control frame"));
                }
                if length > CONTROL_BYTES_MAX as u64 {
                    return Err(Violation::protocol("control frame over 125 bytes"));
                }
                self.control_frames += 1;
                Kind::Control(control)
            }
            FrameType::Data(data) => {
                self.fragment(data, length, limits)?;
                let whole = data != Data::Continuation && header.is_final;
                self.control_frames += u32::from(length == 0 && !whole);
                Kind::Data { last: header.is_final }
            }
            FrameType::Reserved => return Err(Violation::protocol("reserved opcode")),
        };
        Ok(Frame { kind, left: length as usize, mask })
    }

    /// Counts a data frame into the message that it starts or goes on with.
    fn fragment(&mut self, data: Data, length: u64, limits: Limits) -> Result<(), Violation> {
        match (data, &self.message) {
            (Data::Continuation, None) => {
                return Err(Violation::protocol("continuation of nothing"));
            }
            (Data::Text | Data::Binary, Some(_)) => {
                return Err(Violation::protocol("new message within a fragmented one"));
            }
            (Data::Continuation, Some(_)) | (Data::Text | Data::Binary, None) => {}
        }
        let message = self.message.get_or_insert_default();
        message.text |= data == Data::Text;
        message.fragments += 1;
        if message.fragments > limits.message_fragments_max {
            return Err(Violation {
                close: Close::Policy,
                detail: "message of too many fragments",
            });
        }
        if length > limits.message_bytes_max.saturating_sub(message.bytes.len()) as u64 {
            return Err(Violation { close: Close::TooBig, detail: "message over the limit" });
        }
        Ok(())
    }

    fn data(
        &mut self,
        taken: &[u8],
        frame: &mut Frame,
        last: bool,
    ) -> Result<Option<Incoming>, Violation> {
        let message = self.message.as_mut().expect("begun with its first header");
        unmask(&mut message.bytes, taken, frame);
        if frame.left > 0 || !last {
            return message.check().map(|()| None);
        }
        let message = self.message.take().expect("as above");
        if message.text {
            let text = String::from_utf8(message.bytes).map_err(|_| Violation::not_utf8())?;
            return Ok(Some(Incoming::Text(text)));
        }
        Ok(Some(Incoming::Binary(message.bytes.into())))
    }

    fn control(
        &mut self,
        taken: &[u8],
        frame: &mut Frame,
        control: Control,
    ) -> Result<Option<Incoming>, Violation> {
        unmask(&mut self.control, taken, frame);
        if frame.left > 0 {
            return Ok(None);
        }
        let payload = Bytes::from(std::mem::take(&mut self.control));
        match control {
            Control::Ping => Ok(Some(Incoming::Ping(payload))),
            Control::Pong => Ok(Some(Incoming::Pong(payload))),
            Control::Close => closing(&payload).map(Some),
        }
    }
}

// === impl Message ===

impl Message {
    /// Refuses text that no further byte can make UTF-8. Each byte is looked
    /// at once, a character that was cut at most three times more.
    fn check(&mut self) -> Result<(), Violation> {
        if !self.text {
            return Ok(());
        }
        match std::str::from_utf8(&self.bytes[self.checked..]) {
            Ok(text) => self.checked += text.len(),
            Err(cut) if cut.error_len().is_none() => self.checked += cut.valid_up_to(),
            Err(_) => return Err(Violation::not_utf8()),
        }
        Ok(())
    }
}

/// Appends the next bytes of a frame's payload without their mask
/// (RFC 6455 §5.3). Room is made for what has arrived, not for what a header
/// has announced: exactly for the first bytes, which are mostly the only ones.
fn unmask(to: &mut Vec<u8>, taken: &[u8], frame: &mut Frame) {
    if to.is_empty() {
        to.reserve_exact(taken.len());
    }
    let start = to.len();
    to.extend_from_slice(taken);
    let mask = u32::from_ne_bytes(frame.mask);
    let (words, rest) = to[start..].as_chunks_mut();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ mask).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(frame.mask) {
        *byte ^= mask;
    }
    frame.mask.rotate_left(taken.len() % 4);
}

/// Reads a close frame's payload (RFC 6455 §5.5.1).
fn closing(payload: &[u8]) -> Result<Incoming, Violation> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        if payload.is_empty() {
            return Ok(Incoming::Close { code: None, reason: String::new() });
        }
        return Err(Violation::protocol("close code cut short"));
    };
    let code = u16::from_be_bytes(*code);
    // RFC 6455 §7.4 and the registry it opens: 1004 to 1006 and 1015 are never
    // on the wire, 1016 to 2999 are not given out.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::protocol("close code that may not be sent"));
    }
    let reason = std::str::from_utf8(reason)
        .map_err(|_| Violation { close: Close::NotUtf8, detail: "close reason is not utf-8" })?;
    Ok(Incoming::Close { code: Some(code), reason: reason.to_owned() })
}

// === encoders ===

/// What a server's frame is; each final.
#[derive(Clone, Copy, Debug)]
pub(super) enum Opcode {
    Text = 0x81,
    Close = 0x88,
    Ping = 0x89,
    Pong = 0x8a,
}

/// Appends the header of a server's frame with `length` bytes of payload
/// (RFC 6455 §5.2).
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

/// A text frame of `payload`, which is UTF-8.
pub fn text(payload: &[u8]) -> Bytes {
    frame(Opcode::Text, payload)
}

/// A ping of `payload`, of which 125 bytes are sent at most.
pub fn ping(payload: &[u8]) -> Bytes {
    frame(Opcode::Ping, &payload[..payload.len().min(CONTROL_BYTES_MAX)])
}

/// The answer to a ping: its payload, of which 125 bytes are sent at most.
pub fn pong(payload: &[u8]) -> Bytes {
    frame(Opcode::Pong, &payload[..payload.len().min(CONTROL_BYTES_MAX)])
}

/// A close frame: the code, its reason, and `detail` behind it where there is
/// one, cut to what a control frame holds.
pub fn close(close: Close, detail: &str) -> Bytes {
    let mut payload = close.code().to_be_bytes().to_vec();
    payload.extend_from_slice(close.reason().as_bytes());
    if !detail.is_empty() {
        let detail = &detail[..detail.floor_char_boundary(CONTROL_BYTES_MAX - payload.len() - 2)];
        payload.extend_from_slice(b": ");
        payload.extend_from_slice(detail.as_bytes());
    }
    frame(Opcode::Close, &payload)
}

/// The answer to a client's close frame: its code again (RFC 6455 §5.5.1).
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
