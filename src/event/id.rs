//! Positions in a log: the epoch, the offset, and the event id, which consists of
//! both.

use std::fmt;
use std::str::FromStr;

/// The number of a log within one store. The store assigns the number when the
/// log is first opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(pub u32);

/// A position in a log. The first event has an offset of at least 1. Offset 0
/// is the position before every event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offset(pub u64);

impl Offset {
    /// The position before every event.
    pub const ZERO: Offset = Offset(0);

    /// Returns the next offset.
    #[must_use]
    pub fn next(self) -> Offset {
        Offset(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The identity of a log: 8 characters of base32. A log that is created again has a
/// new epoch, so the new log rejects the event ids of the old log.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch([u8; 8]);

/// Crockford's base32 alphabet in lower case. It lacks `i`, `l`, `o` and `u`,
/// which a reader can confuse with other characters.
const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl Epoch {
    /// Returns the epoch for the lower 40 bits of `bits`, which must be random.
    /// The upper 24 bits are ignored.
    pub fn from_bits(bits: u64) -> Epoch {
        Epoch(std::array::from_fn(|i| BASE32[(bits >> (35 - 5 * i)) as usize & 31]))
    }

    /// Returns the epoch as text.
    ///
    /// # Panics
    /// Never: the alphabet is ASCII.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("the alphabet is ASCII")
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Epoch {
    type Err = MalformedId;

    fn from_str(text: &str) -> Result<Epoch, MalformedId> {
        let bytes: [u8; 8] = text.as_bytes().try_into().map_err(|_| MalformedId)?;
        if bytes.iter().all(|b| BASE32.contains(b)) { Ok(Epoch(bytes)) } else { Err(MalformedId) }
    }
}

/// An event id, `<epoch>-<offset>`. Events, cursors and entity tags use this format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventId {
    /// The identity of the log.
    pub epoch: Epoch,
    /// The position of the event in this log.
    pub offset: Offset,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.offset)
    }
}

impl EventId {
    /// Returns the id in double quotes, which is the syntax of an entity tag.
    /// Every response with a resource has an entity tag, and there the cost of
    /// `fmt` is measurable, so this function does not use `fmt`.
    pub fn quoted(&self) -> String {
        let mut buffer = itoa::Buffer::new();
        let digits = buffer.format(self.offset.0);
        let mut text = String::with_capacity(3 + self.epoch.0.len() + digits.len());
        text.push('"');
        text.push_str(self.epoch.as_str());
        text.push('-');
        text.push_str(digits);
        text.push('"');
        text
    }
}

/// The error for a text that is not an event id of any log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedId;

impl fmt::Display for MalformedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an event id has 8 characters of base32, a hyphen and an offset, for example k3f9x2ab-42"
        )
    }
}

impl std::error::Error for MalformedId {}

impl FromStr for EventId {
    type Err = MalformedId;

    /// Reads an id in exactly the form that `Display` writes. An id has only
    /// one spelling, so clients can compare ids as text.
    fn from_str(text: &str) -> Result<EventId, MalformedId> {
        let (epoch, offset) = text.split_once('-').ok_or(MalformedId)?;
        let canonical = offset == "0" || !offset.starts_with('0');
        if !canonical || !offset.bytes().all(|b| b.is_ascii_digit()) {
            return Err(MalformedId);
        }
        Ok(EventId {
            epoch: epoch.parse()?,
            offset: Offset(offset.parse().map_err(|_| MalformedId)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_is_read_back_as_it_was_written(bits: u64, offset: u64) {
            let id = EventId { epoch: Epoch::from_bits(bits), offset: Offset(offset) };
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(id.quoted(), format!("\"{id}\""));
        }

        #[test]
        fn a_text_that_is_read_as_an_id_is_the_spelling_of_this_id(text in "[0-9a-z-]{0,24}") {
            if let Ok(id) = text.parse::<EventId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn another_spelling_of_an_id_is_rejected() {
        for text in [
            "",
            "-",
            "k3f9x2ab",
            "k3f9x2ab-",
            "k3f9x2ab-01",
            "k3f9x2ab-+1",
            "K3F9X2AB-1",
            "k3f9x2a-1",
            "k3f9x2ab-18446744073709551616",
            "k3f9x2ai-1",
        ] {
            assert_eq!(text.parse::<EventId>(), Err(MalformedId), "{text:?}");
        }
    }
}
