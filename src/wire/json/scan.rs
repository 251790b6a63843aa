//! Validation and compaction of JSON in one pass.
//!
//! The scanner follows the grammar of RFC 8259. It has an explicit stack, so nested
//! input does not use the call stack. It copies the input to the output in the
//! longest possible pieces. A piece ends only at white space or at a key that is
//! rewritten. Input that is already compact is copied in one piece.

use std::borrow::Cow;
use std::collections::HashSet;

use super::{COMPARED_MAX, DEPTH_MAX, ParseError, text};

/// Validates `input` and returns it compacted.
pub(super) fn compact(input: &[u8]) -> Result<Vec<u8>, ParseError> {
    let mut scan = Scan {
        input,
        at: 0,
        copied: 0,
        out: Vec::with_capacity(input.len()),
        open: Vec::new(),
        keys: Vec::new(),
    };
    loop {
        if scan.value()? && !scan.next_value()? {
            scan.flush();
            // The capacity includes the removed white space. A ring can keep the
            // text of an event in memory for long, so the unused capacity is freed.
            scan.out.shrink_to_fit();
            return Ok(scan.out);
        }
    }
}

struct Scan<'a> {
    input: &'a [u8],
    at: usize,
    /// The input before this position is in `out` or was omitted. The input from
    /// here to `at` must still be copied to `out`.
    copied: usize,
    out: Vec<u8>,
    open: Vec<Container<'a>>,
    /// The keys of the objects in `open` whose `set` is `None`. The keys of the
    /// innermost object are last.
    keys: Vec<Key<'a>>,
}

/// A key in canonical spelling, with its quotes.
type Key<'a> = Cow<'a, [u8]>;

enum Container<'a> {
    Array,
    Object {
        /// The index of the object's first key in `Scan::keys`.
        first: usize,
        /// The bits that [`mark`] returned for the object's keys.
        marks: u64,
        /// The object's keys, if there are more than `COMPARED_MAX`.
        set: Option<HashSet<Key<'a>>>,
    },
}

impl<'a> Scan<'a> {
    /// Reads a scalar, an empty object or an empty array. If the value is any other
    /// object or array, reads only its start, up to the first value inside. Returns
    /// whether a complete value was read.
    fn value(&mut self) -> Result<bool, ParseError> {
        match self.token() {
            Some(b'"') => self.string().map(|_| true),
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| true),
            Some(b'{') => {
                self.enter(Container::Object { first: self.keys.len(), marks: 0, set: None })?;
                if self.token() == Some(b'}') {
                    self.leave();
                    return Ok(true);
                }
                self.key().map(|()| false)
            }
            Some(b'[') => {
                self.enter(Container::Array)?;
                if self.token() == Some(b']') {
                    self.leave();
                    return Ok(true);
                }
                Ok(false)
            }
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            Some(_) | None => self.fail("expected a value"),
        }
    }

    /// Reads the closing braces and brackets after a value, and moves to the next
    /// value. Returns whether there is a next value.
    fn next_value(&mut self) -> Result<bool, ParseError> {
        loop {
            let token = self.token();
            match (self.open.last(), token) {
                (None, None) => return Ok(false),
                (None, Some(_)) => return self.fail("unexpected text after the value"),
                (Some(Container::Object { .. }), Some(b',')) => {
                    self.at += 1;
                    self.key()?;
                    return Ok(true);
                }
                (Some(Container::Array), Some(b',')) => {
                    self.at += 1;
                    return Ok(true);
                }
                (Some(Container::Object { .. }), Some(b'}'))
                | (Some(Container::Array), Some(b']')) => self.leave(),
                (Some(Container::Object { .. }), _) => {
                    return self.fail("expected a comma or a closing brace");
                }
                (Some(Container::Array), _) => {
                    return self.fail("expected a comma or a closing bracket");
                }
            }
        }
    }

    fn enter(&mut self, container: Container<'a>) -> Result<(), ParseError> {
        if self.open.len() == DEPTH_MAX {
            return self.fail("more than 64 levels of nesting");
        }
        self.open.push(container);
        self.at += 1;
        Ok(())
    }

    fn leave(&mut self) {
        if let Some(Container::Object { first, .. }) = self.open.pop() {
            self.keys.truncate(first);
        }
        self.at += 1;
    }

    /// Reads a key of the innermost object and the colon after it. A duplicate key
    /// is an error.
    fn key(&mut self) -> Result<(), ParseError> {
        if self.token() != Some(b'"') {
            return self.fail("expected a member name in quotes");
        }
        let start = self.at;
        let escaped = self.string()?;
        let raw = &self.input[start..self.at];
        let key = if escaped {
            let name = text::string(raw).expect("string() has validated it");
            let mut canonical = Vec::with_capacity(raw.len());
            text::quote(&name, &mut canonical);
            self.out.extend_from_slice(&self.input[self.copied..start]);
            self.out.extend_from_slice(&canonical);
            self.copied = self.at;
            Cow::Owned(canonical)
        } else {
            Cow::Borrowed(raw)
        };
        if !self.is_new(key) {
            return Err(ParseError {
                position: start,
                reason: "duplicate member name in the object",
            });
        }
        if self.token() != Some(b':') {
            return self.fail("expected a colon");
        }
        self.at += 1;
        Ok(())
    }

    fn is_new(&mut self, key: Key<'a>) -> bool {
        let Some(Container::Object { first, marks, set }) = self.open.last_mut() else {
            return true;
        };
        if let Some(set) = set {
            return set.insert(key);
        }
        let before = &self.keys[*first..];
        let mark = mark(&key);
        if *marks & mark != 0 && before.contains(&key) {
            return false;
        }
        *marks |= mark;
        let full = before.len() == COMPARED_MAX;
        self.keys.push(key);
        if full {
            *set = Some(self.keys.drain(*first..).collect());
        }
        true
    }

    /// Reads a string with its quotes. Returns whether it has an escape.
    fn string(&mut self) -> Result<bool, ParseError> {
        let start = self.at;
        let (mut ascii, mut escaped) = (true, false);
        self.at += 1;
        loop {
            let run = text::plain(&self.input[self.at..]);
            self.at += run.length;
            ascii &= run.ascii;
            match self.input.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => match text::escape(&self.input[self.at..]) {
                    Ok((_, length)) => self.at += length,
                    Err(reason) => return self.fail(reason),
                },
                Some(_) => return self.fail("a control character in a string must be escaped"),
                None => return self.fail("the string has no closing quote"),
            }
            escaped = true;
        }
        self.at += 1;
        if !ascii && let Err(e) = str::from_utf8(&self.input[start..self.at]) {
            return Err(ParseError { position: start + e.valid_up_to(), reason: "not UTF-8" });
        }
        Ok(escaped)
    }

    fn number(&mut self) -> Result<(), ParseError> {
        if self.input[self.at] == b'-' {
            self.at += 1;
        }
        if self.input.get(self.at) == Some(&b'0') {
            self.at += 1;
            if self.input.get(self.at).is_some_and(u8::is_ascii_digit) {
                return self.fail("a number must not have leading zeros");
            }
        } else {
            self.digits()?;
        }
        if self.input.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.input.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.input.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), ParseError> {
        let start = self.at;
        while self.input.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == start { self.fail("expected a digit") } else { Ok(()) }
    }

    fn literal(&mut self, word: &[u8]) -> Result<bool, ParseError> {
        if !self.input[self.at..].starts_with(word) {
            return self.fail("expected a value");
        }
        self.at += word.len();
        Ok(true)
    }

    /// Returns the next byte that is not white space. The white space before it
    /// is omitted from the output.
    fn token(&mut self) -> Option<u8> {
        let byte = *self.input.get(self.at)?;
        if byte > b' ' { Some(byte) } else { self.token_after_space() }
    }

    #[cold]
    fn token_after_space(&mut self) -> Option<u8> {
        self.flush();
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.input.get(self.at) {
            self.at += 1;
        }
        self.copied = self.at;
        self.input.get(self.at).copied()
    }

    fn flush(&mut self) {
        self.out.extend_from_slice(&self.input[self.copied..self.at]);
        self.copied = self.at;
    }

    fn fail<T>(&self, reason: &'static str) -> Result<T, ParseError> {
        Err(ParseError { position: self.at, reason })
    }
}

/// Returns a word with one set bit. The last eight bytes and the length of the key
/// select the bit. Two keys with different bits are different, so they need no
/// comparison. If an attacker chooses keys with the same bit, each key costs at most
/// `COMPARED_MAX` comparisons.
fn mark(key: &[u8]) -> u64 {
    let end = match key.last_chunk::<8>() {
        Some(end) => u64::from_le_bytes(*end),
        None => key.iter().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    let mixed = (end ^ key.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    1 << (mixed >> 58)
}
