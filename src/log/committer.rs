//! The committer: one thread that decides every write and makes it durable.
//!
//! It takes what has queued up for all logs, decides each write against the
//! newest states, its own undurable ones included, writes one batch, syncs
//! once, and only then shows and answers. While it syncs the next batch queues
//! up, so the batches grow with the load. What is for logs in memory goes
//! first, and touches no disk.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::answers::{Expiries, FORGOTTEN_ANSWERS};
use super::clock::Clock;
use super::embedded::{Answer, COMMIT_BYTES, COMMIT_WRITES, Reconfiguration, Request, Shared};
use super::registry::{self, LogRegistry};
use super::writer::{CommitBatch, LogWriter};
use super::{Error, FsyncPolicy, LogConfig, Settings, StorageKind};
use crate::store::{self, Durability, Writer};
use crate::supervisor::{Task, fault_point};

/// How often age, expiry and the mark are looked after.
const TICK: Duration = Duration::from_secs(1);
/// Offsets that are reserved at once where commits are not synced.
const RESERVED_OFFSETS: u64 = 65_536;
/// Free space below which writes are refused, and the part of a small disk:
/// fjall cannot go on after a write that found no room, and what it does in
/// the background needs some.
const RESERVE_BYTES: u64 = 256 * 1024 * 1024;
const RESERVE_PART: u64 = 8;

pub(super) struct Committer {
    sync: FsyncPolicy,
    tail_bytes_max: usize,
    resource_bytes_max: usize,
    writer: Writer,
    roster: LogRegistry,
    courses: Vec<LogWriter>,
    shared: Arc<Shared>,
    clock: Clock,
    expiries: Expiries,
    ticked: Instant,
    synced: Instant,
}

impl Committer {
    pub(super) fn new(
        settings: &Settings,
        writer: Writer,
        roster: LogRegistry,
        mut courses: Vec<LogWriter>,
        shared: Arc<Shared>,
        clock: Clock,
    ) -> Committer {
        let read = clock.read();
        for course in &mut courses {
            course.begin(read);
        }
        let now = Instant::now();
        Committer {
            sync: settings.sync,
            tail_bytes_max: settings.tail_bytes,
            resource_bytes_max: settings.resource_bytes_max,
            writer,
            roster,
            courses,
            shared,
            clock,
            expiries: Expiries::default(),
            ticked: now,
            synced: now,
        }
    }

    /// Works until the engine is closed and the queue is empty.
    pub(super) fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut changes: mpsc::Receiver<Reconfiguration>,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "the committer has no timer");
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
                        let Reconfiguration { specs, resource_bytes_max, answer } = change;
                        // Who no longer waits is not told.
                        let _ = answer.send(self.reconfigure(&specs, resource_bytes_max));
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

    /// Whether retention has more to trim than the last commit could.
    fn is_trim_pending(&self) -> bool {
        let poisoned = self.is_poisoned();
        let works = |course: &&LogWriter| !poisoned || course.log().medium() == StorageKind::Memory;
        self.courses.iter().filter(works).any(LogWriter::is_trim_pending)
    }

    fn is_poisoned(&self) -> bool {
        self.shared.poisoned.load(Ordering::Acquire)
    }

    /// What is for memory first: it need not wait for the others' sync, nor
    /// for a disk that has room and works.
    fn commit(&mut self, requests: Vec<Request>) {
        let in_memory = |request: &Request| request.medium == StorageKind::Memory;
        let (memory, disk): (Vec<_>, Vec<_>) = requests.into_iter().partition(in_memory);
        if !memory.is_empty() {
            self.commit_to(StorageKind::Memory, memory);
        }
        if disk.is_empty() {
            return;
        }
        if self.is_poisoned() {
            return refuse(disk.into_iter().map(|it| it.answer), || Error::Poisoned);
        }
        if !self.has_room() {
            return refuse(disk.into_iter().map(|it| it.answer), || Error::Full);
        }
        self.commit_to(StorageKind::Disk, disk);
    }

    fn commit_to(&mut self, medium: StorageKind, requests: Vec<Request>) {
        let begun = Instant::now();
        let mut work = CommitBatch::new(self.writer.begin(), self.clock.read());
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            // The room is given back when its writes no longer take any.
            let result = self.decide(&mut work, &request);
            let Request { answer, _room: room, .. } = request;
            answers.push((answer, result.map_err(Error::Store), room));
        }
        let written = match medium {
            StorageKind::Disk => self.write(work),
            StorageKind::Memory => self.commit_memory(work),
        };
        match written {
            Ok(()) => {
                if let (StorageKind::Disk, Some(commits)) = (medium, self.shared.commits.get()) {
                    commits.record(begun.elapsed());
                }
                for (answer, result, _room) in answers {
                    // Who no longer waits is not told.
                    let _ = answer.send(result);
                }
                self.shared.notify_observers();
            }
            Err(error) => {
                self.poison(&error);
                // Not `Full`, even where that is why: some of it may be on
                // disk, and a repeat would write it twice.
                let waiting = answers.into_iter().map(|(answer, ..)| answer);
                refuse(waiting, || Error::Poisoned);
            }
        }
    }

    fn decide(
        &mut self,
        work: &mut CommitBatch,
        request: &Request,
    ) -> Result<Vec<Result<super::AppendOutcome, super::AppendRejection>>, store::Error> {
        let course = self.courses.iter_mut().find(|course| course.log().id() == request.log);
        let Some(course) = course else {
            let why = format!("{} is not a log of this engine", request.origin.name);
            return Err(store::Error::Io(std::io::Error::other(why)));
        };
        let bytes_max = self.resource_bytes_max;
        request.writes.iter().map(|write| course.decide(work, write, bytes_max)).collect()
    }

    /// Makes durable, then shows. Trims in the same commit what the new events
    /// push out.
    fn write(&mut self, mut work: CommitBatch) -> Result<(), store::Error> {
        let mut durability = match self.sync {
            FsyncPolicy::Always => Durability::Synced,
            FsyncPolicy::Interval(_) | FsyncPolicy::Never => Durability::Buffered,
        };
        let forget = 2 * work.answers() + FORGOTTEN_ANSWERS;
        if work.answers() > 0 {
            self.expiries.expire(self.writer.store(), &mut work, forget)?;
        }
        let mut shown = Vec::new();
        for (place, course) in self.courses.iter_mut().enumerate() {
            if !course.is_dirty() || course.log().medium() == StorageKind::Memory {
                continue;
            }
            if self.sync != FsyncPolicy::Always && course.reserve(RESERVED_OFFSETS) {
                durability = Durability::Synced;
            }
            let events = course.stage(&mut work)?;
            shown.push((place, events));
        }
        let changes = work.into_changes();
        if changes.is_empty() {
            return Ok(());
        }
        self.writer.commit(changes, durability)?;
        let committed = Instant::now();
        for (place, events) in shown {
            self.courses[place].publish(events, committed);
        }
        self.evict();
        Ok(())
    }

    /// The same for logs in memory: what is shown there is all there is.
    fn commit_memory(&mut self, mut work: CommitBatch) -> Result<(), store::Error> {
        let committed = Instant::now();
        for course in of(&mut self.courses, StorageKind::Memory).filter(|course| course.is_dirty())
        {
            let events = course.stage(&mut work)?;
            course.publish(events, committed);
        }
        self.evict();
        Ok(())
    }

    /// Keeps all tails together within their bound: the one that holds most
    /// and may give its oldest batch does.
    fn evict(&mut self) {
        while self.courses.iter().map(|course| course.tail_bytes).sum::<usize>()
            > self.tail_bytes_max
        {
            let mut courses: Vec<&mut LogWriter> = self.courses.iter_mut().collect();
            courses.sort_by_cached_key(|course| std::cmp::Reverse(course.weight()));
            let given = courses.into_iter().any(|course| course.evict(TICK));
            if !given {
                return;
            }
        }
    }

    fn tick(&mut self) {
        let elapsed = self.ticked.elapsed() >= TICK;
        if elapsed {
            self.ticked = Instant::now();
            fault_point(Task::Committer);
            // Also while nobody writes: `/readyz` names the state of the disk.
            self.has_room();
        }
        let looked_after = self.maintain_memory(elapsed).and_then(|()| {
            if self.is_poisoned() {
                self.synced = Instant::now();
                return Ok(());
            }
            self.maintain(elapsed)
        });
        if let Err(error) = looked_after {
            self.poison(&error);
        }
    }

    fn maintain_memory(&mut self, elapsed: bool) -> Result<(), store::Error> {
        if elapsed || self.is_trim_pending() {
            let work = CommitBatch::new(self.writer.begin(), self.clock.read());
            for course in of(&mut self.courses, StorageKind::Memory) {
                course.age(work.now())?;
            }
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
            for course in of(&mut self.courses, StorageKind::Disk) {
                course.age(work.now())?;
            }
            self.expiries.expire(self.writer.store(), &mut work, FORGOTTEN_ANSWERS)?;
            self.write(work)?;
        }
        if elapsed {
            self.writer.check()?;
            self.writer.sync_mark()?;
        }
        Ok(())
    }

    /// Has a log for each of `specs`. First all that may fail, then what
    /// cannot any more.
    fn reconfigure(
        &mut self,
        specs: &[LogConfig],
        resource_bytes_max: usize,
    ) -> Result<Vec<String>, Error> {
        let known = |spec: &&LogConfig| self.courses.iter().any(|course| course.is(spec));
        let (known, new): (Vec<_>, Vec<_>) = specs.iter().partition(known);
        let (mut courses, made) = self.roster.open(&new)?;
        if !made.is_empty() {
            if self.is_poisoned() {
                return Err(Error::Poisoned);
            }
            if !self.has_room() {
                return Err(Error::Full);
            }
            registry::write(&mut self.writer, &made).map_err(|error| {
                self.poison(&error);
                Error::Poisoned
            })?;
        }
        self.roster.add(made);
        let read = self.clock.read();
        for course in &mut courses {
            course.begin(read);
        }
        self.courses.extend(courses);
        self.resource_bytes_max = resource_bytes_max;
        let mut others = Vec::new();
        for spec in known {
            for course in self.courses.iter_mut().filter(|course| course.is(spec)) {
                if course.is_compatible(spec) {
                    course.set_retention(spec.retention);
                } else {
                    others.push(spec.name.clone());
                }
            }
        }
        self.list(specs);
        Ok(others)
    }

    /// Shows all logs, those that `specs` name first.
    fn list(&self, specs: &[LogConfig]) {
        let named = |course: &LogWriter| specs.iter().position(|spec| course.is(spec));
        let mut courses: Vec<&LogWriter> = self.courses.iter().collect();
        courses.sort_by_key(|course| named(course).unwrap_or(specs.len()));
        *self.shared.logs.write() = courses.into_iter().map(LogWriter::log).cloned().collect();
    }

    /// Refuses all later writes.
    fn poison(&self, error: &store::Error) {
        let first = !self.shared.poisoned.swap(true, Ordering::AcqRel);
        if first {
            tracing::error!(%error, ?error, "a commit failed; no more writes until a restart");
        }
    }

    /// Whether the disk has the reserve free. Keeps the result for
    /// [`WriteState`](super::WriteState), and logs a change of it.
    fn has_room(&self) -> bool {
        let Ok(disk) = rustix::fs::statvfs(self.writer.store().path()) else { return true };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let total = disk.f_blocks.saturating_mul(disk.f_frsize);
        let reserve = RESERVE_BYTES.min(total / RESERVE_PART);
        let full = free < reserve;
        if self.shared.full.swap(full, Ordering::Relaxed) != full {
            if full {
                tracing::warn!(free, reserve, "the disk is full; writes are refused");
            } else {
                tracing::info!(free, reserve, "the disk has room; writes are taken again");
            }
        }
        !full
    }

    /// A clean stop: all is synced, and no offset stays reserved.
    fn finish(mut self) {
        if self.is_poisoned() {
            return;
        }
        let mut changes = self.writer.begin();
        for course in &mut self.courses {
            course.release(&mut changes);
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

/// The logs that are kept there.
fn of(courses: &mut [LogWriter], medium: StorageKind) -> impl Iterator<Item = &mut LogWriter> {
    courses.iter_mut().filter(move |course| course.log().medium() == medium)
}

/// All that has queued up, as far as one commit takes it.
fn gather(first: Request, requests: &mut mpsc::Receiver<Request>) -> Vec<Request> {
    let (mut writes, mut bytes) = (first.writes.len(), first.bytes);
    let mut gathered = vec![first];
    while writes < COMMIT_WRITES && bytes < COMMIT_BYTES {
        let Ok(request) = requests.try_recv() else { break };
        writes += request.writes.len();
        bytes += request.bytes;
        gathered.push(request);
    }
    gathered
}

fn refuse(answers: impl Iterator<Item = oneshot::Sender<Answer>>, why: impl Fn() -> Error) {
    for answer in answers {
        // Who no longer waits is not told.
        let _ = answer.send(Err(why()));
    }
}
