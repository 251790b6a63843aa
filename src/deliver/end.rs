//! The reasons why a stream ends.

use crate::hub::EndReason;

/// The reason why a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The hub has ended the stream.
    Ending(EndReason),
    /// The log no longer keeps the next events, and the client has asked for the
    /// stream to end in this case (`onGap=error`).
    HistoryGone,
    /// The log could not be read.
    Unreadable,
}

impl End {
    /// Returns the value of the metrics label `reason` for this end.
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

    /// Returns whether the stream ends in order: the client receives all events
    /// before the end, and then a message with the reason.
    pub fn is_orderly(self) -> bool {
        match self {
            End::Ending(EndReason::Stalled) | End::Unreadable => false,
            End::Ending(_) | End::HistoryGone => true,
        }
    }
}
