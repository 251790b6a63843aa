//! The writers of all logs, with sets of the writers that have work.
//!
//! A store may have 100,000 logs. A commit visits the writers that it changes,
//! a tick visits the writers that have something due, and eviction visits the
//! largest tails. Each of these sets is kept up to date by `Writers::file`,
//! which runs after each change of a writer.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::mem::take;
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

/// The index of a writer. It never changes.
pub(in crate::log) type Place = usize;

/// The writers of all logs.
#[derive(Default)]
pub(in crate::log) struct Writers {
    all: Vec<LogWriter>,
    /// The place of each log. A `u32` needs half the memory of a [`Place`].
    by_id: HashMap<LogId, u32>,
    disk: Due,
    memory: Due,
    /// The logs whose newest event is more than [`LEAD_MAX`] ahead of the wall
    /// clock.
    ahead: Vec<Place>,
    /// No event of a log outside `ahead` has a later time.
    newest: Timestamp,
    /// The clock of the last tick by which events expire.
    expiry: Timestamp,
    /// The bytes of all tails.
    tail_bytes: usize,
    /// The tails that may have a batch to evict. The last tail is evicted from
    /// first.
    order: BTreeSet<(bool, usize, Reverse<Place>)>,
    /// The tails that had no batch to evict. They return to `order` at the next
    /// tick.
    resting: Vec<Place>,
    /// The logs whose head has moved and whose observers are not notified yet.
    moved: Vec<Place>,
    /// The number of times that a writer was visited.
    #[cfg(test)]
    pub(in crate::log) visits: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

/// The work of the logs of one storage kind.
#[derive(Default)]
struct Due {
    /// The writers that the current commit has changed.
    dirty: Vec<Place>,
    /// The writers that have more events to trim than one commit may trim.
    trims: BTreeSet<Place>,
    /// The times at which the logs must be checked for events that are too old.
    ages: BTreeSet<(Timestamp, Place)>,
    /// The logs that trim nothing by age before a monotonic time, in the order
    /// of these times.
    waiting: VecDeque<(Duration, Place)>,
}

impl Writers {
    /// Adds writers that have seen no clock yet.
    pub(in crate::log) fn add(&mut self, writers: Vec<LogWriter>, now: ClockReading) {
        let first = self.all.len();
        if first == 0 {
            // Without a copy: there may be many.
            self.all = writers;
        } else {
            self.all.extend(writers);
        }
        self.by_id.reserve(self.all.len() - first);
        for place in first..self.all.len() {
            let writer = &mut self.all[place];
            writer.begin(now);
            if writer.is_ahead() {
                self.ahead.push(place);
            } else {
                self.newest = self.newest.max(writer.newest());
            }
            self.by_id.insert(writer.log().id(), place as u32);
            let (waits_until, storage) = (writer.waits_until(), writer.log().medium());
            if let Some(until) = waits_until {
                self.due(storage).waiting.push_back((until, place));
            }
            self.file(place);
        }
    }

    pub(in crate::log) fn iter(&self) -> impl Iterator<Item = &LogWriter> {
        self.all.iter()
    }

    pub(in crate::log) fn iter_mut(&mut self) -> impl Iterator<Item = &mut LogWriter> {
        self.all.iter_mut()
    }

    /// Returns the place of the log of each of `configs`, or `None` if the log is
    /// not open.
    pub(in crate::log) fn find(&self, configs: &[LogConfig]) -> Vec<Option<Place>> {
        let writers = self.all.iter().enumerate();
        let places: HashMap<_, _> = writers
            .map(|(place, writer)| ((&*writer.log().origin().name, writer.is_topic()), place))
            .collect();
        let find = |config: &LogConfig| places.get(&(&*config.name, config.is_topic())).copied();
        configs.iter().map(find).collect()
    }

    /// Returns the writer at `place`. Call [`Writers::file`] after a change.
    fn at(&mut self, place: Place) -> &mut LogWriter {
        #[cfg(test)]
        self.visits.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        &mut self.all[place]
    }

    /// Changes the retention of the log at `place` if the log is as `config`
    /// asks apart from the retention. Returns whether it is.
    pub(in crate::log) fn set_retention(&mut self, place: Place, config: &LogConfig) -> bool {
        let writer = self.at(place);
        let is_compatible = writer.is_compatible(config);
        if is_compatible {
            writer.set_retention(config.retention);
            self.file(place);
        }
        is_compatible
    }

    /// Decides `writes` to `log`, in order. Returns `None` if no writer has the
    /// log.
    pub(in crate::log) fn decide(
        &mut self,
        work: &mut CommitBatch,
        log: LogId,
        writes: &[Write],
        bytes_max: usize,
    ) -> Option<Result<Vec<Result<AppendOutcome, AppendRejection>>, store::Error>> {
        let place = *self.by_id.get(&log)? as Place;
        // An event has the time of this clock or of the event before it.
        self.newest = self.newest.max(work.now().wall);
        Some(self.changing(place, |writer| {
            writes.iter().map(|write| writer.decide(work, write, bytes_max)).collect()
        }))
    }

    /// Decides all writes of `batch`, in order. If one write is rejected, no
    /// write of the batch is in the commit, and no offset was used.
    ///
    /// # Errors
    /// [`AtomicError`] for the first write that was rejected or whose state
    /// could not be read, for a cursor beyond the head of its log, and for a log
    /// that belongs to another engine.
    pub(in crate::log) fn decide_all(
        &mut self,
        work: &mut CommitBatch,
        batch: &AtomicBatch,
        bytes_max: usize,
    ) -> Result<Vec<Vec<AppendOutcome>>, AtomicError> {
        let was_dirty = self.disk.dirty.len();
        let mut savepoints = Vec::with_capacity(batch.appends.len());
        self.newest = self.newest.max(work.now().wall);
        work.begin_atomic();
        let appends = batch.appends.iter().enumerate();
        let mut decided = appends
            .map(|(index, (log, writes))| {
                let Some(&place) = self.by_id.get(&log.id()) else { return Err(unknown(log)) };
                let place = place as Place;
                savepoints.push((place, self.at(place).savepoint()));
                self.changing(place, |writer| decide_each(writer, work, index, writes, bytes_max))
            })
            .collect::<Result<_, _>>();
        if decided.is_ok()
            && let Err(error) = self.set_cursors(work, &batch.cursors)
        {
            decided = Err(error);
        }
        work.end_atomic(decided.is_ok());
        if decided.is_err() {
            // The newest savepoint first: a log may occur twice in the batch.
            for (place, savepoint) in savepoints.into_iter().rev() {
                self.at(place).restore(savepoint);
            }
            self.disk.dirty.truncate(was_dirty);
        }
        decided
    }

    /// Puts the changes of cursors into the commit, all or none.
    ///
    /// # Errors
    /// [`AtomicError`] if an offset is beyond the head of its log.
    fn set_cursors(
        &self,
        work: &mut CommitBatch,
        updates: &[CursorUpdate],
    ) -> Result<(), AtomicError> {
        let cursor = |update: &CursorUpdate| match update {
            CursorUpdate::Remove { name } => Ok((name.clone(), None)),
            CursorUpdate::Set { name, log, offset } => {
                let place = self.by_id.get(&log.id()).ok_or_else(|| unknown(log))?;
                let meta = self.all[*place as Place].metadata();
                if *offset > meta.position.head {
                    return Err(AtomicError::CursorAhead(name.clone()));
                }
                let cursor = Cursor { log: meta.id, epoch: meta.epoch, offset: *offset };
                Ok((name.clone(), Some(cursor)))
            }
        };
        let cursors = updates.iter().map(cursor).collect::<Result<Vec<_>, _>>()?;
        work.cursors.extend(cursors);
        Ok(())
    }

    /// Runs `change`, and adds the writer to the dirty ones if `change` made it
    /// dirty.
    fn changing<T>(&mut self, place: Place, change: impl FnOnce(&mut LogWriter) -> T) -> T {
        let writer = self.at(place);
        let was_dirty = writer.is_dirty();
        let result = change(writer);
        if !was_dirty && writer.is_dirty() {
            let storage = writer.log().medium();
            self.due(storage).dirty.push(place);
        }
        result
    }

    /// Puts the changes of all dirty writers of `storage` into the commit, each
    /// after `prepare`. Returns the events of each.
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    pub(in crate::log) fn stage(
        &mut self,
        storage: StorageKind,
        work: &mut CommitBatch,
        mut prepare: impl FnMut(&mut LogWriter),
    ) -> Result<Vec<(Place, Vec<Event>)>, store::Error> {
        let mut dirty = take(&mut self.due(storage).dirty);
        let mut staged = Vec::with_capacity(dirty.len());
        for place in dirty.drain(..) {
            let writer = self.at(place);
            prepare(writer);
            staged.push((place, writer.stage(work)?));
        }
        self.due(storage).dirty = dirty;
        Ok(staged)
    }

    /// Publishes the events that [`Writers::stage`] returned, after their commit.
    pub(in crate::log) fn publish(&mut self, staged: Vec<(Place, Vec<Event>)>, committed: Instant) {
        for (place, events) in staged {
            if !events.is_empty() {
                self.moved.push(place);
            }
            self.at(place).publish(events, committed);
            self.file(place);
        }
    }

    /// Notifies the observers of each log whose head has moved since the last
    /// call.
    pub(in crate::log) fn notify_observers(&mut self) {
        for place in self.moved.drain(..) {
            self.all[place].log().notify_observers();
        }
    }

    /// Returns whether retention has more events to trim than the last commit
    /// could.
    pub(in crate::log) fn is_trim_pending(&self, storage: StorageKind) -> bool {
        let due = match storage {
            StorageKind::Disk => &self.disk,
            StorageKind::Memory => &self.memory,
        };
        !due.trims.is_empty()
    }

    /// Makes the writers dirty that have events to trim by now.
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    pub(in crate::log) fn trim_due(
        &mut self,
        storage: StorageKind,
        now: ClockReading,
    ) -> Result<(), store::Error> {
        self.watch(now);
        let trims: Vec<Place> = self.due(storage).trims.iter().copied().collect();
        for place in trims {
            self.changing(place, LogWriter::trim_more);
        }
        while let Some((_, place)) =
            self.due(storage).waiting.pop_front_if(|(until, _)| *until <= now.elapsed)
        {
            self.at(place).end_wait();
            self.file(place);
        }
        let old = self.due(storage).ages.range(..(now.expiry, 0));
        let old: Vec<Place> = old.map(|&(_, place)| place).collect();
        for place in old {
            self.changing(place, |writer| writer.age(now))?;
            self.file(place);
        }
        Ok(())
    }

    /// Compares the clocks with those of the last tick, and with the times of
    /// the logs that are ahead of the wall clock. All logs are visited only if
    /// a clock has moved back.
    fn watch(&mut self, now: ClockReading) {
        let bound = later(now.wall, LEAD_MAX);
        if bound < self.newest {
            self.ahead = (0..self.all.len()).collect();
            self.newest = bound;
        }
        let mut ahead = take(&mut self.ahead);
        ahead.retain(|&place| {
            let writer = self.at(place);
            let is_ahead = writer.observe(now);
            let newest = writer.newest();
            if !is_ahead {
                self.newest = self.newest.max(newest);
            }
            is_ahead
        });
        self.ahead = ahead;
        if now.expiry < self.expiry {
            // An event that was not ahead of the clock may be ahead now, and is
            // then as old as an event behind it.
            for place in 0..self.all.len() {
                self.at(place).forget_age();
                self.file(place);
            }
        }
        self.expiry = now.expiry;
    }

    /// Returns the tails that had no batch to evict to the eviction order.
    pub(in crate::log) fn wake_tails(&mut self) {
        for place in take(&mut self.resting) {
            self.file(place);
        }
    }

    /// Evicts batches until all tails together take at most `bytes_max`: each
    /// time the oldest batch of the tail that takes most. The newest batch of a
    /// tail stays for `shown` after its commit.
    pub(in crate::log) fn evict(&mut self, bytes_max: usize, shown: Duration) {
        while self.tail_bytes > bytes_max {
            let Some((.., Reverse(place))) = self.order.last().copied() else { return };
            if self.at(place).evict(shown) {
                self.file(place);
            } else {
                self.order.pop_last();
                let filed = self.all[place].filed();
                self.all[place].set_filed(Filed { weight: None, ..filed });
                self.resting.push(place);
            }
        }
    }

    /// Updates the sets with the state of the writer at `place`.
    fn file(&mut self, place: Place) {
        let writer = self.at(place);
        let storage = writer.log().medium();
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
            // The insertion comes first: a set that empties frees its memory.
            if let Some((trimmed, bytes)) = is.weight {
                self.order.insert((trimmed, bytes, Reverse(place)));
            }
            if let Some((trimmed, bytes)) = was.weight {
                self.order.remove(&(trimmed, bytes, Reverse(place)));
            }
        }
        let due = self.due(storage);
        if is_trim_pending {
            due.trims.insert(place);
        } else {
            due.trims.remove(&place);
        }
        if was.age != is.age {
            if let Some(age) = is.age {
                due.ages.insert((age, place));
            }
            if let Some(age) = was.age {
                due.ages.remove(&(age, place));
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

/// Decides the writes of one append of an atomic batch. `index` is the index of
/// the append in the batch.
///
/// # Errors
/// [`AtomicError`] for the first write that was rejected.
fn decide_each(
    writer: &mut LogWriter,
    work: &mut CommitBatch,
    index: usize,
    appended: &[Write],
    bytes_max: usize,
) -> Result<Vec<AppendOutcome>, AtomicError> {
    let decide = |(write, each): (usize, &Write)| {
        let decided = writer.decide(work, each, bytes_max).map_err(Error::Store)?;
        decided.map_err(|rejection| AtomicError::Rejected { append: index, write, rejection })
    };
    appended.iter().enumerate().map(decide).collect()
}

fn unknown(log: &Log) -> AtomicError {
    AtomicError::Engine(Error::Store(unknown_log(&log.origin().name)))
}

/// Returns the error for a log that belongs to another engine.
pub(in crate::log) fn unknown_log(name: &str) -> store::Error {
    let why = format!("{name} is not a log of this engine");
    store::Error::Io(std::io::Error::other(why))
}
