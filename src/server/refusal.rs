//! Refuses connections above a limit. The gateway reads one request of such a
//! connection and sends a response to this request, because a close without a
//! response has two disadvantages. An `EventSource` never reconnects after a close
//! without a response or after an error status. And no client can distinguish a
//! close without a response from a crash of the gateway.

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

/// The largest number of connections that are being refused at the same time.
/// Further connections are closed at once, without a response.
const REFUSALS_MAX: usize = 256;

/// The time in which a refused connection must send its request and receive the
/// response.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Refuses a connection above the limit of connections. No byte of this connection
/// was read, so it may begin with a PROXY header.
///
/// # Cancel safety
/// Dropping the future closes the connection at once.
pub(super) async fn refuse_new(
    listener: Arc<Listener>,
    mut socket: TcpTransport,
    address: SocketAddr,
) {
    let Some(slot) = RefusalSlot::new(listener, CapacityError::Connections) else { return };
    if peer::identify(&slot.listener, &mut socket, address.ip(), slot.due).await.is_some() {
        slot.refuse(socket, CapacityError::Connections).await;
    }
}

/// Refuses a connection with the reason `full`. The next byte of this connection
/// must belong to a request: a PROXY header is already read.
///
/// # Cancel safety
/// Dropping the future closes the connection at once.
pub(super) async fn refuse(listener: Arc<Listener>, socket: TcpTransport, full: CapacityError) {
    if let Some(slot) = RefusalSlot::new(listener, full) {
        slot.refuse(socket, full).await;
    }
}

async fn respond(listener: &Listener, socket: TcpTransport, full: CapacityError) -> io::Result<()> {
    let shared = listener.shared.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let response = shared.api().refuse(&request, full);
        async move { Ok::<_, Infallible>(response) }
    });
    match sniff(&socket).await? {
        Version::Http1 => {
            let served = http1::Builder::new()
                .keep_alive(false)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(socket), service);
            served.await.map_err(io::Error::other)
        }
        // Do not shut this connection down gracefully. The GOAWAY of a graceful
        // shutdown may come before the response, and some clients ignore all frames
        // after a GOAWAY.
        Version::Http2 => {
            let served = http2::Builder::new(TokioExecutor::new())
                .max_header_list_size(HEAD_BYTES_MAX as u32)
                .serve_connection(TokioIo::new(socket), service);
            served.await.map_err(io::Error::other)
        }
    }
}

/// Counts one connection as being refused until the slot is dropped.
struct RefusalSlot {
    listener: Arc<Listener>,
    due: Instant,
}

impl RefusalSlot {
    /// Counts a refusal in the metrics, and reserves a slot for the connection.
    /// Returns `None` if [`REFUSALS_MAX`] connections are already being refused.
    fn new(listener: Arc<Listener>, full: CapacityError) -> Option<RefusalSlot> {
        listener.shared.services.metrics.refused(full.reason());
        let before = listener.refusals.fetch_add(1, Ordering::Relaxed);
        let slot = RefusalSlot { listener, due: Instant::now() + TIMEOUT };
        (before < REFUSALS_MAX).then_some(slot)
    }

    async fn refuse(self, socket: TcpTransport, full: CapacityError) {
        // The client may have disconnected; ignore the error.
        let _ = timeout_at(self.due, respond(&self.listener, socket, full)).await;
    }
}

impl Drop for RefusalSlot {
    fn drop(&mut self) {
        self.listener.refusals.fetch_sub(1, Ordering::Relaxed);
    }
}
