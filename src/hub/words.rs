//! The words of the hub: identifiers, what a client subscribes to, bounds and
//! settings. Every file of the hub may import this one; it imports none.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::event::ResourceId;
use crate::wire::{Filter, WireFormat};

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
    /// A write that makes no progress for this long ends its connection
    /// (`limits.stall_timeout`).
    pub stall_timeout: Duration,
    /// A stream without an event and, on a WebSocket, without a word of its
    /// client's for this long ends; zero is no limit
    /// (`limits.stream_idle_timeout`).
    pub stream_idle_timeout: Duration,
    /// A stream ends after 75 to 100 % of this, so that those which came
    /// together do not come back together; zero is no limit
    /// (`limits.stream_lifetime`).
    pub stream_lifetime: Duration,
}

#[cfg(test)]
impl Settings {
    /// Rings of so many events and bytes, and nothing that is due within a test.
    pub(crate) fn of_rings(ring_events: usize, ring_bytes: usize) -> Settings {
        let hour = Duration::from_hours(1);
        Settings {
            heartbeat: hour,
            ring_events,
            ring_bytes,
            stall_timeout: hour,
            stream_idle_timeout: Duration::ZERO,
            stream_lifetime: Duration::ZERO,
        }
    }
}

/// Why the gateway ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The process is going; come back elsewhere.
    Drained,
    /// The socket took nothing for the stall timeout.
    Stalled,
    /// No pong came, or nothing at all.
    Idle,
    /// It is as old as a stream may get; come back.
    Lifetime,
    /// Its ring was full, and the policy is to end it then; come back with
    /// the position and read on from the log.
    Overflow,
}

impl EndReason {
    /// Whether there is no sense in waiting for the socket first.
    pub fn is_urgent(self) -> bool {
        match self {
            EndReason::Drained | EndReason::Lifetime | EndReason::Overflow => false,
            EndReason::Stalled | EndReason::Idle => true,
        }
    }
}

/// A subscription's name within the process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubscriptionId {
    serial: u64,
    pub(super) slot: u32,
}

/// What a client subscribes to.
#[derive(Clone, Debug)]
pub struct SubscriptionSpec {
    /// Which part of the log.
    pub scope: Scope,
    /// Which of its events; shared by all who want the same.
    pub filter: Arc<Filter>,
    /// In which format they are written.
    pub format: WireFormat,
    /// How many events the client has asked for so far; none for all that come.
    pub credit: Option<u64>,
    /// Whether the resources themselves are to be sent first. Cleared once they
    /// are sent.
    pub snapshot: bool,
    /// What it wants where events are missing.
    pub on_gap: OnGap,
    /// What happens when its connection's ring is full.
    pub overflow: Overflow,
}

/// What a client wants where events that it asked for are not kept any more
/// (`docs/protocol.md#streams`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnGap {
    /// To be told, and to go on from the earliest kept.
    #[default]
    Event,
    /// The resources as they are, then what follows.
    Snapshot,
    /// An end.
    Error,
}

static SERIAL: AtomicU64 = AtomicU64::new(0);

impl SubscriptionId {
    /// Nobody's: for slices that are no events.
    pub const NONE: SubscriptionId = SubscriptionId { serial: u64::MAX, slot: u32::MAX };

    pub(super) fn new(slot: usize) -> SubscriptionId {
        SubscriptionId { serial: SERIAL.fetch_add(1, Ordering::Relaxed), slot: slot as u32 }
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

/// The slot of an entry. It stays until the entry is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum SlotIndex {
    Whole(u32),
    Subject { group: u32, slot: u32 },
}

/// What happens when an event does not fit into a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// Free the ring, keep the cursor, catch up from the log: no loss.
    Log,
    /// Keep the newest event of each resource.
    Conflate,
    /// Make budget by dropping what has waited longest.
    DropOldest,
    /// Drop what has come last.
    DropNewest,
    /// End the connection.
    Disconnect,
}

impl Overflow {
    /// All of them.
    pub const ALL: [Overflow; 5] = [
        Overflow::Log,
        Overflow::Conflate,
        Overflow::DropOldest,
        Overflow::DropNewest,
        Overflow::Disconnect,
    ];

    /// As in the configuration, in `?overflow=` and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Overflow::Log => "log",
            Overflow::Conflate => "conflate",
            Overflow::DropOldest => "drop-oldest",
            Overflow::DropNewest => "drop-newest",
            Overflow::Disconnect => "disconnect",
        }
    }

    /// The policy of that name.
    pub fn named(name: &str) -> Option<Overflow> {
        Overflow::ALL.into_iter().find(|overflow| overflow.as_str() == name)
    }
}

/// How much a connection's ring may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) events: u64,
    pub(super) bytes: u64,
}

/// A socket that the fan-out may write to in its writer's place.
pub trait DirectWriter: Send + Sync {
    /// Writes what the socket takes at once, and never waits.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] where it takes nothing; any other where it
    /// is broken, which its writer will meet as well.
    fn write_now(&self, bytes: &[u8]) -> io::Result<usize>;
}

/// How much one write may take.
#[derive(Clone, Copy, Debug)]
pub struct WriteBudget {
    /// Slices: the length of one vectored write.
    pub slices: u32,
    /// Events, for `batchSize` and windows.
    pub events: u32,
    /// Bytes.
    pub bytes: usize,
}

/// Largest slice that is cut from a block, in bytes: a reader that stands
/// still keeps at most the rest of one slice in slices.
pub const SLICE_BYTES: usize = 16 * 1024;

impl WriteBudget {
    /// A write's worth: 64 KiB in at most 64 slices, well under the 1,024 that
    /// `writev(2)` takes, and `events` events.
    pub fn for_write(events: u32) -> WriteBudget {
        WriteBudget { slices: 64, events, bytes: 64 * 1024 }
    }

    pub(super) fn is_full(&self) -> bool {
        self.slices == 0 || self.events == 0 || self.bytes == 0
    }

    pub(super) fn slice_bytes(&self) -> usize {
        self.bytes.min(SLICE_BYTES)
    }

    pub(super) fn take(&mut self, bytes: &Bytes, events: u32) {
        self.slices -= 1;
        self.events = self.events.saturating_sub(events);
        self.bytes = self.bytes.saturating_sub(bytes.len());
    }
}
