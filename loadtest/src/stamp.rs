//! The stamp in an event's data, by which its delivery is checked: the
//! publisher, the sequence number, and the time at which the event was due.

use std::io::Write as _;

use memchr::memchr_iter;

/// The most publishers of a run. Each subscriber keeps a number for each of
/// them.
pub const PUBLISHERS_MAX: usize = 16;

/// The stamp of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventStamp {
    /// The publisher's number, below [`PUBLISHERS_MAX`].
    pub publisher: usize,
    /// The event's number among those of the publisher, from 0.
    pub sequence: u64,
    /// The time at which the event was due, in nanoseconds of
    /// [`clock::now`](crate::clock::now).
    pub due: u64,
}

impl EventStamp {
    /// Appends a JSON object of `bytes` bytes, or more if the stamp alone is
    /// longer.
    pub fn write(self, out: &mut Vec<u8>, bytes: usize) {
        let start = out.len();
        let EventStamp { publisher, sequence, due } = self;
        write!(out, r#"{{"w":{publisher},"s":{sequence},"t":{due},"p":""#)
            .expect("writing to a Vec cannot fail");
        let end = start + bytes.saturating_sub(2);
        out.resize(end.max(out.len()), b'x');
        out.extend_from_slice(b"\"}");
    }

    /// Finds the stamp in an event of any wire form.
    pub fn read(text: &[u8]) -> Option<EventStamp> {
        EventStamp::next(text).map(|(stamp, _)| stamp)
    }

    /// Finds the first stamp in several events. Returns it with the text after
    /// it.
    pub fn next(text: &[u8]) -> Option<(EventStamp, &[u8])> {
        // Searching one letter is faster than searching a word.
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

/// Returns the offset in the id at the start of an event: `id:
/// <epoch>-<offset>` or `{"id":"<epoch>-<offset>"`. `None` if the event starts
/// otherwise.
pub fn offset(text: &[u8]) -> Option<u64> {
    let id = text.strip_prefix(b"id: ").or_else(|| text.strip_prefix(br#"{"id":""#))?;
    let dash = memchr::memchr(b'-', &id[..id.len().min(32)])?;
    number(&id[dash + 1..]).map(|(offset, _)| offset)
}

/// Returns the offset of an event id.
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
