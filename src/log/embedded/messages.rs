//! What the committer and those who call it send to each other and share.

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

/// Writes and bytes of one commit; what it costs to wait for the one before.
pub(in crate::log) const COMMIT_WRITES: usize = 4096;
pub(in crate::log) const COMMIT_BYTES: usize = 8 * 1024 * 1024;

pub(in crate::log) type Answer = Result<Vec<Result<AppendOutcome, AppendRejection>>, Error>;

/// The answer to an [`AtomicBatch`].
pub(in crate::log) type AtomicAnswer = Result<Vec<Vec<AppendOutcome>>, AtomicError>;

/// Writes in the queue of the committer.
pub(in crate::log) struct Request {
    pub(in crate::log) work: Work,
    pub(in crate::log) storage: StorageKind,
    pub(in crate::log) bytes: usize,
    /// Returns the bytes to the queue once the request is answered.
    pub(in crate::log) permit: OwnedSemaphorePermit,
}

/// The writes of a request, with the channel for the answer.
pub(in crate::log) enum Work {
    /// Writes to one log. Each write is accepted or rejected by itself.
    Append {
        log: LogId,
        /// The identity of the log. An error names the log.
        identity: Arc<LogIdentity>,
        writes: Vec<Write>,
        answer: oneshot::Sender<Answer>,
    },
    /// Writes that are committed together or not at all.
    Atomic(Box<(AtomicBatch, oneshot::Sender<AtomicAnswer>)>),
}

impl Request {
    /// The number of writes.
    pub(in crate::log) fn writes(&self) -> usize {
        match &self.work {
            Work::Append { writes, .. } => writes.len(),
            Work::Atomic(atomic) => atomic.0.writes(),
        }
    }

    /// Answers with `error`.
    pub(in crate::log) fn refuse(self, error: Error) {
        // The caller may have gone; ignore the error.
        match self.work {
            Work::Append { answer, .. } => drop(answer.send(Err(error))),
            Work::Atomic(atomic) => drop(atomic.1.send(Err(error.into()))),
        }
    }
}

/// An answer that waits for the commit.
pub(in crate::log) enum Reply {
    Append(oneshot::Sender<Answer>, Answer),
    Atomic(oneshot::Sender<AtomicAnswer>, AtomicAnswer),
}

impl Reply {
    /// Sends the answer.
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

/// Logs to have from now on.
pub(in crate::log) struct Reconfiguration {
    pub(in crate::log) specs: Vec<LogConfig>,
    pub(in crate::log) resource_bytes_max: usize,
    pub(in crate::log) answer: oneshot::Sender<Result<Vec<String>, Error>>,
}

/// What the committer and those who call it share.
#[derive(Default)]
pub(in crate::log) struct Shared {
    pub(in crate::log) logs: RwLock<Directory>,
    pub(in crate::log) closing: CancellationToken,
    pub(in crate::log) poisoned: AtomicBool,
    /// The disk has less free space than the reserve: writes are refused.
    pub(in crate::log) full: AtomicBool,
    pub(in crate::log) commits: OnceLock<Histogram>,
    /// The number of times that the committer visited a writer.
    #[cfg(test)]
    pub(in crate::log) visits: Arc<std::sync::atomic::AtomicU64>,
}

/// All logs, to be found by name.
#[derive(Default)]
pub(in crate::log) struct Directory {
    pub(in crate::log) logs: Arc<[Arc<Log>]>,
    /// Indexes into `logs`, by name. Logs of one name are in the order of
    /// `logs`.
    by_name: Vec<u32>,
}

impl Directory {
    pub(in crate::log) fn new(logs: impl Iterator<Item = Arc<Log>>) -> Directory {
        let logs: Arc<[Arc<Log>]> = logs.collect();
        let mut by_name: Vec<u32> = (0..logs.len() as u32).collect();
        by_name.sort_by_key(|&index| &logs[index as usize].origin().name);
        Directory { logs, by_name }
    }

    /// Returns the first log of this name.
    pub(in crate::log) fn find(&self, name: &str) -> Option<&Arc<Log>> {
        let log = |index: u32| &self.logs[index as usize];
        let first = self.by_name.partition_point(|&index| *log(index).origin().name < *name);
        let found = log(*self.by_name.get(first)?);
        (*found.origin().name == *name).then_some(found)
    }
}

impl Shared {
    /// Why the committer does not answer: without being told to, it only ends
    /// by a panic.
    pub(in crate::log) fn ended(&self) -> Error {
        if self.closing.is_cancelled() { Error::Closed } else { Error::Poisoned }
    }
}

/// Writes that have their place in the log and are not durable yet.
#[must_use = "without an answer nobody knows what was written"]
pub struct PendingAppend {
    pub(in crate::log) answers: Vec<oneshot::Receiver<Answer>>,
    pub(in crate::log) shared: Arc<Shared>,
}

impl PendingAppend {
    /// The second half of [`Engine::append`](crate::log::Engine::append): the
    /// answer to each write, once all of them are durable.
    ///
    /// # Errors
    /// [`Error`] when the log could not take them; none is acknowledged then.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the writes back: they are committed,
    /// unanswered.
    pub async fn answered(self) -> Result<Vec<Result<AppendOutcome, AppendRejection>>, Error> {
        let mut results = Vec::new();
        for answer in self.answers {
            results.extend(answer.await.map_err(|_| self.shared.ended())??);
        }
        Ok(results)
    }
}
