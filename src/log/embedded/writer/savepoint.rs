//! Savepoints of one log, to undo the writes of an atomic batch that is rejected.

use super::{LogWriter, activate};
use crate::event::Offset;
use crate::log::embedded::clock::{Lead, Step};
use crate::store::LogMetadata;

/// The state of a log's writer before an atomic batch.
pub(in crate::log) struct Savepoint {
    metadata: LogMetadata,
    next: Offset,
    pending: usize,
    is_dirty: bool,
    lead: Lead,
    step: Option<Step>,
}

impl LogWriter {
    /// Returns the state of the writer, for [`LogWriter::restore`].
    pub(in crate::log) fn savepoint(&mut self) -> Savepoint {
        let active = activate(&mut self.active);
        Savepoint {
            metadata: self.metadata.clone(),
            next: self.next,
            pending: active.pending.len(),
            is_dirty: active.is_dirty,
            lead: active.lead,
            step: active.step.clone(),
        }
    }

    /// Removes every write that was decided after `savepoint`. The next event gets
    /// the offset of the first removed event. No reader has seen the removed events.
    pub(in crate::log) fn restore(&mut self, savepoint: Savepoint) {
        let Savepoint { metadata, next, pending, is_dirty, lead, step } = savepoint;
        (self.metadata, self.next) = (metadata, next);
        let active = activate(&mut self.active);
        active.pending.truncate(pending);
        (active.is_dirty, active.lead, active.step) = (is_dirty, lead, step);
    }
}
