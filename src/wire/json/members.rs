//! The members of JSON objects as slices of the JSON text. No tree of values is
//! built.

use super::text;

/// A reading position in compact JSON text. In other text, the cursor can stop too
/// early. [`Cursor::key`] moves the cursor forward each time that it returns a key,
/// so a loop over the members always ends.
pub(super) struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Returns a cursor at the start of the value `text`.
    pub(super) fn new(text: &'a [u8]) -> Cursor<'a> {
        Cursor { text, at: 0 }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Returns the position of the cursor in the text, in bytes.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Returns the text from `position`, an earlier position of the cursor, to the
    /// cursor.
    pub(super) fn since(&self, position: usize) -> &'a [u8] {
        &self.text[position..self.at]
    }

    /// Returns whether the cursor is at an object.
    pub(super) fn at_object(&self) -> bool {
        self.peek() == Some(b'{')
    }

    /// Returns whether the cursor is at `null`.
    pub(super) fn at_null(&self) -> bool {
        self.peek() == Some(b'n')
    }

    /// Moves the cursor past the opening brace of the object at the cursor.
    pub(super) fn enter(&mut self) {
        self.step();
    }

    /// Moves the cursor to the value of the next member, and returns the key of this
    /// member with its quotes. At the end of the object, moves the cursor past the
    /// object and returns `None`.
    pub(super) fn key(&mut self) -> Option<&'a [u8]> {
        if self.peek() == Some(b',') {
            self.step();
        }
        if self.peek() != Some(b'"') {
            self.step();
            return None;
        }
        let key = self.skip();
        if self.peek() != Some(b':') {
            return None;
        }
        self.step();
        Some(key)
    }

    /// Moves the cursor past the value at the cursor, and returns this value.
    pub(super) fn skip(&mut self) -> &'a [u8] {
        let start = self.at;
        match self.peek() {
            Some(b'"') => self.skip_string(),
            Some(b'{' | b'[') => self.skip_container(),
            _ => {
                while !matches!(self.peek(), Some(b',' | b'}' | b']') | None) {
                    self.at += 1;
                }
            }
        }
        &self.text[start..self.at]
    }

    fn skip_container(&mut self) {
        let mut depth = 0_usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.skip_string();
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                break;
            }
        }
    }

    fn skip_string(&mut self) {
        self.at += 1;
        loop {
            self.at += text::plain(&self.text[self.at..]).length;
            match self.peek() {
                Some(b'\\') => self.at = (self.at + 2).min(self.text.len()),
                Some(b'"') => break self.at += 1,
                Some(_) => self.at += 1,
                None => break,
            }
        }
    }

    fn step(&mut self) {
        self.at = (self.at + 1).min(self.text.len());
    }
}

/// Returns the members of a compact object in their order. An item is the key with
/// its quotes, and the value. If `object` is not an object, the iterator is empty.
pub fn members(object: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut cursor = Some(Cursor::new(object)).filter(Cursor::at_object);
    if let Some(cursor) = &mut cursor {
        cursor.enter();
    }
    std::iter::from_fn(move || {
        let cursor = cursor.as_mut()?;
        let key = cursor.key()?;
        Some((key, cursor.skip()))
    })
}

/// Returns the value of the member `name` of a compact object. Returns `None` if
/// there is no such member, or if `object` is not an object.
pub fn member<'a>(object: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let plain = text::plain(name.as_bytes()).length == name.len();
    let mut quoted = Vec::new();
    if !plain {
        text::quote(name, &mut quoted);
    }
    members(object)
        .find(|(key, _)| if plain { content(key) == name.as_bytes() } else { *key == quoted })
        .map(|(_, value)| value)
}

/// Returns a key without its quotes.
fn content(key: &[u8]) -> &[u8] {
    key.get(1..key.len() - 1).unwrap_or_default()
}

/// Appends a copy of the compact object `object` to `out`. The first member of the
/// copy is `name` with the value `value`. The copy omits the members in `drop` and
/// any other member `name`. If `object` is not an object, it is treated as an empty
/// object. Each key is compared with all names in `drop`, so `drop` should have only
/// a few names.
pub fn with_first(object: &[u8], name: &str, value: &[u8], drop: &[&str], out: &mut Vec<u8>) {
    let quoted = |name: &str| {
        let mut quoted = Vec::with_capacity(name.len() + 2);
        text::quote(name, &mut quoted);
        quoted
    };
    let name = quoted(name);
    let dropped: Vec<Vec<u8>> = drop.iter().map(|name| quoted(name)).collect();
    out.reserve(object.len() + name.len() + value.len() + 3);
    out.push(b'{');
    put_key(&name, out);
    out.extend_from_slice(value);
    for (key, value) in members(object) {
        if key != name && !dropped.iter().any(|dropped| dropped == key) {
            put_key(key, out);
            out.extend_from_slice(value);
        }
    }
    out.push(b'}');
}

/// Appends a quoted key and a colon to `out`. Appends a comma before every key
/// except the first key of an object. Before the first key, `out` ends with `{`. No
/// value ends with `{`.
pub(super) fn put_key(key: &[u8], out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    out.extend_from_slice(key);
    out.push(b':');
}
