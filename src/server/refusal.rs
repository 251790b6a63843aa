//! Connections that there is no room for: each is read for one request and
//! refused in its own protocol. An `EventSource` that got a bare close or a
//! status would never come back, and no client could tell a cap from a crash.

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
use super::{Shared, peer};
use crate::api::CapacityError;
use crate::deliver::TcpTransport;

/// Connections that are refused at a time; more are closed at once.
const SURPLUS_MAX: usize = 256;

/// Time that each has for its request and the answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Refuses a connection that was accepted past the cap, a PROXY header before
/// its request or not.
///
/// # Cancel safety
/// Dropping it cuts the connection.
pub(super) async fn refuse_fresh(
    shared: Arc<Shared>,
    mut socket: TcpTransport,
    address: SocketAddr,
) {
    let Some(surplus) = RefusalSlot::new(shared, CapacityError::Connections) else { return };
    if peer::identify(&surplus.shared, &mut socket, address.ip(), surplus.due).await.is_some() {
        surplus.refuse(socket, CapacityError::Connections).await;
    }
}

/// Refuses a connection whose request is what comes next.
///
/// # Cancel safety
/// Dropping it cuts the connection.
pub(super) async fn refuse(shared: Arc<Shared>, socket: TcpTransport, full: CapacityError) {
    if let Some(surplus) = RefusalSlot::new(shared, full) {
        surplus.refuse(socket, full).await;
    }
}

async fn answer(shared: &Arc<Shared>, socket: TcpTransport, full: CapacityError) -> io::Result<()> {
    let shared = shared.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = shared.gate.current().refuse(&request, full);
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
        // Without a farewell: GOAWAY may come before the answer, and some
        // clients take nothing behind it.
        Version::Http2 => {
            let served = http2::Builder::new(TokioExecutor::new())
                .max_header_list_size(HEAD_BYTES_MAX as u32)
                .serve_connection(TokioIo::new(socket), service);
            served.await.map_err(io::Error::other)
        }
    }
}

/// A connection that is being refused, as long as this lives.
struct RefusalSlot {
    shared: Arc<Shared>,
    due: Instant,
}

impl RefusalSlot {
    /// Counts a refusal; none when there are as many as there may be.
    fn new(shared: Arc<Shared>, full: CapacityError) -> Option<RefusalSlot> {
        shared.metrics.refused(full.reason());
        let before = shared.surplus.fetch_add(1, Ordering::Relaxed);
        let surplus = RefusalSlot { shared, due: Instant::now() + TIMEOUT };
        (before < SURPLUS_MAX).then_some(surplus)
    }

    async fn refuse(self, socket: TcpTransport, full: CapacityError) {
        // Whether it was told, or went before, is nobody's matter.
        let _ = timeout_at(self.due, answer(&self.shared, socket, full)).await;
    }
}

impl Drop for RefusalSlot {
    fn drop(&mut self) {
        self.shared.surplus.fetch_sub(1, Ordering::Relaxed);
    }
}
