//! JSON kept as text: checked once, made compact, taken apart by slices.
//!
//! No tree is ever built. [`Json::parse`] reads what came from outside; all
//! other functions take its output and only skip through it. Given other bytes
//! they return something without meaning, but they neither panic nor run away.

use std::fmt;

use bytes::Bytes;

mod scan;
mod members;
mod merge;
mod text;

pub use members::{member, members, with_first};
pub use merge::merge_patch;
pub use text::{quote, scalar_text, string};

/// Deepest nesting that is taken, as for `serde_json`'s own order of magnitude.
pub const DEPTH_MAX: usize = 64;

/// Members up to which keys are compared one by one; past it they are hashed,
/// with a random key, so that no object makes the comparisons quadratic.
const COMPARED_MAX: usize = 16;

/// A checked, compact JSON text: one line, no white space outside strings,
/// numbers and string contents as they came, keys in their order. A key that
/// came with an escape is spelled as [`quote`] does, so that equal keys are
/// equal bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json(Bytes);

/// Where and why a text is not acceptable JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Byte position in the input, from 0.
    pub position: usize,
    /// What is wrong there.
    pub reason: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.position, self.reason)
    }
}

impl std::error::Error for Malformed {}

impl Json {
    /// Checks `input` and makes it compact.
    ///
    /// # Errors
    /// Where it is not JSON (RFC 8259), not UTF-8, deeper than [`DEPTH_MAX`],
    /// has an object with a key twice, or escapes half of a surrogate pair.
    pub fn parse(input: &[u8]) -> Result<Json, Malformed> {
        scan::compact(input).map(|text| Json(text.into()))
    }

    /// Takes bytes that [`Json::parse`] or this module made earlier.
    pub fn from_trusted(bytes: Bytes) -> Json {
        Json(bytes)
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, to keep.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Whether it is an object.
    pub fn is_object(&self) -> bool {
        self.0.first() == Some(&b'{')
    }
}

#[cfg(test)]
mod tests;
