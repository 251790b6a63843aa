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

/// The error for a text that is not an RFC 3339 time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidTimestamp;

impl fmt::Display for InvalidTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an RFC 3339 time; write a time such as 2024-07-15T14:32:22.250Z")
    }
}

impl std::error::Error for InvalidTimestamp {}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    /// Reads an RFC 3339 time. Digits after the milliseconds round the time up to the
    /// next millisecond. So no event with the returned time or a later time is
    /// before the time in `text`.
    fn from_str(text: &str) -> Result<Timestamp, InvalidTimestamp> {
        let (seconds, fraction) = rfc_3339_parts(text).ok_or(InvalidTimestamp)?;
        let time: jiff::Timestamp = seconds.parse().map_err(|_| InvalidTimestamp)?;
        let digit = |index| i64::from(fraction.get(index).map_or(0, |digit| digit - b'0'));
        let millis = 100 * digit(0) + 10 * digit(1) + digit(2);
        let rest = fraction.iter().skip(3).any(|digit| *digit != b'0');
        Ok(Timestamp(time.as_millisecond() + millis + i64::from(rest)))
    }
}

/// Splits a time in the form of RFC 3339, section 5.6, into the time without its
/// fraction and the digits of the fraction. Returns `None` if `text` has another
/// form. `jiff` alone accepts more: the basic format of ISO 8601, missing minutes, a
/// comma, a year with a sign, a time zone in brackets, and an offset of 25 hours.
fn rfc_3339_parts(text: &str) -> Option<(String, &[u8])> {
    const FORM: &[u8; 19] = b"0000-00-00T00:00:00";
    let has_form = |text: &[u8], form: &[u8]| {
        text.len() == form.len()
            && text.iter().zip(form).all(|(byte, form)| match form {
                b'0' => byte.is_ascii_digit(),
                form => byte.eq_ignore_ascii_case(form),
            })
    };
    let (time, rest) = text.as_bytes().split_at_checked(FORM.len())?;
    let digits = match rest.strip_prefix(b".") {
        Some(digits) => digits.iter().take_while(|byte| byte.is_ascii_digit()).count(),
        None => 0,
    };
    let dot = usize::from(rest.first() == Some(&b'.'));
    let (fraction, zone) = rest[dot..].split_at(digits);
    let zone_is_valid = has_form(zone, b"Z")
        || (has_form(zone, b"+00:00") || has_form(zone, b"-00:00"))
            && &zone[1..3] <= b"23".as_slice()
            && &zone[4..6] <= b"59".as_slice();
    (has_form(time, FORM) && dot == digits.min(1) && zone_is_valid)
        .then(|| (format!("{}{}", &text[..FORM.len()], &text[text.len() - zone.len()..]), fraction))
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

    #[test]
    fn a_timestamp_is_read_from_exactly_the_forms_of_rfc_3339() {
        for (text, millis) in [
            ("1970-01-01T00:00:01Z", 1000),
            ("1970-01-01t00:00:01z", 1000),
            ("1970-01-01T00:00:01.5Z", 1500),
            ("1970-01-01T00:00:01.25+00:00", 1250),
            ("1970-01-01T23:59:00+23:59", 0),
            ("1969-12-31T00:01:00-23:59", 0),
            ("1970-01-01T00:00:00-00:00", 0),
            ("1969-12-31T23:59:59.9Z", -100),
            ("0000-01-01T00:00:00Z", -62_167_219_200_000),
            ("9999-12-30T22:00:00Z", 253_402_207_200_000),
        ] {
            assert_eq!(text.parse(), Ok(Timestamp(millis)), "{text}");
        }
        for text in [
            "",
            "20260101T000000Z",
            "2026-01-01T00Z",
            "2026-01-01T00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00,5Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00Z[UTC]",
            "2026-01-01T00:00:00+01:00[Europe/Paris]",
            "2026-01-01T00:00:00+25:00",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00+01:60",
            "2026-01-01T00:00:00+01",
            "2026-01-01T00:00:00+0100",
            "2026-01-01T00:00:00+01:00:00",
            "2026-01-01T00:00:00Z ",
            "+002026-01-01T00:00:00Z",
            "-000001-01-01T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00é",
            "2026-01-01T00:00:0éZ",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_between_two_milliseconds_is_rounded_up() {
        for (text, millis) in [
            ("1970-01-01T00:00:00.505000Z", 505),
            ("1970-01-01T00:00:00.505999Z", 506),
            ("1970-01-01T00:00:00.5050000000000001Z", 506),
            ("1970-01-01T00:00:00.9991Z", 1000),
            ("1969-12-31T23:59:59.9985Z", -1),
        ] {
            assert_eq!(text.parse(), Ok(Timestamp(millis)), "{text}");
        }
    }
}
