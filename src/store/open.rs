//! Opening a store, with checks for lost and damaged records.

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

/// The maximum size of the journals in bytes. fjall, the storage engine, keeps a
/// journal until all its records are in tables. Opening a store spends most of its
/// time on reading the journals, so this is the smallest size that fjall accepts.
const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;
/// The size of a memtable of the keyspace `log` in bytes. Measured: a store opens in
/// a tenth of the time that it takes with fjall's default of 64 MiB, and commits at
/// the same rate. The events of a log arrive in order, so fjall does not merge their
/// tables.
const LOG_MEMTABLE_BYTES: u64 = 8 * 1024 * 1024;
/// The size of a memtable of the keyspace `state` in bytes. Resources arrive in any
/// order, so fjall merges each four new tables with most of the existing tables.
/// Twice the memtable size halves this work. Measured with half a million new
/// resources: 114,000 resources a second with 16 MiB and with 24 MiB, and 89,000
/// with 8 MiB. An existing store keeps the size that it was created with.
const STATE_MEMTABLE_BYTES: u64 = 16 * 1024 * 1024;
/// The size of a block of the keyspace `state` in bytes. A scan looks up, reads and
/// checks each block, so fewer blocks are cheaper than with fjall's default of 4
/// KiB. Blocks of 32 KiB are not faster.
const STATE_BLOCK_BYTES: u32 = 16 * 1024;
/// The number of fjall's worker threads. fjall reserves the first worker for
/// flushing memtables. The first worker also takes merges from the queue, but puts
/// each of them back. With two workers, the first worker only takes and puts back
/// merges while the other one merges: that was a fifth of all processor time under
/// load. With one worker, a long merge would delay the flushing, and then the
/// writes.
const WORKERS: usize = 3;
/// The nice value of fjall's worker threads. The workers can wait for a processor,
/// but a commit that waits delays every client. Measured with 256 connections and
/// one event per request, over eight rounds: 48,300 requests a second, against
/// 45,800 with the nice value 0; `loadtest run ingest-collection` is 1.05 times as
/// fast. With a higher nice value, another process that uses every processor would
/// stop the workers. The writes would stop later, because they wait for the merges.
/// Opening a store also reads the journals at this nice value, because a thread
/// without privileges cannot lower its nice value again.
const NICE: i32 = 10;
/// The size of fjall's block cache in bytes. The blocks include the indexes and the
/// filters of tables. The pages of events have a separate cache. The first scan of a
/// collection fills the block cache, so a new process grows by this size. With 8
/// MiB, the indexes and filters of a million events do not fit and are read again
/// for each lookup: `verify` then takes 114 s instead of 4.9 s.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// An open store.
pub struct Opened {
    /// The handle for reads.
    pub store: Store,
    /// The only writer of the store.
    pub writer: Writer,
    /// The metadata of all logs, in the order of their numbers.
    pub metas: Vec<LogMetadata>,
}

impl Store {
    /// Opens or creates the store in the folder `path`. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error`] if the folder cannot be used, or if the store is damaged, lacks an
    /// acknowledged commit, or has a newer format.
    pub fn open(path: &Path) -> Result<Opened, Error> {
        Store::open_checked(path).map_err(|error| error.at(path))
    }

    fn open_checked(path: &Path) -> Result<Opened, Error> {
        let format = format::check(path)?;
        let is_new = !path.join("db").is_dir();
        let journals = journals(&path.join("db"))?;
        let store = open_files(path)?;
        let (watermark, marked) = open_watermark(path)?;
        let view = store.view();
        let commit = view.commit()?;
        check_watermark(path, commit, marked)?;
        let metas = view.metas()?;
        for meta in &metas {
            check_end(&view, meta)?;
            // The watermark detects that the end of the last journal is missing. If
            // the end of an earlier journal is missing, there is a hole among the
            // events that are not in a table yet. A log without events cannot have a
            // hole.
            if journals.len() > 1 && meta.position.events > 0 {
                check_newest(&view, meta, journals.iter().sum())?;
            }
        }
        // A killed process may have left commits that are only in the page cache of
        // the operating system. fjall reads these commits without a sync. From here
        // on they are visible and count as synced.
        store.files().database.persist(PersistMode::SyncData)?;
        if is_new || format < FORMAT {
            format::write(path)?;
        }
        let writer = Writer::new(store.clone(), watermark, commit);
        Ok(Opened { store, writer, metas })
    }
}

/// Returns the sizes of fjall's journals in bytes.
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

/// Opens fjall's files without checking their content.
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
    // On Linux each thread has its own nice value, and a new thread inherits the
    // value of the thread that starts it.
    let nicely = || {
        let _ = rustix::process::nice(NICE);
        open()
    };
    let opened = thread::scope(|scope| {
        let opener = thread::Builder::new().name("opener".to_owned());
        Ok::<_, io::Error>(opener.spawn_scoped(scope, nicely)?.join())
    })?;
    // fjall panics if the content of its files is invalid.
    let opened = opened.map_err(|_| damaged_files(path, "the database panicked"))?;
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

/// Returns the options for a new keyspace. An existing keyspace keeps its options.
fn options(memtable_bytes: u64) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(memtable_bytes)
}

/// Creates the directory `folder` in `path`. Syncs the new directory entries before
/// the first file is written.
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
    let path = path.display();
    Error::Damaged(format!("the files in {path} cannot be opened ({why}); {ADVICE}"))
}

pub(super) fn open_watermark(path: &Path) -> Result<(CommitWatermark, Option<u64>), Error> {
    let file = path.join("mark");
    CommitWatermark::open(&file).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Error::Damaged(format!(
            "{} cannot be read; run `streamgate verify`, and remove that file if there is \
             no other damage",
            file.display()
        )),
        _ => Error::Io(error),
    })
}

pub(super) fn check_watermark(path: &Path, commit: u64, marked: Option<u64>) -> Result<(), Error> {
    match marked {
        Some(marked) if marked > commit => Err(Error::Damaged(format!(
            "{} ends with commit {commit}, but commit {marked} was acknowledged; {ADVICE}, or \
             remove {} to continue without the missing commits",
            path.display(),
            path.join("mark").display(),
        ))),
        None if commit > 0 => {
            tracing::warn!(
                path = %path.display(),
                commit,
                "the file `mark` is missing; a loss of the newest commits cannot be detected"
            );
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Checks that the newest event of a log exists and agrees with the metadata.
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
    let found = found.map_or("there is no event".to_owned(), |(offset, number)| {
        format!("the newest event has offset {offset} and number {number}")
    });
    Err(Error::Damaged(format!(
        "the newest event of {} should have offset {head} and number {}, but {found}; {ADVICE}",
        meta.name, meta.number
    )))
}

/// Checks the newest events of a log, up to a total size of `bytes`, which is the
/// size of all journals. The events must have consecutive numbers, and the resources
/// must agree with their newest events.
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
                "the resource {subject} of {} does not agree with its newest event, at offset \
                 {}; {ADVICE}",
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
