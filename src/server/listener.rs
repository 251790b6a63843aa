//! Listeners and the connections that they accept.

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

/// The largest number of connections that wait for `accept` in the kernel. If
/// thousands of clients reconnect at once, a full queue costs them SYN retries of a
/// second and more. The kernel limits the value to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The largest number of admin connections. A few scrapers and probes use one or two
/// connections each. The number is far below the reserve of descriptors.
const ADMIN_CONNECTIONS_MAX: usize = 64;

/// Returns a listening socket with `SO_REUSEADDR`, so that a restart does not wait
/// for the end of `TIME_WAIT` of old connections.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A listener: its routes, and the limits of its connections.
pub(super) struct Listener {
    pub(super) shared: Arc<Shared>,
    pub(super) routes: Routes,
    /// The number of open connections.
    connections: AtomicUsize,
    /// The number of open connections of each address. Connections are counted
    /// without a limit too, because a reload can set a limit.
    by_address: Mutex<HashMap<IpAddr, usize>>,
    /// The number of connections that are being refused.
    pub(super) refusals: AtomicUsize,
}

impl Listener {
    /// Creates a listener without connections.
    pub(super) fn new(shared: Arc<Shared>, routes: Routes) -> Arc<Listener> {
        Arc::new(Listener {
            shared,
            routes,
            connections: AtomicUsize::new(0),
            by_address: Mutex::default(),
            refusals: AtomicUsize::new(0),
        })
    }

    /// Returns whether this is the admin listener. Admin connections count for no limit
    /// of client connections, have no PROXY header, and stay open during a drain.
    pub(super) fn is_admin(&self) -> bool {
        matches!(self.routes, Routes::Admin(_))
    }

    /// Returns the time after which a connection without a request is closed.
    pub(super) fn idle_timeout(&self, settings: &Settings) -> Duration {
        if self.is_admin() { settings.head_timeout } else { settings.idle_timeout }
    }

    fn connections_max(&self) -> usize {
        if self.is_admin() { ADMIN_CONNECTIONS_MAX } else { self.shared.settings().connections_max }
    }

    /// Accepts connections for ever. The tasks of client connections are in
    /// `Services::tasks`, and the drain waits for these tasks. Admin connections end
    /// with this function, so that `/metrics` and `/readyz` work during the drain.
    pub(super) async fn accept(self: Arc<Listener>, socket: TcpListener) {
        let Services { metrics, tasks, .. } = &*self.shared.services;
        let mut acceptor = Acceptor::new(socket, self.is_admin());
        let mut admin = JoinSet::new();
        loop {
            let (socket, address) = tokio::select! {
                accepted = acceptor.accept(metrics) => accepted,
                // Before the client listener takes the free descriptor.
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

/// Counts a connection as open until the guard is dropped.
pub(super) struct ConnectionGuard {
    listener: Arc<Listener>,
    /// The address that the connection counts for.
    address: OnceLock<IpAddr>,
}

impl ConnectionGuard {
    /// Counts one more connection of `listener`. Returns `None` if the listener has
    /// reached its limit of connections.
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

    /// Counts the connection for `address`, once. Connections of a trusted proxy
    /// and admin connections count for no address.
    ///
    /// # Errors
    /// [`CapacityError::Address`] if the address has reached its limit.
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
