//! Panics of tasks that live as long as the gateway. After such a panic, the
//! gateway drains and exits with code 1. A test requests a panic by a file. Only
//! builds with debug assertions look for this file (`supervisor::fault_point`).
#![cfg(debug_assertions)]

use std::fs::File;
use std::net::SocketAddr;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::client::{PATIENCE, Protocol, Stream, request};
use crate::support::process::Process;

fn start(drain: &str) -> (TempDir, Process) {
    let faults = tempfile::tempdir().unwrap();
    let text = format!("[server]\ndrain = \"{drain}\"\n[[collections]]\nname = \"orders\"\n");
    let variables = [("STREAMGATE_FAULT_FOLDER", faults.path())];
    let process = Process::start_by(&[], &variables, &text);
    (faults, process)
}

/// Sends a request without its body. The handler waits for the body, and a
/// drain waits for the handler.
async fn open_request(address: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = "POST /orders HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\n\
                content-length: 2\r\nexpect: 100-continue\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut line = [0; 12];
    timeout(PATIENCE, socket.read_exact(&mut line)).await.unwrap().unwrap();
    assert_eq!(&line, b"HTTP/1.1 100");
    socket
}

/// Sends the body of the request. Returns the status of the response.
async fn finish_request(mut socket: TcpStream) -> u16 {
    socket.write_all(b"{}").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap().unwrap();
    let text = String::from_utf8(answer).unwrap();
    let at = text.find("HTTP/1.1 ").expect("a status line after the rest of the interim response");
    text[at + 9..at + 12].parse().unwrap()
}

/// Makes `task` panic. `happens` gives the task something to do. Checks that
/// `/readyz` reports the failed `component` and that the response to the open
/// request has `status`.
async fn expect_drain_after_panic(
    task: &str,
    component: &str,
    status: u16,
    happens: impl AsyncFnOnce(&Process),
) {
    let (faults, mut process) = start("20s");
    let open = open_request(process.address).await;
    File::create(faults.path().join(task)).unwrap();
    happens(&process).await;
    process.logs("a supervised task has failed").await;
    process.logs("it panicked: a test requested this panic").await;
    process.logs("draining after a failure").await;
    if task == "accept-admin" {
        assert!(TcpStream::connect(process.admin).await.is_err(), "the admin socket is closed");
    } else {
        let ready = request(process.admin, "GET", "/readyz", "", b"").await;
        let components = ready.json();
        assert_eq!((ready.status, &components["ready"]), (503, &false.into()), "{components}");
        let failed = components.as_object().unwrap().iter().filter(|it| *it.1 == "failed");
        assert_eq!(failed.map(|it| it.0.as_str()).collect::<Vec<_>>(), [component]);
        let metrics = request(process.admin, "GET", "/metrics", "", b"").await;
        let name = format!("streamgate_tasks_failed_total{{task=\"{task}\"}} ");
        let count = metrics.text().lines().find_map(|line| line.strip_prefix(&name));
        assert_ne!(count, Some("0"));
        assert!(count.is_some(), "no {name} in {}", metrics.text());
        let writable = u8::from(task != "committer");
        assert!(metrics.text().contains(&format!("\nstreamgate_log_writable {writable}\n")));
    }
    assert_eq!(finish_request(open).await, status);
    assert_eq!(process.ended().await.code(), Some(1));
    process.logs(&format!("streamgate: the task {task} has failed: it panicked")).await;
}

#[tokio::test]
async fn a_panic_in_a_fan_out_task_ends_the_process() {
    // A commit to a log without a subscription does not wake the task. The stream
    // stays open until the process has ended.
    let mut stream = None;
    expect_drain_after_panic("fan-out", "hub", 201, async |process| {
        let address = process.address;
        stream = Some(Stream::open(address, "/orders/events", Protocol::Sse, "").await);
        let json = "content-type: application/json\r\n";
        let answer = request(address, "POST", "/orders", json, b"{}").await;
        assert_eq!(answer.status, 201);
    })
    .await;
    drop(stream);
}

#[tokio::test]
async fn a_panic_in_a_tick_task_ends_the_process() {
    expect_drain_after_panic("tick", "hub", 201, async |_| {}).await;
}

#[tokio::test]
async fn a_panic_in_the_client_accept_loop_ends_the_process() {
    expect_drain_after_panic("accept-clients", "listener", 201, async |process| {
        let _ = TcpStream::connect(process.address).await;
    })
    .await;
}

#[tokio::test]
async fn a_panic_in_the_admin_accept_loop_ends_the_process() {
    expect_drain_after_panic("accept-admin", "listener", 201, async |process| {
        let _ = TcpStream::connect(process.admin).await;
    })
    .await;
}

#[tokio::test]
async fn a_panic_in_the_upkeep_of_metrics_ends_the_process() {
    expect_drain_after_panic("upkeep", "metrics", 201, async |_| {}).await;
}

#[tokio::test]
async fn a_panic_in_the_memory_watch_ends_the_process() {
    expect_drain_after_panic("memory-watch", "memory", 201, async |_| {}).await;
}

#[tokio::test]
async fn a_panic_in_the_committer_ends_the_process() {
    expect_drain_after_panic("committer", "engine", 503, async |_| {}).await;
}

/// Ticks end the streams during a drain. Without ticks, only the deadline of the
/// drain ends the stream.
#[tokio::test]
async fn a_drain_without_ticks_ends_by_its_deadline() {
    let (faults, mut process) = start("1s");
    let mut stream = Stream::open(process.address, "/orders/events", Protocol::Sse, "").await;
    assert_eq!(stream.next().await.unwrap().1, "stream-open");
    File::create(faults.path().join("tick")).unwrap();
    assert_eq!(process.ended().await.code(), Some(1));
}
