//! A stream whose head hyper does not flush.

use std::future::poll_fn;

use hyper::rt::Write as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::deliver::{
    ConnectionIo as Io, ConnectionState, PendingTakeover, TcpTransport, Transport,
};

const STALL_TIMEOUT: Duration = Duration::from_millis(40);

/// Waits for the end of a stream that was planned and is not flushed.
async fn unflushed(handover: &ConnectionState) {
    let mut timer = None;
    poll_fn(|cx| handover.poll_unflushed(cx, &mut timer, STALL_TIMEOUT)).await;
}

#[tokio::test]
async fn a_head_that_is_not_flushed_is_not_waited_for() {
    let bench = Bench::start();
    let handover = ConnectionState::new(Arc::new(()));
    let early = poll_fn(|cx| {
        let mut timer = None;
        let polled = handover.poll_unflushed(cx, &mut timer, STALL_TIMEOUT);
        Poll::Ready((polled.is_ready(), timer.is_some()))
    });
    assert_eq!(early.await, (false, false), "no stream is planned, and nothing is waited for");
    let Writer { pump, .. } = bench.connect();
    let body = handover.plan(PendingTakeover { pump, chunked: true });
    unflushed(&handover).await;
    assert!(handover.take().is_none(), "the head is not out");
    drop((handover, body));
    let line = r#"streamgate_connections_closed_total{protocol="ws",reason="stalled"} 1"#;
    assert!(bench.metrics.render(&[]).contains(line));
}

#[tokio::test]
async fn a_head_that_is_written_slowly_is_waited_for() {
    let bench = Bench::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let handover = ConnectionState::new(Arc::new(()));
    let Writer { pump, .. } = bench.connect();
    let _body = handover.plan(PendingTakeover { pump, chunked: true });
    let mut io =
        Io::new(Transport::Tcp(TcpTransport::new(socket)), handover.clone(), STALL_TIMEOUT, None);
    let begun = std::time::Instant::now();
    let writing = async {
        while begun.elapsed() < 10 * STALL_TIMEOUT {
            poll_fn(|cx| std::pin::Pin::new(&mut io).poll_write(cx, b"x")).await.unwrap();
            client.read_u8().await.unwrap();
            tokio::time::sleep(STALL_TIMEOUT / 20).await;
        }
    };
    tokio::select! {
        biased;
        () = writing => {}
        () = unflushed(&handover) => panic!("ended after {:?}", begun.elapsed()),
    }
    unflushed(&handover).await;
}
