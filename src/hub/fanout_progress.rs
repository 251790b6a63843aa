//! How far one shard has fanned out one log.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::event::Offset;
use crate::log::Log;
use crate::sync::AtomicU64;

/// How far one shard has fanned out one log. Each subscription to the log on
/// that shard refers to it.
///
/// `tail` is set before the first subscriber of a batch is visited, `fanned_to`
/// after the last. A subscription that reads `tail` under its own lock, after
/// it was put into the index, can therefore tell whether a batch that it has
/// not read is still going to visit it ([`Follower`](crate::log::Follower)).
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

    /// Whether the log has events beyond `fanned_to`.
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

/// How far the subscriptions of a shard are behind their logs.
#[derive(Default)]
pub(super) struct LagStats {
    /// Subscriptions that are not live; each [counts itself](super::subscription::Subscription).
    pub(super) catching_up: AtomicU64,
    /// How far the slowest is behind, in offsets, as of the last tick.
    pub(super) lag: AtomicU64,
}
