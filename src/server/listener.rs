//! The two listeners of the gateway, for clients and for administration, and the
//! limits of their connections.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::descriptors::Acceptor;
use super::{Reloadable, Settings, Shared, connection, refusal};
use crate::api::{self, CapacityError, Routes, Services};
use crate::deliver::TcpTransport;

/// The largest number of connections that wait in the kernel until the gateway
/// accepts them. If thousands of clients reconnect at once and this queue is full,
/// clients must repeat their SYN after a second or more. The kernel limits the value
/// to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The largest number of open connections of the admin listener. A few scrapers and
/// probes use one or two connections each. The number is far below the number of
/// reserved file descriptors.
const ADMIN_CONNECTIONS_MAX: usize = 64;

/// Returns a listening socket with `SO_REUSEADDR`. With this option, a restarted
/// gateway can bind its address while old connections are still in the state
/// `TIME_WAIT`.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A listener with its routes and the numbers of its connections.
pub(super) struct Listener {
    pub(super) shared: Arc<Shared>,
    pub(super) routes: Routes,
    /// The number of open connections.
    connections: AtomicUsize,
    /// The number of open connections from each IP address. Connections are counted
    /// even if there is no limit, because a reload of the configuration can set one.
    by_address: Mutex<HashMap<IpAddr, usize>>,
    /// The number of connections above a limit that are being refused.
    pub(super) refusals: AtomicUsize,
}

impl Listener {
    /// Creates a listener that has no connections yet.
    pub(super) fn new(shared: Arc<Shared>, routes: Routes) -> Arc<Listener> {
        Arc::new(Listener {
            shared,
            routes,
            connections: AtomicUsize::new(0),
            by_address: Mutex::default(),
            refusals: AtomicUsize::new(0),
        })
    }

    /// Returns whether this is the admin listener. Its connections do not count
    /// towards the limits of client connections, have no PROXY header, and stay open
    /// during a drain.
    pub(super) fn is_admin(&self) -> bool {
        matches!(self.routes, Routes::Admin(_))
    }

    /// Returns the time after which a connection of this listener is closed if it
    /// has no request in progress.
    pub(super) fn idle_timeout(&self, settings: &Settings) -> Duration {
        if self.is_admin() { settings.head_timeout } else { settings.idle_timeout }
    }

    fn connections_max(&self) -> usize {
        if self.is_admin() { ADMIN_CONNECTIONS_MAX } else { self.shared.settings().connections_max }
    }

    /// Accepts connections and spawns a task for each; never returns. The tasks of
    /// client connections are in `Services::tasks`, and the drain waits for them.
    /// The tasks of admin connections end when this future is dropped, so `/metrics`
    /// and `/readyz` work during the drain.
    pub(super) async fn accept(self: Arc<Listener>, socket: TcpListener) {
        let Services { metrics, tasks, .. } = &*self.shared.services;
        let mut acceptor = Acceptor::new(socket, self.is_admin());
        let mut admin = JoinSet::new();
        loop {
            let (socket, address) = tokio::select! {
                accepted = acceptor.accept(metrics) => accepted,
                // An admin connection has ended. Reserve its file descriptor before
                // the client listener uses it.
                Some(_) = admin.join_next() => {
                    acceptor.refill();
                    continue;
                }
            };
            while admin.try_join_next().is_some() {}
            let socket = TcpTransport::new(socket);
            socket.tune();
            match ConnectionGuard::new(&self) {
                Some(open) if self.is_admin() => {
                    admin.spawn(connection::serve(Arc::new(open), socket, address));
                }
                Some(open) => {
                    tasks.spawn(connection::serve(Arc::new(open), socket, address));
                }
                None if self.is_admin() => metrics.refused("admin-connections"),
                None => {
                    tasks.spawn(refusal::refuse_new(self.clone(), socket, address));
                }
            }
        }
    }
}

/// Counts one connection of a listener as open until the guard is dropped.
pub(super) struct ConnectionGuard {
    listener: Arc<Listener>,
    /// The IP address for which the connection is counted; empty until
    /// [`ConnectionGuard::count`] is called.
    address: OnceLock<IpAddr>,
}

impl ConnectionGuard {
    /// Counts one more open connection of `listener`. Returns `None` if the listener
    /// has reached its limit of connections.
    fn new(listener: &Arc<Listener>) -> Option<ConnectionGuard> {
        if listener.connections.load(Ordering::Relaxed) >= listener.connections_max() {
            return None;
        }
        listener.connections.fetch_add(1, Ordering::Relaxed);
        if !listener.is_admin() {
            listener.shared.services.metrics.sockets.increment(1);
        }
        Some(ConnectionGuard { listener: listener.clone(), address: OnceLock::new() })
    }

    /// Counts the connection for the IP address `address`, at most once. Connections
    /// of a trusted proxy and connections of the admin listener are not counted for
    /// an address.
    ///
    /// # Errors
    /// [`CapacityError::Address`] if the address has reached its limit of
    /// connections.
    pub(super) fn count(&self, address: IpAddr) -> Result<(), CapacityError> {
        let Reloadable { settings, api } = &**self.listener.shared.reloadable.load();
        if self.listener.is_admin() || api.settings.proxies.contain(address) {
            return Ok(());
        }
        let address = api::client_key(address);
        let most = settings.connections_per_address_max;
        let mut by_address = self.listener.by_address.lock();
        let count = by_address.entry(address).or_insert(0);
        if most > 0 && *count >= most {
            return Err(CapacityError::Address);
        }
        if self.address.set(address).is_ok() {
            *count += 1;
        }
        Ok(())
    }

    pub(super) fn listener(&self) -> &Arc<Listener> {
        &self.listener
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let listener = &self.listener;
        listener.connections.fetch_sub(1, Ordering::Relaxed);
        if !listener.is_admin() {
            listener.shared.services.metrics.sockets.decrement(1);
        }
        let Some(address) = self.address.get() else { return };
        let mut by_address = listener.by_address.lock();
        if let Entry::Occupied(mut count) = by_address.entry(*address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}
