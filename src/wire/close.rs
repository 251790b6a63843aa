//! Why a WebSocket ends: the one table of close codes
//! (`docs/protocol.md#websocket`).

use std::fmt;

/// A close code that the gateway sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Close {
    /// Nothing is left to say, or the client closed first.
    Done,
    /// A frame, or a run of frames, that RFC 6455 forbids.
    Protocol,
    /// A binary message where text is due.
    NotText,
    /// Text that is not UTF-8.
    NotUtf8,
    /// A rule of the gateway's own that no other code names.
    Policy,
    /// A message over its limit.
    TooBig,
    /// The gateway failed.
    Internal,
    /// This process is going away. Not 1001: some clients take that for a
    /// stream that is complete.
    Draining,
    /// Too much to do.
    Overloaded,
    /// No credential, or one that has ended.
    CredentialExpired,
    /// A good credential that does not allow this.
    Forbidden,
    /// Silent for too long, or a ping without its pong.
    Idle,
    /// The log no longer holds what was asked for, and the subscription was
    /// to fail then (`onGap=error`).
    HistoryGone,
    /// More requests than the client's rate allows.
    RateExceeded,
}

impl Close {
    /// All of them, by code.
    pub const ALL: [Close; 14] = [
        Close::Done,
        Close::Protocol,
        Close::NotText,
        Close::NotUtf8,
        Close::Policy,
        Close::TooBig,
        Close::Internal,
        Close::Draining,
        Close::Overloaded,
        Close::CredentialExpired,
        Close::Forbidden,
        Close::Idle,
        Close::HistoryGone,
        Close::RateExceeded,
    ];

    /// The number on the wire (RFC 6455 §7.4; 4000 and above are ours).
    pub fn code(self) -> u16 {
        self.row().0
    }

    /// The reason on the wire where there is no better one, lower case and
    /// short enough to serve as a metric's label too.
    pub fn reason(self) -> &'static str {
        self.row().1
    }

    /// Whether a client that changes nothing may come back, after a pause,
    /// with the id it has seen last. Where not, the same connection would end
    /// the same way.
    pub fn reconnect(self) -> bool {
        self.row().2
    }

    /// Code, reason, reconnect.
    fn row(self) -> (u16, &'static str, bool) {
        match self {
            Close::Done => (1000, "done", false),
            Close::Protocol => (1002, "protocol error", false),
            Close::NotText => (1003, "binary where text is due", false),
            Close::NotUtf8 => (1007, "not utf-8", false),
            Close::Policy => (1008, "policy", false),
            Close::TooBig => (1009, "too big", false),
            Close::Internal => (1011, "internal error", true),
            Close::Draining => (1012, "draining", true),
            Close::Overloaded => (1013, "overloaded", true),
            Close::CredentialExpired => (4401, "credential missing or expired", false),
            Close::Forbidden => (4403, "not allowed", false),
            Close::Idle => (4408, "idle", true),
            Close::HistoryGone => (4410, "history gone", false),
            Close::RateExceeded => (4429, "rate exceeded", true),
        }
    }
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_whole_and_by_code() {
        let codes: Vec<u16> = Close::ALL.iter().map(|close| close.code()).collect();
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:?}");
        assert_eq!(
            codes,
            [1000, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 4401, 4403, 4408, 4410, 4429]
        );
    }

    #[test]
    fn reasons_are_short_and_different() {
        let mut reasons: Vec<&str> = Close::ALL.iter().map(|close| close.reason()).collect();
        assert!(reasons.iter().all(|reason| reason.len() <= 40));
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(reasons.len(), Close::ALL.len());
    }
}
