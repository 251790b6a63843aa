//! What was delivered, and what was wrong with it.

use hdrhistogram::Histogram;

use crate::control_message::ControlMessage;
use crate::latency;
use crate::stamp::{self, EventStamp, PUBLISHERS_MAX};

/// Sums over all subscribers of a run.
pub struct DeliveryStats {
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
    /// Every stamp that came, where somebody asked for them.
    pub stamps: Option<Vec<EventStamp>>,
}

/// What one subscriber has progress.
#[derive(Clone, Default)]
pub struct SubscriberProgress {
    next: [u64; PUBLISHERS_MAX],
    offset: u64,
    /// Gaps that it was told.
    pub gaps: u64,
    /// Events that an overflow policy dropped, as the gaps say.
    pub dropped: u64,
    /// What its stream ended with.
    pub end: StreamEnd,
}

/// What a stream says at its end.
#[derive(Clone, Debug, Default)]
pub struct StreamEnd {
    /// The reason of its `stream-close`.
    pub reason: Option<String>,
    /// The position in it.
    pub position: Option<u64>,
    /// The code of a WebSocket's close frame.
    pub code: Option<u16>,
    /// When the first of these was read, by [`clock::now`](crate::clock::now).
    pub at: u64,
}

impl SubscriberProgress {
    /// The offset to come back with.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many of a publisher's events it has, if none is lost.
    pub fn of(&self, publisher: usize) -> u64 {
        self.next[publisher]
    }

    /// Takes what a stream says of itself.
    fn record_control(&mut self, control_message: ControlMessage, now: u64) {
        match control_message.kind.as_str() {
            "gap" => {
                self.gaps += 1;
                if control_message.reason.as_deref() == Some("dropped") {
                    self.dropped += control_message.count.unwrap_or(0);
                }
            }
            "stream-close" => {
                let StreamEnd { reason, position, at, .. } = &mut self.end;
                (*reason, *position, *at) = (control_message.reason, control_message.position, now);
                return;
            }
            _ => {}
        }
        self.offset = self.offset.max(control_message.position.unwrap_or(0));
    }

    /// Takes a WebSocket's close frame.
    pub fn record_close_frame(&mut self, payload: &[u8], now: u64) {
        let StreamEnd { code, at, .. } = &mut self.end;
        *code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        if *at == 0 {
            *at = now;
        }
    }
}

impl DeliveryStats {
    /// Nothing yet.
    pub fn new() -> DeliveryStats {
        DeliveryStats {
            deliveries: 0,
            reads: 0,
            bytes: 0,
            lost: 0,
            repeated: 0,
            disordered: 0,
            gaps: 0,
            ended: 0,
            answers: 0,
            latency: latency::empty(),
            stamps: None,
        }
    }

    /// Checks one event, or several that a server put into one, or whatever
    /// else a stream says.
    pub fn record(&mut self, progress: &mut SubscriberProgress, text: &[u8], now: u64) {
        let Some((stamp, mut rest)) = EventStamp::next(text) else {
            if let Some(control_message) = ControlMessage::read(text) {
                self.gaps += u64::from(control_message.kind == "gap");
                self.answers += u64::from(control_message.kind == "response");
                progress.record_control(control_message, now);
            }
            return;
        };
        self.record_event(progress, stamp, now);
        if let Some(offset) = stamp::offset(text) {
            self.disordered += u64::from(offset <= progress.offset);
            progress.offset = offset;
        }
        while let Some((stamp, behind)) = EventStamp::next(rest) {
            self.record_event(progress, stamp, now);
            rest = behind;
        }
    }

    fn record_event(&mut self, progress: &mut SubscriberProgress, stamp: EventStamp, now: u64) {
        let EventStamp { publisher, sequence, due } = stamp;
        self.deliveries += 1;
        self.latency.saturating_record(now.saturating_sub(due));
        let next = &mut progress.next[publisher];
        if sequence < *next {
            self.repeated += 1;
        } else {
            self.lost += sequence - *next;
            *next = sequence + 1;
        }
        if let Some(stamps) = &mut self.stamps {
            stamps.push(stamp);
        }
    }

    /// Counts what `progress` has not got of what was published.
    pub fn finish(&mut self, progress: &SubscriberProgress, published: &[u64]) {
        for (publisher, &events) in published.iter().enumerate() {
            self.lost += events.saturating_sub(progress.next[publisher]);
        }
    }

    /// Whether every subscriber got every event once and in order.
    pub fn has_no_faults(&self) -> bool {
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
        let (mut stats, mut progress) = (DeliveryStats::new(), SubscriberProgress::default());
        for &sequence in sequences {
            let text = format!("id: a-{}{}", sequence + 1, "\ndata: ");
            let mut text = text.into_bytes();
            EventStamp { publisher: 0, sequence, due: 0 }.write(&mut text, 64);
            stats.record(&mut progress, &text, 5);
        }
        stats.finish(&progress, &[published]);
        assert_eq!([stats.lost, stats.repeated, stats.disordered], expected, "{sequences:?}");
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
        let (mut stats, mut progress) = (DeliveryStats::new(), SubscriberProgress::default());
        let mut text = b"event: data\ndata:[".to_vec();
        for sequence in [0, 1, 3] {
            EventStamp { publisher: 0, sequence, due: 0 }.write(&mut text, 64);
            text.push(b',');
        }
        stats.record(&mut progress, &text, 5);
        assert_eq!([stats.deliveries, stats.lost, stats.repeated], [3, 1, 0]);
    }

    #[test]
    fn a_position_that_runs_ahead_is_seen() {
        let (mut stats, mut progress) = (DeliveryStats::new(), SubscriberProgress::default());
        stats.record(&mut progress, b"id: a-2\nevent: heartbeat\ndata: {}", 1);
        let mut text = b"id: a-2\ndata: ".to_vec();
        EventStamp { publisher: 0, sequence: 0, due: 0 }.write(&mut text, 64);
        stats.record(&mut progress, &text, 2);
        assert_eq!(stats.disordered, 1);
    }

    #[test]
    fn gaps_and_the_end_are_heard() {
        let (mut stats, mut progress) = (DeliveryStats::new(), SubscriberProgress::default());
        for count in [3, 4] {
            let gap = format!(r#"{{"type":"gap","data":{{"reason":"dropped","count":{count}}}}}"#);
            stats.record(&mut progress, gap.as_bytes(), 1);
        }
        assert_eq!((progress.gaps, progress.dropped, stats.gaps), (2, 7, 2));
        let close = "id: a-9\nevent: stream-close\ndata: {\"reason\":\"draining\"}";
        stats.record(&mut progress, close.as_bytes(), 8);
        progress.record_close_frame(&1012_u16.to_be_bytes(), 9);
        let StreamEnd { reason, position, code, at } = progress.end.clone();
        assert_eq!(
            (reason.as_deref(), position, code, at),
            (Some("draining"), Some(9), Some(1012), 8)
        );
        assert_eq!(progress.offset(), 0, "what an end says is compared, not taken");
    }
}
