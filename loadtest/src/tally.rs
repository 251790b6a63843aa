//! What was delivered, and what was wrong with it.

use hdrhistogram::Histogram;

use crate::mark::{self, Mark, PUBLISHERS_MAX};

/// The longest latency that is told apart, in nanoseconds.
const LATENCY_MAX: u64 = 600_000_000_000;

/// Sums over all subscribers of a run.
pub struct Tally {
    /// Events that were delivered.
    pub deliveries: u64,
    /// Reads that had events: fewer than deliveries where a server, or the
    /// generator, was behind.
    pub reads: u64,
    /// Events that were published and never came, or came behind later ones.
    pub lost: u64,
    /// Events that came again.
    pub repeated: u64,
    /// Events whose id was not beyond the one before.
    pub disordered: u64,
    /// Gaps that a server told.
    pub gaps: u64,
    /// Streams that ended before the run did.
    pub ended: u64,
    /// From when an event was due to when it was read, in nanoseconds.
    pub latency: Histogram<u64>,
}

/// What one subscriber has seen.
#[derive(Clone, Copy, Default)]
pub struct Seen {
    next: [u64; PUBLISHERS_MAX],
    offset: u64,
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Tally {
        let latency = Histogram::new_with_bounds(1_000, LATENCY_MAX, 3)
            .expect("the bounds are in order and three digits are allowed");
        let (deliveries, reads, lost, repeated, disordered, gaps, ended) = (0, 0, 0, 0, 0, 0, 0);
        Tally { deliveries, reads, lost, repeated, disordered, gaps, ended, latency }
    }

    /// Checks one event, or whatever else a stream says.
    pub fn take(&mut self, seen: &mut Seen, text: &[u8], now: u64) {
        let Some(Mark { publisher, sequence, due }) = Mark::read(text) else {
            self.gaps += u64::from(is_gap(text));
            return;
        };
        self.deliveries += 1;
        self.latency.saturating_record(now.saturating_sub(due));
        let next = &mut seen.next[publisher];
        if sequence < *next {
            self.repeated += 1;
        } else {
            self.lost += sequence - *next;
            *next = sequence + 1;
        }
        if let Some(offset) = mark::offset(text) {
            self.disordered += u64::from(offset <= seen.offset);
            seen.offset = offset;
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
        [self.lost, self.repeated, self.disordered, self.gaps, self.ended] == [0; 5]
    }
}

fn is_gap(text: &[u8]) -> bool {
    text.starts_with(b"event: gap")
        || memchr::memmem::find(text, b"\nevent: gap").is_some()
        || memchr::memmem::find(text, br#""type":"gap""#).is_some()
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
}
