//! The identity of a log: the values that all its events share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::WireFormat;
use crate::event::{Epoch, EventId, EventType, Offset};

/// The identity of a log: its name, its epoch and its kind. The encoders write these
/// values into the events of the log.
#[derive(Debug)]
pub struct LogIdentity {
    /// The name of the collection or topic. The configuration has checked that the
    /// name is valid.
    pub name: Arc<str>,
    /// The epoch of the log. Each event id of the log begins with this epoch.
    pub epoch: Epoch,
    /// Whether the log belongs to a collection or a topic.
    pub kind: LogKind,
    /// The number of encoded events for each wire format. A metric reports these
    /// numbers. It shows that they do not depend on the number of subscribers. The
    /// counters are allocated when the first batch of the log is encoded.
    encodings: OnceLock<Box<[AtomicU64; WireFormat::COUNT]>>,
}

/// Compares name, epoch and kind. The counters of encoded events are ignored.
impl PartialEq for LogIdentity {
    fn eq(&self, other: &LogIdentity) -> bool {
        (&self.name, self.epoch, &self.kind) == (&other.name, other.epoch, &other.kind)
    }
}

impl Eq for LogIdentity {}

/// The kind of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// The log of a collection of resources. The names are behind a pointer. Without
    /// the pointer, [`LogKind::Topic`] would also take the 120 bytes of the names.
    Collection(Arc<CollectionNames>),
    /// The log of a topic.
    Topic,
}

/// The names that the gateway uses in the events of a collection. Each name is
/// formed from the resource name, for example `order`.
#[derive(Debug, PartialEq, Eq)]
pub struct CollectionNames {
    /// The name of the member that has the resource id in the data of each event,
    /// for example `orderId`.
    pub key: String,
    /// The event type of a creation, for example `order-created`.
    pub created: EventType,
    /// The event type of an update, for example `order-updated`.
    pub updated: EventType,
    /// The event type of a deletion, for example `order-deleted`.
    pub deleted: EventType,
}

impl LogKind {
    /// Returns the [`LogKind`] of a collection whose resource name is `resource`,
    /// for example `order`.
    ///
    /// # Errors
    /// If an event type made from `resource` is invalid: too long, reserved, or
    /// with a forbidden character.
    pub fn collection(resource: &str) -> Result<LogKind, crate::event::InvalidName> {
        let event_type = |suffix: &str| EventType::new(&format!("{resource}-{suffix}"));
        Ok(LogKind::Collection(Arc::new(CollectionNames {
            key: format!("{resource}Id"),
            created: event_type("created")?,
            updated: event_type("updated")?,
            deleted: event_type("deleted")?,
        })))
    }
}

impl LogIdentity {
    /// Returns the identity of the log `name`. The counters of encoded events are 0.
    pub fn new(name: impl Into<Arc<str>>, epoch: Epoch, kind: LogKind) -> LogIdentity {
        LogIdentity { name: name.into(), epoch, kind, encodings: OnceLock::new() }
    }

    /// Returns the number of events of this log that were encoded in `format`
    /// since the process started.
    pub fn encodings(&self, format: WireFormat) -> u64 {
        let counters = self.encodings.get();
        counters.map_or(0, |counters| counters[format as usize].load(Ordering::Relaxed))
    }

    /// Adds `events` to the number of events of this log that were encoded in
    /// `format`. A batch calls this function at most once for each wire format.
    pub(super) fn encoded(&self, format: WireFormat, events: u64) {
        let counters = self.encodings.get_or_init(Box::default);
        counters[format as usize].fetch_add(events, Ordering::Relaxed);
    }

    /// Returns whether the log belongs to a topic.
    pub fn is_topic(&self) -> bool {
        matches!(self.kind, LogKind::Topic)
    }

    /// Returns the event id for the position `offset` in this log.
    pub fn id(&self, offset: Offset) -> EventId {
        EventId { epoch: self.epoch, offset }
    }
}
