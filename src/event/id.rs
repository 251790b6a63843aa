//! Positions: epoch, offset, and the two together as an event id.

use std::fmt;
use std::str::FromStr;

/// A log's number within one store, given when the log is first opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(pub u32);

/// A place in a log. Events start at 1; 0 is the place before everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offset(pub u64);

impl Offset {
    /// The place before every event.
    pub const ZERO: Offset = Offset(0);

    /// The next place in a log.
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

/// The identity of a log: 8 characters of base32. A log that is made anew
/// gets another, so that an id of the old one cannot be taken for its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch([u8; 8]);

/// Crockford's alphabet in lower case: no `i`, `l`, `o`, `u` to misread.
const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl Epoch {
    /// An epoch from 40 random bits; the upper 24 bits of `bits` are not used.
    pub fn from_bits(bits: u64) -> Epoch {
        Epoch(std::array::from_fn(|i| BASE32[(bits >> (35 - 5 * i)) as usize & 31]))
    }

    /// The epoch as text.
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

/// `<epoch>-<offset>`: the one id that an event, a cursor and an ETag share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventId {
    /// Whose offset it is.
    pub epoch: Epoch,
    /// The place in that log.
    pub offset: Offset,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.offset)
    }
}

impl EventId {
    /// Returns the id in double quotes, as an entity tag has it. Each response
    /// with a resource has one, so the id is written without `fmt`, whose cost
    /// shows there.
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

/// A text that is no event id of any log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedId;

impl fmt::Display for MalformedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an event id is 8 characters of base32, a hyphen and an offset, as in k3f9x2ab-42"
        )
    }
}

impl std::error::Error for MalformedId {}

impl FromStr for EventId {
    type Err = MalformedId;

    /// Reads exactly what `Display` writes: one id has one spelling, so ids
    /// can be compared as text by those who hold them.
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
        fn an_id_reads_back_as_it_was_written(bits: u64, offset: u64) {
            let id = EventId { epoch: Epoch::from_bits(bits), offset: Offset(offset) };
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(id.quoted(), format!("\"{id}\""));
        }

        #[test]
        fn any_other_text_is_refused_or_its_own_spelling(text in "[0-9a-z-]{0,24}") {
            if let Ok(id) = text.parse::<EventId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn second_spellings_are_malformed() {
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
