//! Order and durability: the contract that every engine keeps.
//!
//! There is one log per collection and per topic of its own. A write becomes
//! an event by [`Engine::append`], which answers once it is durable; what is
//! committed, and nothing else, is seen by readers and by the hub
//! (`docs/architecture.md#laws`, 1). Reads go to the [`Store`]
//! that every engine fills; the newest batches also stay in memory, in each
//! log's tail, already shared and encoded at most once. A topic may ask for no
//! more than that tail ([`StorageKind::Memory`]).

mod answers;
mod apply;
mod clock;
mod committer;
#[cfg(test)]
mod conformance;
mod writer;
mod writers;
#[cfg(test)]
mod crash;
mod embedded;
mod tail_reads;
mod page_cache;
mod registry;
#[cfg(all(test, feature = "shuttle"))]
mod scheduled;
#[cfg(test)]
mod visibility_tests;
#[cfg(test)]
mod many_logs_tests;
mod tail;
mod write;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::metrics::Histogram;
use tokio::sync::Notify;

pub use embedded::PendingAppend;
pub use tail::{Log, Page};
pub use write::{
    AppendOutcome, AppendRejection, BadWrite, IdempotencyKey, Mutation, Precondition, Write,
};

use crate::store::{self, Retention, Store};
use crate::supervisor::Cause;
use crate::wire::LogKind;

/// What an engine needs to know to open.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of the store; made if it is not there.
    pub path: PathBuf,
    /// When a write is answered and shown.
    pub sync: FsyncPolicy,
    /// Memory for the tails of all logs together, in bytes.
    pub tail_bytes: usize,
    /// Memory for encoded pages read back, in bytes.
    pub page_cache_bytes: usize,
    /// How many pages, and other things on blocking threads, are read from disk
    /// at a time.
    pub catchup_concurrency: usize,
    /// Largest resource a merge may grow to, in bytes.
    pub resource_bytes_max: usize,
}

#[cfg(test)]
impl Settings {
    /// Of a store of a test's own in `folder`, with more memory than a test fills.
    pub(crate) fn within(folder: &std::path::Path) -> Settings {
        Settings {
            path: folder.join("data"),
            sync: FsyncPolicy::Never,
            tail_bytes: 64 << 20,
            page_cache_bytes: 16 << 20,
            catchup_concurrency: 4,
            resource_bytes_max: 1 << 20,
        }
    }
}

/// When data is on disk relative to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsyncPolicy {
    /// Before anybody is answered or shown anything; one sync for all that
    /// has queued up.
    Always,
    /// Within this time after the answer.
    Interval(Duration),
    /// When the operating system likes.
    Never,
}

/// Where a log is kept, and so what it survives; not to be taken for
/// [`store::Durability`], which is how far one commit has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StorageKind {
    /// In the store: it survives the process, and with [`FsyncPolicy::Always`] a
    /// power cut.
    #[default]
    Disk,
    /// In its tail alone, within [`Settings::tail_bytes`]. Nothing of it is
    /// ever written to the store, a write waits for no sync, and its epoch ends
    /// with the process.
    Memory,
}

/// A log that the configuration asks for.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The collection's or topic's name.
    pub name: String,
    /// Which of the two it is.
    pub kind: LogKind,
    /// How much of it is kept.
    pub retention: Retention,
    /// Where it is kept. A collection's resources are state that has to last:
    /// its log is on disk whatever this says.
    pub durability: StorageKind,
}

impl LogConfig {
    /// A topic that keeps everything.
    #[cfg(test)]
    pub(crate) fn topic(name: &str, durability: StorageKind) -> LogConfig {
        let retention = Retention::default();
        LogConfig { name: name.to_owned(), kind: LogKind::Topic, retention, durability }
    }

    fn is_topic(&self) -> bool {
        matches!(self.kind, LogKind::Topic)
    }

    fn medium(&self) -> StorageKind {
        if self.is_topic() { self.durability } else { StorageKind::Disk }
    }
}

/// Whether the logs on disk take writes. Topics in memory take events in every
/// state but [`WriteState::Ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteState {
    /// They do.
    Writable,
    /// The disk has too little free space. Reads go on, and writes do when
    /// there is room.
    DiskFull,
    /// A sync or a commit has failed: [`Error::Poisoned`].
    SyncFailed,
    /// The committer has ended.
    Ended,
}

impl WriteState {
    /// The state as `/readyz` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            WriteState::Writable => "writable",
            WriteState::DiskFull => "disk full",
            WriteState::SyncFailed => "read-only after a failed sync",
            WriteState::Ended => "read-only after the committer ended",
        }
    }
}

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
        let clock = clock::Clock::system();
        Ok(Engine::Embedded(embedded::Embedded::open(settings, specs, clock)?))
    }

    /// Opens the embedded engine with a clock of a test's own.
    #[cfg(test)]
    fn open_at(
        settings: &Settings,
        specs: &[LogConfig],
        clock: clock::Clock,
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

    /// Asks that `observer` be notified after each commit, once the logs'
    /// tails and heads have moved.
    pub fn observe(&self, observer: Arc<Notify>) {
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

/// Why a log takes no writes, or a read has no answer.
#[derive(Debug)]
pub enum Error {
    /// The disk is full and nothing was written; reads go on, and writes do
    /// when there is room.
    Full,
    /// The engine was closed: the process is ending.
    Closed,
    /// A write to disk failed before. The log refuses to guess what is on
    /// disk until the process is started again.
    Poisoned,
    /// The store could not be read.
    Store(store::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Full => write!(f, "the disk is full"),
            Error::Closed => write!(f, "the log is closed"),
            Error::Poisoned => write!(f, "a sync failed; the log takes no writes until a restart"),
            Error::Store(_) => write!(f, "the store could not be read"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Error {
        Error::Store(error)
    }
}
