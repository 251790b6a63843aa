//! A takeover whose head hyper does not flush.

use std::future::poll_fn;

use super::*;
use crate::deliver::{Takeover, TakeoverSlot};

const STALL_TIMEOUT: Duration = Duration::from_millis(40);

/// Waits until the slot ends a planned takeover whose head is not flushed.
async fn unflushed(slot: &TakeoverSlot) {
    let mut timer = None;
    poll_fn(|cx| slot.poll_unflushed(cx, &mut timer, STALL_TIMEOUT)).await;
}

#[tokio::test]
async fn a_head_that_is_not_flushed_ends_after_the_stall_timeout() {
    let bench = Bench::start();
    let slot = TakeoverSlot::new();
    let early = poll_fn(|cx| {
        let mut timer = None;
        let polled = slot.poll_unflushed(cx, &mut timer, STALL_TIMEOUT);
        Poll::Ready((polled.is_ready(), timer.is_some()))
    });
    assert_eq!(early.await, (false, false), "no takeover is planned, and no timer runs");
    let ConnectionTask { source, .. } = bench.connect();
    let body = slot.plan(Takeover::Stream { source, chunked: true });
    unflushed(&slot).await;
    assert!(slot.take_flushed().is_none(), "the head is not flushed");
    drop((slot, body));
    let line = r#"streamgate_connections_closed_total{protocol="ws",reason="stalled"} 1"#;
    assert!(bench.metrics.render(&[]).contains(line));
}

#[tokio::test]
async fn a_head_that_is_written_slowly_does_not_stall() {
    let bench = Bench::start();
    let slot = TakeoverSlot::new();
    let ConnectionTask { source, .. } = bench.connect();
    let _body = slot.plan(Takeover::Stream { source, chunked: true });
    let begun = std::time::Instant::now();
    let writing = async {
        while begun.elapsed() < 10 * STALL_TIMEOUT {
            slot.note_write();
            tokio::time::sleep(STALL_TIMEOUT / 20).await;
        }
    };
    tokio::select! {
        biased;
        () = writing => {}
        () = unflushed(&slot) => panic!("ended after {:?}", begun.elapsed()),
    }
    unflushed(&slot).await;
}
