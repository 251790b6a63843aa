//! The progress of the fan-out of one log on one shard.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::event::Offset;
use crate::log::Log;
use crate::sync::AtomicU64;

/// The progress of the fan-out of one log on one shard. Each subscription to the log
/// on this shard has a reference to it.
///
/// The fan-out sets `tail` to the end of a batch before it pushes the batch to the
/// first subscription. It sets `fanned_to` to this offset after the last push. A
/// subscription enters the index first and then reads `tail` under the lock of its
/// connection. If `tail` is beyond the last event that the subscription has read,
/// the fan-out may already have skipped the subscription. The subscription then
/// reads the log further before it goes live ([`Follower`](crate::log::Follower)).
pub(super) struct FanoutProgress {
    pub(super) log: Arc<Log>,
    tail: AtomicU64,
    fanned_to: AtomicU64,
    pub(super) stats: Arc<LagStats>,
}

impl FanoutProgress {
    pub(super) fn new(log: Arc<Log>, stats: Arc<LagStats>) -> FanoutProgress {
        let head = log.head().0;
        let (tail, fanned_to) = (AtomicU64::new(head), AtomicU64::new(head));
        FanoutProgress { log, tail, fanned_to, stats }
    }

    pub(super) fn tail(&self) -> Offset {
        Offset(self.tail.load(Ordering::SeqCst))
    }

    pub(super) fn fanned_to(&self) -> Offset {
        Offset(self.fanned_to.load(Ordering::SeqCst))
    }

    /// Returns whether the log has events after `fanned_to`, which are not fanned
    /// out yet.
    pub(super) fn is_behind(&self) -> bool {
        self.fanned_to() < self.log.head()
    }

    pub(super) fn set_tail(&self, end: Offset) {
        self.tail.store(end.0, Ordering::SeqCst);
    }

    pub(super) fn set_fanned_to(&self, end: Offset) {
        self.fanned_to.store(end.0, Ordering::SeqCst);
    }
}

/// Statistics about the subscriptions of a shard that are behind their log.
#[derive(Default)]
pub(super) struct LagStats {
    /// The number of subscriptions that are catching up. Each
    /// [`Subscription`](super::subscription::Subscription) counts itself.
    pub(super) catching_up: AtomicU64,
    /// The largest lag of a subscription at the last tick of the shard, in offsets.
    pub(super) lag: AtomicU64,
}
