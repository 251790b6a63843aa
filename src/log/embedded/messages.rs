//! The messages and the shared state of the committer and its callers.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use ::metrics::Histogram;
use parking_lot::RwLock;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;

use crate::event::LogId;
use crate::log::{
    AppendOutcome, AppendRejection, AtomicBatch, AtomicError, Error, Log, LogConfig, StorageKind,
    Write,
};
use crate::wire::LogIdentity;

/// A commit that has this number of writes takes no more requests from the queue. A
/// larger commit would delay the next one.
pub(in crate::log) const COMMIT_WRITES: usize = 4096;
/// A commit that has this number of bytes takes no more requests from the queue.
pub(in crate::log) const COMMIT_BYTES: usize = 8 * 1024 * 1024;

/// The answer to an append to one log.
pub(in crate::log) type Answer = Result<Vec<Result<AppendOutcome, AppendRejection>>, Error>;

/// The answer to an [`AtomicBatch`].
pub(in crate::log) type AtomicAnswer = Result<Vec<Vec<AppendOutcome>>, AtomicError>;

/// A request in the queue of the committer: one or more writes.
pub(in crate::log) struct Request {
    pub(in crate::log) kind: RequestKind,
    pub(in crate::log) storage: StorageKind,
    pub(in crate::log) bytes: usize,
    /// The permit for `bytes` bytes of the queue. It is dropped after the answer,
    /// and the bytes are then free again.
    pub(in crate::log) permit: OwnedSemaphorePermit,
}

/// The writes of a request, with the channel for the answer.
pub(in crate::log) enum RequestKind {
    /// Writes to one log. Each write is accepted or rejected by itself.
    Append {
        log: LogId,
        /// The identity of the log, with the name of the log for an error text.
        identity: Arc<LogIdentity>,
        writes: Vec<Write>,
        answer: oneshot::Sender<Answer>,
    },
    /// Writes that are committed together or not at all.
    Atomic(Box<(AtomicBatch, oneshot::Sender<AtomicAnswer>)>),
}

impl Request {
    /// Returns the number of writes in the request.
    pub(in crate::log) fn writes(&self) -> usize {
        match &self.kind {
            RequestKind::Append { writes, .. } => writes.len(),
            RequestKind::Atomic(atomic) => atomic.0.writes(),
        }
    }

    /// Answers the request with `error`.
    pub(in crate::log) fn refuse(self, error: Error) {
        // The caller may have gone; ignore the error.
        match self.kind {
            RequestKind::Append { answer, .. } => drop(answer.send(Err(error))),
            RequestKind::Atomic(atomic) => drop(atomic.1.send(Err(error.into()))),
        }
    }
}

/// The answer to a request, with its channel. The answer is sent after the commit is
/// durable.
pub(in crate::log) enum Reply {
    Append(oneshot::Sender<Answer>, Answer),
    Atomic(oneshot::Sender<AtomicAnswer>, AtomicAnswer),
}

impl Reply {
    /// Sends the answer to the caller of the engine.
    pub(in crate::log) fn send(self) {
        // The caller may have gone; ignore the error.
        match self {
            Reply::Append(sender, answer) => drop(sender.send(answer)),
            Reply::Atomic(sender, answer) => drop(sender.send(answer)),
        }
    }

    /// Sends `error` in place of the answer.
    pub(in crate::log) fn refuse(self, error: Error) {
        match self {
            Reply::Append(sender, _) => Reply::Append(sender, Err(error)).send(),
            Reply::Atomic(sender, _) => Reply::Atomic(sender, Err(error.into())).send(),
        }
    }
}

/// A request to open further logs and to change the retention of logs.
pub(in crate::log) struct Reconfiguration {
    pub(in crate::log) configs: Vec<LogConfig>,
    pub(in crate::log) resource_bytes_max: usize,
    pub(in crate::log) answer: oneshot::Sender<Result<Vec<String>, Error>>,
}

/// The state that the committer and its callers share.
#[derive(Default)]
pub(in crate::log) struct Shared {
    pub(in crate::log) logs: RwLock<Directory>,
    pub(in crate::log) closing: CancellationToken,
    pub(in crate::log) poisoned: AtomicBool,
    /// Whether the disk has less free space than the committer's reserve. Writes to
    /// logs on disk are then refused.
    pub(in crate::log) full: AtomicBool,
    pub(in crate::log) commits: OnceLock<Histogram>,
    /// The number of times that the committer visited a writer.
    #[cfg(test)]
    pub(in crate::log) visits: Arc<std::sync::atomic::AtomicU64>,
}

/// The list of all logs, with an index by name.
#[derive(Default)]
pub(in crate::log) struct Directory {
    pub(in crate::log) logs: Arc<[Arc<Log>]>,
    /// Indexes into `logs`, sorted by name. Logs with the same name are in the
    /// order of `logs`.
    by_name: Vec<u32>,
}

impl Directory {
    pub(in crate::log) fn new(logs: impl Iterator<Item = Arc<Log>>) -> Directory {
        let logs: Arc<[Arc<Log>]> = logs.collect();
        let mut by_name: Vec<u32> = (0..logs.len() as u32).collect();
        by_name.sort_by_key(|&index| &logs[index as usize].identity().name);
        Directory { logs, by_name }
    }

    /// Returns the first log of this name.
    pub(in crate::log) fn find(&self, name: &str) -> Option<&Arc<Log>> {
        let log = |index: u32| &self.logs[index as usize];
        let first = self.by_name.partition_point(|&index| *log(index).identity().name < *name);
        let found = log(*self.by_name.get(first)?);
        (*found.identity().name == *name).then_some(found)
    }
}

impl Shared {
    /// Returns the error for a request that gets no answer because the committer has
    /// ended. If the engine was not closed before, the committer has panicked.
    pub(in crate::log) fn ended(&self) -> Error {
        if self.closing.is_cancelled() { Error::Closed } else { Error::Poisoned }
    }
}

/// Queued writes that the committer has not answered yet. Their order is fixed, and
/// they are not durable yet.
#[must_use = "call `answered()`: without the answer, it is unknown which writes were accepted"]
pub struct PendingAppend {
    pub(in crate::log) answers: Vec<oneshot::Receiver<Answer>>,
    pub(in crate::log) shared: Arc<Shared>,
}

impl PendingAppend {
    /// Waits until all writes are durable, and returns the result of each write.
    /// This is the second half of [`Engine::append`](crate::log::Engine::append).
    ///
    /// # Errors
    /// [`Error`] if the log accepts no writes. No write is acknowledged then.
    ///
    /// # Cancel safety
    /// Dropping the future does not cancel the writes: they are committed, and
    /// nobody gets the answer.
    pub async fn answered(self) -> Result<Vec<Result<AppendOutcome, AppendRejection>>, Error> {
        let mut results = Vec::new();
        for answer in self.answers {
            results.extend(answer.await.map_err(|_| self.shared.ended())??);
        }
        Ok(results)
    }
}
