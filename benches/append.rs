//! Appends: writes a second through the embedded engine, every commit synced,
//! and how long a store of a million events takes to open again.
//!
//! Each figure is the best of three runs of a few seconds on the disk of the
//! system's temporary folder. `cargo bench --bench append`

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use streamgate::event::ResourceId;
use streamgate::log::{Engine, Medium, Settings, Spec, Sync, Write};
use streamgate::store::Retention;
use streamgate::wire::Kind;
use streamgate::wire::json::Json;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RUN: Duration = Duration::from_secs(3);
const RESOURCES: usize = 20_000;
const MILLION: usize = 1_000_000;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(async {
        for writers in [1, 100, 1000] {
            let mut best = (0.0, Duration::MAX);
            for _ in 0..3 {
                let run = single_writes(writers).await;
                best = if run.0 > best.0 { run } else { best };
            }
            println!("{writers} writers of one event: {:.0} events/s, p99 {:?}", best.0, best.1);
        }
        reopening().await;
    });
}

fn settings(path: &Path) -> Settings {
    Settings {
        path: path.join("data"),
        sync: Sync::Always,
        tail_bytes: 64 << 20,
        page_cache_bytes: 64 << 20,
        catchup_concurrency: 4,
        resource_bytes_max: 1 << 20,
    }
}

fn open(path: &Path) -> Engine {
    let kind = Kind::collection("order").expect("a good name");
    let spec = Spec {
        name: "orders".to_owned(),
        kind,
        retention: Retention::default(),
        durability: Medium::Disk,
    };
    Engine::open(&settings(path), &[spec]).expect("the store opens")
}

fn write(engine: &Engine, n: usize) -> Write {
    let log = engine.log("orders").expect("it is configured");
    let id = ResourceId::new(&format!("r{}", n * 7919 % RESOURCES)).expect("a good id");
    let text = format!(r#"{{"n":{n},"text":"{}"}}"#, "x".repeat(260));
    let document = Json::parse(text.as_bytes()).expect("it is JSON");
    Write::put(log.origin(), id, &document).expect("it is an object")
}

/// Events a second, and the 99th percentile of the time to an answer.
async fn single_writes(writers: usize) -> (f64, Duration) {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = Arc::new(open(folder.path()));
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let engine = engine.clone();
            tokio::spawn(async move {
                let log = engine.log("orders").expect("it is configured");
                let mut times = Vec::new();
                while start.elapsed() < RUN {
                    let write = write(&engine, writer * 31 + times.len());
                    let sent = Instant::now();
                    engine.append(&log, vec![write]).await.expect("the disk works")[0]
                        .as_ref()
                        .expect("it is accepted");
                    times.push(sent.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("it ends"));
    }
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    times.sort_unstable();
    (rate, times[times.len() * 99 / 100])
}

async fn reopening() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = open(folder.path());
    let log = engine.log("orders").expect("it is configured");
    let start = Instant::now();
    for n in (0..MILLION).step_by(500) {
        let writes = (n..n + 500).map(|n| write(&engine, n)).collect();
        engine.append(&log, writes).await.expect("the disk works");
    }
    println!("a million in calls of 500: {:.0} events/s", 1e6 / start.elapsed().as_secs_f64());
    // As after kill -9: the copy was never closed.
    let copied = tempfile::tempdir().expect("a folder");
    copy(folder.path(), copied.path());
    drop(log);
    drop(engine);
    for (what, path) in [("closed", folder.path()), ("killed", copied.path())] {
        let start = Instant::now();
        let engine = open(path);
        let elapsed = start.elapsed();
        let head = engine.log("orders").expect("it is configured").head();
        assert_eq!(head.0, MILLION as u64);
        println!("opening a million events, {what}: {elapsed:?}");
        drop(engine);
    }
    let start = Instant::now();
    let report = streamgate::store::verify(&folder.path().join("data"), |_, _| {});
    assert_eq!(report.expect("it opens").damage, Vec::<String>::new());
    println!("verifying a million events: {:?}", start.elapsed());
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("it reads");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("it has one").is_dir() {
            copy(&entry.path(), &target);
        } else {
            // A table may be compacted away meanwhile; its successor is there.
            let _ = std::fs::copy(entry.path(), target);
        }
    }
}
