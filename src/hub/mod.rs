//! Fan-out: from a committed batch to the rings of those who want it.
//!
//! Subscribers are spread over shards, one a core. A shard is told that logs
//! have moved, takes the new batches from their tails in memory, and pushes
//! to each subscriber that wants of a batch the run of events it wants, once.
//! A push never waits: what does not fit is the overflow policy's
//! (`docs/architecture.md#delivery`).

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

/// All shards. Cheap to share by reference.
pub struct Hub {
    shards: Box<[Arc<Shard>]>,
    connections: AtomicU64,
    open: Arc<Counts>,
    memory_pressure: Arc<AtomicBool>,
}

impl Hub {
    /// Starts `shards` fan-out tasks on the current tokio runtime, and as many
    /// ticks. `supervisor` owns them.
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
        Hub { shards, connections: AtomicU64::new(0), open, memory_pressure }
    }

    /// Takes other settings for what is a matter of time, at the next tick.
    /// What a connection has of its own comes with it.
    pub fn reconfigure(&self, settings: &Settings) {
        let settings = Arc::new(settings.clone());
        for shard in &self.shards {
            shard.reconfigure(&settings);
        }
    }

    /// Whether memory is short: then a ring takes one event, and what does not
    /// fit is the overflow policy's.
    pub fn set_memory_pressure(&self, memory_pressure: bool) {
        self.memory_pressure.store(memory_pressure, Ordering::Relaxed);
    }

    /// A new connection without subscriptions, on the next shard in turn, with
    /// a ring and a lifetime as `settings` say. None where `most` of its
    /// protocol are open already; zero is no limit.
    pub fn join(
        &self,
        protocol: Protocol,
        settings: &Settings,
        most: usize,
    ) -> Option<Arc<Subscriber>> {
        let one_more = |open: usize| (most == 0 || open < most).then_some(open + 1);
        let open = self.open.of(protocol);
        open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        let id = self.connections.fetch_add(1, Ordering::Relaxed);
        let shard = &self.shards[id as usize % self.shards.len()];
        Some(shard.join(id, protocol, settings))
    }

    /// Ends every stream, each at a random moment within `spread` from now, and
    /// of those that come later each at such a moment too, or at once where it
    /// is past. An end waits for the answer to a command under way for at most
    /// `answers` from now.
    pub fn drain(&self, spread: Duration, answers: Duration) {
        for shard in &self.shards {
            shard.drain(spread, answers);
        }
    }

    /// How many subscriptions read the log instead of being fed, and how far
    /// the slowest is behind, in offsets, as of each shard's last tick. Takes
    /// no lock.
    pub fn lag_stats(&self) -> (u64, u64) {
        let shards = self.shards.iter().map(|shard| shard.lag_stats());
        shards.fold((0, 0), |(catching_up, lag), one| (catching_up + one.0, lag.max(one.1)))
    }

    /// How many connections have not gone yet.
    pub fn open(&self) -> usize {
        self.shards.iter().map(|shard| shard.open()).sum()
    }
}
