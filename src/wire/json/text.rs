//! The content of JSON strings: escaping and unescaping.

use std::borrow::Cow;

/// A sequence of bytes that needs no escape in a JSON string.
pub(super) struct Plain {
    /// The number of bytes before the first quote, backslash or control
    /// character.
    pub(super) length: usize,
    /// Whether all these bytes are ASCII. Such bytes need no check for UTF-8.
    pub(super) ascii: bool,
}

/// Returns the longest sequence at the start of `bytes` that needs no escape. The
/// scan reads eight bytes in each step.
pub(super) fn plain(bytes: &[u8]) -> Plain {
    let mut length = 0;
    let mut all_bits = 0;
    while let Some(chunk) = bytes[length..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let stops = stops(word);
        if stops != 0 {
            let before = stops.trailing_zeros() as usize / 8;
            all_bits |= word & ((1 << (8 * before)) - 1);
            return Plain { length: length + before, ascii: all_bits & HIGH_BITS == 0 };
        }
        all_bits |= word;
        length += 8;
    }
    let mut ascii = all_bits & HIGH_BITS == 0;
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

/// Finds the lowest byte of `word` that is a quote, a backslash or below 0x20. In
/// the result, the lowest set bit is the high bit of this byte. The result is 0 if
/// there is no such byte. Higher set bits can be wrong, because the subtraction for
/// a byte can borrow from the next higher byte.
fn stops(word: u64) -> u64 {
    let below = |word: u64, bound: u8| word.wrapping_sub(every(bound)) & !word;
    let control = below(word, 0x20);
    let quote = below(word ^ every(b'"'), 1);
    let backslash = below(word ^ every(b'\\'), 1);
    (control | quote | backslash) & HIGH_BITS
}

/// Returns the character of the escape at the start of `bytes`, and the length of
/// the escape in bytes. A surrogate pair has two `\u` escapes, which count as one.
pub(super) fn escape(bytes: &[u8]) -> Result<(char, usize), &'static str> {
    let character = match bytes.get(1) {
        Some(b'u') => return unicode_escape(bytes),
        Some(&byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
        Some(b'b') => '\x08',
        Some(b'f') => '\x0c',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(_) | None => return Err("not an escape of JSON"),
    };
    Ok((character, 2))
}

fn unicode_escape(bytes: &[u8]) -> Result<(char, usize), &'static str> {
    const LONE: &str = "the escape of a surrogate needs the other half of its pair";
    let first = code_unit(bytes).ok_or("a \\u escape needs four hexadecimal digits")?;
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

/// Returns the UTF-16 code unit of the `\uXXXX` escape at the start of `bytes`.
fn code_unit(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_prefix(br"\u")?.first_chunk::<4>()?;
    digits.iter().try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)?))
}

/// Returns the text of a JSON scalar: the content of a string without its escapes,
/// or the JSON text of a number, a boolean or null. Returns `None` for an object or
/// array.
pub fn scalar_text(value: &[u8]) -> Option<Cow<'_, str>> {
    match value.first()? {
        b'{' | b'[' => None,
        b'"' => string(value),
        _ => str::from_utf8(value).ok().map(Cow::Borrowed),
    }
}

/// Returns the content of a JSON string without its escapes. Returns `None` for any
/// other value.
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

/// Appends `text` as a JSON string. A character is escaped only if JSON requires it,
/// and then with the shortest escape. Each text therefore has exactly one spelling.
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
