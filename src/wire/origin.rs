//! Where events come from: what every event of one log has in common.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Form;
use crate::event::{Epoch, EventId, EventType, Offset};

/// The log that an event belongs to, as its wire forms name it.
#[derive(Debug)]
pub struct Origin {
    /// The collection's or the topic's name, checked by the configuration.
    pub name: String,
    /// The log's identity; the first half of each of its event ids.
    pub epoch: Epoch,
    /// Collection or topic.
    pub kind: Kind,
    /// How often each form was made, for the metric that shows that the number
    /// of subscribers does not matter.
    made: [AtomicU64; Form::COUNT],
}

/// The same log under the same name; what was encoded does not matter.
impl PartialEq for Origin {
    fn eq(&self, other: &Origin) -> bool {
        (&self.name, self.epoch, &self.kind) == (&other.name, other.epoch, &other.kind)
    }
}

impl Eq for Origin {}

/// What kind of log it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The log of a collection of resources.
    Collection {
        /// The member that names the resource in each event's data:
        /// the resource name and `Id`, as in `orderId`.
        key: String,
        /// As in `order-created`.
        created: EventType,
        /// As in `order-updated`.
        updated: EventType,
        /// As in `order-deleted`.
        deleted: EventType,
    },
    /// A log of events of its own.
    Topic,
}

impl Kind {
    /// A collection whose resources are called `resource`, as in `order`.
    ///
    /// # Errors
    /// When `resource` makes event types that are too long or reserved.
    pub fn collection(resource: &str) -> Result<Kind, crate::event::BadName> {
        let kind = |suffix: &str| EventType::new(&format!("{resource}-{suffix}"));
        Ok(Kind::Collection {
            key: format!("{resource}Id"),
            created: kind("created")?,
            updated: kind("updated")?,
            deleted: kind("deleted")?,
        })
    }
}

impl Origin {
    /// The log `name`, nothing of which has been encoded yet.
    pub fn new(name: String, epoch: Epoch, kind: Kind) -> Origin {
        Origin { name, epoch, kind, made: [const { AtomicU64::new(0) }; Form::COUNT] }
    }

    /// How many of its events were encoded in `form` since the process started.
    pub fn encodings(&self, form: Form) -> u64 {
        self.made[form as usize].load(Ordering::Relaxed)
    }

    /// Notes that `events` of its events were encoded in `form`.
    pub(super) fn encoded(&self, form: Form, events: u64) {
        self.made[form as usize].fetch_add(events, Ordering::Relaxed);
    }

    /// The id of the event, or position, at `offset`.
    pub fn id(&self, offset: Offset) -> EventId {
        EventId { epoch: self.epoch, offset }
    }
}
