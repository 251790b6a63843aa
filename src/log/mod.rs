//! Order and durability: the contract that every engine keeps.
//!
//! There is one log per collection and per topic of its own. A write becomes
//! an event by [`Engine::append`], which answers once it is durable; what is
//! committed, and nothing else, is seen by readers and by the hub
//! (`docs/architecture.md#laws`, 1). Reads go to the [`Store`]
//! that every engine fills; the newest batches also stay in memory, in each
//! log's tail, already shared and encoded at most once. A topic may ask for no
//! more than that tail ([`StorageKind::Memory`]).

mod atomic;
#[cfg(test)]
mod conformance;
mod contract;
#[cfg(test)]
mod crash_tests;
mod embedded;
mod follower;
#[cfg(test)]
mod many_logs_tests;
mod read;
#[cfg(all(test, feature = "shuttle"))]
mod scheduled;
#[cfg(test)]
mod visibility_tests;

use std::future::Future;
use std::sync::Arc;

use ::metrics::Histogram;
use tokio::sync::Notify;

pub use atomic::{AtomicBatch, AtomicError, CursorPosition, CursorUpdate};
pub use contract::{
    AppendOutcome, AppendRejection, BadWrite, Error, FsyncPolicy, IdempotencyKey, LogConfig,
    Mutation, Precondition, Settings, StorageKind, Write, WriteState,
};
pub use embedded::PendingAppend;
pub use follower::{Follow, Followed, Follower};
pub use read::{Log, Page};

use crate::event::Offset;
use crate::store::{self, CursorName, Store};
use crate::supervisor::Cause;

/// A closed set of engines, so that a call is a jump and not a boxed future.
pub enum Engine {
    /// The log on this machine's disk.
    Embedded(embedded::Embedded),
}

impl Engine {
    /// Opens the embedded engine with a log for each of `specs`, making those
    /// that the store does not know yet. Blocks on the disk.
    ///
    /// # Errors
    /// [`store::Error`] when the directory cannot be used, or when what it
    /// holds is damaged or ends before what was acknowledged.
    pub fn open(settings: &Settings, specs: &[LogConfig]) -> Result<Engine, store::Error> {
        let clock = embedded::Clock::system();
        Ok(Engine::Embedded(embedded::Embedded::open(settings, specs, clock)?))
    }

    /// Opens the embedded engine with a clock of a test's own.
    #[cfg(test)]
    fn open_at(
        settings: &Settings,
        specs: &[LogConfig],
        clock: embedded::Clock,
    ) -> Result<Engine, store::Error> {
        Ok(Engine::Embedded(embedded::Embedded::open(settings, specs, clock)?))
    }

    /// The log of the collection or topic `name`; of the two that there may be
    /// after [`Engine::reconfigure`], the one that was named last.
    pub fn log(&self, name: &str) -> Option<Arc<Log>> {
        match self {
            Engine::Embedded(engine) => engine.log(name),
        }
    }

    /// All logs as they are now: those that were named last, in the order of
    /// the specs, then those that no spec names any more.
    pub fn logs(&self) -> Arc<[Arc<Log>]> {
        match self {
            Engine::Embedded(engine) => engine.logs(),
        }
    }

    /// Has a log for each of `specs`, as [`Engine::open`] would, while writes
    /// and reads go on: new ones are made durably and can be used once this has
    /// answered, the retention of the others is changed (what is then too much
    /// goes in the steps that every commit takes), and `resource_bytes_max`
    /// holds from the next commit on. A log that is not named any more stays
    /// open as it is, and keeps its epoch and offsets for when it is named
    /// again.
    ///
    /// Gives the names of those that would have to be opened anew, since the
    /// spec has another durability or other event types than the log: they
    /// stay wholly as they are until a restart.
    ///
    /// # Errors
    /// [`Error`] when a log could not be made; then nothing has been changed.
    ///
    /// # Cancel safety
    /// Dropping the future does not take it back: once queued it is done.
    pub async fn reconfigure(
        &self,
        specs: &[LogConfig],
        resource_bytes_max: usize,
    ) -> Result<Vec<String>, Error> {
        match self {
            Engine::Embedded(engine) => engine.reconfigure(specs, resource_bytes_max).await,
        }
    }

    /// Where events and resources are read.
    pub fn store(&self) -> &Store {
        match self {
            Engine::Embedded(engine) => engine.store(),
        }
    }

    /// Appends `writes` to `log`, in order, each checked against the state
    /// that the ones before it leave, and answers each once all of them are
    /// durable. A refused write wrote nothing and does not hinder the others.
    ///
    /// # Errors
    /// [`Error`] when the log as a whole cannot take writes; then no write of
    /// this call is acknowledged.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the writes back: once queued they
    /// are committed, unanswered.
    pub async fn append(
        &self,
        log: &Log,
        writes: Vec<Write>,
    ) -> Result<Vec<Result<AppendOutcome, AppendRejection>>, Error> {
        self.queue(log, writes).await?.answered().await
    }

    /// The first half of [`Engine::append`]: waits for room and queues
    /// `writes`. What is queued after this returns is decided after them.
    ///
    /// # Errors
    /// [`Error`] when the log as a whole cannot take writes.
    ///
    /// # Cancel safety
    /// Dropping the future may leave some of the first writes queued; they
    /// are committed, unanswered.
    pub async fn queue(&self, log: &Log, writes: Vec<Write>) -> Result<PendingAppend, Error> {
        match self {
            Engine::Embedded(engine) => engine.queue(log, writes).await,
        }
    }

    /// Appends the writes of `batch` to several logs and changes its cursors, in
    /// one commit: all changes become durable, or none. The writes are decided in the order of the
    /// batch, each against the state that the writes before it leave. Returns
    /// the outcomes of each append once the commit is durable. A write whose
    /// idempotency key is known is answered with the earlier outcome, and the
    /// other writes of the batch are done.
    ///
    /// # Errors
    /// [`AtomicError::Rejected`] for the first write that is rejected: then no
    /// write of the batch is in any log, and no offset was used.
    /// [`AtomicError::CursorAhead`] for a cursor beyond the head of its log.
    /// [`AtomicError::MemoryTopic`] and [`AtomicError::TooLarge`] before the
    /// batch is queued. [`AtomicError::Engine`] if the engine accepts no writes.
    /// After [`Error::Poisoned`] the batch may be on disk, and then all of it
    /// is.
    ///
    /// # Cancel safety
    /// Dropping the future does not cancel a batch that is in the queue: the
    /// batch is committed or rejected as a whole, and nobody gets the answer.
    pub async fn append_all(
        &self,
        batch: AtomicBatch,
    ) -> Result<Vec<Vec<AppendOutcome>>, AtomicError> {
        match self {
            Engine::Embedded(engine) => engine.append_all(batch).await,
        }
    }

    /// Sets the durable cursor `name` to an offset of `log`. The cursor is as
    /// durable as an appended event when this function returns. To set a cursor
    /// in the same commit as appends, use [`Engine::append_all`].
    ///
    /// # Errors
    /// As for [`Engine::append_all`].
    ///
    /// # Cancel safety
    /// Dropping the future does not cancel a change that is in the queue.
    pub async fn set_cursor(
        &self,
        name: CursorName,
        log: Arc<Log>,
        offset: Offset,
    ) -> Result<(), AtomicError> {
        let cursors = vec![CursorUpdate::Set { name, log, offset }];
        self.append_all(AtomicBatch { cursors, ..AtomicBatch::default() }).await.map(drop)
    }

    /// Removes the durable cursor `name`, if it exists.
    ///
    /// # Errors
    /// As for [`Engine::append_all`].
    ///
    /// # Cancel safety
    /// Dropping the future does not cancel a removal that is in the queue.
    pub async fn remove_cursor(&self, name: CursorName) -> Result<(), AtomicError> {
        let cursors = vec![CursorUpdate::Remove { name }];
        self.append_all(AtomicBatch { cursors, ..AtomicBatch::default() }).await.map(drop)
    }

    /// Returns the position of the durable cursor `name` in `log`, or `None` if
    /// no cursor has this name. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Store`] if the store cannot be read.
    pub fn cursor(&self, name: &CursorName, log: &Log) -> Result<Option<CursorPosition>, Error> {
        let cursor = self.store().cursor(name)?;
        Ok(cursor.map(|cursor| CursorPosition::of(cursor, log)))
    }

    /// Notifies `observer` after each commit, once the logs' tails and heads
    /// have moved, as long as somebody else keeps it.
    pub fn observe(&self, observer: &Arc<Notify>) {
        match self {
            Engine::Embedded(engine) => engine.observe(observer),
        }
    }

    /// Records how long each commit takes, its sync included; the first
    /// histogram given stays.
    pub fn time_commits(&self, histogram: Histogram) {
        match self {
            Engine::Embedded(engine) => engine.time_commits(histogram),
        }
    }

    /// Whether the logs on disk take writes. The free space of the disk is
    /// compared once a second, and before each commit.
    pub fn write_state(&self) -> WriteState {
        match self {
            Engine::Embedded(engine) => engine.write_state(),
        }
    }

    /// Resolves when the engine's thread has panicked, or has returned although
    /// the engine was not closed. The future does not keep the engine open.
    pub fn failed(&self) -> impl Future<Output = Cause> + Send + use<> {
        match self {
            Engine::Embedded(engine) => engine.failed(),
        }
    }

    /// Commits what is queued, syncs, and refuses every later write with
    /// [`Error::Closed`]. Blocks on the disk.
    pub fn close(&self) {
        match self {
            Engine::Embedded(engine) => engine.close(),
        }
    }
}
