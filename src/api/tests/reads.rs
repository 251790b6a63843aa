//! Reads that do not run on the task that asks: each waits for a permit, and
//! makes no thread meanwhile.

use std::sync::mpsc;
use std::time::Instant;

use tokio::task::JoinSet;

use super::*;
use crate::api::answer::inline_reads::InlineReads;

/// Requests that ask at once: many more than there are permits.
const REQUESTS: usize = 64;
/// Until an answer that should not come would have come.
const MOMENT: Duration = Duration::from_millis(300);

/// Takes every place for a read on the task that asks, until the result is
/// dropped.
fn occupy(inline: &Arc<InlineReads>) -> Vec<mpsc::Sender<()>> {
    let mut reads = Vec::new();
    loop {
        let (started, has_started) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let inline = inline.clone();
        std::thread::spawn(move || {
            let read = || {
                started.send(()).unwrap();
                let _ = ended.recv();
            };
            inline.run(Instant::now(), read);
        });
        // Where there was no place, `started` has gone unused.
        if has_started.recv().is_err() {
            return reads;
        }
        reads.push(end);
    }
}

/// Asks `gateway` at once for each of `lines`; none is answered before the
/// permits to read `log` are given back, and then all are, with 200.
async fn waits_for_a_permit(gateway: &Gateway, log: &str, lines: Vec<String>) {
    let permits = gateway.api.engine.log(log).unwrap().take_permits();
    let mut replies = JoinSet::new();
    for line in lines {
        let mut socket = gateway.connect().await;
        let bytes = request(&line, "accept: application/json\r\n", "");
        socket.write_all(bytes.as_bytes()).await.unwrap();
        replies.spawn(finish(socket));
    }
    let early = tokio::time::timeout(MOMENT, replies.join_next()).await;
    assert!(early.is_err(), "answered without a permit: {early:?}");
    drop(permits);
    for reply in replies.join_all().await {
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
}

#[tokio::test]
async fn a_search_for_a_time_waits_for_a_permit() {
    let gateway = Gateway::start().await;
    gateway.post("/events/news", r#"{"type":"said","data":1}"#).await;
    let line = |n| format!("GET /events/news?from=2024-07-15T00:00:{:02}Z", n % 60);
    let lines = (0..REQUESTS).map(line).collect();
    waits_for_a_permit(&gateway, "news", lines).await;
}

#[tokio::test]
async fn a_read_of_a_resource_that_finds_no_place_waits_for_a_permit() {
    let gateway = Gateway::start().await;
    gateway.post("/orders", r#"{"id":"a"}"#).await;
    let _occupied = occupy(&gateway.api.inline);
    let lines = vec!["GET /orders/a".to_owned(); REQUESTS];
    waits_for_a_permit(&gateway, "orders", lines).await;
}
