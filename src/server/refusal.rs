//! Connections past a cap: one request of each is read and refused in the
//! request's own protocol. An `EventSource` that gets a bare close or a status
//! never reconnects, and no client can tell a cap from a crash.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::{Instant, timeout_at};

use super::connection::{HEAD_BYTES_MAX, Version, sniff};
use super::listener::Listener;
use super::peer;
use crate::api::CapacityError;
use crate::deliver::TcpTransport;

/// The most connections that wait for their refusal. Further ones are closed at
/// once.
const SURPLUS_MAX: usize = 256;

/// The time that each has for its request and the response.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Refuses a connection past the cap from its first byte on, with or without a
/// PROXY header.
///
/// # Cancel safety
/// Dropping the future closes the connection at once.
pub(super) async fn refuse_fresh(
    listener: Arc<Listener>,
    mut socket: TcpTransport,
    address: SocketAddr,
) {
    let Some(surplus) = RefusalSlot::new(listener, CapacityError::Connections) else { return };
    if peer::identify(&surplus.listener, &mut socket, address.ip(), surplus.due).await.is_some() {
        surplus.refuse(socket, CapacityError::Connections).await;
    }
}

/// Refuses a connection whose next byte belongs to a request.
///
/// # Cancel safety
/// Dropping the future closes the connection at once.
pub(super) async fn refuse(listener: Arc<Listener>, socket: TcpTransport, full: CapacityError) {
    if let Some(surplus) = RefusalSlot::new(listener, full) {
        surplus.refuse(socket, full).await;
    }
}

async fn answer(listener: &Listener, socket: TcpTransport, full: CapacityError) -> io::Result<()> {
    let shared = listener.shared.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = shared.api().refuse(&request, full);
        async move { Ok::<_, Infallible>(answer) }
    });
    match sniff(&socket).await? {
        Version::Http1 => {
            let served = http1::Builder::new()
                .keep_alive(false)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(socket), service);
            served.await.map_err(io::Error::other)
        }
        // Without a graceful shutdown: its GOAWAY may come before the response,
        // and some clients ignore all frames behind a GOAWAY.
        Version::Http2 => {
            let served = http2::Builder::new(TokioExecutor::new())
                .max_header_list_size(HEAD_BYTES_MAX as u32)
                .serve_connection(TokioIo::new(socket), service);
            served.await.map_err(io::Error::other)
        }
    }
}

/// Counts a connection that is being refused as long as it lives.
struct RefusalSlot {
    listener: Arc<Listener>,
    due: Instant,
}

impl RefusalSlot {
    /// Counts a refusal. Returns `None` if as many as possible are waiting.
    fn new(listener: Arc<Listener>, full: CapacityError) -> Option<RefusalSlot> {
        listener.shared.services.metrics.refused(full.reason());
        let before = listener.refusals.fetch_add(1, Ordering::Relaxed);
        let surplus = RefusalSlot { listener, due: Instant::now() + TIMEOUT };
        (before < SURPLUS_MAX).then_some(surplus)
    }

    async fn refuse(self, socket: TcpTransport, full: CapacityError) {
        // The client may have gone; ignore the error.
        let _ = timeout_at(self.due, answer(&self.listener, socket, full)).await;
    }
}

impl Drop for RefusalSlot {
    fn drop(&mut self) {
        self.listener.refusals.fetch_sub(1, Ordering::Relaxed);
    }
}
