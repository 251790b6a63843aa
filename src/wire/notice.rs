//! What the gateway itself says on a stream: opening, heartbeat, gap,
//! snapshot, close, error. One notice, in the shape of each form.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;

use super::encode::{self, Form, chunk};
use crate::event::{EventId, ResourceId, Timestamp};

/// Something said on a stream that is no event of a log.
#[derive(Clone, Debug)]
pub struct Notice<'a> {
    /// `stream-open`, `heartbeat`, `gap`, …
    pub kind: &'static str,
    /// The position that the client may come back with.
    pub id: Option<EventId>,
    /// How long an `EventSource` waits before it comes back.
    pub retry: Option<Duration>,
    /// The collection that a `snapshot` is of, for a socket with several.
    pub collection: Option<&'a str>,
    /// The resource that a `snapshot` is of.
    pub subject: Option<&'a ResourceId>,
    /// Compact JSON.
    pub data: &'a [u8],
    /// When it is said.
    pub time: Timestamp,
    /// Names it where the form wants an id of every message.
    pub message: (u64, u64),
}

impl Notice<'_> {
    /// The notice in `form`, framing included.
    pub fn encode(&self, form: Form) -> Bytes {
        let mut out = Vec::with_capacity(128 + self.data.len());
        self.append(form, &mut out);
        out.into()
    }

    /// The same behind what `out` holds, for several of them at once.
    pub fn append(&self, form: Form, out: &mut Vec<u8>) {
        match form {
            Form::Sse => self.sse(out),
            Form::SseChunked => chunk(out, |out| self.sse(out)),
            Form::Ndjson => self.ndjson(out),
            Form::NdjsonChunked => chunk(out, |out| self.ndjson(out)),
            Form::CloudEvents => self.cloud_event(out),
            Form::CloudEventsChunked => chunk(out, |out| self.cloud_event(out)),
            Form::Envelope => encode::text_frame(out, |out| self.envelope(out)),
            Form::Bare => encode::text_frame(out, |out| self.bare(out)),
        }
    }

    fn sse(&self, out: &mut Vec<u8>) {
        if let Some(retry) = self.retry {
            put(out, format_args!("retry: {}\n", retry.as_millis()));
        }
        if let Some(id) = self.id {
            put(out, format_args!("id: {id}\n"));
        }
        put(out, format_args!("event: {}\ndata: ", self.kind));
        out.extend_from_slice(self.data);
        out.extend_from_slice(b"\n\n");
    }

    fn ndjson(&self, out: &mut Vec<u8>) {
        self.bare(out);
        out.push(b'\n');
    }

    fn bare(&self, out: &mut Vec<u8>) {
        put(out, format_args!(r#"{{"type":"{}""#, self.kind));
        if let Some(id) = self.id {
            put(out, format_args!(r#","id":"{id}""#));
        }
        if let Some(subject) = self.subject {
            put(out, format_args!(r#","subject":"{subject}""#));
        }
        self.data(out);
        out.push(b'}');
    }

    /// CloudEvents wants a unique id of every event, so the position goes
    /// into an extension attribute.
    fn cloud_event(&self, out: &mut Vec<u8>) {
        let (connection, number) = self.message;
        put(
            out,
            format_args!(
                r#"{{"specversion":"1.0","id":"c{connection}.{number}","source":"/","type":"{}","time":"{}""#,
                self.kind, self.time
            ),
        );
        if let Some(id) = self.id {
            put(out, format_args!(r#","cursor":"{id}""#));
        }
        if let Some(subject) = self.subject {
            put(out, format_args!(r#","subject":"{subject}""#));
        }
        out.extend_from_slice(br#","datacontenttype":"application/json""#);
        self.data(out);
        out.extend_from_slice(b"}\n");
    }

    /// An error is a message type of its own, its data the problem object;
    /// everything else is a `control`.
    fn envelope(&self, out: &mut Vec<u8>) {
        let (connection, number) = self.message;
        let error = self.kind == "error";
        let kind = if error { "error" } else { "control" };
        put(
            out,
            format_args!(
                r#"{{"id":"c{connection}.{number}","type":"{kind}","timestamp":"{}","data":"#,
                self.time
            ),
        );
        if error {
            out.extend_from_slice(self.data);
            out.push(b'}');
            return;
        }
        put(out, format_args!(r#"{{"type":"{}""#, self.kind));
        if let Some(id) = self.id {
            put(out, format_args!(r#","cursor":"{id}""#));
        }
        if let Some(collection) = self.collection {
            put(out, format_args!(r#","collection":"{collection}""#));
        }
        if let Some(subject) = self.subject {
            put(out, format_args!(r#","subject":"{subject}""#));
        }
        self.data(out);
        out.extend_from_slice(b"}}");
    }

    fn data(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#","data":"#);
        out.extend_from_slice(self.data);
    }
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a Vec takes every write");
}
