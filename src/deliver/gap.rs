//! The control message `gap`. It tells a client that events are missing from its
//! stream.

use crate::event::EventId;

/// A range of events that a client asked for but does not receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The position of the client before the gap: the id of the last event before
    /// the missing events.
    pub from: EventId,
    /// The id of the last missing event. If an overflow policy kept some events of
    /// the gap, the stream continues with the first kept event. Otherwise the stream
    /// continues with the event after `to`.
    pub to: EventId,
    /// The earliest position from which a client can read: the log has every event
    /// after this position.
    pub earliest: EventId,
    /// The reason why the events are missing.
    pub reason: Reason,
    /// The number of missing events. It is `None` if the number is unknown: offsets
    /// need not be consecutive, so a difference of offsets does not give the number.
    pub count: Option<u64>,
}

/// The reason why events are missing (`docs/protocol.md#streams`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Retention has removed the events.
    Expired,
    /// The client's position belongs to a different log, or is after the end of this
    /// log.
    Epoch,
    /// An overflow policy has dropped the events.
    Dropped,
}

impl Reason {
    /// Returns the name of this reason in a `gap` message and in a problem document.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Expired => "expired",
            Reason::Epoch => "epoch",
            Reason::Dropped => "dropped",
        }
    }
}

impl Gap {
    /// Returns the `data` of the `gap` message as compact JSON. `context` is the
    /// start of this JSON object: members with a comma at the end, for example
    /// `"collection":"orders",`. It can be empty.
    pub fn to_json(&self, context: &str) -> String {
        let Gap { from, to, earliest, reason, count } = self;
        let reason = reason.as_str();
        let count = count.map_or_else(|| "null".to_owned(), |count| count.to_string());
        format!(
            r#"{{{context}"from":"{from}","to":"{to}","earliest":"{earliest}","reason":"{reason}","count":{count}}}"#
        )
    }
}
