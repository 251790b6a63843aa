//! The types of the domain: names, event ids, timestamps, events and networks.
//!
//! A value of these types is always valid. The constructors check names and
//! ids, so the layers above do not check them again. `docs/protocol.md#names`
//! has the rules.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

mod id;
mod network;

pub use id::{Epoch, EventId, LogId, MalformedId, Offset};
pub use network::{InvalidNetwork, network_contains, parse_network};

/// The largest length of a resource id or an event type, in bytes
/// (`docs/protocol.md#names`).
pub const NAME_BYTES_MAX: usize = 128;

/// The texts that cannot be the id of a resource, because they are reserved for path
/// segments (`docs/protocol.md#names`).
const RESERVED_IDS: [&str; 5] = [".", "..", "stream", "events", "ws"];

/// The event types that are reserved for control messages of the gateway
/// (`docs/protocol.md#names`).
const RESERVED_TYPES: [&str; 5] = ["heartbeat", "gap", "error", "open", "credential-expired"];

/// The names that a collection or topic cannot have (`docs/protocol.md#names`).
pub const RESERVED_NAMES: [&str; 8] =
    ["events", "operations", "ws", "v1", "problems", "tickets", "connections", "webhooks"];

/// The reason why a text is not a valid name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidName {
    /// The text is empty.
    Empty,
    /// The text is longer than [`NAME_BYTES_MAX`].
    TooLong,
    /// The text contains this character, which is not in `[A-Za-z0-9._~:-]`.
    Character(char),
    /// The name is reserved for the gateway.
    Reserved,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidName::Empty => write!(f, "a name must not be empty"),
            InvalidName::TooLong => {
                write!(f, "a name must not be longer than {NAME_BYTES_MAX} bytes")
            }
            InvalidName::Character(c) => {
                write!(f, "the character {c:?} is not allowed; use A-Z a-z 0-9 . _ ~ : -")
            }
            InvalidName::Reserved => write!(f, "the name is reserved; use another name"),
        }
    }
}

impl std::error::Error for InvalidName {}

fn check_characters(text: &str) -> Result<(), InvalidName> {
    if text.is_empty() {
        return Err(InvalidName::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(InvalidName::TooLong);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._~:-".contains(c);
    match text.chars().find(|&c| !allowed(c)) {
        Some(c) => Err(InvalidName::Character(c)),
        None => Ok(()),
    }
}

/// Defines a type for valid names that holds shared bytes. A name that is read from
/// a stored record is a slice of the bytes of this record. A clone does not copy the
/// bytes.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $reserved:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Bytes);

        impl $name {
            /// Returns the name in `text`, which comes from a client or the
            /// configuration.
            ///
            /// # Errors
            /// The reason why the text is not a valid name.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                check_characters(text)?;
                let reserved: fn(&str) -> bool = $reserved;
                if reserved(text) {
                    return Err(InvalidName::Reserved);
                }
                Ok(Self(Bytes::copy_from_slice(text.as_bytes())))
            }

            /// Returns the name in `bytes`, which come from the gateway or the
            /// store. Reserved names are accepted.
            ///
            /// # Errors
            /// The reason why the bytes are not a valid name. For a stored record
            /// this means that the record is damaged.
            pub fn from_stored(bytes: Bytes) -> Result<Self, InvalidName> {
                let text = str::from_utf8(&bytes)
                    .map_err(|_| InvalidName::Character(char::REPLACEMENT_CHARACTER))?;
                check_characters(text)?;
                Ok(Self(bytes))
            }

            /// Returns this name as a slice of `record` that starts at the byte
            /// `at`. Returns `None` if the bytes there are not this name.
            pub fn within(&self, record: &Bytes, at: usize) -> Option<Self> {
                let end = at + self.0.len();
                (record.get(at..end)? == &*self.0).then(|| Self(record.slice(at..end)))
            }

            /// Returns the name as text.
            ///
            /// # Panics
            /// Never: every constructor accepts only ASCII.
            pub fn as_str(&self) -> &str {
                str::from_utf8(&self.0).expect("every constructor accepts only ASCII")
            }

            /// Returns the bytes of the name.
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
    /// The id of a resource, which is also the `subject` of its events. It has
    /// 1 to 128 characters of `[A-Za-z0-9._~:-]` and is not a reserved path
    /// segment.
    ResourceId,
    |text| RESERVED_IDS.contains(&text)
);

name!(
    /// The type of an event. It has 1 to 128 characters of
    /// `[A-Za-z0-9._~:-]`, so it cannot put CR or LF into an SSE `event:` line.
    EventType,
    |text| {
        RESERVED_TYPES.contains(&text)
            || text.starts_with("stream-")
            || text.starts_with("snapshot")
    }
);

/// A time in milliseconds since the Unix epoch, in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Returns the current time of the wall clock.
    pub fn now() -> Timestamp {
        Timestamp(jiff::Timestamp::now().as_millisecond())
    }
}

impl fmt::Display for Timestamp {
    /// Writes the time as RFC 3339 with milliseconds. For the years 0 to 9999
    /// the text has always 24 characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::MAX);
        write!(f, "{time:.3}")
    }
}

impl FromStr for Timestamp {
    type Err = jiff::Error;

    /// Reads an RFC 3339 time. Digits after the milliseconds are ignored.
    fn from_str(text: &str) -> Result<Timestamp, jiff::Error> {
        Ok(Timestamp(text.parse::<jiff::Timestamp>()?.as_millisecond()))
    }
}

/// An immutable record of one fact in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The offset in the log. Offsets strictly increase, but not always by one.
    pub offset: Offset,
    /// The time of the commit. Within a log, this time never decreases. The only
    /// exception is a clock that was ahead and was corrected
    /// (`docs/protocol.md#event-time`).
    pub time: Timestamp,
    /// The type of the event.
    pub event_type: EventType,
    /// The id of the resource that the event is about. An event of a topic can have
    /// no subject.
    pub subject: Option<ResourceId>,
    /// Whether the gateway merged the data of the event into the resource. A client
    /// that rebuilds the resource from its events must merge the data of every event
    /// with `true`, and of no other event.
    pub merge: bool,
    /// The data: compact JSON on one line (see `wire::json`).
    pub data: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_accepts_exactly_the_characters_of_the_protocol() {
        for valid in ["a", "order-1", "A.b_c~d:e-9", &"x".repeat(128)] {
            assert_eq!(ResourceId::new(valid).unwrap().as_str(), valid);
        }
        for (invalid, reason) in [
            ("", InvalidName::Empty),
            (&"x".repeat(129), InvalidName::TooLong),
            ("a/b", InvalidName::Character('/')),
            ("a\nb", InvalidName::Character('\n')),
            ("é", InvalidName::Character('é')),
            ("..", InvalidName::Reserved),
            ("ws", InvalidName::Reserved),
        ] {
            assert_eq!(ResourceId::new(invalid), Err(reason), "{invalid:?}");
        }
        for reserved in ["gap", "stream-open", "snapshot", "snapshots"] {
            assert_eq!(EventType::new(reserved), Err(InvalidName::Reserved), "{reserved:?}");
        }
    }

    #[test]
    fn a_timestamp_is_written_as_rfc_3339_with_milliseconds() {
        let text = "2024-07-15T14:32:22.250Z";
        let time: Timestamp = text.parse().unwrap();
        assert_eq!(time.to_string(), text);
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00.000Z");
    }
}
