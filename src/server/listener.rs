//! Listening sockets, accepted connections, and the admin listener.

use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connection::{CountedBody, IDLE_LOOKS};
use super::descriptors::Acceptor;
use super::io::ConnectionIo;
use super::requests::RequestCounter;
use super::{Shared, connection, readiness, refusal};
use crate::api::admin::{self, Admin};
use crate::api::{self, CapacityError, Peer};
use crate::deliver::{TcpTransport, Transport};

/// The most connections that wait for accept in the kernel. In a reconnect storm
/// of thousands a full queue costs SYN retries of a second and more. The kernel
/// caps the value at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The most admin connections: some scrapers and probes, each with a connection
/// or two. The number is far below the descriptors that client connections leave.
const ADMIN_CONNECTIONS_MAX: usize = 64;

/// Returns a listening socket with `SO_REUSEADDR`, so that a restart need not
/// wait for the `TIME_WAIT` of old connections.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts client connections for ever.
pub(super) async fn accept_clients(shared: Arc<Shared>, listener: TcpListener) {
    let mut acceptor = Acceptor::new(listener);
    loop {
        let (socket, address) = acceptor.accept(&shared.metrics).await;
        let socket = TcpTransport::new(socket);
        socket.tune();
        match ConnectionGuard::new(&shared) {
            Some(open) => {
                shared.tasks.spawn(connection::serve(Arc::new(open), socket, address));
            }
            None => {
                shared.tasks.spawn(refusal::refuse_fresh(shared.clone(), socket, address));
            }
        }
    }
}

/// Counts a client connection as open as long as it lives.
pub(super) struct ConnectionGuard {
    shared: Arc<Shared>,
    /// The address that the connection counts for.
    address: OnceLock<IpAddr>,
}

impl ConnectionGuard {
    /// Returns `None` if the connection cap is reached.
    fn new(shared: &Arc<Shared>) -> Option<ConnectionGuard> {
        if shared.connections.load(Ordering::Relaxed) >= shared.settings().connections_max {
            return None;
        }
        shared.connections.fetch_add(1, Ordering::Relaxed);
        shared.metrics.sockets.increment(1);
        Some(ConnectionGuard { shared: shared.clone(), address: OnceLock::new() })
    }

    /// Counts the connection for `address`, once. A proxy's connections belong to
    /// its clients and count for no address.
    ///
    /// # Errors
    /// [`CapacityError::Address`] if the cap of the address is reached.
    pub(super) fn count(&self, address: IpAddr) -> Result<(), CapacityError> {
        if self.shared.gate.current().settings.proxies.contain(address) {
            return Ok(());
        }
        let address = api::client_key(address);
        let most = self.shared.settings().connections_per_address_max;
        let mut by_address = self.shared.by_address.lock();
        let count = by_address.entry(address).or_insert(0);
        if most > 0 && *count >= most {
            return Err(CapacityError::Address);
        }
        if self.address.set(address).is_ok() {
            *count += 1;
        }
        Ok(())
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
        self.shared.metrics.sockets.decrement(1);
        let Some(address) = self.address.get() else { return };
        let mut by_address = self.shared.by_address.lock();
        if let Entry::Occupied(mut count) = by_address.entry(*address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Accepts admin connections for ever.
pub(super) async fn accept_admin(shared: Arc<Shared>, listener: TcpListener) {
    let metrics = {
        let shared = shared.clone();
        move || shared.gate.current().render_metrics()
    };
    let readiness = {
        let shared = shared.clone();
        move || readiness::of(&shared)
    };
    let admin = Arc::new(Admin::new(metrics, readiness));
    let mut acceptor = Acceptor::with_spare(listener);
    let mut connections = JoinSet::new();
    loop {
        let (socket, address) = tokio::select! {
            accepted = acceptor.accept(&shared.metrics) => accepted,
            // Before the clients' listener takes what is free again.
            Some(_) = connections.join_next() => {
                acceptor.refill();
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        if connections.len() >= ADMIN_CONNECTIONS_MAX {
            shared.metrics.refused("admin-connections");
            continue;
        }
        let peer = Peer { address: address.ip(), believed: false };
        let socket = TcpTransport::new(socket);
        connections.spawn(serve_admin(shared.clone(), admin.clone(), socket, peer));
    }
}

/// Serves an operator's connection. It has no place in the drain and no idle
/// time of its own: each head is due a head timeout after the last response.
async fn serve_admin(shared: Arc<Shared>, admin: Arc<Admin>, socket: TcpTransport, peer: Peer) {
    let settings = shared.settings();
    let requests = Arc::<RequestCounter>::default();
    let service = service_fn(|request: Request<Incoming>| {
        let (admin, answering) = (admin.clone(), requests.begin());
        async move {
            let answer = admin::handle(&admin, peer, request).await;
            Ok::<_, Infallible>(answer.map(|body| CountedBody::new(body, answering)))
        }
    });
    let io = ConnectionIo::new(Transport::Tcp(socket), requests.clone(), settings.stall_timeout)
        .head_timeout(Instant::now() + settings.head_timeout, settings.head_timeout);
    let served = tokio::select! {
        served = connection::http1(io, service) => served,
        () = requests.idle(settings.head_timeout, IDLE_LOOKS) => return,
    };
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection failed");
    }
}
