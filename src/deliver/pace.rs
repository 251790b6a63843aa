//! How fast a connection is sent events: what does not go out yet waits in
//! the ring or in the log, like everything else that a client does not take.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::token_bucket::TokenBucket;
use crate::hub::{Slice, SubscriptionId, WriteBudget};

/// What may have been saved up: a tenth of a second's worth, so that the pace
/// holds within any second, and at least one event.
const SAVED: Duration = Duration::from_millis(100);

/// Most that a connection is sent; zero is no limit of that kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Events a second, resources of a snapshot among them
    /// (`streams.pace_events`).
    pub events: u32,
    /// Bytes of them a second (`streams.pace_bytes`).
    pub bytes: u64,
}

/// The two token buckets of a connection.
pub(super) struct Pacer {
    events: TokenBucket,
    bytes: TokenBucket,
    /// The moment that theirs are counted from.
    begun: Instant,
    /// Made while there is nothing left in one of them.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pacer {
    /// None without any limit, so that a connection without costs nothing.
    pub(super) fn new(pace: Pace) -> Option<Box<Pacer>> {
        (pace != Pace::default()).then(|| {
            let (events, bytes) =
                (TokenBucket::new(pace.events.into()), TokenBucket::new(pace.bytes));
            Box::new(Pacer { events, bytes, begun: Instant::now(), timer: None })
        })
    }

    /// Narrows `room` to what may go now; pending while that is nothing, and
    /// then the task of `cx` is woken in time.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>, room: &mut WriteBudget) -> Poll<()> {
        loop {
            let Err(due) = self.narrow(room) else {
                self.timer = None;
                return Poll::Ready(());
            };
            let due = self.begun + due;
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn narrow(&self, room: &mut WriteBudget) -> Result<(), Duration> {
        let now = self.begun.elapsed();
        let (events, bytes) = (self.events.tokens(SAVED, now)?, self.bytes.tokens(SAVED, now)?);
        room.events = room.events.min(u32::try_from(events).unwrap_or(u32::MAX));
        room.bytes = room.bytes.min(usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(())
    }

    /// Takes what was written out of the buckets. One event may be larger
    /// than a bucket: it leaves a debt that is waited for.
    pub(super) fn charge(&mut self, written: &[Slice]) {
        let records = written.iter().filter(|slice| slice.subscription != SubscriptionId::NONE);
        let (mut events, mut bytes) = (0, 0);
        for slice in records {
            events += u64::from(slice.events.max(1));
            bytes += slice.bytes.len() as u64;
        }
        let now = self.begun.elapsed();
        self.events.charge(events, now);
        self.bytes.charge(bytes, now);
    }
}
