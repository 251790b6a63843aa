//! Counts of deliveries, and of faults in them.

use hdrhistogram::Histogram;

use crate::control_message::ControlMessage;
use crate::latency;
use crate::stamp::{self, EventStamp, PUBLISHERS_MAX};

/// Sums over all subscribers of a run.
pub struct DeliveryStats {
    /// The number of events delivered.
    pub deliveries: u64,
    /// The number of reads that returned events. Fewer than deliveries if the
    /// server or the generator was behind and several events came in one read.
    pub reads: u64,
    /// The bytes of all streams, whether or not they complete an event.
    pub bytes: u64,
    /// The number of events that did not arrive, or arrived after later
    /// ones.
    pub lost: u64,
    /// The number of events that arrived again.
    pub repeated: u64,
    /// The number of events whose id is not greater than the id before, or than the position
    /// that the stream had sent.
    pub disordered: u64,
    /// The number of `gap` messages.
    pub gaps: u64,
    /// The number of streams that ended before the run.
    pub ended: u64,
    /// The number of responses to WebSocket commands.
    pub answers: u64,
    /// The time from the due time of an event until it was read, in nanoseconds.
    pub latency: Histogram<u64>,
    /// Every stamp that arrived, if the caller set this to `Some`.
    pub stamps: Option<Vec<EventStamp>>,
}

/// The events that one subscriber has received, as counts and positions.
#[derive(Clone, Default)]
pub struct SubscriberProgress {
    next: [u64; PUBLISHERS_MAX],
    offset: u64,
    /// The number of `gap` messages.
    pub gaps: u64,
    /// The number of events that an overflow policy dropped, from the `gap`
    /// messages.
    pub dropped: u64,
    /// The end of the stream.
    pub end: StreamEnd,
}

/// The end of a stream, from its last control message or close frame.
#[derive(Clone, Debug, Default)]
pub struct StreamEnd {
    /// The reason in its `stream-close`.
    pub reason: Option<String>,
    /// The position in its `stream-close`.
    pub position: Option<u64>,
    /// The code in the WebSocket close frame.
    pub code: Option<u16>,
    /// The time at which this message was read, by [`clock::now`](crate::clock::now).
    pub at: u64,
}

impl SubscriberProgress {
    /// Returns the offset to resume from.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns how many events of a publisher arrived, if none was lost.
    pub fn of(&self, publisher: usize) -> u64 {
        self.next[publisher]
    }

    /// Records a control message.
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

    /// Records a WebSocket close frame.
    pub fn record_close_frame(&mut self, payload: &[u8], now: u64) {
        let StreamEnd { code, at, .. } = &mut self.end;
        *code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        if *at == 0 {
            *at = now;
        }
    }
}

impl DeliveryStats {
    /// Returns counts of zero.
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

    /// Checks and records one event, several events that a server put into one,
    /// or a control message.
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

    /// Counts the events that were published and that this subscriber has not
    /// received as lost.
    pub fn finish(&mut self, progress: &SubscriberProgress, published: &[u64]) {
        for (publisher, &events) in published.iter().enumerate() {
            self.lost += events.saturating_sub(progress.next[publisher]);
        }
    }

    /// Returns whether every subscriber received every event once and in order.
    pub fn has_no_faults(&self) -> bool {
        self.faults() == [0; 5]
    }

    /// Returns the numbers of events lost, repeated and out of order, of gaps,
    /// and of streams cut.
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
    fn loss_repeats_and_disorder_are_faults() {
        check(&[0, 1, 2], 3, [0, 0, 0]);
        check(&[0, 2], 3, [1, 0, 0]);
        check(&[0, 1], 3, [1, 0, 0]);
        check(&[0, 1, 1, 2], 3, [0, 1, 1]);
        check(&[0, 2, 1], 3, [1, 1, 1]);
        check(&[], 3, [3, 0, 0]);
    }

    #[test]
    fn several_events_in_one_message_are_counted() {
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
    fn a_position_ahead_of_the_events_is_a_fault() {
        let (mut stats, mut progress) = (DeliveryStats::new(), SubscriberProgress::default());
        stats.record(&mut progress, b"id: a-2\nevent: heartbeat\ndata: {}", 1);
        let mut text = b"id: a-2\ndata: ".to_vec();
        EventStamp { publisher: 0, sequence: 0, due: 0 }.write(&mut text, 64);
        stats.record(&mut progress, &text, 2);
        assert_eq!(stats.disordered, 1);
    }

    #[test]
    fn gaps_and_the_end_are_recorded() {
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
        assert_eq!(progress.offset(), 0, "the position of a close does not move the offset");
    }
}
