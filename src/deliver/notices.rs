//! The notices of one connection, in its form.

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

/// What a notice has around its data, about.
const NOTICE_BYTES: usize = 128;

/// Makes what a connection is told beside events.
pub struct Notices {
    settings: Arc<Settings>,
    form: WireFormat,
    connection: u64,
    said: u64,
}

impl Notices {
    pub(super) fn new(settings: Arc<Settings>, form: WireFormat, connection: u64) -> Notices {
        Notices { settings, form, connection, said: 0 }
    }

    /// Speaks another form from here on.
    pub fn change_format(&mut self, form: WireFormat) {
        self.form = form;
    }

    /// The number of the next message of the gateway's own.
    pub fn number(&mut self) -> (u64, u64) {
        self.said += 1;
        (self.connection, self.said)
    }

    fn notice(&mut self, kind: &'static str, id: Option<EventId>, data: &[u8]) -> Bytes {
        self.full(kind, id, None, data)
    }

    fn full(
        &mut self,
        kind: &'static str,
        id: Option<EventId>,
        retry: Option<Duration>,
        data: &[u8],
    ) -> Bytes {
        let (message, time) = (self.number(), Timestamp::now());
        let (collection, subject) = (None, None);
        ControlMessage { kind, id, retry, collection, subject, data, time, message }
            .encode(self.form)
    }

    /// The first thing on a stream: proves that no proxy buffers, and gives
    /// the position the stream starts after, `cursor`, where it has one.
    pub fn open(&mut self, cursor: Option<EventId>) -> Bytes {
        let retry = crate::random::within(&self.settings.retry);
        let connection = self.connection;
        let data = match cursor {
            Some(cursor) => format!(r#"{{"connection":"c{connection}","cursor":"{cursor}"}}"#),
            None => format!(r#"{{"connection":"c{connection}","cursor":null}}"#),
        };
        self.full("stream-open", cursor, Some(retry), data.as_bytes())
    }

    pub(super) fn heartbeat(&mut self, id: Option<EventId>) -> Bytes {
        match (self.form, self.settings.heartbeat_format) {
            (WireFormat::Envelope | WireFormat::Bare, _) => crate::wire::websocket::ping(&[]),
            (WireFormat::Sse, HeartbeatFormat::Comment) => Bytes::from_static(b":\n"),
            (WireFormat::SseChunked, HeartbeatFormat::Comment) => {
                Bytes::from_static(b"2\r\n:\n\r\n")
            }
            _ => {
                let data = format!(r#"{{"timestamp":"{}"}}"#, Timestamp::now());
                self.notice("heartbeat", id, data.as_bytes())
            }
        }
    }

    /// Missing events of the only subscription. What a `snapshot` is going to
    /// replace must not be resumed into, so then there is no id.
    pub fn gap(&mut self, gap: &Gap, snapshot: bool) -> Bytes {
        self.notice("gap", (!snapshot).then_some(gap.to), gap.to_json("").as_bytes())
    }

    /// Missing events of one subscription, named on a connection that may
    /// have several.
    pub fn gap_of(&mut self, gap: &Gap, reading: &ReadRequest) -> Bytes {
        // What a policy took is still in the log: a client that is cut here
        // comes back with the id before it and gets it after all.
        let skipped = gap.reason != Reason::Dropped && reading.on_gap != OnGap::Snapshot;
        let id = skipped.then_some(gap.to);
        let context = match self.form {
            WireFormat::Envelope | WireFormat::Bare => context(reading),
            _ => String::new(),
        };
        self.notice("gap", id, gap.to_json(&context).as_bytes())
    }

    /// Resources of a snapshot in one slice of about `bytes_max`, and how many
    /// these are: at least one.
    pub(super) fn snapshot(
        &mut self,
        log: &str,
        rows: &[(ResourceId, Resource)],
        bytes_max: usize,
    ) -> (Bytes, usize) {
        let (mut out, time) = (Vec::new(), Timestamp::now());
        let mut count = 0;
        for (id, state) in rows {
            let notice = ControlMessage {
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
                // Most resources of a collection are alike.
                let like = state.document.len() + NOTICE_BYTES;
                out.reserve((like * rows.len()).min(bytes_max + like));
            }
            notice.append(self.form, &mut out);
            count += 1;
            if out.len() >= bytes_max {
                break;
            }
        }
        (out.into(), count)
    }

    /// The end of a snapshot, with the position it is followed from.
    pub(super) fn snapshot_end(&mut self, reading: &ReadRequest) -> Bytes {
        let cursor = reading.log.origin().id(reading.after);
        let mut data = String::from("{");
        if matches!(self.form, WireFormat::Envelope | WireFormat::Bare) {
            data.push_str(&context(reading));
        }
        data = format!(r#"{data}"cursor":"{cursor}"}}"#);
        self.notice("snapshot-end", Some(cursor), data.as_bytes())
    }

    /// The last thing on a stream that the gateway ends; none where the
    /// socket takes nothing anyway.
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
        Some(self.full("stream-close", id, Some(retry), data.as_bytes()))
    }

    /// The answer to a command: its `id` as it came, JSON text.
    pub(super) fn response(&mut self, id: Option<&[u8]>, data: &[u8]) -> Bytes {
        self.reply("response", id, data)
    }

    /// The refusal of a command.
    pub(super) fn refusal(&mut self, id: Option<&[u8]>, problem: &Problem) -> Bytes {
        self.reply("error", id, &problem.to_json(None))
    }

    /// The answer to a bare `get-status`.
    pub(super) fn status(&mut self, document: &[u8]) -> Bytes {
        self.notice("status", None, document)
    }

    fn reply(&mut self, kind: &str, id: Option<&[u8]>, data: &[u8]) -> Bytes {
        if self.form == WireFormat::Bare {
            let kind = if kind == "error" { "error" } else { "response" };
            return self.notice(kind, None, data);
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

    /// A problem, after the head.
    pub fn error(&mut self, problem: &Problem) -> Bytes {
        self.notice("error", None, &problem.to_json(None))
    }
}

fn context(reading: &ReadRequest) -> String {
    let origin = reading.log.origin();
    let kind = match origin.kind {
        LogKind::Collection { .. } => "collection",
        LogKind::Topic => "topic",
    };
    match &reading.scope {
        Scope::Whole => format!(r#""{kind}":"{}","#, origin.name),
        Scope::Subject(id) => format!(r#""{kind}":"{}","resource":"{id}","#, origin.name),
    }
}
