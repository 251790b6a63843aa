//! Fan-out: from a committed batch to the rings of those who want it.
//!
//! Subscribers are spread over shards, one a core. A shard is told that logs
//! have moved, takes the new batches from their tails in memory, and pushes
//! to each subscriber that wants of a batch the run of events it wants, once.
//! A push never waits: what does not fit is the overflow policy's
//! (`docs/architecture.md#delivery`).

mod lane;
mod ring;
mod shard;
mod state;
mod subscriber;
mod subscription;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use lane::Scope;
pub use ring::{Room, Slice, slices};
pub use state::{Next, Turn};
pub use subscriber::Subscriber;
pub use subscription::{Interest, OnGap, Reading, SubscriptionId};

use tokio::task::JoinSet;

use crate::log::Engine;
use crate::metrics::{Metrics, Protocol};
use shard::Shard;

/// How subscribers are served.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Silence after which a heartbeat is sent (`streams.heartbeat`).
    pub heartbeat: Duration,
    /// Most events a ring holds (`streams.ring_events`).
    pub ring_events: usize,
    /// Most bytes a ring holds; an empty ring takes any one event
    /// (`streams.ring_bytes`).
    pub ring_bytes: usize,
    /// What happens when a ring is full (`streams.overflow`).
    pub overflow: Overflow,
    /// A write that makes no progress for this long ends its connection
    /// (`limits.stall_timeout`).
    pub stall_timeout: Duration,
}

/// What happens when an event does not fit into a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// Free the ring, keep the cursor, catch up from the log: no loss.
    Log,
}

/// Why the gateway ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The process is going; come back elsewhere.
    Drained,
    /// The socket took nothing for the stall timeout.
    Stalled,
    /// No pong came, or nothing at all.
    Idle,
}

impl Ending {
    /// Whether there is no sense in waiting for the socket first.
    pub fn is_urgent(self) -> bool {
        match self {
            Ending::Drained => false,
            Ending::Stalled | Ending::Idle => true,
        }
    }
}

/// All shards. Cheap to share by reference.
pub struct Hub {
    shards: Box<[Arc<Shard>]>,
    connections: AtomicU64,
    /// Aborted with the hub.
    _tasks: JoinSet<()>,
}

impl Hub {
    /// Starts `shards` fan-out tasks that observe `engine` on the current
    /// tokio runtime, where they run as long as the hub lives.
    pub fn start(
        settings: &Settings,
        engine: &Engine,
        metrics: &Arc<Metrics>,
        shards: usize,
    ) -> Hub {
        let mut tasks = JoinSet::new();
        let shards = (0..shards)
            .map(|_| Shard::start(settings.clone(), engine, metrics.clone(), &mut tasks))
            .collect();
        Hub { shards, connections: AtomicU64::new(0), _tasks: tasks }
    }

    /// A new connection without subscriptions, on the next shard in turn.
    pub fn join(&self, protocol: Protocol) -> Arc<Subscriber> {
        let id = self.connections.fetch_add(1, Ordering::Relaxed);
        let shard = &self.shards[id as usize % self.shards.len()];
        shard.join(id, protocol)
    }

    /// Ends every stream, each at a random moment within `spread`, and every
    /// one that comes later at once.
    pub fn drain(&self, spread: Duration) {
        for shard in &self.shards {
            shard.drain(spread);
        }
    }

    /// How many subscriptions read the log instead of being fed, and how far
    /// the slowest is behind, in offsets. Visits every connection: for a
    /// scrape, not for a request.
    pub fn census(&self) -> (u64, u64) {
        let shards = self.shards.iter().map(|shard| shard.census());
        shards.fold((0, 0), |(parked, lag), one| (parked + one.0, lag.max(one.1)))
    }

    /// How many connections have not gone yet.
    pub fn open(&self) -> usize {
        self.shards.iter().map(|shard| shard.open()).sum()
    }
}
