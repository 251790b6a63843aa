//! Fan-out: pushes committed batches into the rings of the subscribers.
//!
//! Each shard serves a part of the connections. There is one shard for each core.
//! After a commit, the committer adds the log to the queue of each shard that has a
//! subscription to this log. The shard reads the new batches from the tail of the
//! log in memory. For each batch, the shard pushes the matching events into the ring
//! of each connection that has subscribed to them. A push never waits: if the events
//! do not fit into the ring, the overflow policy decides (`docs/delivery.md`).

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

/// The fan-out of the gateway, as a set of shards. Each shard serves a part of the
/// connections.
pub struct Hub {
    shards: Box<[Arc<Shard>]>,
    next_connection: AtomicU64,
    open: Arc<Counts>,
    memory_pressure: Arc<AtomicBool>,
}

impl Hub {
    /// Starts `shards` shards on the current tokio runtime. Each shard has a fan-out
    /// task and a tick task. `supervisor` owns these tasks.
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

    /// Replaces the settings. Each shard uses the new settings from its next tick
    /// on. A connection keeps the ring limits and the stream lifetime that were set
    /// when it joined.
    pub fn reconfigure(&self, settings: &Settings) {
        let settings = Arc::new(settings.clone());
        for shard in &self.shards {
            shard.reconfigure(&settings);
        }
    }

    /// Sets whether the process is short of memory. While memory is short, a ring
    /// accepts only one event, and the overflow policy decides about further events.
    pub fn set_memory_pressure(&self, memory_pressure: bool) {
        self.memory_pressure.store(memory_pressure, Ordering::Relaxed);
    }

    /// Adds a connection without subscriptions. The shards get new connections in
    /// turn. The ring limits and the lifetime of the connection come from
    /// `settings`. Returns `None` if `max_open` connections of this protocol are
    /// open already. A `max_open` of 0 means no limit.
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

    /// Ends all streams. Each stream ends at a random time between now and `spread`
    /// from now. A stream that starts later gets such a time too, and ends at once
    /// if the time has passed. A stream with an unanswered command ends after the
    /// answer, but does not wait for it longer than `answers` from now.
    pub fn drain(&self, spread: Duration, answers: Duration) {
        for shard in &self.shards {
            shard.drain(spread, answers);
        }
    }

    /// Returns the number of subscriptions that are catching up, and the largest lag
    /// of a subscription, in offsets. Each shard computes the lag at its ticks, so
    /// the lag is that of the last tick. Takes no lock.
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
