//! Opening, and the refusal of what does not add up.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;

use fjall::config::BlockSizePolicy;
use fjall::{Database, KeyspaceCreateOptions, PersistMode};

use super::format::{self, FORMAT};
use super::record::{LogMetadata, Numbered};
use super::view::{Files, ReadSnapshot, Store};
use super::watermark::CommitWatermark;
use super::writer::Writer;
use super::{ADVICE, Error};

/// Journals are kept until what they hold is in tables; reading them back is
/// most of what opening costs. The least that fjall takes.
const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;
/// Measured: opens in a tenth of the time of fjall's 64 MiB, at the same rate.
/// A log's events come in order, so its tables are never merged.
const LOG_MEMTABLE_BYTES: u64 = 8 * 1024 * 1024;
/// States come in any order: four of these are merged with most of what there
/// is already, so twice the size is half the merging. Measured with half a
/// million new resources: 114,000 a second for 89,000 with 8 MiB, and no more
/// with 24 MiB. A store keeps what it was made with.
const STATE_MEMTABLE_BYTES: u64 = 16 * 1024 * 1024;
/// Of the states' blocks. A scan looks each block up, reads, checks and bounds
/// it, so fewer are cheaper than fjall's 4 KiB; 32 KiB are no better.
const STATE_BLOCK_BYTES: u32 = 16 * 1024;
/// fjall keeps one worker for flushing, which puts back every merge that it
/// takes off the queue. With only one other, merging, it does nothing else
/// meanwhile: a fifth of all processor time under load was that. With one
/// worker in all, a long merge would hold up the flushing, and then writes.
const WORKERS: usize = 3;
/// What they do can wait for a processor; a commit that must wait for one holds
/// up everybody. 256 connections with an event a request, over eight rounds:
/// 48,300 a second for 45,800 at 0, `loadtest run ingest-collection` 1.05 × as
/// fast. Not more: beside a process that takes every processor they would stand
/// still, and writes with them once there is too much to merge. Reading journals
/// back at a start is as nice: a thread without privileges cannot go back.
const NICE: i32 = 10;
/// Blocks kept in memory, indices and filters of tables among them; pages have
/// a cache of their own above. A scan fills it: a new process grows by that much
/// when a collection is first read out. With 8 MiB the indices and filters of a
/// million events do not stay, and each look into them reads them anew: to
/// verify those took 114 s in place of 4.9.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// An open store: who reads, who writes, and what logs there are.
pub struct Opened {
    /// For reads.
    pub store: Store,
    /// For the one writer.
    pub writer: Writer,
    /// All logs, by number.
    pub metas: Vec<LogMetadata>,
}

impl Store {
    /// Opens the store in the folder `path`, making it if it is not there.
    ///
    /// # Errors
    /// [`Error`] when the folder cannot be used, or when what it holds is
    /// damaged, ends before what was acknowledged, or has a newer format.
    pub fn open(path: &Path) -> Result<Opened, Error> {
        let format = format::check(path)?;
        let is_new = !path.join("db").is_dir();
        let journals = journals(&path.join("db"))?;
        let store = open_files(path)?;
        let (mark, marked) = open_mark(path)?;
        let view = store.view();
        let commit = view.commit()?;
        check_mark(path, commit, marked)?;
        let metas = view.metas()?;
        for meta in &metas {
            check_end(&view, meta)?;
            // The mark tells of a cut in the last journal. One in an earlier
            // journal leaves a hole, in what has not reached a table yet.
            // A log without events has nothing to miss.
            if journals.len() > 1 && meta.position.events > 0 {
                check_newest(&view, meta, journals.iter().sum())?;
            }
        }
        // A process that was killed may have left commits in the page cache
        // alone. fjall reads them back without a sync, and from here on they
        // are shown and count as synced.
        store.files().database.persist(PersistMode::SyncData)?;
        if is_new || format < FORMAT {
            format::write(path)?;
        }
        let writer = Writer::new(store.clone(), mark, commit);
        Ok(Opened { store, writer, metas })
    }
}

/// The sizes of fjall's journals.
fn journals(folder: &Path) -> io::Result<Vec<u64>> {
    let mut sizes = Vec::new();
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(sizes),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.path().extension().is_some_and(|it| it == "jnl") {
            sizes.push(entry.metadata()?.len());
        }
    }
    Ok(sizes)
}

/// Opens fjall's files without a look at what is in them.
pub(super) fn open_files(path: &Path) -> Result<Store, Error> {
    let folder = path.join("db");
    make(path, &folder)?;
    let open = || -> fjall::Result<Files> {
        let database = Database::builder(&folder)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(WORKERS)
            .open()?;
        let log = database.keyspace("log", || options(LOG_MEMTABLE_BYTES))?;
        let state = database.keyspace("state", || {
            options(STATE_MEMTABLE_BYTES)
                .data_block_size_policy(BlockSizePolicy::all(STATE_BLOCK_BYTES))
        })?;
        Ok(Files { path: path.to_owned(), database, log, state })
    };
    // On Linux each thread has its own, and hands it on to those it starts.
    let nicely = || {
        let _ = rustix::process::nice(NICE);
        open()
    };
    let opened = thread::scope(|scope| {
        let opener = thread::Builder::new().name("opener".to_owned());
        Ok::<_, io::Error>(opener.spawn_scoped(scope, nicely)?.join())
    })?;
    // fjall asserts what it expects of its own files.
    let opened = opened.map_err(|_| damaged_files(path, "fjall gave up on them"))?;
    match opened {
        Ok(files) => Ok(Store::new(files)),
        Err(fjall::Error::Locked) => Err(Error::Locked(path.to_owned())),
        Err(fjall::Error::Io(error)) => Err(Error::Io(error)),
        Err(fjall::Error::Storage(fjall::LsmError::Io(error)))
            if error.kind() != io::ErrorKind::UnexpectedEof =>
        {
            Err(Error::Io(error))
        }
        Err(other) => Err(damaged_files(path, &format!("{other:?}"))),
    }
}

/// What a new keyspace is made with; one that is there keeps what it has.
fn options(memtable_bytes: u64) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(memtable_bytes)
}

/// Makes the folder, and has its name on disk before anything is in it.
fn make(path: &Path, folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(folder)?;
    let above = path.parent().filter(|it| !it.as_os_str().is_empty());
    for folder in [path, above.unwrap_or(Path::new("."))] {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn damaged_files(path: &Path, why: &str) -> Error {
    Error::Damaged(format!("the files in {} do not open ({why}); {ADVICE}", path.display()))
}

pub(super) fn open_mark(path: &Path) -> Result<(CommitWatermark, Option<u64>), Error> {
    let file = path.join("mark");
    CommitWatermark::open(&file).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Error::Damaged(format!(
            "{} cannot be read; run `streamgate verify`, and if it finds nothing else remove \
             that file",
            file.display()
        )),
        _ => Error::Io(error),
    })
}

pub(super) fn check_mark(path: &Path, commit: u64, marked: Option<u64>) -> Result<(), Error> {
    match marked {
        Some(marked) if marked > commit => Err(Error::Damaged(format!(
            "{} ends with commit {commit}, but commit {marked} was acknowledged; {ADVICE}, or \
             remove {} to go on without the commits between",
            path.display(),
            path.join("mark").display(),
        ))),
        None if commit > 0 => {
            tracing::warn!(
                path = %path.display(),
                commit,
                "the mark is not there; a loss of the newest commits would not be noticed"
            );
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The newest event must be there, and be the one that the meta counts.
fn check_end(view: &ReadSnapshot, meta: &LogMetadata) -> Result<(), Error> {
    let head = meta.position.head;
    if meta.position.events == 0 {
        return Ok(());
    }
    let newest = view.numbered(meta.id, meta.position.floor).next_back().transpose()?;
    let found = newest.map(|(_, newest)| (newest.event.offset, newest.number));
    if found == Some((head, meta.number)) {
        return Ok(());
    }
    let found = found.map_or("there is none".to_owned(), |(offset, number)| {
        format!("it has offset {offset} and number {number}")
    });
    Err(Error::Damaged(format!(
        "the newest event of {} should have offset {head} and number {}, but {found}; {ADVICE}",
        meta.name, meta.number
    )))
}

/// Everything that journals of `bytes` in all can have held must be there: the
/// events without a hole, and the resources that they left.
pub(super) fn check_newest(
    view: &ReadSnapshot,
    meta: &LogMetadata,
    bytes: u64,
) -> Result<(), Error> {
    let mut seen = HashSet::new();
    let mut left = bytes;
    let mut due = meta.number;
    for found in view.numbered(meta.id, meta.position.floor).rev() {
        let (size, Numbered { number, event }) = found?;
        if number != due {
            let after = event.offset;
            return Err(Error::Damaged(format!(
                "events of {} are missing after offset {after}; {ADVICE}",
                meta.name
            )));
        }
        due -= 1;
        if let Some(subject) = &event.subject
            && seen.insert(subject.clone())
            && !view.matches_latest(meta, &event)?
        {
            return Err(Error::Damaged(format!(
                "the resource {subject} of {} is not as its newest event, at offset {}, left it; \
                 {ADVICE}",
                meta.name, event.offset
            )));
        }
        match left.checked_sub(size) {
            Some(rest) => left = rest,
            None => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, Instant};

    use super::*;

    /// By `proc(5)`'s `stat` of a thread: its name, and how nice it is.
    fn niceness(stat: &str) -> Option<(&str, i32)> {
        let (before, after) = stat.rsplit_once(") ")?;
        Some((before.split_once('(')?.1, after.split(' ').nth(16)?.parse().ok()?))
    }

    #[test]
    fn the_workers_of_the_store_are_nicer_than_its_threads() {
        let own = || {
            let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
            niceness(&stat).unwrap().1
        };
        let before = own();
        let folder = tempfile::tempdir().unwrap();
        let _opened = Store::open(&folder.path().join("data")).unwrap();
        assert_eq!(own(), before);
        let workers = || {
            let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
            let stats = threads.filter_map(|it| fs::read_to_string(it.path().join("stat")).ok());
            let worker = |stat: String| {
                niceness(&stat).filter(|(name, _)| *name == "fjall:worker").map(|(_, nice)| nice)
            };
            stats.filter_map(worker).collect::<Vec<i32>>()
        };
        // A thread has its name once it runs.
        let deadline = Instant::now() + Duration::from_secs(30);
        while workers().len() < WORKERS {
            assert!(Instant::now() < deadline, "{:?}", workers());
            thread::yield_now();
        }
        let workers = workers();
        assert!(workers.iter().all(|&nice| nice == (before + NICE).min(19)), "{workers:?}");
    }
}
