//! The words of the domain: names, positions, events and filters.
//!
//! Everything here is a value that cannot be wrong once it exists: the
//! constructors are the only place where a name, an id or a position is
//! checked, so no layer above checks it again. The rules are those of
//! `docs/protocol.md#names`.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

mod id;
mod network;

pub use id::{Epoch, EventId, LogId, MalformedId, Offset};
pub use network::{InvalidNetwork, network_contains, parse_network};

/// Longest resource id and event type, in bytes (`docs/protocol.md#names`).
pub const NAME_BYTES_MAX: usize = 128;

/// Resource ids that the path table needs for itself (`docs/protocol.md#names`).
const RESERVED_IDS: [&str; 5] = [".", "..", "stream", "events", "ws"];

/// Event types that the gateway itself sends (`docs/protocol.md#names`).
const RESERVED_TYPES: [&str; 5] = ["heartbeat", "gap", "error", "open", "credential-expired"];

/// Names that no collection or topic may take (`docs/protocol.md#names`).
pub const RESERVED_NAMES: [&str; 8] =
    ["events", "operations", "ws", "v1", "problems", "tickets", "connections", "webhooks"];

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadName {
    /// It has no character.
    Empty,
    /// It is longer than [`NAME_BYTES_MAX`].
    TooLong,
    /// It has a character outside `[A-Za-z0-9._~:-]`.
    Character(char),
    /// The gateway keeps this one for itself.
    Reserved,
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadName::Empty => write!(f, "it is empty"),
            BadName::TooLong => write!(f, "it is longer than {NAME_BYTES_MAX} bytes"),
            BadName::Character(c) => {
                write!(f, "{c:?} is not one of A-Z a-z 0-9 . _ ~ : -")
            }
            BadName::Reserved => write!(f, "it is reserved"),
        }
    }
}

impl std::error::Error for BadName {}

fn check_characters(text: &str) -> Result<(), BadName> {
    if text.is_empty() {
        return Err(BadName::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(BadName::TooLong);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._~:-".contains(c);
    match text.chars().find(|&c| !allowed(c)) {
        Some(c) => Err(BadName::Character(c)),
        None => Ok(()),
    }
}

/// Defines a checked name over shared bytes, so that a name read from the
/// store is a slice of its record and a clone copies nothing.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $reserved:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Bytes);

        impl $name {
            /// Takes a name from outside.
            ///
            /// # Errors
            /// Says why the text is not one.
            pub fn new(text: &str) -> Result<Self, BadName> {
                check_characters(text)?;
                let reserved: fn(&str) -> bool = $reserved;
                if reserved(text) {
                    return Err(BadName::Reserved);
                }
                Ok(Self(Bytes::copy_from_slice(text.as_bytes())))
            }

            /// Takes a name that the gateway made itself or that was checked
            /// when it was stored, reserved ones included.
            ///
            /// # Errors
            /// Says why the bytes are not one, which for a stored record
            /// means damage.
            pub fn from_stored(bytes: Bytes) -> Result<Self, BadName> {
                let text = str::from_utf8(&bytes)
                    .map_err(|_| BadName::Character(char::REPLACEMENT_CHARACTER))?;
                check_characters(text)?;
                Ok(Self(bytes))
            }

            /// The same name as a slice of `record`, from `at` on, if it stands
            /// there.
            pub fn within(&self, record: &Bytes, at: usize) -> Option<Self> {
                let end = at + self.0.len();
                (record.get(at..end)? == &*self.0).then(|| Self(record.slice(at..end)))
            }

            /// The name as text.
            ///
            /// # Panics
            /// Never: every constructor admits ASCII only.
            pub fn as_str(&self) -> &str {
                str::from_utf8(&self.0).expect("every constructor admits ASCII only")
            }

            /// The name's bytes.
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.as_str())
            }
        }
    };
}

name!(
    /// The id of a resource, and so the `subject` of its events: 1 to 128 of
    /// `[A-Za-z0-9._~:-]`, not one of the path table's own segments.
    ResourceId,
    |text| RESERVED_IDS.contains(&text)
);

name!(
    /// The type of an event: 1 to 128 of `[A-Za-z0-9._~:-]`. CR and LF can
    /// therefore never reach an SSE `event:` line.
    EventType,
    |text| {
        RESERVED_TYPES.contains(&text)
            || text.starts_with("stream-")
            || text.starts_with("snapshot")
    }
);

/// A moment in milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The wall clock's now.
    pub fn now() -> Timestamp {
        Timestamp(jiff::Timestamp::now().as_millisecond())
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 with milliseconds, always 24 characters within the years 0 to 9999.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::MAX);
        write!(f, "{moment:.3}")
    }
}

impl FromStr for Timestamp {
    type Err = jiff::Error;

    /// Reads an RFC 3339 time; what is finer than a millisecond is cut off.
    fn from_str(text: &str) -> Result<Timestamp, jiff::Error> {
        Ok(Timestamp(text.parse::<jiff::Timestamp>()?.as_millisecond()))
    }
}

/// One immutable fact in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place in its log; strictly increasing, not promised dense.
    pub offset: Offset,
    /// When it was committed. Never decreasing within a log, except after a
    /// corrected clock (`docs/protocol.md#names`).
    pub time: Timestamp,
    /// What happened.
    pub kind: EventType,
    /// The resource it happened to; none in a topic where none was given.
    pub subject: Option<ResourceId>,
    /// False where the data was not merged into the resource, so that a
    /// follower rebuilding state must not merge it either.
    pub merge: bool,
    /// Compact JSON on one line (see `wire::json`).
    pub data: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_admit_exactly_the_protocols_characters() {
        for good in ["a", "order-1", "A.b_c~d:e-9", &"x".repeat(128)] {
            assert_eq!(ResourceId::new(good).unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("", BadName::Empty),
            (&"x".repeat(129), BadName::TooLong),
            ("a/b", BadName::Character('/')),
            ("a\nb", BadName::Character('\n')),
            ("é", BadName::Character('é')),
            ("..", BadName::Reserved),
            ("ws", BadName::Reserved),
        ] {
            assert_eq!(ResourceId::new(bad), Err(why), "{bad:?}");
        }
        for bad in ["gap", "stream-open", "snapshot", "snapshots"] {
            assert_eq!(EventType::new(bad), Err(BadName::Reserved), "{bad:?}");
        }
    }

    #[test]
    fn a_timestamp_is_rfc_3339_with_milliseconds() {
        let text = "2024-07-15T14:32:22.250Z";
        let time: Timestamp = text.parse().unwrap();
        assert_eq!(time.to_string(), text);
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00.000Z");
    }
}
