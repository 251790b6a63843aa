//! One event in each wire form.
//!
//! Names, ids and times hold no character that JSON or SSE would have to
//! escape (their constructors see to that), and data is compact JSON on one
//! line, so encoding is concatenation.

use std::io::Write as _;

use super::origin::{Kind, Origin};
use super::websocket::{Opcode, frame_header};
use crate::event::Event;

/// A wire form: a format, and for a stream over HTTP/1.1 its chunk framing,
/// so that one encoding can be written to every socket as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `id`, `event`, `data` block.
    Sse,
    /// The same as one HTTP/1.1 chunk.
    SseChunked,
    /// One line of `{"id","type","subject","time","data"}`.
    Ndjson,
    /// The same as one HTTP/1.1 chunk.
    NdjsonChunked,
    /// One line of CloudEvents 1.0 JSON.
    CloudEvents,
    /// The same as one HTTP/1.1 chunk.
    CloudEventsChunked,
    /// A WebSocket text frame with the standard envelope.
    Envelope,
    /// A WebSocket text frame `{"type":"update","data":…}`.
    Bare,
}

impl Form {
    /// How many there are.
    pub const COUNT: usize = 8;

    /// All of them, in the order of their discriminants.
    pub const ALL: [Form; Form::COUNT] = [
        Form::Sse,
        Form::SseChunked,
        Form::Ndjson,
        Form::NdjsonChunked,
        Form::CloudEvents,
        Form::CloudEventsChunked,
        Form::Envelope,
        Form::Bare,
    ];

    /// The same format with HTTP/1.1 chunk framing; WebSocket forms have none.
    #[must_use]
    pub fn chunked(self) -> Form {
        match self {
            Form::Sse => Form::SseChunked,
            Form::Ndjson => Form::NdjsonChunked,
            Form::CloudEvents => Form::CloudEventsChunked,
            other => other,
        }
    }

    /// The format's name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Form::Sse | Form::SseChunked => "sse",
            Form::Ndjson | Form::NdjsonChunked => "ndjson",
            Form::CloudEvents | Form::CloudEventsChunked => "cloudevents",
            Form::Envelope => "ws",
            Form::Bare => "ws-bare",
        }
    }
}

/// Appends `event` in the given form.
pub(super) fn event(out: &mut Vec<u8>, form: Form, origin: &Origin, event: &Event) {
    match form {
        Form::Sse => sse(out, origin, event),
        Form::SseChunked => chunk(out, |out| sse(out, origin, event)),
        Form::Ndjson => ndjson(out, origin, event),
        Form::NdjsonChunked => chunk(out, |out| ndjson(out, origin, event)),
        Form::CloudEvents => cloud_event(out, origin, event),
        Form::CloudEventsChunked => chunk(out, |out| cloud_event(out, origin, event)),
        Form::Envelope => text_frame(out, |out| envelope(out, origin, event)),
        Form::Bare => text_frame(out, |out| {
            out.extend_from_slice(br#"{"type":"update""#);
            data(out, event);
            out.push(b'}');
        }),
    }
}

/// Bytes before a chunk's payload: four hexadecimal digits, or eight where a
/// payload needs them, then CR LF. RFC 9112 §7.1 allows leading zeros, and a
/// fixed width lets the payload be written in place.
const CHUNK_DIGITS: usize = 4;

/// Appends what `payload` appends as one HTTP/1.1 chunk (RFC 9112 §7.1).
/// Without payload nothing is appended: an empty chunk would end the body.
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

fn sse(out: &mut Vec<u8>, origin: &Origin, event: &Event) {
    put(out, format_args!("id: {}\nevent: {}\ndata: ", origin.id(event.offset), event.kind));
    out.extend_from_slice(&event.data);
    out.extend_from_slice(b"\n\n");
}

fn ndjson(out: &mut Vec<u8>, origin: &Origin, event: &Event) {
    object(out, origin, event);
    out.push(b'\n');
}

/// Appends the JSON object that an NDJSON line and an entry of a JSON page
/// share: `{"id","type","subject","time","data"}`, with `"merge": false`
/// where the data was not merged.
pub(super) fn object(out: &mut Vec<u8>, origin: &Origin, event: &Event) {
    put(out, format_args!(r#"{{"id":"{}","type":"{}""#, origin.id(event.offset), event.kind));
    subject(out, event);
    put(out, format_args!(r#","time":"{}""#, event.time));
    data(out, event);
    out.push(b'}');
}

fn cloud_event(out: &mut Vec<u8>, origin: &Origin, event: &Event) {
    let prefix = match origin.kind {
        Kind::Collection { .. } => "/",
        Kind::Topic => "/events/",
    };
    put(
        out,
        format_args!(
            r#"{{"specversion":"1.0","id":"{}","source":"{prefix}{}","type":"{}""#,
            origin.id(event.offset),
            origin.name,
            event.kind
        ),
    );
    subject(out, event);
    put(out, format_args!(r#","time":"{}","datacontenttype":"application/json""#, event.time));
    // An extension attribute: the same flag in the form that has no other place.
    data(out, event);
    out.extend_from_slice(b"}\n");
}

fn envelope(out: &mut Vec<u8>, origin: &Origin, event: &Event) {
    let source = match origin.kind {
        Kind::Collection { .. } => "collection",
        Kind::Topic => "topic",
    };
    put(
        out,
        format_args!(
            r#"{{"id":"{}","type":"event","timestamp":"{}","data":{{"{source}":"{}","type":"{}""#,
            origin.id(event.offset),
            event.time,
            origin.name,
            event.kind
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

/// Appends what `payload` appends as one unmasked, final text frame
/// (RFC 6455 §5.2: a server's frames are not masked, so one encoding serves
/// every socket).
pub(super) fn text_frame(out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    let mut body = Vec::new();
    payload(&mut body);
    frame_header(out, Opcode::Text, body.len());
    out.extend_from_slice(&body);
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a Vec takes every write");
}
