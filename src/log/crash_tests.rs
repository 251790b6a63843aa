//! Tests of the embedded engine after a crash, a power cut or disk damage. Every
//! acknowledged write is in the store, or opening the store returns an error.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tempfile::TempDir;

use super::conformance::{Fixture, collection, create, id, json, one, publish, read, read_of};
use super::{
    AtomicBatch, CursorUpdate, Engine, Error, FsyncPolicy, LogConfig, Settings, StorageKind, Write,
    WriteState,
};
use crate::event::Offset;
use crate::store::{self, CursorName};

const BLOCK: usize = 4096;

/// Copies the files of the store, which are then as after a kill.
fn copy(settings: &Settings) -> (TempDir, Settings) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    copy_folder(&settings.path, &path);
    (folder, Settings { path, ..settings.clone() })
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            // Journals are made at their full size, which would be copied.
            let bytes = std::fs::read(entry.path()).unwrap();
            let copied = File::create(target).unwrap();
            copied.write_all_at(&bytes[..written(&bytes)], 0).unwrap();
            copied.set_len(bytes.len() as u64).unwrap();
        }
    }
}

/// Returns the length without the blocks of zeros at the end.
fn written(bytes: &[u8]) -> usize {
    let zeros = bytes.rchunks(BLOCK).take_while(|block| **block == [0; BLOCK][..block.len()]);
    bytes.len() - zeros.map(<[u8]>::len).sum::<usize>()
}

/// Returns the path of the journal and the length of its content.
fn journal(settings: &Settings) -> (PathBuf, u64) {
    let path = settings.path.join("db/0.jnl");
    let bytes = std::fs::read(&path).unwrap();
    let bytes = &bytes[..written(&bytes)];
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    (path, end as u64)
}

async fn filled(fixture: &Fixture) -> Engine {
    let engine = fixture.open();
    let log = &engine.log("orders").unwrap();
    for n in 0..300 {
        let name = format!("r{n}");
        one(&engine, log, create(log, &name, &format!(r#"{{"n":{n}}}"#))).await.unwrap();
    }
    engine
}

fn refusal(fixture: &Fixture, settings: &Settings) -> String {
    match Engine::open(settings, &fixture.configs) {
        Err(store::Error::Damaged(why)) => why,
        Err(error) => panic!("{error:?}"),
        Ok(engine) => panic!("opened at {}", engine.log("orders").unwrap().head()),
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let fixture = Fixture::new(Engine::open_at);
    let engine = filled(&fixture).await;
    let (_folder, copied) = copy(&fixture.settings);
    let killed = Engine::open(&copied, &fixture.configs).unwrap();
    let (log, was) = (killed.log("orders").unwrap(), engine.log("orders").unwrap());
    assert_eq!(read(&log, Offset::ZERO).await, read(&was, Offset::ZERO).await);
    assert_eq!(log.identity(), was.identity());
    drop((log, killed));
    assert_eq!(store::verify(&copied.path, |_, _| {}).unwrap().damage, Vec::<String>::new());
}

/// Cuts the journal at many places in the commit of an atomic batch, as a kill
/// or a power cut during the write may.
#[tokio::test]
async fn an_atomic_batch_survives_a_cut_journal_as_a_whole_or_not_at_all() {
    let fixture = Fixture::new(Engine::open_at);
    let engine = fixture.open();
    let (orders, news) = (engine.log("orders").unwrap(), engine.log("news").unwrap());
    one(&engine, &orders, create(&orders, "a", "{}")).await.unwrap();
    one(&engine, &news, publish("1")).await.unwrap();
    let start = journal(&fixture.settings).1;
    let appends = vec![
        (orders.clone(), vec![create(&orders, "b", "{}"), Write::delete(id("a"))]),
        (news.clone(), vec![publish("2"), publish("3")]),
    ];
    let name = CursorName::new("hook").unwrap();
    let cursor = CursorUpdate::Set { name: name.clone(), log: news.clone(), offset: Offset(3) };
    engine.append_all(AtomicBatch { appends, cursors: vec![cursor] }).await.unwrap();
    let end = journal(&fixture.settings).1;
    assert!(end - start > 200, "{start} to {end}");
    let (mut none, mut all) = (0, 0);
    for cut in (start..end).step_by(37).chain(end - 2..=end) {
        let (_folder, copied) = copy(&fixture.settings);
        let path = journal(&copied).0;
        File::options().write(true).open(path).unwrap().set_len(cut).unwrap();
        std::fs::remove_file(copied.path.join("mark")).unwrap();
        let reopened = Engine::open(&copied, &fixture.configs).unwrap();
        let log = |name| reopened.log(name).unwrap();
        let heads = (log("orders").head().0, log("news").head().0);
        let resource = |name| reopened.store().resource(log("orders").id(), &id(name)).unwrap();
        let cursor = reopened.cursor(&name, &log("news")).unwrap();
        let found = (resource("a").is_some(), resource("b").is_some(), cursor.is_some());
        match (heads, found) {
            ((1, 1), (true, false, false)) => none += 1,
            ((3, 3), (false, true, true)) => all += 1,
            _ => panic!("cut at {cut} of {end}: the heads are {heads:?}, the state is {found:?}"),
        }
    }
    assert!(none > 3 && all > 0, "{none} copies without the batch, {all} with the batch");
}

#[tokio::test]
async fn a_log_that_was_made_while_it_ran_survives_a_kill() {
    for sync in
        [FsyncPolicy::Always, FsyncPolicy::Interval(Duration::from_hours(1)), FsyncPolicy::Never]
    {
        let mut fixture = Fixture::new(Engine::open_at);
        fixture.settings.sync = sync;
        let engine = fixture.open();
        fixture.configs.push(LogConfig::topic("alerts", StorageKind::Disk));
        fixture.configs.push(LogConfig::topic("ticks", StorageKind::Memory));
        assert!(engine.reconfigure(&fixture.configs, 1 << 20).await.unwrap().is_empty());
        let (_folder, copied) = copy(&fixture.settings);
        let killed = Engine::open(&copied, &fixture.configs).unwrap();
        for name in ["orders", "news", "alerts"] {
            let (log, was) = (killed.log(name).unwrap(), engine.log(name).unwrap());
            assert_eq!((log.id(), log.identity()), (was.id(), was.identity()), "{name}");
        }
        let (log, was) = (killed.log("ticks").unwrap(), engine.log("ticks").unwrap());
        assert_ne!(log.identity(), was.identity());
    }
}

/// After a failed sync, topics in memory accept writes, and logs on disk reject
/// them.
#[tokio::test]
async fn a_poisoned_log_leaves_memory_alone() {
    let mut fixture = Fixture::new(Engine::open_at).on(StorageKind::Memory);
    fixture.settings.tail_bytes = 32 << 10;
    let engine = fixture.open();
    let (orders, news) = (engine.log("orders").unwrap(), engine.log("news").unwrap());
    one(&engine, &news, publish("1")).await.unwrap();
    let Engine::Embedded(embedded) = &engine;
    assert_eq!(engine.write_state(), WriteState::Writable);
    embedded.shared.poisoned.store(true, Ordering::Release);
    assert_eq!(engine.write_state(), WriteState::SyncFailed);
    let refused = engine.append(&orders, vec![create(&orders, "a", "{}")]).await;
    assert!(matches!(refused, Err(Error::Poisoned)));
    for _ in 0..200 {
        one(&engine, &news, publish("2")).await.unwrap();
    }
    assert!(news.floor() > Offset::ZERO, "and its bounds hold");
    let mut configs = fixture.configs.clone();
    configs[1].retention.age = Duration::from_millis(1);
    configs.push(LogConfig::topic("ticks", StorageKind::Memory));
    assert!(engine.reconfigure(&configs, 1 << 20).await.unwrap().is_empty());
    let ticks = engine.log("ticks").unwrap();
    one(&engine, &ticks, publish("3")).await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while news.floor() < news.head() {
        assert!(tokio::time::Instant::now() < deadline, "nothing grows old any more");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    configs[2].retention.events = 1;
    configs.push(collection("carts", "cart"));
    let refused = engine.reconfigure(&configs, 1 << 20).await;
    assert!(matches!(refused, Err(Error::Poisoned)));
    assert!(engine.log("carts").is_none());
    one(&engine, &ticks, publish("4")).await.unwrap();
    assert_eq!(ticks.floor(), Offset::ZERO, "its retention is as it was");
}

/// Returns the folders that contain fjall's tables.
fn table_folders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let folders = entries.filter(|path| path.is_dir());
    let within = |path: PathBuf| {
        if path.ends_with("tables") { vec![path] } else { table_folders(&path) }
    };
    folders.flat_map(within).collect()
}

/// A background thread of fjall cannot write a table while the log gets no write.
#[tokio::test]
async fn a_thread_of_the_store_that_fails_makes_the_logs_read_only() {
    let fixture = Fixture::new(Engine::open_at);
    let engine = fixture.open();
    let news = engine.log("news").unwrap();
    let folders = table_folders(&fixture.settings.path);
    assert!(!folders.is_empty());
    for folder in folders {
        std::fs::remove_dir_all(folder).unwrap();
    }
    let event = || publish(&format!("{:?}", "x".repeat(1 << 20)));
    // Together more than are kept in memory before a table is written.
    for _ in 0..2 {
        engine.append(&news, (0..5).map(|_| event()).collect()).await.unwrap();
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while engine.write_state() != WriteState::SyncFailed {
        assert!(tokio::time::Instant::now() < deadline, "nobody notices");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = engine.append(&news, vec![publish("1")]).await;
    assert!(matches!(refused, Err(Error::Poisoned)));
}

type Harm = fn(&File, u64);

const HARMS: [(&str, Harm); 4] = [
    ("zeroed", |file, at| file.write_all_at(&[0; BLOCK], at).unwrap()),
    ("cut", |file, at| file.set_len(at).unwrap()),
    ("garbage", |file, at| file.write_all_at(&[0xa5; BLOCK], at).unwrap()),
    ("flipped", |file, at| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    }),
];

#[tokio::test]
async fn a_damaged_journal_is_refused_each_time() {
    let fixture = Fixture::new(Engine::open_at);
    let _engine = filled(&fixture).await;
    let (_, end) = journal(&fixture.settings);
    assert!(end > 16 * BLOCK as u64);
    for (name, harm) in HARMS {
        for at in [end / 2, end - 40] {
            let (_folder, copied) = copy(&fixture.settings);
            let path = journal(&copied).0;
            harm(&File::options().read(true).write(true).open(path).unwrap(), at);
            let why = refusal(&fixture, &copied);
            assert!(why.contains("streamgate verify"), "{name} at {at}: {why}");
            refusal(&fixture, &copied);
        }
    }
}

#[tokio::test]
async fn a_loss_is_named_and_can_be_accepted() {
    let fixture = Fixture::new(Engine::open_at);
    let _engine = filled(&fixture).await;
    let (_folder, copied) = copy(&fixture.settings);
    let (path, end) = journal(&copied);
    File::options().write(true).open(path).unwrap().set_len(end / 2).unwrap();
    let why = refusal(&fixture, &copied);
    let report = store::verify(&copied.path, |_, _| {}).unwrap();
    assert_eq!(report.damage.len(), 1, "{:#?}", report.damage);
    assert!(report.damage[0].contains("was acknowledged"), "{:#?}", report.damage);
    assert!(why.contains(&format!("ends with commit {}", report.commit)), "{why}");
    std::fs::remove_file(copied.path.join("mark")).unwrap();
    let engine = Engine::open(&copied, &fixture.configs).unwrap();
    let log = &engine.log("orders").unwrap();
    let left = read(log, Offset::ZERO).await;
    assert!(left.len() < 300 && left.len() as u64 == log.head().0);
}

#[tokio::test]
async fn a_store_is_open_once() {
    let fixture = Fixture::new(Engine::open_at);
    let _engine = fixture.open();
    let second = Engine::open(&fixture.settings, &fixture.configs);
    assert!(matches!(second, Err(store::Error::Locked(_))));
}

#[tokio::test]
async fn an_unclean_stop_without_syncs_skips_what_may_have_been_issued() {
    for sync in [FsyncPolicy::Interval(Duration::from_millis(5)), FsyncPolicy::Never] {
        let mut fixture = Fixture::new(Engine::open_at);
        fixture.settings.sync = sync;
        let engine = fixture.open();
        let log = engine.log("orders").unwrap();
        let issued = one(&engine, &log, create(&log, "a", "{}")).await.unwrap().offset;
        let (_folder, copied) = copy(&fixture.settings);
        drop((log, engine));
        let killed = Engine::open(&copied, &fixture.configs).unwrap();
        assert_eq!(killed.log("orders").unwrap().head(), issued);
        // Twice unclean, and clean without a write between: never back.
        let (_folder, again) = copy(&copied);
        killed.close();
        drop(killed);
        for settings in [copied, again] {
            let engine = Engine::open(&settings, &fixture.configs).unwrap();
            let log = &engine.log("orders").unwrap();
            let next = one(&engine, log, create(log, "b", "{}")).await.unwrap().offset;
            assert!(next.0 > 65_536, "{next}");
            assert_eq!(read(log, Offset::ZERO).await.len(), 2);
        }
        // The one that was stopped cleanly goes on where it was.
        let engine = fixture.open();
        let log = &engine.log("orders").unwrap();
        let next = one(&engine, log, create(log, "b", "{}")).await.unwrap().offset;
        assert_eq!(next, issued.next());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_have_fixed_boundaries_and_are_read_once() {
    let mut fixture = Fixture::new(Engine::open_at);
    fixture.settings.tail_bytes = 0;
    let engine = fixture.open();
    let log = engine.log("news").unwrap().clone();
    engine.append(&log, (0..600).map(|n| publish(&n.to_string())).collect()).await.unwrap();
    one(&engine, &log, publish("[]")).await.unwrap();
    let asked: Vec<_> = (0..64)
        .map(|n| {
            let log = log.clone();
            tokio::spawn(async move { log.page(Offset(n * 4)).await.unwrap() })
        })
        .collect();
    let mut pages = Vec::new();
    for page in asked {
        pages.push(page.await.unwrap());
    }
    assert_eq!((pages[0].batch.events().len(), pages[0].scanned_to), (256, Offset(256)));
    assert!(pages.iter().all(|page| Arc::ptr_eq(&page.batch, &pages[0].batch)));
    let last = log.page(Offset(520)).await.unwrap();
    assert_eq!((last.batch.events().len(), last.scanned_to), (81, Offset(601)));
    one(&engine, &log, publish("[]")).await.unwrap();
    assert_eq!(log.page(Offset(520)).await.unwrap().scanned_to, Offset(602), "it was not cached");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_events_make_small_pages() {
    let mut fixture = Fixture::new(Engine::open_at);
    fixture.settings.tail_bytes = 0;
    let engine = fixture.open();
    let log = &engine.log("news").unwrap();
    let large = format!("{:?}", "x".repeat(300 << 10));
    for n in 0..300 {
        let text = if n % 16 == 3 { large.clone() } else { n.to_string() };
        one(&engine, log, publish(&text)).await.unwrap();
    }
    let whole = read(log, Offset::ZERO).await;
    assert_eq!(whole.len(), 300);
    for after in (0..256).step_by(7) {
        let page = log.page(Offset(after)).await.unwrap();
        let bytes: usize = page.batch.events().iter().map(|event| event.data.len()).sum();
        assert!(bytes < 2 << 20, "{bytes} bytes after {after}");
        assert_eq!(page.scanned_to.0 % 16, 0, "the same boundaries wherever one begins");
        assert_eq!(read(log, Offset(after)).await, whole[after as usize..]);
    }
}

#[tokio::test]
async fn one_resources_replay_is_paged() {
    let fixture = Fixture::new(Engine::open_at);
    let engine = fixture.open();
    let log = &engine.log("orders").unwrap();
    let patch = |n: usize| {
        let name = if n.is_multiple_of(2) { "even" } else { "odd" };
        Write::put(log.identity(), id(name), &json(&format!(r#"{{"n":{n}}}"#))).unwrap()
    };
    engine.append(log, (0..1200).map(patch).collect()).await.unwrap();
    let first = log.page_of(&id("even"), Offset::ZERO).await.unwrap();
    assert_eq!((first.batch.events().len(), first.scanned_to), (256, Offset(511)));
    assert_eq!(read_of(log, "even", Offset::ZERO).await.len(), 600);
    let none = log.page_of(&id("nobody"), Offset(7)).await.unwrap();
    assert_eq!((none.batch.events().len(), none.scanned_to), (0, log.head()));
}
