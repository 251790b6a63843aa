//! Why a stream ends.

use crate::hub::EndReason;

/// Why a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The hub says so.
    Ending(EndReason),
    /// Events are missing and the client asked for an end then.
    HistoryGone,
    /// The log could not be read.
    Unreadable,
}

impl End {
    /// The label `reason` in metrics.
    pub fn reason(self) -> &'static str {
        match self {
            End::Ending(EndReason::Drained) => "drain",
            End::Ending(EndReason::Stalled) => "stalled",
            End::Ending(EndReason::Idle) => "idle",
            End::Ending(EndReason::Lifetime) => "lifetime",
            End::Ending(EndReason::Overflow) => "overflow",
            End::HistoryGone => "history-gone",
            End::Unreadable => "error",
        }
    }

    /// Whether the client was told and has everything it was told of.
    pub fn is_orderly(self) -> bool {
        match self {
            End::Ending(EndReason::Stalled) | End::Unreadable => false,
            End::Ending(_) | End::HistoryGone => true,
        }
    }
}
