//! Fan-out: moves committed batches into the rings of the subscribers.
//!
//! Each shard serves a part of the connections, and there is one shard for each
//! core. The committer adds a log that has moved to the queue of each shard that
//! has a subscription to the log. The shard reads the new batches from the tail
//! of the log in memory. It visits each subscription that matches a batch once,
//! and pushes the matching events into the ring of the connection. A push never
//! waits: if the events do not fit, the overflow policy decides
//! (`docs/delivery.md`).

mod index;
mod direct_write;
mod fan_out;
mod fanout_progress;
mod log_fanout;
mod overflow;
mod push;
mod ring;
mod fanout_pass;
mod run;
#[cfg(all(test, feature = "shuttle"))]
mod schedules;
mod shard;
mod slice_cache;
mod state;
mod subscriber;
mod subscription;
mod words;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub use overflow::newest_of_each;
pub use run::{DropMarker, Slice, slices};
pub use state::{PollMode, WriterAction};
pub use subscriber::Subscriber;
pub use subscription::ReadRequest;
pub use words::{
    DirectWriter, EndReason, OnGap, Overflow, SLICE_BYTES, Scope, Settings, SubscriptionId,
    SubscriptionSpec, WriteBudget,
};

use crate::metrics::{Metrics, Protocol};
use crate::supervisor::Supervisor;
use shard::{Counts, Shard};

/// All shards.
pub struct Hub {
    shards: Box<[Arc<Shard>]>,
    next_connection: AtomicU64,
    open: Arc<Counts>,
    memory_pressure: Arc<AtomicBool>,
}

impl Hub {
    /// Starts `shards` fan-out tasks on the current tokio runtime, and as many
    /// tick tasks. `supervisor` owns these tasks.
    pub fn start(
        settings: &Settings,
        metrics: &Arc<Metrics>,
        supervisor: &Supervisor,
        shards: usize,
    ) -> Hub {
        let settings = Arc::new(settings.clone());
        let (open, memory_pressure) = (Arc::<Counts>::default(), Arc::<AtomicBool>::default());
        let shard = || {
            let (settings, memory_pressure, open) =
                (settings.clone(), memory_pressure.clone(), open.clone());
            fan_out::start(settings, memory_pressure, open, metrics.clone(), supervisor)
        };
        let shards = (0..shards).map(|_| shard()).collect();
        Hub { shards, next_connection: AtomicU64::new(0), open, memory_pressure }
    }

    /// Replaces the settings from the next tick on. The limits of a ring and the
    /// lifetime of a stream stay as they were when the connection joined.
    pub fn reconfigure(&self, settings: &Settings) {
        let settings = Arc::new(settings.clone());
        for shard in &self.shards {
            shard.reconfigure(&settings);
        }
    }

    /// Sets whether the process is short of memory. If it is, a ring accepts one
    /// event, and the overflow policy decides about further events.
    pub fn set_memory_pressure(&self, memory_pressure: bool) {
        self.memory_pressure.store(memory_pressure, Ordering::Relaxed);
    }

    /// Adds a connection without subscriptions to the next shard in turn. Its
    /// ring and its lifetime are those of `settings`. Returns `None` if
    /// `max_open` connections of this protocol are open; 0 means no limit.
    pub fn join(
        &self,
        protocol: Protocol,
        settings: &Settings,
        max_open: usize,
    ) -> Option<Arc<Subscriber>> {
        let one_more = |open: usize| (max_open == 0 || open < max_open).then_some(open + 1);
        let open = self.open.of(protocol);
        open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        let id = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let shard = &self.shards[id as usize % self.shards.len()];
        Some(shard.join(id, protocol, settings))
    }

    /// Ends each stream at a random time within `spread` from now. A stream that
    /// starts later also ends at such a time, or at once if this time has
    /// passed. If a command is not answered yet, the end waits for the answer,
    /// for at most `answers` from now.
    pub fn drain(&self, spread: Duration, answers: Duration) {
        for shard in &self.shards {
            shard.drain(spread, answers);
        }
    }

    /// Returns the number of subscriptions that are catching up, and the largest
    /// lag of a subscription in offsets. The lag is that of the last tick of
    /// each shard. Takes no lock.
    pub fn lag_stats(&self) -> (u64, u64) {
        let shards = self.shards.iter().map(|shard| shard.lag_stats());
        shards.fold((0, 0), |(catching_up, lag), one| (catching_up + one.0, lag.max(one.1)))
    }

    /// Returns the number of open connections. A closed connection counts until
    /// the next tick of its shard.
    pub fn open(&self) -> usize {
        self.shards.iter().map(|shard| shard.open()).sum()
    }
}
