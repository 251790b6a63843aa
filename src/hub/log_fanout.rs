//! One log on one shard: how far it is fanned out, and who wants of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::index::Index;
use crate::event::{Offset, ResourceId};
use crate::log::Log;
use crate::sync::{AtomicU64, Mutex};

/// A log as one shard fans it out.
///
/// `tail` is set before the first subscriber of a batch is visited, `fanned`
/// after the last. A subscription that reads `tail` under its own lock, after
/// it was put into the index, can therefore tell whether a batch that it has
/// not read is still going to visit it (`docs/architecture.md#delivery`).
pub(super) struct LogFanout {
    pub(super) log: Arc<Log>,
    tail: AtomicU64,
    fanned_to: AtomicU64,
    pub(super) index: Mutex<Index>,
    pub(super) stats: Arc<LagStats>,
}

impl LogFanout {
    pub(super) fn new(log: Arc<Log>, stats: Arc<LagStats>) -> LogFanout {
        let head = log.head().0;
        LogFanout {
            log,
            tail: AtomicU64::new(head),
            fanned_to: AtomicU64::new(head),
            index: Mutex::default(),
            stats,
        }
    }

    pub(super) fn tail(&self) -> Offset {
        Offset(self.tail.load(Ordering::SeqCst))
    }

    pub(super) fn fanned_to(&self) -> Offset {
        Offset(self.fanned_to.load(Ordering::SeqCst))
    }

    pub(super) fn begin(&self, end: Offset) {
        self.tail.store(end.0, Ordering::SeqCst);
    }

    pub(super) fn finish(&self, end: Offset) {
        self.fanned_to.store(end.0, Ordering::SeqCst);
    }
}

/// What of its log a subscription covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of it.
    Whole,
    /// The events of one resource.
    Subject(ResourceId),
}

/// How far the subscriptions of a shard are behind their logs.
#[derive(Default)]
pub(super) struct LagStats {
    /// Subscriptions that are not live; each [counts itself](super::subscription::Subscription).
    pub(super) catching_up: AtomicU64,
    /// How far the slowest is behind, in offsets, as of the last tick.
    pub(super) lag: AtomicU64,
}
