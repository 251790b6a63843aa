//! The control message `gap`: events that a client does not receive.

use crate::event::EventId;

/// Events that a client asked for and does not receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The position of the client before the gap.
    pub from: EventId,
    /// The last missing event. If an overflow policy kept some events of the gap,
    /// the stream continues with the first of them, and otherwise after the gap.
    pub to: EventId,
    /// The earliest position after which the log has every event.
    pub earliest: EventId,
    /// The reason why the events are missing.
    pub reason: Reason,
    /// The number of missing events. `None` if it is unknown: offsets need not be
    /// consecutive.
    pub count: Option<u64>,
}

/// The reason why events are missing (`docs/protocol.md#streams`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Retention has removed the events.
    Expired,
    /// The position belongs to a different log, or is after the end of this log.
    Epoch,
    /// An overflow policy has dropped the events.
    Dropped,
}

impl Reason {
    /// Returns the text in a `gap` message and in a problem.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Expired => "expired",
            Reason::Epoch => "epoch",
            Reason::Dropped => "dropped",
        }
    }
}

impl Gap {
    /// Returns the `data` of the `gap` message as compact JSON. `context` contains
    /// its first members, for example `"collection":"orders",`.
    pub fn to_json(&self, context: &str) -> String {
        let Gap { from, to, earliest, reason, count } = self;
        let reason = reason.as_str();
        let count = count.map_or_else(|| "null".to_owned(), |count| count.to_string());
        format!(
            r#"{{{context}"from":"{from}","to":"{to}","earliest":"{earliest}","reason":"{reason}","count":{count}}}"#
        )
    }
}
