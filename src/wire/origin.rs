//! The identity of a log: the values that all its events share.

use std::sync::atomic::{AtomicU64, Ordering};

use super::WireFormat;
use crate::event::{Epoch, EventId, EventType, Offset};

/// The identity of a log. The wire formats of its events contain it.
#[derive(Debug)]
pub struct LogIdentity {
    /// The name of the collection or topic. The configuration has checked it.
    pub name: String,
    /// The epoch of the log. Each event id of the log begins with it.
    pub epoch: Epoch,
    /// Whether the log belongs to a collection or a topic.
    pub kind: LogKind,
    /// The number of encoded events for each wire format. A metric reports it,
    /// and shows that it does not depend on the number of subscribers.
    encodings: [AtomicU64; WireFormat::COUNT],
}

/// Compares name, epoch and kind. The counters of encodings are ignored.
impl PartialEq for LogIdentity {
    fn eq(&self, other: &LogIdentity) -> bool {
        (&self.name, self.epoch, &self.kind) == (&other.name, other.epoch, &other.kind)
    }
}

impl Eq for LogIdentity {}

/// The kind of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// The log of a collection of resources.
    Collection {
        /// The member in the data of each event that holds the resource id. Its
        /// name is the resource name and `Id`, for example `orderId`.
        key: String,
        /// The event type of a creation, for example `order-created`.
        created: EventType,
        /// The event type of an update, for example `order-updated`.
        updated: EventType,
        /// The event type of a deletion, for example `order-deleted`.
        deleted: EventType,
    },
    /// The log of a topic.
    Topic,
}

impl LogKind {
    /// Returns the kind of a collection whose resource name is `resource`, for
    /// example `order`.
    ///
    /// # Errors
    /// If an event type made from `resource` is invalid: too long, reserved, or
    /// with a forbidden character.
    pub fn collection(resource: &str) -> Result<LogKind, crate::event::InvalidName> {
        let event_type = |suffix: &str| EventType::new(&format!("{resource}-{suffix}"));
        Ok(LogKind::Collection {
            key: format!("{resource}Id"),
            created: event_type("created")?,
            updated: event_type("updated")?,
            deleted: event_type("deleted")?,
        })
    }
}

impl LogIdentity {
    /// Returns the identity of the log `name`. Its counters of encodings are 0.
    pub fn new(name: String, epoch: Epoch, kind: LogKind) -> LogIdentity {
        LogIdentity {
            name,
            epoch,
            kind,
            encodings: [const { AtomicU64::new(0) }; WireFormat::COUNT],
        }
    }

    /// Returns the number of events of this log that were encoded in `form`
    /// since the process started.
    pub fn encodings(&self, form: WireFormat) -> u64 {
        self.encodings[form as usize].load(Ordering::Relaxed)
    }

    /// Counts `events` events of this log as encoded in `form`.
    pub(super) fn encoded(&self, form: WireFormat, events: u64) {
        self.encodings[form as usize].fetch_add(events, Ordering::Relaxed);
    }

    /// Returns the event id for the position `offset` in this log.
    pub fn id(&self, offset: Offset) -> EventId {
        EventId { epoch: self.epoch, offset }
    }
}
