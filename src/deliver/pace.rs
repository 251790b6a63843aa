//! Pacing: the limit of the number of events and bytes that the gateway sends on a
//! connection per second. Events above the limit wait in the ring or in the log.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::token_bucket::TokenBucket;
use crate::hub::{Slice, SubscriptionId, WriteBudget};

/// The burst of each token bucket of a connection. It is given as a duration: the
/// tokens that refill in this time. The duration is short, so that a connection
/// never gets much more than its pace in any second. A burst contains at least one
/// event.
const BURST: Duration = Duration::from_millis(100);

/// The largest number of events and bytes that a connection is sent per second. Zero
/// means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// The largest number of events per second. A resource of a snapshot counts as
    /// an event (`streams.pace_events`).
    pub events: u32,
    /// The largest number of bytes of events per second (`streams.pace_bytes`).
    pub bytes: u64,
}

/// The two token buckets that limit the events and bytes of a connection.
pub(super) struct Pacer {
    events: TokenBucket,
    bytes: TokenBucket,
    /// The instant at which the buckets were created. All times of the buckets count
    /// from this instant.
    begun: Instant,
    /// The timer that wakes the task when an empty bucket has refilled.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pacer {
    /// Creates full buckets for `pace`. Returns `None` if `pace` has no limit, so
    /// that such a connection uses no memory for buckets.
    pub(super) fn new(pace: Pace) -> Option<Box<Pacer>> {
        (pace != Pace::default()).then(|| {
            let (events, bytes) =
                (TokenBucket::new(pace.events.into()), TokenBucket::new(pace.bytes));
            Box::new(Pacer { events, bytes, begun: Instant::now(), timer: None })
        })
    }

    /// Reduces `budget`, the limits of the next write, to the events and bytes that
    /// the pace permits now. If the pace permits none, the result is pending, and
    /// the task of `cx` is woken when the pace permits some.
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

    /// Takes tokens for the written events and bytes out of the buckets. An event
    /// can need more tokens than a bucket has. The bucket then has a debt, and the
    /// next event waits until the debt is refilled.
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
