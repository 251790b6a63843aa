//! `/readyz` and `streamgate_log_writable` when the disk fails or is full.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::{Answer, Protocol, Stream, post, request};
use crate::support::process::Process;
use crate::support::until;

const ORDERS: &str = "[[collections]]\nname = \"orders\"\n";

const READ_ONLY: &str = "read-only after a failed sync";

async fn readyz(process: &Process) -> (u16, Value) {
    let answer = request(process.admin, "GET", "/readyz", "", b"").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    (answer.status, answer.json())
}

/// Returns the value of `streamgate_log_writable`.
async fn writable(process: &Process) -> String {
    let metrics = request(process.admin, "GET", "/metrics", "", b"").await;
    let line = |line: &str| line.strip_prefix("streamgate_log_writable ").map(str::to_owned);
    metrics.text().lines().find_map(line).expect("the gauge is in the metrics")
}

async fn create(process: &Process) -> Answer {
    request(process.address, "POST", "/orders", "content-type: application/json\r\n", b"{}").await
}

/// Checks the state after a write that was answered with 503: the log rejects
/// writes and serves reads.
async fn is_read_only(process: &Process) {
    let (status, components) = readyz(process).await;
    let expected = json!({
        "ready": false, "draining": false, "log": READ_ONLY, "engine": "running",
        "listener": "running", "hub": "running", "memory": "enough", "metrics": "running",
    });
    assert_eq!((status, components), (503, expected));
    assert_eq!(writable(process).await, "0");
    assert_eq!(request(process.admin, "GET", "/livez", "", b"").await.status, 200);
    assert_eq!(request(process.address, "GET", "/orders", "", b"").await.status, 200);
}

#[tokio::test]
async fn a_gateway_is_ready_and_its_log_is_writable() {
    let process = Process::start(ORDERS);
    let expected = json!({
        "ready": true, "draining": false, "log": "writable", "engine": "running",
        "listener": "running", "hub": "running", "memory": "enough", "metrics": "running",
    });
    assert_eq!(readyz(&process).await, (200, expected));
    assert_eq!(writable(&process).await, "1");
}

/// A write beyond the file size limit sends the signal `SIGXFSZ`. If the process
/// ignores the signal, the write fails.
#[tokio::test]
async fn the_gateway_is_not_ready_after_a_failed_write() {
    let ignoring = ["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"];
    let mut process = Process::start_by(&ignoring, &[], ORDERS);
    post(process.address, "/orders", "{}").await;
    let maximum = getrlimit(Resource::Fsize).maximum;
    let limit = Rlimit { current: Some(0), maximum };
    prlimit(Some(process.pid()), Resource::Fsize, limit).unwrap();
    assert_eq!(create(&process).await.status, 503);
    is_read_only(&process).await;
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn the_gateway_is_not_ready_after_a_failed_sync() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("fail_sync.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/fail_sync.c");
    // The build of the allocator needs the same compiler.
    let compiler = std::env::var("CC").unwrap_or("cc".to_owned());
    let mut compile = Command::new(compiler);
    compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source);
    assert!(compile.status().unwrap().success());
    let failing = folder.path().join("failing");
    let variables = [("LD_PRELOAD", library.as_path()), ("FAIL_SYNC", failing.as_path())];
    let process = Process::start_by(&[], &variables, ORDERS);
    post(process.address, "/orders", "{}").await;
    File::create(&failing).unwrap();
    assert_eq!(create(&process).await.status, 503);
    is_read_only(&process).await;
    std::fs::remove_file(&failing).unwrap();
    assert_eq!(create(&process).await.status, 503, "the data on the disk is unknown");
    is_read_only(&process).await;
}

/// Mounts a disk of 64 MiB on the folder of the store and executes the gateway.
const MOUNT: &str = "mkdir -p \"$FOLDER/store\" && \
    mount -t tmpfs -o size=64m none \"$FOLDER/store\" && exec \"$@\"";

/// Links the folder of the store to the disk of `$DISK` and executes the
/// gateway.
const LINK: &str = "ln -s \"$DISK\" \"$FOLDER/store\" && exec \"$@\"";

/// The size of the largest disk that a test may fill.
const SMALL_BYTES: u64 = 256 << 20;

/// Starts a gateway whose store is on a small disk. The disk is mounted in a
/// mount namespace, which needs a user namespace or root. Most containers allow
/// neither. There, `/dev/shm` is the small disk.
fn start_on_small_disk() -> (Option<TempDir>, Process) {
    let namespaces: [&[&str]; 2] = [&["unshare", "-Urm"], &["unshare", "-m"]];
    let mounts = |words: &&[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(["sh", "-c", MOUNT, "sh", "true"]);
        let tried = command.env("FOLDER", folder.path()).stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    if let Some(namespace) = namespaces.into_iter().find(|words| mounts(words)) {
        let command = [namespace, &["sh", "-c", MOUNT, "sh"]].concat();
        return (None, Process::start_by(&command, &[], ORDERS));
    }
    let shared = statvfs("/dev/shm").map_or(u64::MAX, |disk| disk.f_blocks * disk.f_frsize);
    assert!(
        shared <= SMALL_BYTES,
        "there is no small disk: allow user namespaces (sysctl \
         kernel.unprivileged_userns_clone=1, on Ubuntu \
         kernel.apparmor_restrict_unprivileged_userns=0), or run this test as root",
    );
    let disk = tempfile::tempdir_in("/dev/shm").unwrap();
    let command = ["sh", "-c", LINK, "sh"];
    let process = Process::start_by(&command, &[("DISK", disk.path())], ORDERS);
    (Some(disk), process)
}

#[tokio::test]
async fn a_gateway_with_a_full_disk_is_ready_and_reports_the_full_disk() {
    let (_disk, process) = start_on_small_disk();
    post(process.address, "/orders", "{}").await;
    let mut stream = Stream::open(process.address, "/orders/events", Protocol::Sse, "").await;
    assert_eq!(stream.next().await.unwrap().1, "stream-open");
    assert_eq!(readyz(&process).await.1["log"], "writable");

    let filler = process.store().join("filler");
    let disk = statvfs(process.store()).unwrap();
    assert!(disk.f_blocks * disk.f_frsize <= SMALL_BYTES, "the store is on the small disk");
    let free = disk.f_bavail * disk.f_frsize;
    let file = File::create(&filler).unwrap();
    fallocate(&file, FallocateFlags::empty(), 0, free - (4 << 20)).unwrap();
    // The state changes although no client writes.
    until(async || readyz(&process).await.1["log"] == "disk full").await;
    let (status, components) = readyz(&process).await;
    assert_eq!((status, &components["ready"]), (200, &json!(true)));
    assert_eq!(writable(&process).await, "0");
    assert_eq!(create(&process).await.status, 507);
    assert_eq!(request(process.address, "GET", "/orders", "", b"").await.status, 200);

    std::fs::remove_file(&filler).unwrap();
    drop(file);
    until(async || readyz(&process).await.1["log"] == "writable").await;
    assert_eq!(writable(&process).await, "1");
    post(process.address, "/orders", "{}").await;
    assert_eq!(stream.next().await.unwrap().1, "order-created");
}
