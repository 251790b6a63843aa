//! Functions for JSON text. The text is validated and compacted once. After that,
//! the functions return its parts as slices.
//!
//! The module never builds a tree of values. [`Json::parse`] validates input from
//! outside. All other functions expect the output of [`Json::parse`] and only scan
//! it. For other bytes, they return a meaningless result, but they do not panic and
//! do not loop forever.

use std::fmt;

use bytes::Bytes;

mod scan;
mod members;
mod merge;
mod text;

pub use members::{member, members, with_first};
pub use merge::merge_patch;
pub use text::{quote, scalar_text, string};

/// The largest accepted nesting depth of objects and arrays. The limit of
/// `serde_json` (128) has the same order of magnitude.
pub const DEPTH_MAX: usize = 64;

/// The largest number of members for which an object's keys are compared one by one.
/// The keys of a larger object are in a hash table with a random seed. Without the
/// table, the number of comparisons would grow with the square of the number of
/// keys, and an attacker could send such an object.
const COMPARED_MAX: usize = 16;

/// A validated, compact JSON text. It is one line without white space outside of
/// strings. Numbers, string contents and the order of keys are unchanged. A key
/// with an escape is rewritten in the spelling of [`quote`], so equal keys have
/// equal bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json(Bytes);

/// The error for a text that is not accepted as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The position of the error in the input, in bytes from 0.
    pub position: usize,
    /// The reason why the text is not accepted.
    pub reason: &'static str,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.position, self.reason)
    }
}

impl std::error::Error for ParseError {}

impl Json {
    /// Validates `input` and compacts it.
    ///
    /// # Errors
    /// If `input` is not JSON (RFC 8259), is not UTF-8, is nested deeper than
    /// [`DEPTH_MAX`], has an object with a duplicate key, or has a `\u` escape of
    /// only one half of a surrogate pair.
    pub fn parse(input: &[u8]) -> Result<Json, ParseError> {
        scan::compact(input).map(|text| Json(text.into()))
    }

    /// Returns `bytes` as JSON without validation. [`Json::parse`] or another
    /// function of this module must have produced them.
    pub fn from_trusted(bytes: Bytes) -> Json {
        Json(bytes)
    }

    /// Returns the JSON text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the JSON text as owned bytes.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Returns whether the value is an object.
    pub fn is_object(&self) -> bool {
        self.0.first() == Some(&b'{')
    }
}

#[cfg(test)]
mod tests;
