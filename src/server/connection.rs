//! One client connection: HTTP/1.1 or HTTP/2 by its first bytes, requests to
//! the API, and a stream's socket handed on once its head is out.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::listener::Open;
use super::peer;
use crate::api::body::{Body, Cut};
use crate::api::{self, Peer};
use crate::deliver::{Departure, Handover, Stream, Wire};

/// Head of a request: request line and fields (`docs/protocol.md#errors`, 431).
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The first bytes of an HTTP/2 connection's preface (RFC 9113 §3.4); no
/// method of HTTP/1 begins so.
const PREFACE: &[u8; 3] = b"PRI";

/// All of the preface: 24 fixed bytes and the head of the first SETTINGS.
const PREFACE_BYTES: usize = 24 + 9;

/// Between two looks at a preface that comes in pieces.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);

/// Streams of one HTTP/2 connection, as browsers and proxies expect at least
/// (RFC 9113 §6.5.2 recommends no less than 100).
const H2_STREAMS_MAX: u32 = 100;

/// Bytes of one HTTP/2 stream that hyper may hold for a client that does not
/// read; the overflow policy acts on what is behind them.
const H2_SEND_BYTES: usize = 64 * 1024;

/// Serves a connection to its end.
///
/// # Cancel safety
/// Dropping it cuts the connection.
pub(super) async fn serve(open: Arc<Open>, mut socket: TcpStream, address: SocketAddr) {
    let shared = open.shared();
    let head_due = Instant::now() + shared.settings.head_timeout;
    let Some(peer) = peer::identify(&open, &mut socket, address.ip(), head_due).await else {
        return;
    };
    let Ok(Ok(version)) = timeout_at(head_due, sniff(&socket)).await else {
        shared.metrics.refused("no-request");
        return;
    };
    let served = match version {
        Version::Http1 => serve_http1(&open, socket, peer, head_due).await,
        Version::Http2 => serve_http2(&open, socket, peer).await,
    };
    if let Err(error) = served {
        tracing::debug!(%address, %error, cause = ?std::error::Error::source(&error), "connection failed");
    }
}

enum Version {
    Http1,
    Http2,
}

/// Tells the version without taking a byte. hyper-util's own detection has no
/// deadline, and its connection cannot be taken apart.
async fn sniff(socket: &TcpStream) -> io::Result<Version> {
    let mut start = [0; PREFACE_BYTES];
    loop {
        let seen = socket.peek(&mut start).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let compared = seen.min(PREFACE.len());
        if start[..compared] != PREFACE[..compared] {
            return Ok(Version::Http1);
        }
        if seen == PREFACE_BYTES {
            return Ok(Version::Http2);
        }
        // What was peeked stays readable, so waiting for readiness would spin.
        tokio::time::sleep(PREFACE_PAUSE).await;
    }
}

async fn serve_http1(
    open: &Arc<Open>,
    socket: TcpStream,
    peer: Peer,
    head_due: Instant,
) -> hyper::Result<()> {
    let shared = open.shared();
    let handover = Handover::new(open.clone());
    let begun = AtomicBool::new(false);
    let service = {
        let (shared, handover, begun) = (shared.clone(), handover.clone(), &begun);
        service_fn(move |mut request: Request<Incoming>| {
            begun.store(true, Ordering::Relaxed);
            let (shared, answering) = (shared.clone(), handover.begin());
            request.extensions_mut().insert(handover.clone());
            async move {
                let answer = api::handle(&shared.api, request, peer).await;
                Ok::<_, Infallible>(answer.map(|body| Held { body, _answering: answering }))
            }
        })
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.settings.idle_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(
            Wire::new(
                socket,
                handover.clone(),
                shared.settings.stall_timeout,
                Some(shared.settings.head_timeout),
            ),
            service,
        )
        .with_upgrades();
    let mut draining = pin!(shared.closing.cancelled());
    let mut told = false;
    // The wire times a head from its first byte on; the first head has what
    // the connection's beginning has left of its time.
    let mut late = pin!(Some(sleep_until(head_due)));
    let departure = std::future::poll_fn(|cx| {
        if !told && draining.as_mut().poll(cx).is_ready() {
            told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        if let Poll::Ready(done) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(done.map(|()| None));
        }
        if begun.load(Ordering::Relaxed) {
            late.set(None);
        } else if let Some(late) = late.as_mut().as_pin_mut() {
            let late = late.poll(cx);
            return late.map(|()| {
                shared.metrics.refused("no-request");
                Ok(None)
            });
        }
        match handover.take() {
            Some(departure) => Poll::Ready(Ok(Some(departure))),
            None => Poll::Pending,
        }
    })
    .await?;
    if let (Some(departure), Some(parts)) = (departure, connection.into_parts()) {
        depart(open, parts.io.into_inner(), departure);
    }
    Ok(())
}

/// An answer's body, which is over when hyper lets go of it.
struct Held<A> {
    body: Body,
    _answering: A,
}

impl<A: Unpin> HttpBody for Held<A> {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Gives a stream its socket, in a task of its own: awaited here it would
/// keep everything above alive with it.
fn depart(open: &Arc<Open>, socket: TcpStream, departure: Departure) {
    let (open, shared) = (open.clone(), open.shared());
    let Departure { pump, chunked } = departure;
    let stream = Stream::new(socket, pump, chunked);
    shared.tasks.spawn(async move {
        stream.await;
        drop(open);
    });
}

async fn serve_http2(open: &Arc<Open>, socket: TcpStream, peer: Peer) -> hyper::Result<()> {
    let shared = open.shared();
    let settings = &shared.settings;
    let whole = Handover::new(open.clone());
    let service = {
        let (shared, whole) = (shared.clone(), whole.clone());
        service_fn(move |mut request: Request<Incoming>| {
            let (shared, answering) = (shared.clone(), Arc::new(whole.begin()));
            if *request.method() == Method::CONNECT {
                // A session outlives its answer; it keeps this to its end.
                request.extensions_mut().insert(Handover::new(answering.clone()));
            }
            async move {
                let answer = api::handle(&shared.api, request, peer).await;
                Ok::<_, Infallible>(answer.map(|body| Held { body, _answering: answering }))
            }
        })
    };
    let mut connection = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(H2_STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .max_send_buf_size(H2_SEND_BYTES)
            .keep_alive_interval(settings.idle_timeout / 2)
            .keep_alive_timeout(settings.stall_timeout)
            .enable_connect_protocol()
            .serve_connection(
                Wire::new(socket, whole.clone(), settings.stall_timeout, None)
                    .control_rate(settings.control_rate, &shared.metrics),
                service
            )
    );
    tokio::select! {
        served = connection.as_mut() => return served,
        () = shared.closing.cancelled() => {}
        () = whole.idle(settings.idle_timeout) => {}
    }
    connection.as_mut().graceful_shutdown();
    // What is open goes on, under the same deadlines, to its end.
    tokio::select! {
        served = connection.as_mut() => served,
        () = whole.idle(settings.idle_timeout) => Ok(()),
    }
}
