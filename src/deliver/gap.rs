//! Missing events, as a client is told of them.

use crate::event::EventId;

/// Events that a client asked for and does not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where the client stood.
    pub from: EventId,
    /// The last of what is missing: the stream goes on after it, or, where a
    /// policy kept some of what lies between, with the first that was kept.
    pub to: EventId,
    /// The earliest position that is whole.
    pub earliest: EventId,
    /// Why they are missing.
    pub reason: Reason,
    /// How many they are, where that is known: offsets are not promised dense.
    pub count: Option<u64>,
}

/// Why events are missing (`docs/protocol.md#streams`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Retention no longer keeps them.
    Expired,
    /// The position is of another log, or beyond this one's end.
    Epoch,
    /// An overflow policy took them.
    Dropped,
}

impl Reason {
    /// As in the notice and in a problem.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Expired => "expired",
            Reason::Epoch => "epoch",
            Reason::Dropped => "dropped",
        }
    }
}

impl Gap {
    /// The `data` of the notice: compact JSON, with the members in `context`
    /// (`"collection":"orders",` and the like) first.
    pub fn to_json(&self, context: &str) -> String {
        let Gap { from, to, earliest, reason, count } = self;
        let reason = reason.as_str();
        let count = count.map_or_else(|| "null".to_owned(), |count| count.to_string());
        format!(
            r#"{{{context}"from":"{from}","to":"{to}","earliest":"{earliest}","reason":"{reason}","count":{count}}}"#
        )
    }
}
