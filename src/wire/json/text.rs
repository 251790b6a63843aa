//! The content of strings: escapes there and back.

use std::borrow::Cow;

/// A run of bytes that a JSON string may hold as they are.
pub(super) struct Plain {
    /// Bytes before the first quote, backslash or control character.
    pub(super) length: usize,
    /// Whether all of them are ASCII, and so need no check for UTF-8.
    pub(super) ascii: bool,
}

/// Measures the plain run that `bytes` begins with, eight bytes at a step.
pub(super) fn plain(bytes: &[u8]) -> Plain {
    let mut length = 0;
    let mut seen = 0;
    while let Some(chunk) = bytes[length..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let stops = stops(word);
        if stops != 0 {
            let before = stops.trailing_zeros() as usize / 8;
            seen |= word & ((1 << (8 * before)) - 1);
            return Plain { length: length + before, ascii: seen & HIGH_BITS == 0 };
        }
        seen |= word;
        length += 8;
    }
    let mut ascii = seen & HIGH_BITS == 0;
    for &byte in &bytes[length..] {
        if matches!(byte, b'"' | b'\\' | ..0x20) {
            break;
        }
        ascii &= byte.is_ascii();
        length += 1;
    }
    Plain { length, ascii }
}

const HIGH_BITS: u64 = every(0x80);

const fn every(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Marks, by its high bit, the lowest byte of `word` that is a quote, a
/// backslash or below 0x20. Bytes above a marked one may be marked wrongly (a
/// subtraction borrows from them), so only the lowest mark means anything.
fn stops(word: u64) -> u64 {
    let below = |word: u64, bound: u8| word.wrapping_sub(every(bound)) & !word;
    let control = below(word, 0x20);
    let quote = below(word ^ every(b'"'), 1);
    let backslash = below(word ^ every(b'\\'), 1);
    (control | quote | backslash) & HIGH_BITS
}

/// Reads the escape that `bytes` begins with: the character and the escape's
/// length in bytes, two `\u` in the case of a surrogate pair.
pub(super) fn escape(bytes: &[u8]) -> Result<(char, usize), &'static str> {
    let character = match bytes.get(1) {
        Some(b'u') => return unicode_escape(bytes),
        Some(&byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
        Some(b'b') => '\x08',
        Some(b'f') => '\x0c',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(_) | None => return Err("JSON has no such escape"),
    };
    Ok((character, 2))
}

fn unicode_escape(bytes: &[u8]) -> Result<(char, usize), &'static str> {
    const LONE: &str = "an escape of half a surrogate pair";
    let first = code_unit(bytes).ok_or("an escape by number needs four hexadecimal digits")?;
    if let Some(character) = char::from_u32(first) {
        return Ok((character, 6));
    }
    let second = code_unit(&bytes[6..]).ok_or(LONE)?;
    if first < 0xdc00 && (0xdc00..0xe000).contains(&second) {
        let scalar = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return Ok((char::from_u32(scalar).ok_or(LONE)?, 12));
    }
    Err(LONE)
}

/// The number in the `\uXXXX` that `bytes` begins with.
fn code_unit(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_prefix(br"\u")?.first_chunk::<4>()?;
    digits.iter().try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)?))
}

/// A compact scalar as text: a string's content, the JSON text of a number,
/// a boolean or null; none for objects and arrays.
pub fn scalar_text(value: &[u8]) -> Option<Cow<'_, str>> {
    match value.first()? {
        b'{' | b'[' => None,
        b'"' => string(value),
        _ => str::from_utf8(value).ok().map(Cow::Borrowed),
    }
}

/// A compact string's content; none for anything else.
pub fn string(value: &[u8]) -> Option<Cow<'_, str>> {
    let content = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let content = str::from_utf8(content).ok()?;
    if !content.contains('\\') {
        return Some(Cow::Borrowed(content));
    }
    let mut decoded = String::with_capacity(content.len());
    let mut rest = content;
    while let Some(at) = rest.find('\\') {
        decoded.push_str(&rest[..at]);
        let (character, length) = escape(&rest.as_bytes()[at..]).ok()?;
        decoded.push(character);
        rest = &rest[at + length..];
    }
    decoded.push_str(rest);
    Some(Cow::Owned(decoded))
}

/// Appends `text` as a JSON string. One text has one spelling: only what must
/// be escaped is, in the shorter way where there are two.
pub fn quote(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let (clean, after) = rest.split_at(plain(rest).length);
        out.extend_from_slice(clean);
        let Some((&byte, after)) = after.split_first() else { break };
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            0x08 => out.extend(br"\b"),
            0x0c => out.extend(br"\f"),
            b'\n' => out.extend(br"\n"),
            b'\r' => out.extend(br"\r"),
            b'\t' => out.extend(br"\t"),
            control => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend(br"\u00");
                out.extend([HEX[usize::from(control >> 4)], HEX[usize::from(control & 15)]]);
            }
        }
        rest = after;
    }
    out.push(b'"');
}
