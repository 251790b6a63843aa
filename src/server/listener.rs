//! Listening, and what becomes of a fresh socket.

use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Shared, connection};
use crate::api::admin::{self, Admin};
use crate::deliver::{Handover, Wire};

/// Connections that the kernel completes ahead of us: a reconnect storm of
/// thousands must not be answered by SYN retries of a second and more. The
/// kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Bytes that the kernel takes ahead of what it has sent, per client. Past it
/// a slow reader's events stay in the log instead of kernel memory, which a
/// process's own figures never show (`docs/architecture.md#delivery`).
const NOTSENT_LOWAT: u32 = 16 * 1024;

/// Operators' connections at a time: some scrapers and probes, each with a
/// connection or two, and far below [`RESERVED_DESCRIPTORS`].
const ADMIN_CONNECTIONS_MAX: usize = 64;

/// Pause after a failed accept: out of descriptors it would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Descriptors that connections leave for the store, the operators' listener
/// and clients that have to be turned away.
const RESERVED_DESCRIPTORS: usize = 512;

/// Raises this process's soft limit of descriptors to its hard one, and gives
/// how many connections fit below it, at most `asked`.
pub(super) fn connections_max(asked: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    let Some(limit) = limit else { return asked };
    let fitting = (limit as usize).saturating_sub(RESERVED_DESCRIPTORS).max(1);
    if fitting < asked {
        tracing::warn!(
            asked,
            fitting,
            "limits.max_connections is lowered to what the descriptor limit leaves; raise \
             LimitNOFILE or ulimit -n",
        );
    }
    asked.min(fitting)
}

/// A listening socket with `SO_REUSEADDR`, so that a restart need not wait
/// for old connections' `TIME_WAIT`.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts clients for ever.
pub(super) async fn accept_clients(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let Some((socket, peer)) = accept(&listener).await else { continue };
        if shared.connections.load(Ordering::Relaxed) >= shared.settings.connections_max {
            shared.metrics.refused("connections");
            continue;
        }
        let _ = socket.set_nodelay(true);
        let _ = SockRef::from(&socket).set_tcp_notsent_lowat(NOTSENT_LOWAT);
        let open = Arc::new(Open::new(&shared));
        // A proxy's connections are its clients', who may be named later.
        if !shared.api.settings.proxies.contain(peer.ip()) && !open.count(peer.ip()) {
            continue;
        }
        shared.tasks.spawn(connection::serve(open, socket, peer));
    }
}

/// A client connection that counts as open while this lives.
pub(super) struct Open {
    shared: Arc<Shared>,
    /// Whose it counts as, where that is limited.
    address: OnceLock<IpAddr>,
}

impl Open {
    fn new(shared: &Arc<Shared>) -> Open {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        shared.metrics.sockets.increment(1);
        Open { shared: shared.clone(), address: OnceLock::new() }
    }

    /// Counts it as one of `address`, once; false, and counted as refused,
    /// when that has as many as it may.
    pub(super) fn count(&self, address: IpAddr) -> bool {
        let most = self.shared.settings.connections_per_address_max;
        if most == 0 {
            return true;
        }
        let mut by_address = self.shared.by_address.lock();
        let count = by_address.entry(address).or_insert(0);
        if *count >= most {
            self.shared.metrics.refused("connections-per-address");
            return false;
        }
        if self.address.set(address).is_ok() {
            *count += 1;
        }
        true
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Open {
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

/// Accepts scrapes and probes for ever.
pub(super) async fn accept_admin(shared: Arc<Shared>, listener: TcpListener) {
    let admin = Arc::new(Admin {
        metrics: {
            let shared = shared.clone();
            Box::new(move || shared.api.render_metrics())
        },
        ready: {
            let shared = shared.clone();
            Box::new(move || {
                let ready = shared.ready.load(Ordering::Relaxed);
                if ready { Ok(()) } else { Err("draining".to_owned()) }
            })
        },
    });
    let mut connections = JoinSet::new();
    loop {
        let Some((socket, _)) = accept(&listener).await else { continue };
        while connections.try_join_next().is_some() {}
        if connections.len() >= ADMIN_CONNECTIONS_MAX {
            shared.metrics.refused("admin-connections");
            continue;
        }
        connections.spawn(serve_admin(shared.clone(), admin.clone(), socket));
    }
}

async fn serve_admin(shared: Arc<Shared>, admin: Arc<Admin>, socket: TcpStream) {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = admin::handle(&admin, &request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let whole = Handover::new(Arc::new(()));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.settings.head_timeout)
        .serve_connection(Wire::new(socket, whole, shared.settings.stall_timeout, None), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection failed");
    }
}

async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::warn!(%error, "cannot accept");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}
