//! Serves the connections of both listeners. The first bytes of a client connection
//! decide between HTTP/1.1 and HTTP/2. After the response head is sent, a stream or
//! a WebSocket session can take the connection over from hyper.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request};
use hyper_util::rt::TokioTimer;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::task::TaskTracker;

use super::io::ConnectionIo;
use super::listener::ConnectionGuard;
use super::requests::{RequestCounter, RequestGuard};
use super::stream::{H2Executor, TrackedBody};
use super::{FIRST_REQUEST_GRACE, Shared, peer, refusal};
use crate::api::body::{Body, BodyAborted};
use crate::api::{self, ConnectionContext, Peer};
use crate::deliver::{H2SendTracker, Stream, Takeover, TakeoverSlot, TcpTransport, Transport};

/// The largest size of a request head (request line and header fields), in bytes. A
/// larger head is answered with 431 (`docs/protocol.md#errors`).
pub(super) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The first bytes of the HTTP/2 connection preface (RFC 9113 §3.4). No HTTP/1
/// method begins with these bytes.
const PREFACE: &[u8; 3] = b"PRI";

/// The length of the HTTP/2 connection preface that the gateway waits for: 24 fixed
/// bytes, and the 9-byte header of the first SETTINGS frame.
const PREFACE_BYTES: usize = 24 + 9;

/// The first pause between two checks whether the HTTP/2 connection preface is
/// complete. Each further pause is twice as long, up to [`PREFACE_PAUSE_MAX`]. The
/// next bytes of a slow client arrive within milliseconds. But a thousand clients
/// that send no further bytes must not cost two hundred thousand wake-ups per
/// second.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);

/// The number of checks within one idle timeout that find out whether an HTTP/1
/// connection is idle.
const IDLE_CHECKS: u32 = 4;

/// The interval at which a drain checks whether an HTTP/2 connection has a request
/// in progress.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// The longest pause between two checks whether the HTTP/2 connection preface is
/// complete.
const PREFACE_PAUSE_MAX: Duration = Duration::from_millis(200);

/// The largest number of unsent bytes that hyper buffers for one HTTP/2 stream whose
/// client does not read. Later events stay in the ring of the connection, where the
/// overflow policy applies.
const H2_SEND_BYTES: usize = 64 * 1024;

/// Serves one connection, of the client listener or the admin listener, until the
/// connection ends or a stream takes it over.
///
/// # Cancel safety
/// Dropping the future closes the connection at once.
pub(super) async fn serve(
    open: Arc<ConnectionGuard>,
    mut socket: TcpTransport,
    address: SocketAddr,
) {
    let listener = open.listener();
    let shared = &listener.shared;
    let head_due = Instant::now() + shared.settings().head_timeout;
    let Some(peer) = peer::identify(listener, &mut socket, address.ip(), head_due).await else {
        return;
    };
    if let Err(full) = open.count(peer.address) {
        let listener = listener.clone();
        drop(open);
        return Box::pin(refusal::refuse(listener, socket, full)).await;
    }
    // The clients of the admin listener, scrapers and probes, need only HTTP/1.
    let version = if listener.is_admin() {
        Version::Http1
    } else {
        let sniffed = tokio::select! {
            sniffed = timeout_at(head_due, sniff(&socket)) => sniffed,
            () = drained_before_request(shared) => return,
        };
        let Ok(Ok(version)) = sniffed else {
            shared.services.metrics.refused("no-request");
            return;
        };
        version
    };
    let served = match version {
        Version::Http1 => serve_http1(&open, socket, peer, head_due).await,
        Version::Http2 => serve_http2(&open, socket, peer, head_due).await,
    };
    if let Err(error) = served {
        tracing::debug!(%address, %error, cause = ?std::error::Error::source(&error), "connection failed");
    }
}

pub(super) enum Version {
    Http1,
    Http2,
}

/// Detects the HTTP version of a connection, but does not remove any bytes from the
/// socket. The detection in hyper-util cannot be used: it has no deadline, and its
/// connection type has no `into_parts`.
pub(super) async fn sniff(socket: &TcpTransport) -> io::Result<Version> {
    let mut start = [0; PREFACE_BYTES];
    let mut pause = PREFACE_PAUSE;
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
        // Peeked bytes stay in the socket and keep it readable. So a wait for
        // readability would return at once, and the loop would spin.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PREFACE_PAUSE_MAX);
    }
}

/// Serves an HTTP/1 connection. `head_due` is the deadline of the first request
/// head.
async fn serve_http1(
    open: &Arc<ConnectionGuard>,
    socket: TcpTransport,
    peer: Peer,
    head_due: Instant,
) -> hyper::Result<()> {
    let (listener, shared) = (open.listener(), &open.listener().shared);
    let settings = shared.settings();
    let (requests, slot) = (Arc::<RequestCounter>::default(), TakeoverSlot::new());
    let service = {
        let (listener, requests, slot) = (listener.clone(), requests.clone(), slot.clone());
        service_fn(move |request: Request<Incoming>| {
            let (routes, api) = (listener.routes.clone(), listener.shared.api());
            let guard = requests.begin();
            let via = ConnectionContext { peer, takeover: Some(slot.clone()), flow: None };
            async move {
                let response = api::handle(&routes, &api, request, via).await;
                guard.set_bulk(response.body().is_bulk());
                Ok::<_, Infallible>(response.map(|body| CountedBody::new(body, guard)))
            }
        })
    };
    let io = ConnectionIo::new(Transport::Tcp(socket), requests.clone(), settings.stall_timeout)
        .head_timeout(head_due, settings.head_timeout)
        .takeover(slot.clone());
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(io, service);
    let mut idle = pin!(requests.idle(listener.idle_timeout(&settings), IDLE_CHECKS));
    let mut closed = pin!(closed(shared, &requests));
    let is_drained = !listener.is_admin();
    let (mut watched, mut has_shut_down, mut unflushed) = (!is_drained, false, None);
    let takeover = std::future::poll_fn(|cx| {
        let closing = is_drained && shared.is_closing.load(Ordering::Acquire);
        if closing && !has_shut_down && requests.has_begun() {
            has_shut_down = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        // Poll `closed` once, so that it registers its waker. After that it wakes
        // this task itself.
        if (closing || !std::mem::replace(&mut watched, true))
            && closed.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Ok(None));
        }
        if idle.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(None));
        }
        match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(done) => Poll::Ready(done.map(|()| slot.take_switched())),
            Poll::Pending => match slot.take_flushed() {
                Some(takeover) => Poll::Ready(Ok(Some(takeover))),
                None => slot
                    .poll_unflushed(cx, &mut unflushed, settings.stall_timeout)
                    .map(|()| Ok(None)),
            },
        }
    })
    .await?;
    if let Some(takeover) = takeover {
        let parts = connection.into_parts();
        let (transport, tasks) = (parts.io.into_inner(), &shared.services.tasks);
        execute(takeover, transport, &parts.read_buf, open.clone(), tasks);
    }
    Ok(())
}

/// Starts a taken-over stream or WebSocket session on `transport`. `early` contains
/// the bytes that the client has sent after its request. A stream drops these bytes:
/// its response does not end, so the gateway cannot answer a second request.
fn execute<G: Send + Sync + 'static>(
    takeover: Takeover,
    transport: Transport,
    early: &[u8],
    open: Arc<G>,
    tasks: &TaskTracker,
) {
    match takeover {
        Takeover::Stream { source, chunked } => {
            tasks.spawn(Stream::new(transport, source, chunked, open));
        }
        Takeover::WebSocket { source, spawn } => spawn(transport, source, early, open),
    }
}

/// A response body with the guard of its request. When hyper drops the body, the
/// request is counted as ended.
struct CountedBody {
    body: Body,
    _guard: RequestGuard,
}

impl CountedBody {
    fn new(body: Body, guard: RequestGuard) -> CountedBody {
        CountedBody { body, _guard: guard }
    }
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = BodyAborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyAborted>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Serves an HTTP/2 connection. `head_due` is the deadline of the first request
/// head. After the first request, only the idle timeout applies.
async fn serve_http2(
    open: &Arc<ConnectionGuard>,
    socket: TcpTransport,
    peer: Peer,
    head_due: Instant,
) -> hyper::Result<()> {
    let (listener, shared) = (open.listener(), &open.listener().shared);
    let (requests, settings) = (Arc::<RequestCounter>::default(), shared.settings());
    let executor = H2Executor::new(shared.services.tasks.clone(), settings.stall_timeout);
    let service = {
        let (listener, requests, executor) = (listener.clone(), requests.clone(), executor.clone());
        let open = open.clone();
        service_fn(move |mut request: Request<Incoming>| {
            let executor = executor.clone();
            let (shared, guard) = (listener.shared.clone(), Arc::new(requests.begin()));
            let routes = listener.routes.clone();
            // For an extended CONNECT, hyper returns the HTTP/2 stream as an
            // upgrade.
            let connect = (*request.method() == Method::CONNECT)
                .then(|| (TakeoverSlot::new(), hyper::upgrade::on(&mut request), open.clone()));
            let takeover = connect.as_ref().map(|(slot, ..)| slot.clone());
            // The tracker counts the bytes of the response that are not written yet.
            // The handler of a batch also reports to the tracker that the client is
            // alive while the client sends.
            let tracker = Arc::new(H2SendTracker::default());
            let via = ConnectionContext { peer, takeover, flow: Some(tracker.clone()) };
            async move {
                executor.watch(&tracker);
                let response = api::handle(&routes, &shared.api(), request, via).await;
                if let Some((slot, upgrading, open)) = connect
                    && let Some(takeover) = slot.take_planned()
                {
                    // A WebSocket session runs longer than its response, so the
                    // session keeps the guards of the connection and the request.
                    let (session, session_end) = oneshot::channel::<()>();
                    let guards = Arc::new((open, guard.clone(), session));
                    let session = execute_h2(shared.clone(), takeover, upgrading, guards);
                    shared.services.tasks.spawn(session);
                    executor.watch_session(session_end);
                }
                Ok::<_, Infallible>(
                    response.map(|body| TrackedBody::new(body, tracker, executor, guard)),
                )
            }
        })
    };
    let io = ConnectionIo::new(Transport::Tcp(socket), requests.clone(), settings.stall_timeout)
        .control_rate(settings.control_rate, &shared.services.metrics);
    let mut connection = pin!(
        http2::Builder::new(executor.clone())
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.http2_streams_max)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .max_send_buf_size(H2_SEND_BYTES)
            .keep_alive_interval(settings.idle_timeout / 2)
            .keep_alive_timeout(settings.stall_timeout)
            .enable_connect_protocol()
            .serve_connection(io, service)
    );
    tokio::select! {
        served = connection.as_mut() => return served,
        // If the drain has begun, or the connection is idle, the gateway then sends
        // GOAWAY. The client must open a new connection for a new stream.
        () = drained(shared, &requests) => {}
        () = requests.idle(settings.idle_timeout, 1) => {}
        () = executor.aborted() => return Ok(()),
        () = none_by(head_due, &requests) => {
            shared.services.metrics.refused("no-request");
            return Ok(());
        }
    }
    connection.as_mut().graceful_shutdown();
    // Streams that are open continue to their end, with the same deadlines.
    tokio::select! {
        served = connection.as_mut() => served,
        () = requests.idle(settings.idle_timeout, 1) => Ok(()),
        () = closed(shared, &requests) => Ok(()),
        () = executor.aborted() => Ok(()),
    }
}

/// Waits until hyper returns the HTTP/2 stream of an extended CONNECT, and starts
/// the WebSocket session of `takeover` on this stream.
async fn execute_h2<G: Send + Sync + 'static>(
    shared: Arc<Shared>,
    takeover: Takeover,
    upgrading: OnUpgrade,
    open: Arc<G>,
) {
    if let Ok(upgraded) = upgrading.await {
        execute(takeover, Transport::h2(upgraded), &[], open, &shared.services.tasks);
    }
}

/// Resolves when the drain has begun and the connection has no request in progress.
/// The streams must end before the gateway sends GOAWAY, because some clients ignore
/// all frames after a GOAWAY. When the drain begins to close connections, the future
/// resolves at once.
async fn drained(shared: &Shared, requests: &RequestCounter) {
    shared.draining.cancelled().await;
    tokio::select! {
        () = requests.idle(CHECK_INTERVAL, 1) => {}
        () = shared.closing.cancelled() => {}
    }
}

/// Resolves when the drain must close a connection that has had no request yet. This
/// happens [`FIRST_REQUEST_GRACE`] after the drain begins to close connections,
/// because the first request can be on its way.
async fn drained_before_request(shared: &Shared) {
    shared.closing.cancelled().await;
    sleep(FIRST_REQUEST_GRACE).await;
}

/// Resolves when the drain closes connections and this connection has no request in
/// progress. The function also waits for a short time, because a first request can
/// be on its way.
async fn closed(shared: &Shared, requests: &RequestCounter) {
    shared.closing.cancelled().await;
    requests.idle(FIRST_REQUEST_GRACE / 2, 1).await;
}

/// Resolves at `due` if the connection has had no request by then. Otherwise never
/// resolves.
async fn none_by(due: Instant, requests: &RequestCounter) {
    sleep_until(due).await;
    if requests.has_begun() {
        std::future::pending::<()>().await;
    }
}
