//! The basic types of the hub: identifiers, subscription specs, limits and
//! settings. This file imports no other file of the hub.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::event::ResourceId;
use crate::wire::{Filter, WireFormat};

/// The settings that apply to each stream and its ring.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The heartbeat interval: the time without a write after which the gateway
    /// sends a heartbeat (`streams.heartbeat`).
    pub heartbeat: Duration,
    /// The maximum number of events in a ring (`streams.ring_events`).
    pub ring_events: usize,
    /// The maximum number of bytes in a ring (`streams.ring_bytes`). An empty
    /// ring accepts one event of any size.
    pub ring_bytes: usize,
    /// The stall timeout: the gateway ends a connection whose socket accepts no byte
    /// for this time (`limits.stall_timeout`).
    pub stall_timeout: Duration,
    /// The time after which the gateway ends an idle stream
    /// (`limits.stream_idle_timeout`). A stream is idle while no event is written. A
    /// WebSocket is idle only if the client also sends no command. Zero means no
    /// limit.
    pub stream_idle_timeout: Duration,
    /// The maximum lifetime of a stream (`limits.stream_lifetime`). Each stream
    /// ends after 75 to 100 % of this time, so that clients which connected
    /// together do not reconnect together. Zero means no limit.
    pub stream_lifetime: Duration,
}

#[cfg(test)]
impl Settings {
    /// Returns settings with these ring limits and with timeouts that are longer
    /// than a test.
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

/// The reason why the gateway ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The process shuts down. The client can reconnect to another gateway.
    Drained,
    /// The socket accepted no byte during the stall timeout.
    Stalled,
    /// The client sent no pong, or the stream was idle for too long.
    Idle,
    /// The stream has reached its maximum lifetime. The client can reconnect.
    Lifetime,
    /// The ring was full, and the overflow policy is `disconnect`. The client can
    /// reconnect with its position. It then reads the following events from the log.
    Overflow,
}

impl EndReason {
    /// Returns whether the connection ends at once, without waiting for a write to
    /// the socket.
    pub fn is_urgent(self) -> bool {
        match self {
            EndReason::Drained | EndReason::Lifetime | EndReason::Overflow => false,
            EndReason::Stalled | EndReason::Idle => true,
        }
    }
}

/// The identifier of a subscription. It is unique in this process and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubscriptionId {
    serial: u64,
    pub(super) slot: u32,
}

/// The log events that a client subscribes to, and how it receives them.
#[derive(Clone, Debug)]
pub struct SubscriptionSpec {
    /// The part of the log that the subscription covers.
    pub scope: Scope,
    /// The filter that selects the events. Subscriptions with equal filters share
    /// one object.
    pub filter: Arc<Filter>,
    /// The wire format of the events.
    pub format: WireFormat,
    /// The number of events that the client still accepts. `None` means no
    /// limit.
    pub credit: Option<u64>,
    /// Whether the gateway sends a snapshot of the resources before the events. The
    /// field becomes `false` when the snapshot is sent.
    pub snapshot: bool,
    /// The reaction to a gap: the log no longer keeps events that the client asked
    /// for.
    pub on_gap: OnGap,
    /// The overflow policy: the reaction to a full ring.
    pub overflow: Overflow,
}

/// The reaction to a gap. A gap means that the log no longer keeps events that a
/// client asked for (`docs/protocol.md#streams`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnGap {
    /// Send a `gap` message, and continue with the oldest event that the log keeps.
    #[default]
    Event,
    /// Send a snapshot of the resources, and continue with the events after the
    /// snapshot.
    Snapshot,
    /// End the stream.
    Error,
}

static SERIAL: AtomicU64 = AtomicU64::new(0);

impl SubscriptionId {
    /// A value that identifies no subscription. Slices that contain no events have
    /// it.
    pub const NONE: SubscriptionId = SubscriptionId { serial: u64::MAX, slot: u32::MAX };

    pub(super) fn new(slot: usize) -> SubscriptionId {
        SubscriptionId { serial: SERIAL.fetch_add(1, Ordering::Relaxed), slot: slot as u32 }
    }
}

/// The part of a log that a subscription covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The whole log.
    Whole,
    /// The events of one resource.
    Subject(ResourceId),
}

/// The slot of a subscription in the index of a log. A subscription keeps its slot
/// until it is removed from the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum SlotIndex {
    Whole(u32),
    Subject { group: u32, slot: u32 },
}

/// The overflow policy: the reaction to an event that does not fit into a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// Remove the subscription's events from the ring and let the subscription
    /// catch up from the log. No event is lost.
    Log,
    /// Keep only the newest event of each resource in the ring.
    Conflate,
    /// Drop the oldest events of the subscription in the ring.
    DropOldest,
    /// Drop the new events, which do not fit into the ring.
    DropNewest,
    /// End the connection.
    Disconnect,
}

impl Overflow {
    /// All overflow policies.
    pub const ALL: [Overflow; 5] = [
        Overflow::Log,
        Overflow::Conflate,
        Overflow::DropOldest,
        Overflow::DropNewest,
        Overflow::Disconnect,
    ];

    /// Returns the name of the policy in the configuration, in `?overflow=` and in
    /// metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Overflow::Log => "log",
            Overflow::Conflate => "conflate",
            Overflow::DropOldest => "drop-oldest",
            Overflow::DropNewest => "drop-newest",
            Overflow::Disconnect => "disconnect",
        }
    }

    /// Returns the overflow policy with this name, or `None` if there is none.
    pub fn named(name: &str) -> Option<Overflow> {
        Overflow::ALL.into_iter().find(|overflow| overflow.as_str() == name)
    }
}

/// The maximum number of events and of bytes in a ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) events: u64,
    pub(super) bytes: u64,
}

/// A socket that the fan-out can write to while the writer of the connection sleeps.
pub trait DirectWriter: Send + Sync {
    /// Writes as many of the bytes as the socket accepts without waiting. Returns
    /// the number of written bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if the socket accepts no byte. Any other error
    /// means that the socket is broken. The writer of the connection gets this error
    /// too.
    fn write_now(&self, bytes: &[u8]) -> io::Result<usize>;
}

/// The size that is left for one write to a socket. Each slice that is added to the
/// write reduces it.
#[derive(Clone, Copy, Debug)]
pub struct WriteBudget {
    /// The number of slices that can still be added to the write. All slices are
    /// written with one vectored write.
    pub slices: u32,
    /// The number of events that can still be added to the write. `batchSize` and
    /// the credit of the subscription limit it.
    pub events: u32,
    /// The number of bytes that can still be added to the write.
    pub bytes: usize,
}

/// The maximum size of a slice of encoded events, in bytes. A client that does not
/// read keeps at most the rest of one slice in memory.
pub const SLICE_BYTES: usize = 16 * 1024;

impl WriteBudget {
    /// Returns the budget of one write to a socket: at most 64 KiB, `events` events,
    /// and 64 slices. `writev(2)` would accept 1,024 slices.
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
