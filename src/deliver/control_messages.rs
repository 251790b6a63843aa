//! The encoder of control messages, such as `stream-open`, `gap` and `heartbeat`.
//! Each connection has one encoder, which uses the wire format of the connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::gap::{Gap, Reason};
use super::{HeartbeatFormat, Settings};
use crate::event::{EventId, ResourceId, Timestamp};
use crate::hub::{EndReason, OnGap, ReadRequest, Scope};
use crate::store::Resource;
use crate::wire::problem::Problem;
use crate::wire::{ControlMessage, LogKind, WireFormat};

/// The approximate number of bytes that a `snapshot` message adds to the JSON
/// document of the resource.
const FRAME_BYTES: usize = 128;

/// Encodes the control messages of one connection.
pub struct ControlMessages {
    settings: Arc<Settings>,
    format: WireFormat,
    connection: u64,
    count: u64,
}

impl ControlMessages {
    pub(super) fn new(
        settings: Arc<Settings>,
        format: WireFormat,
        connection: u64,
    ) -> ControlMessages {
        ControlMessages { settings, format, connection, count: 0 }
    }

    /// Sets the wire format of the messages that are encoded after this call.
    pub fn change_format(&mut self, format: WireFormat) {
        self.format = format;
    }

    /// Returns the two numbers in the id of the next message: the number of the
    /// connection, and the number of the message on this connection.
    pub fn number(&mut self) -> (u64, u64) {
        self.count += 1;
        (self.connection, self.count)
    }

    fn message(&mut self, kind: &'static str, id: Option<EventId>, data: &[u8]) -> Bytes {
        self.message_with_retry(kind, id, None, data)
    }

    fn message_with_retry(
        &mut self,
        kind: &'static str,
        id: Option<EventId>,
        retry: Option<Duration>,
        data: &[u8],
    ) -> Bytes {
        let (message, time) = (self.number(), Timestamp::now());
        let (collection, subject) = (None, None);
        ControlMessage { kind, id, retry, collection, subject, data, time, message }
            .encode(self.format)
    }

    /// Returns the message `stream-open`, the first message of a stream. When it
    /// arrives, the client knows that no proxy buffers the stream. `cursor` is the
    /// position after which the stream starts; it is `None` if there is no such
    /// position.
    pub fn open(&mut self, cursor: Option<EventId>) -> Bytes {
        let retry = crate::random::within(&self.settings.retry);
        let connection = self.connection;
        let data = match cursor {
            Some(cursor) => format!(r#"{{"connection":"c{connection}","cursor":"{cursor}"}}"#),
            None => format!(r#"{{"connection":"c{connection}","cursor":null}}"#),
        };
        self.message_with_retry("stream-open", cursor, Some(retry), data.as_bytes())
    }

    pub(super) fn heartbeat(&mut self, id: Option<EventId>) -> Bytes {
        match (self.format, self.settings.heartbeat_format) {
            (WireFormat::Envelope | WireFormat::Bare, _) => crate::wire::websocket::ping(&[]),
            (WireFormat::Sse, HeartbeatFormat::Comment) => Bytes::from_static(b":\n"),
            (WireFormat::SseChunked, HeartbeatFormat::Comment) => {
                Bytes::from_static(b"2\r\n:\n\r\n")
            }
            _ => {
                let data = format!(r#"{{"timestamp":"{}"}}"#, Timestamp::now());
                self.message("heartbeat", id, data.as_bytes())
            }
        }
    }

    /// Returns the `gap` message of a connection that has only one subscription. If
    /// a snapshot follows (`snapshot` is true), the message has no id. A client must
    /// not resume at the position of the gap, because the snapshot replaces the
    /// events before this position.
    pub fn gap(&mut self, gap: &Gap, snapshot: bool) -> Bytes {
        self.message("gap", (!snapshot).then_some(gap.to), gap.to_json("").as_bytes())
    }

    /// Returns the `gap` message of one subscription. On a WebSocket the message
    /// contains the name of the subscription's collection or topic, because the
    /// connection can have several subscriptions.
    pub fn gap_of(&mut self, gap: &Gap, request: &ReadRequest) -> Bytes {
        // Events that an overflow policy has dropped are still in the log. So their
        // `gap` message has no id. If the client is disconnected now, it resumes
        // before these events and receives them.
        let skipped = gap.reason != Reason::Dropped && request.on_gap != OnGap::Snapshot;
        let id = skipped.then_some(gap.to);
        let context = match self.format {
            WireFormat::Envelope | WireFormat::Bare => context(request),
            _ => String::new(),
        };
        self.message("gap", id, gap.to_json(&context).as_bytes())
    }

    /// Returns one `snapshot` message for each of the first rows of `rows`, and the
    /// number of these rows. The number is at least one if `rows` is not empty. The
    /// function stops after the row with which the messages reach `bytes_max` bytes.
    pub(super) fn snapshot(
        &mut self,
        log: &str,
        rows: &[(ResourceId, Resource)],
        bytes_max: usize,
    ) -> (Bytes, usize) {
        let (mut out, time) = (Vec::new(), Timestamp::now());
        let mut count = 0;
        for (id, state) in rows {
            let message = ControlMessage {
                kind: "snapshot",
                id: None,
                retry: None,
                collection: Some(log),
                subject: Some(id),
                data: &state.document,
                time,
                message: self.number(),
            };
            if count == 0 && rows.len() > 1 {
                // Most resources of a collection have a similar size.
                let like = state.document.len() + FRAME_BYTES;
                out.reserve((like * rows.len()).min(bytes_max + like));
            }
            message.append(self.format, &mut out);
            count += 1;
            if out.len() >= bytes_max {
                break;
            }
        }
        (out.into(), count)
    }

    /// Returns the message `snapshot-end`. It contains the position after which the
    /// events start that follow the snapshot.
    pub(super) fn snapshot_end(&mut self, request: &ReadRequest) -> Bytes {
        let cursor = request.log.identity().id(request.after);
        let mut data = String::from("{");
        if matches!(self.format, WireFormat::Envelope | WireFormat::Bare) {
            data.push_str(&context(request));
        }
        data = format!(r#"{data}"cursor":"{cursor}"}}"#);
        self.message("snapshot-end", Some(cursor), data.as_bytes())
    }

    /// Returns the message `stream-close`, the last message of a stream that the
    /// gateway ends. Returns `None` if the stream ends because it has stalled: its
    /// socket accepts no bytes.
    pub(super) fn close(&mut self, ending: EndReason, id: Option<EventId>) -> Option<Bytes> {
        let reason = match ending {
            EndReason::Drained => "draining",
            EndReason::Idle => "idle",
            EndReason::Lifetime => "lifetime",
            EndReason::Overflow => "overflow",
            EndReason::Stalled => return None,
        };
        let retry = crate::random::within(&self.settings.retry);
        let data = format!(r#"{{"reason":"{reason}"}}"#);
        Some(self.message_with_retry("stream-close", id, Some(retry), data.as_bytes()))
    }

    /// Returns the message that answers a command with `data`. `id` is the id of the
    /// command as JSON text.
    pub(super) fn response(&mut self, id: Option<&[u8]>, data: &[u8]) -> Bytes {
        self.reply("response", id, data)
    }

    /// Returns the `error` message that rejects a command. `id` is the id of the
    /// command as JSON text.
    pub(super) fn rejection(&mut self, id: Option<&[u8]>, problem: &Problem) -> Bytes {
        self.reply("error", id, &problem.to_json(None))
    }

    /// Returns the message `status`, which answers a `get-status` command in the
    /// bare format (messages without an envelope).
    pub(super) fn status(&mut self, document: &[u8]) -> Bytes {
        self.message("status", None, document)
    }

    fn reply(&mut self, kind: &str, id: Option<&[u8]>, data: &[u8]) -> Bytes {
        if self.format == WireFormat::Bare {
            let kind = if kind == "error" { "error" } else { "response" };
            return self.message(kind, None, data);
        }
        let (connection, number) = self.number();
        let mut text = Vec::with_capacity(96 + data.len());
        text.extend_from_slice(br#"{"id":"#);
        match id {
            Some(id) => text.extend_from_slice(id),
            None => text.extend_from_slice(format!(r#""c{connection}.{number}""#).as_bytes()),
        }
        let time = Timestamp::now();
        text.extend_from_slice(
            format!(r#","type":"{kind}","timestamp":"{time}","data":"#).as_bytes(),
        );
        text.extend_from_slice(data);
        text.push(b'}');
        crate::wire::websocket::text(&text)
    }

    /// Returns an `error` message that contains `problem` and does not answer a
    /// command.
    pub fn error(&mut self, problem: &Problem) -> Bytes {
        self.message("error", None, &problem.to_json(None))
    }
}

fn context(request: &ReadRequest) -> String {
    let identity = request.log.identity();
    let kind = match identity.kind {
        LogKind::Collection { .. } => "collection",
        LogKind::Topic => "topic",
    };
    match &request.scope {
        Scope::Whole => format!(r#""{kind}":"{}","#, identity.name),
        Scope::Subject(id) => format!(r#""{kind}":"{}","resource":"{id}","#, identity.name),
    }
}
