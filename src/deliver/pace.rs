//! Pacing: the limit of the events that a connection is sent in a second. Events
//! over the limit stay in the ring or in the log.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::token_bucket::TokenBucket;
use crate::hub::{Slice, SubscriptionId, WriteBudget};

/// The burst of a pace, as the time in which its bucket refills. It is short, so
/// that the pace holds within any second. A burst contains at least one event.
const BURST: Duration = Duration::from_millis(100);

/// The pace of a connection. Zero means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// The most events a second. Resources of a snapshot count
    /// (`streams.pace_events`).
    pub events: u32,
    /// The most bytes of events a second (`streams.pace_bytes`).
    pub bytes: u64,
}

/// The two token buckets of a connection.
pub(super) struct Pacer {
    events: TokenBucket,
    bytes: TokenBucket,
    /// The start of the buckets' time.
    begun: Instant,
    /// The timer that wakes the task when an empty bucket has refilled.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pacer {
    /// Returns `None` for a pace without limits, so that such a connection needs no
    /// memory for it.
    pub(super) fn new(pace: Pace) -> Option<Box<Pacer>> {
        (pace != Pace::default()).then(|| {
            let (events, bytes) =
                (TokenBucket::new(pace.events.into()), TokenBucket::new(pace.bytes));
            Box::new(Pacer { events, bytes, begun: Instant::now(), timer: None })
        })
    }

    /// Reduces `budget` to the events and bytes that the pace permits now. Pending
    /// if it permits none; the task of `cx` is woken when it permits some.
    pub(super) fn poll_budget(
        &mut self,
        cx: &mut Context<'_>,
        budget: &mut WriteBudget,
    ) -> Poll<()> {
        loop {
            let Err(due) = self.narrow(budget) else {
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

    fn narrow(&self, budget: &mut WriteBudget) -> Result<(), Duration> {
        let now = self.begun.elapsed();
        let (events, bytes) = (self.events.tokens(BURST, now)?, self.bytes.tokens(BURST, now)?);
        budget.events = budget.events.min(u32::try_from(events).unwrap_or(u32::MAX));
        budget.bytes = budget.bytes.min(usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(())
    }

    /// Takes the written events and bytes out of the buckets. An event can be larger
    /// than a bucket. The bucket then has a debt, and the next event waits until the
    /// debt is refilled.
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
