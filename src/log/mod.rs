//! Logs: the order and durability of events.
//!
//! Each collection has a log, and so has each topic that is not a view.
//! [`Engine::append`] turns writes into events and answers when the events are
//! durable. Readers and the hub get only committed events
//! (`docs/architecture.md#laws`, law 1). Events are read from the [`Store`]. The
//! newest batches of a log are also in memory, in the tail of the log. All readers
//! share these batches, and a batch is encoded at most once. A topic can be kept in
//! its tail only ([`StorageKind::Memory`]).

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
mod observers;
mod read;
#[cfg(all(test, feature = "shuttle"))]
mod scheduled;
#[cfg(test)]
mod visibility_tests;

use std::future::Future;
use std::sync::Arc;

use ::metrics::Histogram;

pub use atomic::{AtomicBatch, AtomicError, CursorPosition, CursorUpdate};
pub use contract::{
    AppendOutcome, AppendRejection, BadWrite, Error, FsyncPolicy, IdempotencyKey, LogConfig,
    Mutation, Precondition, Settings, StorageKind, Write, WriteState,
};
pub use embedded::PendingAppend;
pub use follower::{Follow, Followed, Follower};
pub use observers::LogObserver;
pub use read::{Log, Page};

use crate::event::Offset;
use crate::store::{self, CursorName, Store};
use crate::supervisor::Cause;

/// An engine: it orders the events of all logs and makes them durable. The type is
/// an enum and not a trait object, so that a call allocates no boxed future.
pub enum Engine {
    /// The engine in this process, with a store on the disk of this machine.
    Embedded(embedded::Embedded),
}

impl Engine {
    /// Opens the embedded engine with a log for each of `configs`. Creates the logs
    /// that the store does not have yet. Blocks on the disk.
    ///
    /// # Errors
    /// [`store::Error`] if the directory cannot be used, or if the store is damaged
    /// or lacks acknowledged events.
    pub fn open(settings: &Settings, configs: &[LogConfig]) -> Result<Engine, store::Error> {
        let clock = embedded::Clock::system();
        Ok(Engine::Embedded(embedded::Embedded::open(settings, configs, clock)?))
    }

    /// Opens the embedded engine with the clock of a test.
    #[cfg(test)]
    fn open_at(
        settings: &Settings,
        configs: &[LogConfig],
        clock: embedded::Clock,
    ) -> Result<Engine, store::Error> {
        Ok(Engine::Embedded(embedded::Embedded::open(settings, configs, clock)?))
    }

    /// Returns the log of the collection or topic `name`. After
    /// [`Engine::reconfigure`] there can be a collection and a topic with this name.
    /// Then this function returns the log of the newer configuration.
    pub fn log(&self, name: &str) -> Option<Arc<Log>> {
        match self {
            Engine::Embedded(engine) => engine.log(name),
        }
    }

    /// Returns all logs: first the logs of the newest configuration, in its order,
    /// then the logs that only an earlier configuration had.
    pub fn logs(&self) -> Arc<[Arc<Log>]> {
        match self {
            Engine::Embedded(engine) => engine.logs(),
        }
    }

    /// Changes the configuration while writes and reads continue. New logs are
    /// created durably and can be used when the call returns. The other logs get
    /// their new retention. Events that exceed it are trimmed over the next commits.
    /// `resource_bytes_max` applies from the next commit on. A log that `configs`
    /// does not have stays open, and keeps its epoch and offsets.
    ///
    /// Returns the names of the logs that cannot change before a restart, because
    /// their configuration has another storage kind or other event types. These
    /// logs stay unchanged.
    ///
    /// # Errors
    /// [`Error`] if a log could not be created. Then nothing has changed.
    ///
    /// # Cancel safety
    /// A queued change is applied, also if the future is dropped.
    pub async fn reconfigure(
        &self,
        configs: &[LogConfig],
        resource_bytes_max: usize,
    ) -> Result<Vec<String>, Error> {
        match self {
            Engine::Embedded(engine) => engine.reconfigure(configs, resource_bytes_max).await,
        }
    }

    /// Returns the store with the events and resources.
    pub fn store(&self) -> &Store {
        match self {
            Engine::Embedded(engine) => engine.store(),
        }
    }

    /// Appends `writes` to `log` in order, and returns the result of each write when
    /// all of them are durable. Each write is checked against the state after the
    /// writes before it. A rejected write has no effect on the other writes.
    ///
    /// # Errors
    /// [`Error`] if the log rejects all writes. Then no write of this call is
    /// acknowledged.
    ///
    /// # Cancel safety
    /// Queued writes are committed, also if the future is dropped.
    pub async fn append(
        &self,
        log: &Log,
        writes: Vec<Write>,
    ) -> Result<Vec<Result<AppendOutcome, AppendRejection>>, Error> {
        self.queue(log, writes).await?.answered().await
    }

    /// Waits for space in the queue and queues `writes`. Writes that are queued
    /// after this call returns are committed after `writes`. The caller waits for
    /// the commit with the returned [`PendingAppend`].
    ///
    /// # Errors
    /// [`Error`] if the log rejects all writes.
    ///
    /// # Cancel safety
    /// If the future is dropped, the queue may already have some of the first
    /// writes. These writes are committed.
    pub async fn queue(&self, log: &Log, writes: Vec<Write>) -> Result<PendingAppend, Error> {
        match self {
            Engine::Embedded(engine) => engine.queue(log, writes).await,
        }
    }

    /// Appends the writes of `batch` to several logs and changes its cursors, in
    /// one commit: all changes become durable, or none. The engine decides the
    /// writes in the order of the batch. Each write sees the effects of the writes
    /// before it. Returns the outcomes of each append once the commit is durable. A
    /// write with a known idempotency key returns the earlier outcome, and does not
    /// stop the other writes.
    ///
    /// # Errors
    /// [`AtomicError::Rejected`] for the first write that is rejected: then no write
    /// of the batch is in any log, and no offset was used.
    /// [`AtomicError::CursorAhead`] for a cursor beyond the head of its log.
    /// [`AtomicError::MemoryTopic`] if a log of the batch is in memory, and
    /// [`AtomicError::TooLarge`] if the batch does not fit into one commit. Such a
    /// batch is not queued. [`AtomicError::Engine`] if the engine accepts no writes.
    /// After [`Error::Poisoned`], either the whole batch is on disk or nothing of
    /// it.
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

    /// Starts to record the duration of each commit, including its sync, in
    /// `histogram`. A second call has no effect.
    pub fn time_commits(&self, histogram: Histogram) {
        match self {
            Engine::Embedded(engine) => engine.time_commits(histogram),
        }
    }

    /// Returns whether the logs on disk accept writes. The committer checks the free
    /// space of the disk once a second and before each commit.
    pub fn write_state(&self) -> WriteState {
        match self {
            Engine::Embedded(engine) => engine.write_state(),
        }
    }

    /// Returns a future that resolves if the thread of the committer panics, or
    /// returns before the engine is closed. The future does not keep the engine
    /// open.
    pub fn failed(&self) -> impl Future<Output = Cause> + Send + use<> {
        match self {
            Engine::Embedded(engine) => engine.failed(),
        }
    }

    /// Commits the queued writes and syncs. Later writes fail with
    /// [`Error::Closed`]. Blocks on the disk.
    pub fn close(&self) {
        match self {
            Engine::Embedded(engine) => engine.close(),
        }
    }
}
