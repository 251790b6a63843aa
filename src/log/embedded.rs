//! The embedded engine: one committer for all logs, group commit.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use ::metrics::Histogram;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::committer::Committer;
use super::course::Course;
use super::pages::Pages;
use super::{Error, Log, Refusal, Settings, Spec, Write, Written};
use crate::event::{Epoch, LogId};
use crate::store::{self, Durability, Meta, Store, Writer};
use crate::wire::{Kind, Origin};

/// Requests that wait for the committer.
const QUEUE_REQUESTS: usize = 16 * 1024;
/// Bytes of writes that wait for the committer.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// Writes and bytes of one commit; what it costs to wait for the one before.
pub(super) const COMMIT_WRITES: usize = 4096;
pub(super) const COMMIT_BYTES: usize = 8 * 1024 * 1024;

/// The log on this machine's disk.
pub struct Embedded {
    logs: Vec<Arc<Log>>,
    store: Store,
    queue: mpsc::Sender<Request>,
    room: Arc<Semaphore>,
    shared: Arc<Shared>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

pub(super) type Answer = Result<Vec<Result<Written, Refusal>>, Error>;

/// Writes on their way to the committer.
pub(super) struct Request {
    pub(super) log: LogId,
    pub(super) writes: Vec<Write>,
    pub(super) bytes: usize,
    pub(super) answer: oneshot::Sender<Answer>,
    /// Gives the bytes back once the request is answered.
    pub(super) _room: OwnedSemaphorePermit,
}

/// What the committer and those who call it share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) observers: Mutex<Vec<Arc<Notify>>>,
    pub(super) closing: CancellationToken,
    pub(super) poisoned: AtomicBool,
    pub(super) commits: OnceLock<Histogram>,
}

impl Shared {
    /// Why the committer does not answer: without being told to, it only ends
    /// by a panic.
    fn ended(&self) -> Error {
        if self.closing.is_cancelled() { Error::Closed } else { Error::Poisoned }
    }
}

/// Writes that have their place in the log and are not durable yet.
#[must_use = "without an answer nobody knows what was written"]
pub struct Queued {
    answers: Vec<oneshot::Receiver<Answer>>,
    shared: Arc<Shared>,
}

impl Queued {
    /// The second half of [`Engine::append`](super::Engine::append): the
    /// answer to each write, once all of them are durable.
    ///
    /// # Errors
    /// [`Error`] when the log could not take them; none is acknowledged then.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the writes back: they are committed,
    /// unanswered.
    pub async fn answered(self) -> Result<Vec<Result<Written, Refusal>>, Error> {
        let mut results = Vec::new();
        for answer in self.answers {
            results.extend(answer.await.map_err(|_| self.shared.ended())??);
        }
        Ok(results)
    }
}

impl Embedded {
    pub(super) fn open(settings: &Settings, specs: &[Spec]) -> Result<Embedded, store::Error> {
        let store::Opened { store, mut writer, mut metas } = Store::open(&settings.path)?;
        let known = metas.len();
        for spec in specs {
            let topic = spec.kind == Kind::Topic;
            if !metas.iter().any(|meta| meta.name == spec.name && meta.topic == topic) {
                let id = LogId(metas.iter().map(|meta| meta.id.0).max().unwrap_or(0) + 1);
                metas.push(Meta::new(id, spec.name.clone(), topic, new_epoch()));
            }
        }
        write_metas(&mut writer, &metas[known..])?;
        let pages = Arc::new(Pages::new(settings.page_cache_bytes, settings.catchup_concurrency));
        let mut courses = Vec::with_capacity(specs.len());
        for spec in specs {
            let topic = spec.kind == Kind::Topic;
            let meta = metas.iter().find(|meta| meta.name == spec.name && meta.topic == topic);
            let meta = meta.expect("one was made for each spec").clone();
            let origin = Origin::new(spec.name.clone(), meta.epoch, spec.kind.clone());
            let at = meta.position;
            let (store, pages) = (store.clone(), pages.clone());
            let log = Log::new(meta.id, Arc::new(origin), at.head, at.floor, store, pages);
            courses.push(Course::new(Arc::new(log), meta, spec.retention)?);
        }
        let logs = courses.iter().map(|course| course.log().clone()).collect();
        let shared = Arc::new(Shared::default());
        let (queue, requests) = mpsc::channel(QUEUE_REQUESTS);
        let committer = Committer::new(settings, writer, courses, shared.clone());
        let committer = std::thread::Builder::new()
            .name("committer".to_owned())
            .spawn(move || committer.run(requests))?;
        let committer = Mutex::new(Some(committer));
        let room = Arc::new(Semaphore::new(QUEUE_BYTES));
        Ok(Embedded { logs, store, queue, room, shared, committer })
    }

    pub(super) fn logs(&self) -> &[Arc<Log>] {
        &self.logs
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) async fn queue(&self, log: &Log, writes: Vec<Write>) -> Result<Queued, Error> {
        let mut answers = Vec::new();
        for (writes, bytes) in portions(writes) {
            answers.push(self.send(log.id(), writes, bytes).await?);
        }
        Ok(Queued { answers, shared: self.shared.clone() })
    }

    async fn send(
        &self,
        log: LogId,
        writes: Vec<Write>,
        bytes: usize,
    ) -> Result<oneshot::Receiver<Answer>, Error> {
        if self.shared.closing.is_cancelled() {
            return Err(Error::Closed);
        }
        if self.shared.poisoned.load(Ordering::Acquire) {
            return Err(Error::Poisoned);
        }
        let room = self.room.clone().acquire_many_owned(bytes.min(QUEUE_BYTES) as u32);
        let room = room.await.map_err(|_| Error::Closed)?;
        let (answer, answered) = oneshot::channel();
        let request = Request { log, writes, bytes, answer, _room: room };
        self.queue.send(request).await.map_err(|_| self.shared.ended())?;
        Ok(answered)
    }

    pub(super) fn observe(&self, observer: Arc<Notify>) {
        self.shared.observers.lock().push(observer);
    }

    pub(super) fn time_commits(&self, histogram: Histogram) {
        self.shared.commits.get_or_init(|| histogram);
    }

    pub(super) fn close(&self) {
        self.shared.closing.cancel();
        if let Some(committer) = self.committer.lock().take() {
            // It has told its panic already.
            let _ = committer.join();
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

/// The writes in runs that one commit can take, each with its bytes.
fn portions(writes: Vec<Write>) -> Vec<(Vec<Write>, usize)> {
    let mut portions: Vec<(Vec<Write>, usize)> = Vec::new();
    for write in writes {
        let bytes = write.bytes();
        match portions.last_mut() {
            Some((run, sum)) if run.len() < COMMIT_WRITES && *sum + bytes <= COMMIT_BYTES => {
                run.push(write);
                *sum += bytes;
            }
            _ => portions.push((vec![write], bytes)),
        }
    }
    portions
}

fn write_metas(writer: &mut Writer, metas: &[Meta]) -> Result<(), store::Error> {
    if metas.is_empty() {
        return Ok(());
    }
    let mut changes = writer.begin();
    for meta in metas {
        changes.put_meta(meta);
    }
    writer.commit(changes, Durability::Synced)?;
    writer.sync_mark()
}

/// Random bits: the hasher's keys and the identifier are both drawn anew.
fn new_epoch() -> Epoch {
    Epoch::from_bits(RandomState::new().hash_one(uuid::Uuid::now_v7()))
}
