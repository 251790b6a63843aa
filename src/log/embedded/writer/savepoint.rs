//! Undoing the undurable writes of one log.

use super::LogWriter;
use crate::event::Offset;
use crate::log::embedded::clock::{Lead, Step};
use crate::store::LogMetadata;

/// The state of a writer before an atomic batch.
pub(in crate::log) struct Savepoint {
    meta: LogMetadata,
    next: Offset,
    pending: usize,
    dirty: bool,
    lead: Lead,
    stepped: Option<Box<Step>>,
}

impl LogWriter {
    /// Returns the writer's state, for [`LogWriter::restore`].
    pub(in crate::log) fn savepoint(&self) -> Savepoint {
        Savepoint {
            meta: self.meta.clone(),
            next: self.next,
            pending: self.pending.len(),
            dirty: self.dirty,
            lead: self.lead,
            stepped: self.stepped.clone(),
        }
    }

    /// Removes every write that was decided after `savepoint`. The next event
    /// gets the offset of the first removed event: no reader has seen the
    /// removed events.
    pub(in crate::log) fn restore(&mut self, savepoint: Savepoint) {
        let Savepoint { meta, next, pending, dirty, lead, stepped } = savepoint;
        self.pending.truncate(pending);
        (self.meta, self.next, self.dirty) = (meta, next, dirty);
        (self.lead, self.stepped) = (lead, stepped);
    }
}
