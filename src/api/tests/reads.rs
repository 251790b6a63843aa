//! Tests of reads on blocking threads: each read waits for a permit, and uses no thread while
//! it waits.

use std::sync::mpsc;
use std::time::Instant;

use tokio::task::JoinSet;

use super::*;
use crate::api::answer::inline_reads::InlineReads;

/// The number of concurrent requests: far more than there are permits.
const REQUESTS: usize = 64;
/// The time in which an answer without a permit would arrive.
const EARLY: Duration = Duration::from_millis(300);

/// Fills the limit of inline reads until the result is dropped.
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
        // At the limit, the read does not run and `started` is dropped.
        if has_started.recv().is_err() {
            return reads;
        }
        reads.push(end);
    }
}

/// Sends a request for each of `lines` at once. Checks that no request is answered before the
/// permits of `log` are free again, and that all are answered with 200 then.
async fn assert_waits_for_a_permit(gateway: &Gateway, log: &str, lines: Vec<String>) {
    let permits = gateway.api.engine.log(log).unwrap().take_permits();
    let mut replies = JoinSet::new();
    for line in lines {
        let mut socket = gateway.connect().await;
        let bytes = request(&line, "accept: application/json\r\n", "");
        socket.write_all(bytes.as_bytes()).await.unwrap();
        replies.spawn(finish(socket));
    }
    let early = tokio::time::timeout(EARLY, replies.join_next()).await;
    assert!(early.is_err(), "answered without a permit: {early:?}");
    drop(permits);
    for reply in replies.join_all().await {
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
}

#[tokio::test]
async fn a_search_for_a_time_waits_for_a_permit() {
    let gateway = Gateway::start().await;
    gateway.post("/events/news", r#"{"type":"published","data":1}"#).await;
    let line = |n| format!("GET /events/news?from=2024-07-15T00:00:{:02}Z", n % 60);
    let lines = (0..REQUESTS).map(line).collect();
    assert_waits_for_a_permit(&gateway, "news", lines).await;
}

#[tokio::test]
async fn a_read_of_a_resource_at_the_limit_of_inline_reads_waits_for_a_permit() {
    let gateway = Gateway::start().await;
    gateway.post("/orders", r#"{"id":"a"}"#).await;
    let _occupied = occupy(&gateway.api.inline);
    let lines = vec!["GET /orders/a".to_owned(); REQUESTS];
    assert_waits_for_a_permit(&gateway, "orders", lines).await;
}
