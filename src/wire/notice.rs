//! Control messages: the messages on a stream that are not events of a log.
//! Examples are `stream-open`, `heartbeat`, `gap`, `snapshot` and `error`. A
//! control message can be encoded in each wire format.

use std::time::Duration;

use bytes::Bytes;

use super::encode::{self, WireFormat, chunk, put};
use crate::event::{EventId, ResourceId, Timestamp};

/// A message on a stream that is not an event of a log.
#[derive(Clone, Debug)]
pub struct ControlMessage<'a> {
    /// The type of the message: `stream-open`, `heartbeat`, `gap`, …
    pub kind: &'static str,
    /// The position from which the client can resume the stream.
    pub id: Option<EventId>,
    /// The time that an `EventSource` waits before it connects again.
    pub retry: Option<Duration>,
    /// The collection of a `snapshot` message, on a WebSocket with several
    /// collections.
    pub collection: Option<&'a str>,
    /// The id of the resource in a `snapshot` message.
    pub subject: Option<&'a ResourceId>,
    /// The data: compact JSON.
    pub data: &'a [u8],
    /// The time at which the message is sent.
    pub time: Timestamp,
    /// The number of the connection, and the number of the message on this
    /// connection. In the wire formats that require a message id, the id consists of
    /// these two numbers.
    pub message: (u64, u64),
}

impl ControlMessage<'_> {
    /// Returns the message in the wire format `format`, with its framing.
    pub fn encode(&self, format: WireFormat) -> Bytes {
        let mut out = Vec::with_capacity(128 + self.data.len());
        self.append(format, &mut out);
        out.into()
    }

    /// Appends the message in the wire format `format` to `out`, with its
    /// framing. Several messages can share one buffer.
    pub fn append(&self, format: WireFormat, out: &mut Vec<u8>) {
        match format {
            WireFormat::Sse => self.sse(out),
            WireFormat::SseChunked => chunk(out, |out| self.sse(out)),
            WireFormat::Ndjson => self.ndjson(out),
            WireFormat::NdjsonChunked => chunk(out, |out| self.ndjson(out)),
            WireFormat::CloudEvents => self.cloud_event(out),
            WireFormat::CloudEventsChunked => chunk(out, |out| self.cloud_event(out)),
            WireFormat::Envelope => encode::text_frame(out, |out| self.envelope(out)),
            WireFormat::Bare => encode::text_frame(out, |out| self.bare(out)),
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

    /// Appends the message in the CloudEvents format. The position `id` is written
    /// as the extension attribute `cursor`. It cannot be the CloudEvents `id`,
    /// because an event can have the same position and CloudEvents requires unique
    /// ids.
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

    /// Appends the message in the WebSocket envelope. An error has the type
    /// `error`, and its data is the problem object. Every other message has the
    /// type `control`.
    fn envelope(&self, out: &mut Vec<u8>) {
        let (connection, number) = self.message;
        let error = self.kind == "error";
        let envelope_type = if error { "error" } else { "control" };
        put(
            out,
            format_args!(
                r#"{{"id":"c{connection}.{number}","type":"{envelope_type}","timestamp":"{}","data":"#,
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
