//! 100,000 empty logs in one store: the time to open the store, the memory per
//! log, and the time of a commit relative to a store with ten logs. This does
//! not use criterion: a process must open the store only once, because memory
//! that an earlier engine freed would hide the growth.
//! `cargo bench --bench many_logs`

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use streamgate::event::EventType;
use streamgate::log::{Engine, FsyncPolicy, LogConfig, Settings, StorageKind, Write};
use streamgate::store::Retention;
use streamgate::wire::LogKind;
use streamgate::wire::json::Json;

/// The allocator of the gateway's binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FEW: usize = 10;
const MANY: usize = 100_000;
/// The number of rounds. Each round commits to both engines.
const ROUNDS: usize = 21;
/// The number of commits of a round to each engine.
const COMMITS: usize = 200;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    if let (Some(what), Some(folder)) = (arguments.next(), arguments.next()) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
        return runtime.block_on(measure(&PathBuf::from(folder), what == "open"));
    }
    let folder = tempfile::tempdir().expect("a folder can be created");
    let program = std::env::current_exe().expect("the program has a path");
    // The first process makes the logs, the second one opens them.
    for what in ["make", "open"] {
        println!("{what}:");
        let status = Command::new(&program).args([what.as_ref(), folder.path()]).status();
        assert!(status.expect("the program starts").success());
    }
}

async fn measure(folder: &Path, commits_too: bool) {
    let few = open(folder, FEW);
    let many = open(folder, MANY);
    if !commits_too {
        return;
    }
    for (what, payload) in [("an event", 1), ("100 events", 100)] {
        let (mut few_rounds, mut many_rounds) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            few_rounds.push(commits(&few, FEW, payload).await);
            many_rounds.push(commits(&many, MANY, payload).await);
        }
        let (few, many) = (median(few_rounds), median(many_rounds));
        let ratio = many.as_secs_f64() / few.as_secs_f64();
        println!("a commit of {what}: {few:?} with {FEW} logs, {many:?} with {MANY}: {ratio:.3} x");
    }
}

fn open(folder: &Path, count: usize) -> Engine {
    let settings = Settings {
        path: folder.join(count.to_string()),
        // The commit is measured, not the disk.
        sync: FsyncPolicy::Never,
        tail_bytes: 64 << 20,
        page_cache_bytes: 64 << 20,
        catchup_concurrency: 4,
        resource_bytes_max: 1 << 20,
    };
    let topic = |n: usize| LogConfig {
        name: format!("topic{n:06}"),
        kind: LogKind::Topic,
        retention: Retention { age: Duration::from_hours(24), ..Retention::default() },
        durability: StorageKind::Disk,
    };
    let configs: Vec<LogConfig> = (0..count).map(topic).collect();
    let (before, start) = (resident_bytes(), Instant::now());
    let engine = Engine::open(&settings, &configs).expect("the store opens");
    let elapsed = start.elapsed();
    // The allocator returns what opening has freed.
    std::thread::sleep(Duration::from_secs(2));
    let bytes = resident_bytes().saturating_sub(before) / count;
    println!("{count} logs: {elapsed:?}, {bytes} bytes a log");
    engine
}

/// Returns the time of a commit to a log in the middle.
async fn commits(engine: &Engine, count: usize, events: usize) -> Duration {
    let log = engine.log(&format!("topic{:06}", count / 2)).expect("the log is configured");
    let event_type = EventType::new("said").expect("the type is valid");
    let data = Json::parse(br#"{"n":1}"#).expect("the text is JSON");
    let start = Instant::now();
    for _ in 0..COMMITS {
        let writes = (0..events).map(|_| Write::publish(None, event_type.clone(), data.clone()));
        engine.append(&log, writes.collect()).await.expect("the log takes writes");
    }
    start.elapsed() / COMMITS as u32
}

fn median(mut rounds: Vec<Duration>) -> Duration {
    rounds.sort();
    rounds[rounds.len() / 2]
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("the kernel tells");
    let pages: usize = statm.split(' ').nth(1).and_then(|it| it.parse().ok()).expect("a number");
    pages * rustix::param::page_size()
}
