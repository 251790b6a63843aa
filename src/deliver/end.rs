//! Why a stream ends.

use crate::hub::Ending;

/// Why a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The hub says so.
    Ending(Ending),
    /// Events are missing and the client asked for an end then.
    HistoryGone,
    /// The log could not be read.
    Unreadable,
}

impl End {
    /// The label `reason` in metrics.
    pub fn reason(self) -> &'static str {
        match self {
            End::Ending(Ending::Drained) => "drain",
            End::Ending(Ending::Stalled) => "stalled",
            End::Ending(Ending::Idle) => "idle",
            End::Ending(Ending::Lifetime) => "lifetime",
            End::Ending(Ending::Overflow) => "overflow",
            End::HistoryGone => "history-gone",
            End::Unreadable => "error",
        }
    }

    /// Whether the client was told and has everything it was told of.
    pub fn is_orderly(self) -> bool {
        match self {
            End::Ending(Ending::Stalled) | End::Unreadable => false,
            End::Ending(_) | End::HistoryGone => true,
        }
    }
}
