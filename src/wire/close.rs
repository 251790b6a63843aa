//! The table of WebSocket close codes (`docs/protocol.md#websocket`).

use std::fmt;

/// A close code that the gateway sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// The stream is complete, or the client closed first.
    Done,
    /// The client sent a frame or a sequence of frames that RFC 6455 forbids.
    Protocol,
    /// The client sent a binary message. Only text messages are accepted.
    NotText,
    /// The client sent text that is not UTF-8.
    NotUtf8,
    /// The client broke a rule of the gateway that has no other code.
    Policy,
    /// The client sent a message that is larger than the limit.
    TooBig,
    /// The gateway has a defect.
    Internal,
    /// The process is about to stop. The code is not 1001, because some clients
    /// interpret 1001 as the end of a complete stream.
    Draining,
    /// The gateway has too much load.
    Overloaded,
    /// The credential is missing or has expired.
    CredentialExpired,
    /// The credential is valid, but does not allow the request.
    Forbidden,
    /// The client sent nothing for too long, or did not answer a ping.
    Idle,
    /// The log no longer has the requested events, and the subscription has
    /// `onGap=error`.
    HistoryGone,
    /// The client sent more requests than its rate allows.
    RateExceeded,
}

impl CloseCode {
    /// All close codes, in ascending order.
    pub const ALL: [CloseCode; 14] = [
        CloseCode::Done,
        CloseCode::Protocol,
        CloseCode::NotText,
        CloseCode::NotUtf8,
        CloseCode::Policy,
        CloseCode::TooBig,
        CloseCode::Internal,
        CloseCode::Draining,
        CloseCode::Overloaded,
        CloseCode::CredentialExpired,
        CloseCode::Forbidden,
        CloseCode::Idle,
        CloseCode::HistoryGone,
        CloseCode::RateExceeded,
    ];

    /// Returns the number on the wire (RFC 6455 §7.4). The codes from 4000 on
    /// are specific to the gateway.
    pub fn code(self) -> u16 {
        self.row().0
    }

    /// Returns the default reason on the wire. It is lower case and short
    /// enough for a label of a metric.
    pub fn reason(self) -> &'static str {
        self.row().1
    }

    /// Returns whether the client should connect again with the same request. The
    /// client must wait before that, and should resume from the last event id that
    /// it received. If false, the gateway would close the new connection for the
    /// same reason.
    pub fn reconnect(self) -> bool {
        self.row().2
    }

    /// Returns the code, the reason, and the result of [`CloseCode::reconnect`].
    fn row(self) -> (u16, &'static str, bool) {
        match self {
            CloseCode::Done => (1000, "done", false),
            CloseCode::Protocol => (1002, "protocol error", false),
            CloseCode::NotText => (1003, "binary where text is due", false),
            CloseCode::NotUtf8 => (1007, "not utf-8", false),
            CloseCode::Policy => (1008, "policy", false),
            CloseCode::TooBig => (1009, "too big", false),
            CloseCode::Internal => (1011, "internal error", true),
            CloseCode::Draining => (1012, "draining", true),
            CloseCode::Overloaded => (1013, "overloaded", true),
            CloseCode::CredentialExpired => (4401, "credential missing or expired", false),
            CloseCode::Forbidden => (4403, "not allowed", false),
            CloseCode::Idle => (4408, "idle", true),
            CloseCode::HistoryGone => (4410, "history gone", false),
            CloseCode::RateExceeded => (4429, "rate exceeded", true),
        }
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_every_close_code_in_ascending_order() {
        let codes: Vec<u16> = CloseCode::ALL.iter().map(|close| close.code()).collect();
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:?}");
        assert_eq!(
            codes,
            [1000, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 4401, 4403, 4408, 4410, 4429]
        );
    }

    #[test]
    fn each_reason_is_short_and_unique() {
        let mut reasons: Vec<&str> = CloseCode::ALL.iter().map(|close| close.reason()).collect();
        assert!(reasons.iter().all(|reason| reason.len() <= 40));
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(reasons.len(), CloseCode::ALL.len());
    }
}
