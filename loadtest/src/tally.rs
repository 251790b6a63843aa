//! What was delivered, and what was wrong with it.

use hdrhistogram::Histogram;

use crate::latency;
use crate::mark::{self, Mark, PUBLISHERS_MAX};
use crate::notice::Notice;

/// Sums over all subscribers of a run.
pub struct Tally {
    /// Events that were delivered.
    pub deliveries: u64,
    /// Reads that had events: fewer than deliveries where a server, or the
    /// generator, was behind.
    pub reads: u64,
    /// Bytes of streams, of whole events or not.
    pub bytes: u64,
    /// Events that were published and never came, or came behind later ones.
    pub lost: u64,
    /// Events that came again.
    pub repeated: u64,
    /// Events whose id was not beyond the one before, or the position that
    /// the stream had told.
    pub disordered: u64,
    /// Gaps that a server told.
    pub gaps: u64,
    /// Streams that ended before the run did.
    pub ended: u64,
    /// Commands that were answered, over WebSocket.
    pub answers: u64,
    /// From when an event was due to when it was read, in nanoseconds.
    pub latency: Histogram<u64>,
    /// Every mark that came, where somebody asked for them.
    pub marks: Option<Vec<Mark>>,
}

/// What one subscriber has seen.
#[derive(Clone, Default)]
pub struct Seen {
    next: [u64; PUBLISHERS_MAX],
    offset: u64,
    /// Gaps that it was told.
    pub gaps: u64,
    /// Events that an overflow policy dropped, as the gaps say.
    pub dropped: u64,
    /// What its stream ended with.
    pub farewell: Farewell,
}

/// What a stream says at its end.
#[derive(Clone, Debug, Default)]
pub struct Farewell {
    /// The reason of its `stream-close`.
    pub reason: Option<String>,
    /// The position in it.
    pub position: Option<u64>,
    /// The code of a WebSocket's close frame.
    pub code: Option<u16>,
    /// When the first of these was read, by [`clock::now`](crate::clock::now).
    pub at: u64,
}

impl Seen {
    /// The offset to come back with.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many of a publisher's events it has, if none is lost.
    pub fn of(&self, publisher: usize) -> u64 {
        self.next[publisher]
    }

    /// Takes what a stream says of itself.
    fn hear(&mut self, notice: Notice, now: u64) {
        match notice.kind.as_str() {
            "gap" => {
                self.gaps += 1;
                if notice.reason.as_deref() == Some("dropped") {
                    self.dropped += notice.count.unwrap_or(0);
                }
            }
            "stream-close" => {
                let Farewell { reason, position, at, .. } = &mut self.farewell;
                (*reason, *position, *at) = (notice.reason, notice.position, now);
                return;
            }
            _ => {}
        }
        self.offset = self.offset.max(notice.position.unwrap_or(0));
    }

    /// Takes a WebSocket's close frame.
    pub fn closed(&mut self, payload: &[u8], now: u64) {
        let Farewell { code, at, .. } = &mut self.farewell;
        *code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        if *at == 0 {
            *at = now;
        }
    }
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Tally {
        Tally {
            deliveries: 0,
            reads: 0,
            bytes: 0,
            lost: 0,
            repeated: 0,
            disordered: 0,
            gaps: 0,
            ended: 0,
            answers: 0,
            latency: latency::none(),
            marks: None,
        }
    }

    /// Checks one event, or several that a server put into one, or whatever
    /// else a stream says.
    pub fn take(&mut self, seen: &mut Seen, text: &[u8], now: u64) {
        let Some((mark, mut rest)) = Mark::next(text) else {
            if let Some(notice) = Notice::read(text) {
                self.gaps += u64::from(notice.kind == "gap");
                self.answers += u64::from(notice.kind == "response");
                seen.hear(notice, now);
            }
            return;
        };
        self.count(seen, mark, now);
        if let Some(offset) = mark::offset(text) {
            self.disordered += u64::from(offset <= seen.offset);
            seen.offset = offset;
        }
        while let Some((mark, behind)) = Mark::next(rest) {
            self.count(seen, mark, now);
            rest = behind;
        }
    }

    fn count(&mut self, seen: &mut Seen, mark: Mark, now: u64) {
        let Mark { publisher, sequence, due } = mark;
        self.deliveries += 1;
        self.latency.saturating_record(now.saturating_sub(due));
        let next = &mut seen.next[publisher];
        if sequence < *next {
            self.repeated += 1;
        } else {
            self.lost += sequence - *next;
            *next = sequence + 1;
        }
        if let Some(marks) = &mut self.marks {
            marks.push(mark);
        }
    }

    /// Counts what `seen` has not got of what was published.
    pub fn close(&mut self, seen: &Seen, published: &[u64]) {
        for (publisher, &events) in published.iter().enumerate() {
            self.lost += events.saturating_sub(seen.next[publisher]);
        }
    }

    /// Whether every subscriber got every event once and in order.
    pub fn is_whole(&self) -> bool {
        self.faults() == [0; 5]
    }

    /// What was lost, repeated, out of order, told as gaps, and cut.
    pub fn faults(&self) -> [u64; 5] {
        [self.lost, self.repeated, self.disordered, self.gaps, self.ended]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sequences: &[u64], published: u64, expected: [u64; 3]) {
        let (mut tally, mut seen) = (Tally::new(), Seen::default());
        for &sequence in sequences {
            let text = format!("id: a-{}{}", sequence + 1, "\ndata: ");
            let mut text = text.into_bytes();
            Mark { publisher: 0, sequence, due: 0 }.write(&mut text, 64);
            tally.take(&mut seen, &text, 5);
        }
        tally.close(&seen, &[published]);
        assert_eq!([tally.lost, tally.repeated, tally.disordered], expected, "{sequences:?}");
    }

    #[test]
    fn loss_repeats_and_disorder_are_seen() {
        check(&[0, 1, 2], 3, [0, 0, 0]);
        check(&[0, 2], 3, [1, 0, 0]);
        check(&[0, 1], 3, [1, 0, 0]);
        check(&[0, 1, 1, 2], 3, [0, 1, 1]);
        check(&[0, 2, 1], 3, [1, 1, 1]);
        check(&[], 3, [3, 0, 0]);
    }

    #[test]
    fn several_events_in_one_are_told_apart() {
        let (mut tally, mut seen) = (Tally::new(), Seen::default());
        let mut text = b"event: data\ndata:[".to_vec();
        for sequence in [0, 1, 3] {
            Mark { publisher: 0, sequence, due: 0 }.write(&mut text, 64);
            text.push(b',');
        }
        tally.take(&mut seen, &text, 5);
        assert_eq!([tally.deliveries, tally.lost, tally.repeated], [3, 1, 0]);
    }

    #[test]
    fn a_position_that_runs_ahead_is_seen() {
        let (mut tally, mut seen) = (Tally::new(), Seen::default());
        tally.take(&mut seen, b"id: a-2\nevent: heartbeat\ndata: {}", 1);
        let mut text = b"id: a-2\ndata: ".to_vec();
        Mark { publisher: 0, sequence: 0, due: 0 }.write(&mut text, 64);
        tally.take(&mut seen, &text, 2);
        assert_eq!(tally.disordered, 1);
    }

    #[test]
    fn gaps_and_the_end_are_heard() {
        let (mut tally, mut seen) = (Tally::new(), Seen::default());
        for count in [3, 4] {
            let gap = format!(r#"{{"type":"gap","data":{{"reason":"dropped","count":{count}}}}}"#);
            tally.take(&mut seen, gap.as_bytes(), 1);
        }
        assert_eq!((seen.gaps, seen.dropped, tally.gaps), (2, 7, 2));
        let close = "id: a-9\nevent: stream-close\ndata: {\"reason\":\"draining\"}";
        tally.take(&mut seen, close.as_bytes(), 8);
        seen.closed(&1012_u16.to_be_bytes(), 9);
        let Farewell { reason, position, code, at } = seen.farewell.clone();
        assert_eq!(
            (reason.as_deref(), position, code, at),
            (Some("draining"), Some(9), Some(1012), 8)
        );
        assert_eq!(seen.offset(), 0, "what a farewell says is compared, not taken");
    }
}
