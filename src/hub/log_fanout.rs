//! The fan-out of one log on one shard, and the queue of the fan-outs whose logs
//! have new events.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use tokio::sync::Notify;

use super::fanout_progress::{FanoutProgress, LagStats};
use super::index::Index;
use crate::log::{Log, LogObserver};
use crate::sync::{AtomicBool, Mutex};

/// The fan-out of one log on one shard. It exists while the log has a
/// subscription on this shard.
pub(super) struct LogFanout {
    pub(super) progress: Arc<FanoutProgress>,
    /// The subscriptions to the log on this shard.
    pub(super) index: Mutex<Index>,
    queue: Arc<ProgressQueue>,
    /// Whether the fan-out is in `queue`.
    is_queued: AtomicBool,
}

impl LogFanout {
    /// Returns a fan-out that begins at the log's head and observes the log.
    pub(super) fn start(
        log: &Arc<Log>,
        stats: Arc<LagStats>,
        queue: Arc<ProgressQueue>,
    ) -> Arc<LogFanout> {
        let fanout = Arc::new(LogFanout {
            progress: Arc::new(FanoutProgress::new(log.clone(), stats)),
            index: Mutex::default(),
            queue,
            is_queued: AtomicBool::new(false),
        });
        log.observe(&fanout);
        // Another thread may have committed to the log before the log had this
        // observer.
        if fanout.progress.is_behind() {
            fanout.enqueue();
        }
        fanout
    }

    /// Adds the fan-out to the queue of its shard, if it is not in the queue yet.
    /// The caller must publish the new head of the log before this call.
    fn enqueue(self: &Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::SeqCst) {
            self.queue.push(Arc::downgrade(self));
        }
    }

    /// Records that the fan-out task has removed this fan-out from the queue. The
    /// task must call this before it reads the tail of the log. A commit that comes
    /// too late for this read then adds the fan-out to the queue again.
    pub(super) fn dequeued(&self) {
        self.is_queued.store(false, Ordering::SeqCst);
    }
}

impl LogObserver for LogFanout {
    fn head_moved(self: Arc<Self>) {
        self.enqueue();
    }
}

/// The queue of one shard: the fan-outs whose logs have new events. The fan-out task
/// takes all entries at once. A [`LogFanout`] is in the queue at most once. So the
/// length of the queue is at most the number of subscribed logs, plus the number of
/// fan-outs that ended since the task last took the entries.
///
/// The references are weak, so that the queue does not keep a fan-out whose last
/// subscription has ended.
#[derive(Default)]
pub(super) struct ProgressQueue {
    moved: Mutex<Vec<Weak<LogFanout>>>,
    /// Wakes the fan-out task. It stores a permit if the queue may have entries that
    /// the task has not taken.
    pub(super) wakeup: Notify,
    /// The number of times that the fan-out task was notified.
    #[cfg(test)]
    pub(super) wakeups: std::sync::atomic::AtomicU64,
    /// The number of fan-outs that the fan-out task has taken from the queue.
    #[cfg(test)]
    pub(super) visits: std::sync::atomic::AtomicU64,
}

impl ProgressQueue {
    /// Adds a fan-out to the queue. Notifies the fan-out task only if the queue was
    /// empty, because the task takes all entries at once.
    pub(super) fn push(&self, fanout: Weak<LogFanout>) {
        let was_empty = {
            let mut moved = self.moved.lock();
            moved.push(fanout);
            moved.len() == 1
        };
        if was_empty {
            #[cfg(test)]
            self.wakeups.fetch_add(1, Ordering::Relaxed);
            self.wakeup.notify_one();
        }
    }

    /// Waits until the queue has entries, and moves all of them into `taken`, which
    /// must be empty. The queue reuses the allocation of `taken`.
    ///
    /// # Cancel safety
    /// Safe: entries are moved only after the last wait.
    pub(super) async fn take(&self, taken: &mut Vec<Weak<LogFanout>>) {
        loop {
            std::mem::swap(&mut *self.moved.lock(), taken);
            if !taken.is_empty() {
                #[cfg(test)]
                self.visits.fetch_add(taken.len() as u64, Ordering::Relaxed);
                return;
            }
            self.wakeup.notified().await;
        }
    }
}
