//! The committer: the thread that decides every write and makes it durable.
//!
//! The committer takes the queued requests for all logs. It decides whether each
//! write is accepted, from the newest state of the log. This state includes the
//! earlier writes of the same commit, which are not durable yet. The committer then
//! commits one transaction with one sync, publishes the events and answers the
//! requests. During the sync, further requests queue up, so the commits grow with
//! the load. The committer commits the requests for logs in memory first. They need
//! no disk.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::answers::{Expiries, FORGOTTEN_ANSWERS};
use super::clock::Clock;
use super::commit_batch::CommitBatch;
use super::messages::{
    COMMIT_BYTES, COMMIT_WRITES, Directory, Reconfiguration, Reply, Request, RequestKind, Shared,
};
use super::registry::{LogRegistry, Opened};
use super::writer::LogWriter;
use super::writers::{Writers, unknown_log};
use crate::log::{Error, FsyncPolicy, LogConfig, Settings, StorageKind};
use crate::store::{self, Durability, Writer};
use crate::supervisor::{Task, fault_point};

/// The interval at which the committer trims events by age, removes expired
/// responses and syncs the commit watermark (the file that has the number of the
/// last durable commit).
const TICK: Duration = Duration::from_secs(1);
/// The number of offsets that one synced commit reserves if the other commits are
/// not synced. After an unclean stop, a log issues no reserved offset again, because
/// lost events may have had these offsets.
const RESERVED_OFFSETS: u64 = 65_536;
/// The minimum free disk space in bytes, called the reserve. The committer refuses
/// writes if the disk has less. fjall accepts no more commits after a write for
/// which there was no space, and its background threads need space too.
const RESERVE_BYTES: u64 = 256 * 1024 * 1024;
/// On a small disk, the reserve is the size of the disk divided by this number.
const RESERVE_PART: u64 = 8;

pub(in crate::log) struct Committer {
    sync: FsyncPolicy,
    tail_bytes_max: usize,
    resource_bytes_max: usize,
    writer: Writer,
    registry: LogRegistry,
    writers: Writers,
    shared: Arc<Shared>,
    clock: Clock,
    expiries: Expiries,
    ticked: Instant,
    synced: Instant,
}

impl Committer {
    pub(in crate::log) fn new(
        settings: &Settings,
        writer: Writer,
        registry: LogRegistry,
        opened: Vec<LogWriter>,
        shared: Arc<Shared>,
        clock: Clock,
    ) -> Committer {
        let mut writers = Writers::default();
        #[cfg(test)]
        writers.visits.clone_from(&shared.visits);
        writers.add(opened, clock.read());
        let now = Instant::now();
        Committer {
            sync: settings.sync,
            tail_bytes_max: settings.tail_bytes,
            resource_bytes_max: settings.resource_bytes_max,
            writer,
            registry,
            writers,
            shared,
            clock,
            expiries: Expiries::default(),
            ticked: now,
            synced: now,
        }
    }

    /// Runs until the engine is closed and the queue is empty.
    pub(in crate::log) fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut changes: mpsc::Receiver<Reconfiguration>,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "the committer could not create its timer, and ends; restart the gateway");
                return;
            }
        };
        self.has_room();
        runtime.block_on(async {
            let closing = self.shared.closing.clone();
            loop {
                tokio::select! {
                    request = requests.recv() => match request {
                        Some(first) => self.commit(gather(first, &mut requests)),
                        None => break,
                    },
                    Some(change) = changes.recv() => {
                        let Reconfiguration { configs, resource_bytes_max, answer } = change;
                        // The caller may have gone; ignore the error.
                        let _ = answer.send(self.reconfigure(&configs, resource_bytes_max));
                    }
                    () = tokio::time::sleep_until(self.due().into()) => {}
                    () = closing.cancelled(), if !requests.is_closed() => {
                        requests.close();
                        changes.close();
                    }
                }
                self.tick();
            }
        });
        self.finish();
    }

    fn due(&self) -> Instant {
        let behind = self.is_trim_pending();
        let tick = if behind { Instant::now() } else { self.ticked + TICK };
        match self.sync {
            FsyncPolicy::Interval(interval) => tick.min(self.synced + interval),
            FsyncPolicy::Always | FsyncPolicy::Never => tick,
        }
    }

    /// Returns whether a log still has events that exceed its retention. One commit
    /// trims only a limited number of events.
    fn is_trim_pending(&self) -> bool {
        self.writers.is_trim_pending(StorageKind::Memory)
            || self.writers.is_trim_pending(StorageKind::Disk) && !self.is_poisoned()
    }

    fn is_poisoned(&self) -> bool {
        self.shared.poisoned.load(Ordering::Acquire)
    }

    /// Commits the requests. Requests for logs in memory are committed first. They
    /// need no sync, and they succeed also if the disk has failed or is full.
    fn commit(&mut self, requests: Vec<Request>) {
        let in_memory = |request: &Request| request.storage == StorageKind::Memory;
        let (memory, disk): (Vec<_>, Vec<_>) = requests.into_iter().partition(in_memory);
        if !memory.is_empty() {
            self.commit_to(StorageKind::Memory, memory);
        }
        if disk.is_empty() {
            return;
        }
        if self.is_poisoned() {
            return disk.into_iter().for_each(|request| request.refuse(Error::Poisoned));
        }
        if !self.has_room() {
            return disk.into_iter().for_each(|request| request.refuse(Error::Full));
        }
        self.commit_to(StorageKind::Disk, disk);
    }

    fn commit_to(&mut self, storage: StorageKind, requests: Vec<Request>) {
        let begun = Instant::now();
        let mut work = CommitBatch::new(self.writer.begin(), self.clock.read());
        let mut replies = Vec::with_capacity(requests.len());
        for Request { kind, permit, .. } in requests {
            // The permit is dropped after the reply. Its bytes are then free in the
            // queue.
            replies.push((self.decide(&mut work, kind), permit));
        }
        let written = match storage {
            StorageKind::Disk => self.write(work),
            StorageKind::Memory => self.commit_memory(work),
        };
        match written {
            Ok(()) => {
                if let (StorageKind::Disk, Some(commits)) = (storage, self.shared.commits.get()) {
                    commits.record(begun.elapsed());
                }
                for (reply, _permit) in replies {
                    reply.send();
                }
                self.writers.notify_observers();
            }
            Err(error) => {
                self.poison(&error);
                // Do not answer with `Full`, even if the disk is full. Some of the
                // writes may be on disk, and a client that repeats them would append
                // them twice.
                for (reply, _permit) in replies {
                    reply.refuse(Error::Poisoned);
                }
            }
        }
    }

    /// Decides in order which writes of a request are accepted. Returns the reply,
    /// which the caller sends after the commit is durable.
    fn decide(&mut self, work: &mut CommitBatch, request: RequestKind) -> Reply {
        let bytes_max = self.resource_bytes_max;
        match request {
            RequestKind::Append { log, identity, writes, answer } => {
                let decided = self.writers.decide(work, log, &identity, &writes, bytes_max);
                let decided = decided.unwrap_or_else(|| Err(unknown_log(&identity.name)));
                Reply::Append(answer, decided.map_err(Error::Store))
            }
            RequestKind::Atomic(atomic) => {
                let (batch, answer) = *atomic;
                Reply::Atomic(answer, self.writers.decide_all(work, &batch, bytes_max))
            }
        }
    }

    /// Commits the changes in `work` to the store, then publishes the new events to
    /// readers. The same commit trims the events that exceed the retention.
    fn write(&mut self, mut work: CommitBatch) -> Result<(), store::Error> {
        let mut durability = match self.sync {
            FsyncPolicy::Always => Durability::Synced,
            FsyncPolicy::Interval(_) | FsyncPolicy::Never => Durability::Buffered,
        };
        let forget = 2 * work.answers() + FORGOTTEN_ANSWERS;
        if work.answers() > 0 {
            self.expiries.expire(self.writer.store(), &mut work, forget)?;
        }
        let reserves = self.sync != FsyncPolicy::Always;
        let staged = self.writers.stage(StorageKind::Disk, &mut work, |writer| {
            if reserves && writer.reserve(RESERVED_OFFSETS) {
                durability = Durability::Synced;
            }
        })?;
        let changes = work.into_changes();
        if changes.is_empty() {
            return Ok(());
        }
        self.writer.commit(changes, durability)?;
        self.writers.publish(staged, Instant::now());
        self.writers.evict(self.tail_bytes_max, TICK);
        Ok(())
    }

    /// Publishes the new events of the logs in memory to readers. The store has no
    /// copy of these events.
    fn commit_memory(&mut self, mut work: CommitBatch) -> Result<(), store::Error> {
        let committed = Instant::now();
        let staged = self.writers.stage(StorageKind::Memory, &mut work, |_| ())?;
        self.writers.publish(staged, committed);
        self.writers.evict(self.tail_bytes_max, TICK);
        Ok(())
    }

    fn tick(&mut self) {
        let elapsed = self.ticked.elapsed() >= TICK;
        if elapsed {
            self.ticked = Instant::now();
            fault_point(Task::Committer);
            // Check the free space also without requests, because `/readyz` reports
            // it.
            self.has_room();
            self.writers.wake_tails();
            self.writers.evict(self.tail_bytes_max, TICK);
        }
        let maintained = self.maintain_memory(elapsed).and_then(|()| {
            if self.is_poisoned() {
                self.synced = Instant::now();
                return Ok(());
            }
            self.maintain(elapsed)
        });
        if let Err(error) = maintained {
            self.poison(&error);
        }
    }

    fn maintain_memory(&mut self, elapsed: bool) -> Result<(), store::Error> {
        if elapsed || self.is_trim_pending() {
            let work = CommitBatch::new(self.writer.begin(), self.clock.read());
            self.writers.trim_due(StorageKind::Memory, work.now())?;
            self.commit_memory(work)?;
        }
        Ok(())
    }

    fn maintain(&mut self, elapsed: bool) -> Result<(), store::Error> {
        if let FsyncPolicy::Interval(interval) = self.sync
            && self.synced.elapsed() >= interval
        {
            self.synced = Instant::now();
            self.writer.sync()?;
        }
        if elapsed || self.is_trim_pending() {
            let mut work = CommitBatch::new(self.writer.begin(), self.clock.read());
            self.writers.trim_due(StorageKind::Disk, work.now())?;
            self.expiries.expire(self.writer.store(), &mut work, FORGOTTEN_ANSWERS)?;
            self.write(work)?;
        }
        if elapsed {
            self.writer.check()?;
            self.writer.sync_mark()?;
        }
        Ok(())
    }

    /// Opens the logs in `configs` that are not open yet, and changes the retention
    /// of the others. The steps that can fail come first, so that an error changes
    /// nothing. Returns the names of the logs whose new configuration needs a
    /// restart.
    fn reconfigure(
        &mut self,
        configs: &[LogConfig],
        resource_bytes_max: usize,
    ) -> Result<Vec<String>, Error> {
        let places = self.writers.find(configs);
        let known =
            configs.iter().zip(&places).filter_map(|(config, place)| Some((config, (*place)?)));
        let new = configs.iter().zip(&places).filter(|(_, place)| place.is_none());
        let opened = self.registry.open(new.map(|(config, _)| config));
        if opened.has_new()
            && let Err(error) = self.make(&opened)
        {
            self.registry.close(opened);
            return Err(error);
        }
        self.writers.add(opened.writers, self.clock.read());
        self.resource_bytes_max = resource_bytes_max;
        let mut others = Vec::new();
        for (config, place) in known {
            if !self.writers.set_retention(place, config) {
                others.push(config.name.clone());
            }
        }
        self.list(configs);
        Ok(others)
    }

    /// Writes the metadata of the new logs in `opened` to the store.
    fn make(&mut self, opened: &Opened) -> Result<(), Error> {
        if self.is_poisoned() {
            return Err(Error::Poisoned);
        }
        if !self.has_room() {
            return Err(Error::Full);
        }
        opened.write(&mut self.writer).map_err(|error| {
            self.poison(&error);
            Error::Poisoned
        })
    }

    /// Updates the list of all logs that the callers of the engine see. The logs in
    /// `configs` come first in the list.
    fn list(&self, configs: &[LogConfig]) {
        let named: HashMap<_, _> = configs
            .iter()
            .enumerate()
            .rev()
            .map(|(index, config)| ((config.name.as_str(), config.is_topic()), index))
            .collect();
        let mut writers: Vec<&LogWriter> = self.writers.iter().collect();
        writers.sort_by_key(|writer| {
            let key = (&*writer.log().identity().name, writer.is_topic());
            named.get(&key).copied().unwrap_or(configs.len())
        });
        let directory = Directory::new(writers.into_iter().map(LogWriter::log).cloned());
        *self.shared.logs.write() = directory;
    }

    /// Makes the logs on disk refuse all writes until a restart. Logs `error` if it
    /// is the first failure.
    fn poison(&self, error: &store::Error) {
        let first = !self.shared.poisoned.swap(true, Ordering::AcqRel);
        if first {
            tracing::error!(
                %error,
                ?error,
                "a commit failed; the logs on disk accept no writes until a restart"
            );
        }
    }

    /// Returns whether the disk has at least the minimum of free space, the reserve.
    /// Stores the result for [`WriteState`](crate::log::WriteState), and writes a
    /// log message if the result has changed.
    fn has_room(&self) -> bool {
        let Ok(disk) = rustix::fs::statvfs(self.writer.store().path()) else { return true };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let total = disk.f_blocks.saturating_mul(disk.f_frsize);
        let reserve = RESERVE_BYTES.min(total / RESERVE_PART);
        let full = free < reserve;
        if self.shared.full.swap(full, Ordering::Relaxed) != full {
            if full {
                tracing::warn!(
                    free,
                    reserve,
                    "the disk has less free space than the reserve; writes are refused"
                );
            } else {
                tracing::info!(
                    free,
                    reserve,
                    "the disk has enough free space again; writes are accepted"
                );
            }
        }
        !full
    }

    /// Stops cleanly: syncs all commits, and ends the reservation of the offsets
    /// that were not issued.
    fn finish(mut self) {
        if self.is_poisoned() {
            return;
        }
        let mut changes = self.writer.begin();
        for writer in self.writers.iter_mut() {
            writer.release(&mut changes);
        }
        let finish = || {
            if !changes.is_empty() {
                self.writer.commit(changes, Durability::Synced)?;
            }
            self.writer.sync()?;
            self.writer.sync_mark()
        };
        if let Err(error) = finish() {
            tracing::error!(%error, "the log could not be closed cleanly");
        }
    }
}

/// Returns `first` and the next queued requests, as many as one commit takes.
fn gather(first: Request, requests: &mut mpsc::Receiver<Request>) -> Vec<Request> {
    let (mut writes, mut bytes) = (first.writes(), first.bytes);
    let mut gathered = vec![first];
    while writes < COMMIT_WRITES && bytes < COMMIT_BYTES {
        let Ok(request) = requests.try_recv() else { break };
        writes += request.writes();
        bytes += request.bytes;
        gathered.push(request);
    }
    gathered
}
