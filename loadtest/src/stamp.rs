//! What an event's data carries so that its delivery can be checked: who
//! published it, its number among theirs, and when it was due.

use std::io::Write as _;

use memchr::memchr_iter;

/// Publishers of one run; each subscriber keeps a number for each of them.
pub const PUBLISHERS_MAX: usize = 16;

/// The numbers in one event's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventStamp {
    /// Which publisher, below [`PUBLISHERS_MAX`].
    pub publisher: usize,
    /// Its number among that publisher's, from 0.
    pub sequence: u64,
    /// When it was due, in nanoseconds of [`clock::now`](crate::clock::now).
    pub due: u64,
}

impl EventStamp {
    /// Appends a JSON object of `bytes` bytes (more if the stamp alone needs
    /// more).
    pub fn write(self, out: &mut Vec<u8>, bytes: usize) {
        let start = out.len();
        let EventStamp { publisher, sequence, due } = self;
        write!(out, r#"{{"w":{publisher},"s":{sequence},"t":{due},"p":""#)
            .expect("a Vec takes every write");
        let end = start + bytes.saturating_sub(2);
        out.resize(end.max(out.len()), b'x');
        out.extend_from_slice(b"\"}");
    }

    /// Finds the stamp in an event of any wire form.
    pub fn read(text: &[u8]) -> Option<EventStamp> {
        EventStamp::next(text).map(|(stamp, _)| stamp)
    }

    /// Finds the first stamp in several events, and what stands behind it.
    pub fn next(text: &[u8]) -> Option<(EventStamp, &[u8])> {
        // One letter is found faster than a word.
        let is_first =
            |&at: &usize| text[..at].ends_with(b"\"") && text[at + 1..].starts_with(b"\":");
        let first = memchr_iter(b'w', text).find(is_first)?;
        let (publisher, rest) = number(&text[first + 3..])?;
        let (sequence, rest) = number(rest.strip_prefix(br#","s":"#)?)?;
        let (due, rest) = number(rest.strip_prefix(br#","t":"#)?)?;
        let publisher = publisher as usize;
        (publisher < PUBLISHERS_MAX).then_some((EventStamp { publisher, sequence, due }, rest))
    }
}

/// The offset in the id that an event begins with, where it begins with one:
/// `id: <epoch>-<offset>` or `{"id":"<epoch>-<offset>"`.
pub fn offset(text: &[u8]) -> Option<u64> {
    let id = text.strip_prefix(b"id: ").or_else(|| text.strip_prefix(br#"{"id":""#))?;
    let dash = memchr::memchr(b'-', &id[..id.len().min(32)])?;
    number(&id[dash + 1..]).map(|(offset, _)| offset)
}

/// The offset of an event id.
pub fn offset_of(id: &str) -> Option<u64> {
    id.split_once('-')?.1.parse().ok()
}

fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = text.split_at(digits);
    let add = |sum: u64, digit: &u8| sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
    (digits > 0).then(|| (number.iter().fold(0, add), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_back_from_every_form() {
        let stamp = EventStamp { publisher: 1, sequence: 42, due: 7 };
        let mut data = Vec::new();
        stamp.write(&mut data, 256);
        assert_eq!(data.len(), 256);
        let text = String::from_utf8(data).unwrap();
        for event in [
            format!("id: k3f9x2ab-9\nevent: tick\ndata: {text}"),
            format!(r#"{{"id":"k3f9x2ab-9","type":"tick","data":{text}}}"#),
        ] {
            assert_eq!(EventStamp::read(event.as_bytes()), Some(stamp));
            assert_eq!(offset(event.as_bytes()), Some(9));
        }
        assert_eq!(EventStamp::read(b"event: heartbeat\ndata: {}"), None);
    }
}
