//! Missing events, as a client is told of them.

use crate::event::EventId;

/// Events that a client asked for and does not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where the client stood.
    pub from: EventId,
    /// Where the stream goes on.
    pub to: EventId,
    /// The earliest position that is whole.
    pub earliest: EventId,
    /// Why they are missing.
    pub reason: Reason,
}

/// Why events are missing (`docs/protocol.md#streams`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Retention no longer keeps them.
    Expired,
    /// The position is of another log, or beyond this one's end.
    Epoch,
}

impl Reason {
    /// As in the notice and in a problem.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Expired => "expired",
            Reason::Epoch => "epoch",
        }
    }
}

impl Gap {
    /// The `data` of the notice: compact JSON, with the members in `context`
    /// (`"collection":"orders",` and the like) first.
    pub fn to_json(&self, context: &str) -> String {
        let Gap { from, to, earliest, reason } = self;
        let reason = reason.as_str();
        // Offsets are not promised dense, so how many events lie between two
        // of them is not known without the events.
        format!(
            r#"{{{context}"from":"{from}","to":"{to}","earliest":"{earliest}","reason":"{reason}","count":null}}"#
        )
    }
}
