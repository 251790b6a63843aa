//! The committer's writers, one for each log, and sets of the writers to visit next.
//!
//! A store may have 100,000 logs, so the committer must not visit all of them. A
//! commit visits only the writers that it changes. A tick, once a second, visits
//! only the writers that have events to check or to trim. Eviction from memory
//! visits the logs whose newest batches take the most memory. `Writers::file`
//! updates these sets after each change of a writer.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::mem::take;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::clock::{ClockReading, LEAD_MAX, later};
use super::commit_batch::CommitBatch;
use super::writer::{Filed, LogWriter};
use crate::event::{Event, LogId, Timestamp};
use crate::log::{
    AppendOutcome, AppendRejection, AtomicBatch, AtomicError, CursorUpdate, Error, Log, LogConfig,
    StorageKind, Write,
};
use crate::store::{self, Cursor};
use crate::wire::LogIdentity;

/// The index of a log's writer in [`Writers`]. The index of a log never changes.
pub(in crate::log) type WriterIndex = usize;

/// The committer's writers, one for each log.
#[derive(Default)]
pub(in crate::log) struct Writers {
    all: Vec<LogWriter>,
    /// The index of each log's writer in `all`. A `u32` needs half the memory of a
    /// [`WriterIndex`].
    by_id: HashMap<LogId, u32>,
    disk: Due,
    memory: Due,
    /// The logs whose newest event has a time that is more than [`LEAD_MAX`] later
    /// than the wall clock.
    ahead: Vec<WriterIndex>,
    /// An upper bound for the times of the events in all logs that are not in
    /// `ahead`.
    newest: Timestamp,
    /// The time of [`ClockReading::expiry`] at the last tick. Events are trimmed by
    /// age with that clock.
    expiry: Timestamp,
    /// The memory of all tails together, in bytes. The tail of a log is its newest
    /// batches, in memory.
    tail_bytes: usize,
    /// The logs whose tail may have a batch to evict, in the order of eviction. An
    /// element is the result of [`LogWriter::weight`] with the index of the writer.
    /// The last log of the set is the first to lose a batch.
    order: BTreeSet<(bool, usize, Reverse<WriterIndex>)>,
    /// The logs whose tail had no batch to evict. They return to `order` at the next
    /// tick.
    resting: Vec<WriterIndex>,
    /// The logs that have new events and whose observers are not notified yet.
    moved: Vec<WriterIndex>,
    /// The number of calls of `Writers::at`.
    #[cfg(test)]
    pub(in crate::log) visits: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

/// The logs of one storage kind (disk or memory) that have changes to commit, events
/// to trim, or an age check that is due.
#[derive(Default)]
struct Due {
    /// The logs that have changes for the current commit.
    dirty: Vec<WriterIndex>,
    /// The logs that have more events to trim than one commit may trim.
    trims: BTreeSet<WriterIndex>,
    /// The time of the next age check of each log. An age check looks for events
    /// that are older than the retention allows.
    ages: BTreeSet<(Timestamp, WriterIndex)>,
    /// The logs that wait after the start. Before this monotonic time, a log trims
    /// no event by age. The entries are in the order of these times.
    waiting: VecDeque<(Duration, WriterIndex)>,
}

impl Writers {
    /// Adds the writers of newly opened logs, and compares their newest events with
    /// the clock reading `now`.
    pub(in crate::log) fn add(&mut self, writers: Vec<LogWriter>, now: ClockReading) {
        let first = self.all.len();
        if first == 0 {
            // The first call may add 100,000 writers. They are not copied.
            self.all = writers;
        } else {
            self.all.extend(writers);
        }
        self.by_id.reserve(self.all.len() - first);
        for index in first..self.all.len() {
            let writer = &mut self.all[index];
            writer.begin(now);
            if writer.is_ahead() {
                self.ahead.push(index);
            } else {
                self.newest = self.newest.max(writer.newest());
            }
            self.by_id.insert(writer.log().id(), index as u32);
            let (waits_until, storage) = (writer.waits_until(), writer.log().storage());
            if let Some(until) = waits_until {
                self.due(storage).waiting.push_back((until, index));
            }
            self.file(index);
        }
    }

    pub(in crate::log) fn iter(&self) -> impl Iterator<Item = &LogWriter> {
        self.all.iter()
    }

    pub(in crate::log) fn iter_mut(&mut self) -> impl Iterator<Item = &mut LogWriter> {
        self.all.iter_mut()
    }

    /// Returns the index of the writer for each of `configs`, or `None` if that log
    /// is not open.
    pub(in crate::log) fn find(&self, configs: &[LogConfig]) -> Vec<Option<WriterIndex>> {
        let writers = self.all.iter().enumerate();
        let indexes: HashMap<_, _> = writers
            .map(|(index, writer)| ((&*writer.log().identity().name, writer.is_topic()), index))
            .collect();
        let find = |config: &LogConfig| indexes.get(&(&*config.name, config.is_topic())).copied();
        configs.iter().map(find).collect()
    }

    /// Returns the index of the writer of `log`, or `None` if the log belongs to
    /// another engine. A log of another engine can have the same id, but not the
    /// same `identity` object.
    fn index(&self, log: LogId, identity: &Arc<LogIdentity>) -> Option<WriterIndex> {
        let index = *self.by_id.get(&log)? as WriterIndex;
        Arc::ptr_eq(self.all[index].log().identity(), identity).then_some(index)
    }

    /// Returns the writer at `index`. The caller must call [`Writers::file`] after
    /// it has changed the writer.
    fn at(&mut self, index: WriterIndex) -> &mut LogWriter {
        #[cfg(test)]
        self.visits.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        &mut self.all[index]
    }

    /// Gives the log at `index` the retention of `config` and returns `true`.
    /// Returns `false` and changes nothing if `config` has another storage kind or
    /// other event types than the log.
    pub(in crate::log) fn set_retention(&mut self, index: WriterIndex, config: &LogConfig) -> bool {
        let writer = self.at(index);
        let is_compatible = writer.is_compatible(config);
        if is_compatible {
            writer.set_retention(config.retention);
            self.file(index);
        }
        is_compatible
    }

    /// Decides in order which of `writes` are accepted, and adds the accepted writes
    /// to the commit `work`. Returns the result of each write, or `None` if the log
    /// belongs to another engine.
    pub(in crate::log) fn decide(
        &mut self,
        commit: &mut CommitBatch,
        log: LogId,
        identity: &Arc<LogIdentity>,
        writes: &[Write],
        bytes_max: usize,
    ) -> Option<Result<Vec<Result<AppendOutcome, AppendRejection>>, store::Error>> {
        let index = self.index(log, identity)?;
        // An event has the time of this clock or of the event before it.
        self.newest = self.newest.max(commit.now().wall);
        Some(self.changing(index, |writer| {
            writes.iter().map(|write| writer.decide(commit, write, bytes_max)).collect()
        }))
    }

    /// Decides in order whether the writes of `batch` are accepted, and adds them to
    /// the commit `work`. If one write is rejected, no write of the batch is in the
    /// commit, and no offset is used.
    ///
    /// # Errors
    /// [`AtomicError`] if a write was rejected (the error is for the first one), if
    /// the store could not be read, if a cursor is beyond the head of its log, or if
    /// a log belongs to another engine.
    pub(in crate::log) fn decide_all(
        &mut self,
        commit: &mut CommitBatch,
        batch: &AtomicBatch,
        bytes_max: usize,
    ) -> Result<Vec<Vec<AppendOutcome>>, AtomicError> {
        let was_dirty = self.disk.dirty.len();
        let mut savepoints = Vec::with_capacity(batch.appends.len());
        self.newest = self.newest.max(commit.now().wall);
        commit.begin_atomic();
        let appends = batch.appends.iter().enumerate();
        let mut decided = appends
            .map(|(append, (log, writes))| {
                let index = self.index(log.id(), log.identity()).ok_or_else(|| unknown(log))?;
                savepoints.push((index, self.at(index).savepoint()));
                self.changing(index, |writer| {
                    decide_each(writer, commit, append, writes, bytes_max)
                })
            })
            .collect::<Result<_, _>>();
        if decided.is_ok()
            && let Err(error) = self.set_cursors(commit, &batch.cursors)
        {
            decided = Err(error);
        }
        commit.end_atomic(decided.is_ok());
        if decided.is_err() {
            // Restore the newest savepoint first, because a log may occur twice in
            // the batch.
            for (index, savepoint) in savepoints.into_iter().rev() {
                self.at(index).restore(savepoint);
            }
            self.disk.dirty.truncate(was_dirty);
        }
        decided
    }

    /// Adds the cursor changes `updates` to the commit. After an error, none of them
    /// is in the commit.
    ///
    /// # Errors
    /// [`AtomicError`] if an offset is beyond the head of its log, or if a log
    /// belongs to another engine.
    fn set_cursors(
        &self,
        commit: &mut CommitBatch,
        updates: &[CursorUpdate],
    ) -> Result<(), AtomicError> {
        let cursor = |update: &CursorUpdate| match update {
            CursorUpdate::Remove { name } => Ok((name.clone(), None)),
            CursorUpdate::Set { name, log, offset } => {
                let index = self.index(log.id(), log.identity()).ok_or_else(|| unknown(log))?;
                let meta = self.all[index].metadata();
                if *offset > meta.position.head {
                    return Err(AtomicError::CursorAhead(name.clone()));
                }
                let cursor = Cursor { log: meta.id, epoch: meta.epoch, offset: *offset };
                Ok((name.clone(), Some(cursor)))
            }
        };
        let cursors = updates.iter().map(cursor).collect::<Result<Vec<_>, _>>()?;
        commit.cursors.extend(cursors);
        Ok(())
    }

    /// Runs `change` on the writer at `index`. If the writer had no changes for the
    /// current commit before and has some now, adds it to `dirty`.
    fn changing<T>(&mut self, index: WriterIndex, change: impl FnOnce(&mut LogWriter) -> T) -> T {
        let writer = self.at(index);
        let was_dirty = writer.is_dirty();
        let result = change(writer);
        if !was_dirty && writer.is_dirty() {
            let storage = writer.log().storage();
            self.due(storage).dirty.push(index);
        }
        result
    }

    /// Adds the changes of all dirty writers of the storage kind `storage` to the
    /// commit. A writer is dirty if it has changes for the current commit. Calls
    /// `prepare` on each writer first. Returns the new events of each log.
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    pub(in crate::log) fn stage(
        &mut self,
        storage: StorageKind,
        commit: &mut CommitBatch,
        mut prepare: impl FnMut(&mut LogWriter),
    ) -> Result<Vec<(WriterIndex, Vec<Event>)>, store::Error> {
        let mut dirty = take(&mut self.due(storage).dirty);
        let mut staged = Vec::with_capacity(dirty.len());
        for &index in &dirty {
            let writer = self.at(index);
            prepare(writer);
            match writer.stage(commit) {
                Ok(events) => staged.push((index, events)),
                Err(error) => {
                    // A writer stays dirty until it is staged.
                    self.due(storage).dirty = dirty;
                    return Err(error);
                }
            }
        }
        dirty.clear();
        self.due(storage).dirty = dirty;
        Ok(staged)
    }

    /// Makes the events that [`Writers::stage`] returned visible to readers. The
    /// caller calls this after the commit, at the time `committed`.
    pub(in crate::log) fn publish(
        &mut self,
        staged: Vec<(WriterIndex, Vec<Event>)>,
        committed: Instant,
    ) {
        for (index, events) in staged {
            if !events.is_empty() {
                self.moved.push(index);
            }
            self.at(index).publish(events, committed);
            self.file(index);
        }
    }

    /// Notifies the observers of each log that has new events since the last call.
    pub(in crate::log) fn notify_observers(&mut self) {
        for index in self.moved.drain(..) {
            self.all[index].log().notify_observers();
        }
    }

    /// Returns whether a log of the storage kind `storage` still has events that
    /// exceed its retention. One commit trims only a limited number of events.
    pub(in crate::log) fn is_trim_pending(&self, storage: StorageKind) -> bool {
        let due = match storage {
            StorageKind::Disk => &self.disk,
            StorageKind::Memory => &self.memory,
        };
        !due.trims.is_empty()
    }

    /// Finds the logs that have events to trim at the time `now`, and marks their
    /// writers as changed. The next [`Writers::stage`] trims the events.
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    pub(in crate::log) fn trim_due(
        &mut self,
        storage: StorageKind,
        now: ClockReading,
    ) -> Result<(), store::Error> {
        self.watch(now);
        let trims: Vec<WriterIndex> = self.due(storage).trims.iter().copied().collect();
        for index in trims {
            self.changing(index, LogWriter::trim_more);
        }
        while let Some((_, index)) =
            self.due(storage).waiting.pop_front_if(|(until, _)| *until <= now.elapsed)
        {
            self.at(index).end_wait();
            self.file(index);
        }
        let old = self.due(storage).ages.range(..(now.expiry, 0));
        let old: Vec<WriterIndex> = old.map(|&(_, index)| index).collect();
        for index in old {
            self.changing(index, |writer| writer.age(now))?;
            self.file(index);
        }
        Ok(())
    }

    /// Detects clocks that moved back since the last tick, and updates `ahead`, the
    /// set of logs whose newest event is ahead of the wall clock. Visits all logs
    /// only if a clock has moved back.
    fn watch(&mut self, now: ClockReading) {
        let bound = later(now.wall, LEAD_MAX);
        if bound < self.newest {
            self.ahead = (0..self.all.len()).collect();
            self.newest = bound;
        }
        let mut ahead = take(&mut self.ahead);
        ahead.retain(|&index| {
            let writer = self.at(index);
            let is_ahead = writer.observe(now);
            let newest = writer.newest();
            if !is_ahead {
                self.newest = self.newest.max(newest);
            }
            is_ahead
        });
        self.ahead = ahead;
        if now.expiry < self.expiry {
            // An event that was not ahead of the clock may be ahead now. It then
            // counts as old as the next event that is not ahead.
            for index in 0..self.all.len() {
                self.at(index).forget_age();
                self.file(index);
            }
        }
        self.expiry = now.expiry;
    }

    /// Adds the logs in `resting` to the order of eviction again. Their tails had no
    /// batch to evict since the last tick.
    pub(in crate::log) fn wake_tails(&mut self) {
        for index in take(&mut self.resting) {
            self.file(index);
        }
    }

    /// Evicts batches until all tails together take at most `bytes_max` bytes. Each
    /// step evicts the oldest batch of one tail: first of the tails whose oldest
    /// batch is trimmed already, then of the largest tail. The newest batch of a
    /// tail is not evicted for the duration `shown` after its commit.
    pub(in crate::log) fn evict(&mut self, bytes_max: usize, shown: Duration) {
        while self.tail_bytes > bytes_max {
            let Some((.., Reverse(index))) = self.order.last().copied() else { return };
            if self.at(index).evict(shown) {
                self.file(index);
            } else {
                self.order.pop_last();
                let filed = self.all[index].filed();
                self.all[index].set_filed(Filed { weight: None, ..filed });
                self.resting.push(index);
            }
        }
    }

    /// Updates the sets of [`Writers`] with the current state of the writer at
    /// `index`.
    fn file(&mut self, index: WriterIndex) {
        let writer = self.at(index);
        let storage = writer.log().storage();
        let was = writer.filed();
        let is = Filed {
            bytes: writer.tail_bytes(),
            weight: (writer.tail_bytes() > 0).then(|| writer.weight()),
            age: writer.age_due(),
        };
        writer.set_filed(is);
        let is_trim_pending = writer.is_trim_pending();
        self.tail_bytes = self.tail_bytes - was.bytes + is.bytes;
        if was.weight != is.weight {
            // Insert before the removal, because a set that becomes empty frees its
            // memory.
            if let Some((trimmed, bytes)) = is.weight {
                self.order.insert((trimmed, bytes, Reverse(index)));
            }
            if let Some((trimmed, bytes)) = was.weight {
                self.order.remove(&(trimmed, bytes, Reverse(index)));
            }
        }
        let due = self.due(storage);
        if is_trim_pending {
            due.trims.insert(index);
        } else {
            due.trims.remove(&index);
        }
        if was.age != is.age {
            if let Some(age) = is.age {
                due.ages.insert((age, index));
            }
            if let Some(age) = was.age {
                due.ages.remove(&(age, index));
            }
        }
    }

    fn due(&mut self, storage: StorageKind) -> &mut Due {
        match storage {
            StorageKind::Disk => &mut self.disk,
            StorageKind::Memory => &mut self.memory,
        }
    }
}

/// Decides in order whether the writes `appended` to one log of an atomic batch are
/// accepted. `index` is the index of these writes in [`AtomicBatch::appends`].
///
/// # Errors
/// [`AtomicError`] for the first write that was rejected.
fn decide_each(
    writer: &mut LogWriter,
    commit: &mut CommitBatch,
    append: usize,
    batch: &[Write],
    bytes_max: usize,
) -> Result<Vec<AppendOutcome>, AtomicError> {
    let decide = |(write, each): (usize, &Write)| {
        let decided = writer.decide(commit, each, bytes_max).map_err(Error::Store)?;
        decided.map_err(|rejection| {
            let log = writer.log().identity().name.to_string();
            AtomicError::Rejected { append, log, write, rejection }
        })
    };
    batch.iter().enumerate().map(decide).collect()
}

fn unknown(log: &Log) -> AtomicError {
    AtomicError::Engine(Error::Store(unknown_log(&log.identity().name)))
}

/// Returns the error for a log that belongs to another engine.
pub(in crate::log) fn unknown_log(name: &str) -> store::Error {
    let why = format!("{name} is not a log of this engine");
    store::Error::Io(std::io::Error::other(why))
}
