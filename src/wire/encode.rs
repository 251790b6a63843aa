//! The encoding of one event in each wire format.
//!
//! The encoders only join texts and escape nothing. This is safe: the constructors
//! of names, ids and times accept no character that JSON or SSE must escape, and the
//! data is compact JSON on one line.

use std::io::Write as _;

use super::identity::{LogIdentity, LogKind};
use super::websocket::{Opcode, frame_header};
use crate::event::Event;

/// A wire format: the format of an event, together with the framing of the protocol.
/// For HTTP/1.1, the framing is one HTTP chunk for each event. The encoded bytes
/// include the framing, so the same bytes can be written to the socket of every
/// subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WireFormat {
    /// A block of Server-Sent Events with `id`, `event` and `data`.
    Sse,
    /// The block of [`WireFormat::Sse`] as one HTTP/1.1 chunk.
    SseChunked,
    /// A line with the JSON object `{"id","type","subject","time","data"}`.
    Ndjson,
    /// The line of [`WireFormat::Ndjson`] as one HTTP/1.1 chunk.
    NdjsonChunked,
    /// A line of CloudEvents 1.0 JSON.
    CloudEvents,
    /// The line of [`WireFormat::CloudEvents`] as one HTTP/1.1 chunk.
    CloudEventsChunked,
    /// A WebSocket text frame with the envelope of the protocol:
    /// `{"id","type","timestamp","data"}`.
    Envelope,
    /// A WebSocket text frame `{"type":"update","data":…}`.
    Bare,
}

impl WireFormat {
    /// The number of wire formats.
    pub const COUNT: usize = 8;

    /// All wire formats, in the order of their discriminants.
    pub const ALL: [WireFormat; WireFormat::COUNT] = [
        WireFormat::Sse,
        WireFormat::SseChunked,
        WireFormat::Ndjson,
        WireFormat::NdjsonChunked,
        WireFormat::CloudEvents,
        WireFormat::CloudEventsChunked,
        WireFormat::Envelope,
        WireFormat::Bare,
    ];

    /// Returns the wire format with the same event format and HTTP/1.1 chunk
    /// framing. A WebSocket format is returned unchanged.
    #[must_use]
    pub fn chunked(self) -> WireFormat {
        match self {
            WireFormat::Sse => WireFormat::SseChunked,
            WireFormat::Ndjson => WireFormat::NdjsonChunked,
            WireFormat::CloudEvents => WireFormat::CloudEventsChunked,
            other => other,
        }
    }

    /// Returns the name of the wire format in the labels of metrics. Both framings
    /// of a format have the same name.
    pub fn label(self) -> &'static str {
        match self {
            WireFormat::Sse | WireFormat::SseChunked => "sse",
            WireFormat::Ndjson | WireFormat::NdjsonChunked => "ndjson",
            WireFormat::CloudEvents | WireFormat::CloudEventsChunked => "cloudevents",
            WireFormat::Envelope => "ws",
            WireFormat::Bare => "ws-bare",
        }
    }
}

/// Appends `event`, which is an event of the log `identity`, in the wire format
/// `format`.
pub(super) fn event(out: &mut Vec<u8>, format: WireFormat, identity: &LogIdentity, event: &Event) {
    match format {
        WireFormat::Sse => sse(out, identity, event),
        WireFormat::SseChunked => chunk(out, |out| sse(out, identity, event)),
        WireFormat::Ndjson => ndjson(out, identity, event),
        WireFormat::NdjsonChunked => chunk(out, |out| ndjson(out, identity, event)),
        WireFormat::CloudEvents => cloud_event(out, identity, event),
        WireFormat::CloudEventsChunked => chunk(out, |out| cloud_event(out, identity, event)),
        WireFormat::Envelope => text_frame(out, |out| envelope(out, identity, event)),
        WireFormat::Bare => text_frame(out, |out| {
            out.extend_from_slice(br#"{"type":"update""#);
            data(out, event);
            out.push(b'}');
        }),
    }
}

/// The usual number of hexadecimal digits of a chunk size. A payload of more than
/// 65,535 bytes gets more digits. [`chunk`] reserves space for this number of
/// digits, so it can write the payload before the size is known. RFC 9112 §7.1
/// allows leading zeros.
const CHUNK_DIGITS: usize = 4;

/// Appends the bytes that `payload` appends, as one HTTP/1.1 chunk
/// (RFC 9112 §7.1). If `payload` appends nothing, this function appends
/// nothing, because an empty chunk ends the body.
pub fn chunk(out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(b"0000\r\n");
    let body = out.len();
    payload(out);
    let length = out.len() - body;
    if length == 0 {
        out.truncate(start);
        return;
    }
    let digits = format!("{length:04x}");
    if digits.len() > CHUNK_DIGITS {
        out.splice(start..start + CHUNK_DIGITS, digits.bytes());
    } else {
        out[start..start + CHUNK_DIGITS].copy_from_slice(digits.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

fn sse(out: &mut Vec<u8>, identity: &LogIdentity, event: &Event) {
    put(
        out,
        format_args!("id: {}\nevent: {}\ndata: ", identity.id(event.offset), event.event_type),
    );
    out.extend_from_slice(&event.data);
    out.extend_from_slice(b"\n\n");
}

fn ndjson(out: &mut Vec<u8>, identity: &LogIdentity, event: &Event) {
    object(out, identity, event);
    out.push(b'\n');
}

/// Appends the JSON object of an event: `{"id","type","subject","time","data"}`,
/// with `"merge": false` if the data was not merged. NDJSON lines and the
/// entries of a JSON page have this object.
pub(super) fn object(out: &mut Vec<u8>, identity: &LogIdentity, event: &Event) {
    put(
        out,
        format_args!(r#"{{"id":"{}","type":"{}""#, identity.id(event.offset), event.event_type),
    );
    subject(out, event);
    put(out, format_args!(r#","time":"{}""#, event.time));
    data(out, event);
    out.push(b'}');
}

fn cloud_event(out: &mut Vec<u8>, identity: &LogIdentity, event: &Event) {
    let prefix = match identity.kind {
        LogKind::Collection { .. } => "/",
        LogKind::Topic => "/events/",
    };
    put(
        out,
        format_args!(
            r#"{{"specversion":"1.0","id":"{}","source":"{prefix}{}","type":"{}""#,
            identity.id(event.offset),
            identity.name,
            event.event_type
        ),
    );
    subject(out, event);
    put(out, format_args!(r#","time":"{}","datacontenttype":"application/json""#, event.time));
    // In CloudEvents, the flag `merge` that data() can write is an extension
    // attribute.
    data(out, event);
    out.extend_from_slice(b"}\n");
}

fn envelope(out: &mut Vec<u8>, identity: &LogIdentity, event: &Event) {
    let source = match identity.kind {
        LogKind::Collection { .. } => "collection",
        LogKind::Topic => "topic",
    };
    put(
        out,
        format_args!(
            r#"{{"id":"{}","type":"event","timestamp":"{}","data":{{"{source}":"{}","type":"{}""#,
            identity.id(event.offset),
            event.time,
            identity.name,
            event.event_type
        ),
    );
    subject(out, event);
    data(out, event);
    out.extend_from_slice(b"}}");
}

fn subject(out: &mut Vec<u8>, event: &Event) {
    if let Some(subject) = &event.subject {
        put(out, format_args!(r#","subject":"{subject}""#));
    }
}

fn data(out: &mut Vec<u8>, event: &Event) {
    if !event.merge {
        out.extend_from_slice(br#","merge":false"#);
    }
    out.extend_from_slice(br#","data":"#);
    out.extend_from_slice(&event.data);
}

/// Appends the bytes that `payload` appends, as one unmasked and final text
/// frame. A server does not mask its frames (RFC 6455 §5.1), so the same bytes
/// can be sent on every WebSocket.
pub(super) fn text_frame(out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    let mut body = Vec::new();
    payload(&mut body);
    frame_header(out, Opcode::Text, body.len());
    out.extend_from_slice(&body);
}

/// Appends formatted text to `out`.
pub(super) fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a write to a Vec never fails");
}
