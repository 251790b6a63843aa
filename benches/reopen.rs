//! Reopening: the time to open a store of a million events again, after an
//! orderly end and after a kill, and the time to verify it.
//!
//! Unit: seconds, measured once each. Budget: 1 s to open in both cases, 15 s
//! to verify. This does not use criterion: filling the store takes longer than
//! all other benchmarks, a killed store can be opened once only, and figures of
//! seconds need no statistics. `cargo bench --bench reopen`

use std::path::Path;
use std::time::Instant;

use streamgate::event::ResourceId;
use streamgate::log::{Engine, FsyncPolicy, LogConfig, Settings, StorageKind, Write};
use streamgate::store::Retention;
use streamgate::wire::LogKind;
use streamgate::wire::json::Json;

/// The allocator of the gateway's binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RESOURCES: u64 = 20_000;
const MILLION: u64 = 1_000_000;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(reopening());
}

fn open(path: &Path) -> Engine {
    let settings = Settings {
        path: path.join("data"),
        sync: FsyncPolicy::Always,
        tail_bytes: 64 << 20,
        page_cache_bytes: 64 << 20,
        catchup_concurrency: 4,
        resource_bytes_max: 1 << 20,
    };
    let spec = LogConfig {
        name: "orders".to_owned(),
        kind: LogKind::collection("order").expect("the name is valid"),
        retention: Retention::default(),
        durability: StorageKind::Disk,
    };
    Engine::open(&settings, &[spec]).expect("the store opens")
}

fn write(engine: &Engine, n: u64) -> Write {
    let log = engine.log("orders").expect("the log is configured");
    let id = ResourceId::new(&format!("r{}", n * 7919 % RESOURCES)).expect("the id is valid");
    let text = format!(r#"{{"n":{n},"text":"{}"}}"#, "x".repeat(260));
    let document = Json::parse(text.as_bytes()).expect("the text is JSON");
    Write::put(log.identity(), id, &document).expect("the document is an object")
}

async fn reopening() {
    let folder = tempfile::tempdir().expect("a folder can be created");
    let engine = open(folder.path());
    let log = engine.log("orders").expect("the log is configured");
    let start = Instant::now();
    for n in (0..MILLION).step_by(500) {
        let writes = (n..n + 500).map(|n| write(&engine, n)).collect();
        engine.append(&log, writes).await.expect("the write succeeds");
    }
    println!("a million in calls of 500: {:.0} events/s", 1e6 / start.elapsed().as_secs_f64());
    // As after kill -9: the copy is of a store that was not closed.
    let copied = tempfile::tempdir().expect("a folder can be created");
    copy(folder.path(), copied.path());
    drop(log);
    drop(engine);
    for (what, path) in [("closed", folder.path()), ("killed", copied.path())] {
        let start = Instant::now();
        let engine = open(path);
        let elapsed = start.elapsed();
        let head = engine.log("orders").expect("the log is configured").head();
        assert_eq!(head.0, MILLION);
        println!("opening a million events, {what}: {elapsed:?}");
        drop(engine);
    }
    let start = Instant::now();
    let report = streamgate::store::verify(&folder.path().join("data"), |_, _| {});
    assert_eq!(report.expect("the store opens").damage, Vec::<String>::new());
    println!("verifying a million events: {:?}", start.elapsed());
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder can be created");
    for entry in std::fs::read_dir(from).expect("the folder exists") {
        let entry = entry.expect("the folder can be read");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("the entry has a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            // A table may be compacted during the copy. Its successor is copied
            // then.
            let _ = std::fs::copy(entry.path(), target);
        }
    }
}
