//! Sockets: listeners, connections, and their end.

mod connection;
mod descriptors;
mod io;
mod listener;
mod memory;
mod peer;
mod readiness;
mod refusal;
mod reload;
mod requests;
mod stream;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::api::admin::Admin;
use crate::api::{self, Api, Routes, Services};
use crate::hub::{self, Hub};
use crate::log::{self, Engine};
use crate::metrics::Metrics;
use crate::supervisor::{Failure, Failures, Supervisor, Task};
use crate::{deliver, store};
use listener::Listener;

/// Where the gateway listens and what its connections may take.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For clients (`server.listen`).
    pub listen: SocketAddr,
    /// For metrics and health (`server.admin_listen`).
    pub admin_listen: SocketAddr,
    /// How long an orderly end may take (`server.drain`).
    pub drain: Duration,
    /// Whether client connections begin with a PROXY header
    /// (`server.proxy_protocol`).
    pub proxy_protocol: ProxyProtocol,
    /// Most client connections (`limits.max_connections`).
    pub connections_max: usize,
    /// Most connections of one address; zero is no limit
    /// (`limits.max_connections_per_address`).
    pub connections_per_address_max: usize,
    /// From accept to a complete request head, a PROXY header included; later
    /// heads, from their first byte on (`limits.head_timeout`).
    pub head_timeout: Duration,
    /// An idle keep-alive connection's life (`limits.idle_timeout`).
    pub idle_timeout: Duration,
    /// A write that makes no progress for this long ends its connection
    /// (`limits.stall_timeout`).
    pub stall_timeout: Duration,
    /// Most streams of one HTTP/2 connection (`limits.http2_streams`).
    pub http2_streams_max: u32,
    /// Resident memory that the process is to stay below, in bytes; zero is
    /// three quarters of what there is (`limits.memory`).
    pub memory_bytes_max: u64,
    /// Control frames that one HTTP/2 connection may send, a second; zero is
    /// no limit (`limits.control_rate`).
    pub control_rate: u32,
}

/// Whether client connections begin with a PROXY header. It is never found
/// out by looking, or anybody could send one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// None does.
    Off,
    /// Each does, and comes from a proxy that is believed; any other is closed.
    Required,
}

/// The configuration of a gateway: the settings of all layers. `config::load`
/// returns only a valid configuration, so the layers do not check the settings.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// The settings of listeners and connections.
    pub server: Settings,
    /// The settings of the log engine.
    pub log: log::Settings,
    /// The logs: one for each collection, then one for each topic that is not a
    /// view. They have the order of the file.
    pub logs: Vec<log::LogConfig>,
    /// The settings of the fan-out.
    pub hub: hub::Settings,
    /// The settings of streams.
    pub deliver: deliver::Settings,
    /// The settings of requests, and the collections and topics.
    pub api: api::Settings,
}

/// A running gateway.
pub struct Gateway {
    shared: Arc<Shared>,
    address: SocketAddr,
    admin_address: SocketAddr,
    /// Owns the tasks that live as long as the gateway; aborts them with it.
    supervisor: Supervisor,
}

/// The state that all connections share.
struct Shared {
    services: Arc<Services>,
    reloadable: ArcSwap<Reloadable>,
    /// The settings with which the log was opened. A reload compares them with the
    /// new settings.
    log: log::Settings,
    /// The supervised tasks that have failed.
    failures: Arc<Failures>,
    /// Is cancelled when the drain begins.
    draining: CancellationToken,
    /// Is cancelled when the drain closes the connections without a request in
    /// progress.
    closing: CancellationToken,
    /// Set before `closing` is cancelled. A check of the token takes a lock that all
    /// connections share.
    is_closing: AtomicBool,
}

/// The settings that a reload replaces, all at once.
struct Reloadable {
    settings: Arc<Settings>,
    api: Arc<Api>,
}

impl Shared {
    /// Returns the settings for a new connection.
    fn settings(&self) -> Arc<Settings> {
        self.reloadable.load().settings.clone()
    }

    /// Returns the API for a new request.
    fn api(&self) -> Arc<Api> {
        self.reloadable.load().api.clone()
    }
}

/// Why a gateway does not start or end in order.
#[derive(Debug)]
pub enum Error {
    /// The store cannot be used.
    Store(store::Error),
    /// An address cannot be listened on.
    Listen(SocketAddr, std::io::Error),
    /// Settings and engine do not agree.
    Catalog(api::NoLog),
    /// The engine cannot make a log.
    Log(log::Error),
    /// A task that lives as long as the gateway has failed.
    Task(Failure),
    /// Writes were still unanswered when the drain's time was up.
    Unanswered,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Store(error) => write!(f, "{error}"),
            Error::Listen(address, _) => write!(f, "cannot listen on {address}"),
            Error::Catalog(error) => write!(f, "{error}"),
            Error::Log(error) => write!(f, "{error}"),
            Error::Task(failure) => write!(f, "{failure}"),
            Error::Unanswered => write!(f, "the drain's time was up with requests unanswered"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Store(error) => std::error::Error::source(error),
            Error::Listen(_, error) => Some(error),
            Error::Log(error) => std::error::Error::source(error),
            Error::Catalog(_) | Error::Task(_) | Error::Unanswered => None,
        }
    }
}

/// How often metrics are folded into the exporter, which keeps every sample
/// until then.
const UPKEEP: Duration = Duration::from_secs(5);

/// Of the drain's time, what the streams' closes are spread over; the rest is
/// for the slowest of them and for writes in flight.
const DRAIN_SPREAD: f64 = 2.0 / 3.0;

/// Of the drain's time, how long a WebSocket's close waits for the answer to a
/// command under way; the rest is for the close.
const DRAIN_ANSWERS: f64 = 5.0 / 6.0;

impl Gateway {
    /// Opens the store, binds both addresses and serves, on the current tokio
    /// runtime.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Listen`] or [`Error::Catalog`]; then nothing runs.
    ///
    /// # Cancel safety
    /// Safe: nothing is served before it has finished.
    pub async fn start(setup: GatewayConfig) -> Result<Gateway, Error> {
        let GatewayConfig { server: mut settings, log, logs, hub, deliver, api } = setup;
        settings.connections_max = descriptors::connections_max(settings.connections_max);
        let metrics = Arc::new(Metrics::new());
        let opened = log.clone();
        let opening = tokio::task::spawn_blocking(move || Engine::open(&opened, &logs));
        let panicked = |join| Error::Store(store::Error::Io(std::io::Error::other(join)));
        let engine = opening.await.map_err(panicked)?.map_err(Error::Store)?;
        let engine = Arc::new(engine);
        engine.time_commits(metrics.commit.clone());
        let bind = |address| listener::bind(address).map_err(|error| Error::Listen(address, error));
        let (clients, admin) = (bind(settings.listen)?, bind(settings.admin_listen)?);
        let address =
            clients.local_addr().map_err(|error| Error::Listen(settings.listen, error))?;
        let admin_address =
            admin.local_addr().map_err(|error| Error::Listen(settings.admin_listen, error))?;
        let shards = std::thread::available_parallelism().map_or(1, usize::from);
        let rings = hub.clone();
        let supervisor = Supervisor::new(metrics.clone());
        supervisor.watch(Task::Committer, engine.failed());
        let hub = Hub::start(&hub, &engine, &metrics, &supervisor, shards);
        let services = Arc::new(Services::new(engine, hub, metrics));
        let api = Api::new(api, deliver, rings, services.clone()).map_err(Error::Catalog)?;
        let reloadable = Reloadable { settings: Arc::new(settings), api: Arc::new(api) };
        let shared = Arc::new(Shared {
            services,
            reloadable: ArcSwap::from_pointee(reloadable),
            log,
            failures: supervisor.failures().clone(),
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
            is_closing: AtomicBool::new(false),
        });
        let newest = Arc::downgrade(&shared);
        shared.services.set_newest(move || newest.upgrade().map(|shared| shared.api()));
        let listeners = [
            (Task::AcceptClients, Routes::Api, clients),
            (Task::AcceptAdmin, admin_routes(&shared), admin),
        ];
        for (task, routes, socket) in listeners {
            supervisor.spawn(task, Listener::new(shared.clone(), routes).accept(socket));
        }
        supervisor.spawn(Task::Upkeep, upkeep(shared.services.metrics.clone()));
        supervisor.spawn(Task::MemoryWatch, memory::watch(shared.clone()));
        Ok(Gateway { shared, address, admin_address, supervisor })
    }

    /// Where clients connect; the port that was bound, where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where metrics and health are.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Resolves when a task that lives as long as the gateway has failed: then
    /// the gateway is to be drained, and the process to end.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn failed(&self) -> Failure {
        self.shared.failures.first().await
    }

    /// Ends in order: not ready any more, streams told and closed one by one,
    /// requests in flight answered, the log synced.
    ///
    /// # Errors
    /// [`Error::Task`] when a task has failed, before the drain or in it; then
    /// [`Error::Unanswered`] when the drain's time was up first.
    ///
    /// # Cancel safety
    /// Dropping it ends everything at once; what was answered is durable.
    pub async fn drain(self) -> Result<(), Error> {
        let shared = self.shared.clone();
        let (drain, services) = (shared.settings().drain, &shared.services);
        let deadline = tokio::time::Instant::now() + drain;
        services.drain();
        shared.draining.cancel();
        let spread = drain.mul_f64(DRAIN_SPREAD);
        services.hub.drain(spread, drain.mul_f64(DRAIN_ANSWERS));
        let streams_gone = async {
            while services.hub.open() > 0 {
                tokio::time::sleep(spread.min(Duration::from_millis(50))).await;
            }
        };
        let _ = tokio::time::timeout_at(deadline, streams_gone).await;
        // As long as anybody is owed an answer, others get theirs too.
        let answered = async {
            while services.requests_open() > 0 {
                tokio::time::sleep(spread.min(Duration::from_millis(50))).await;
            }
        };
        let _ = tokio::time::timeout_at(deadline, answered).await;
        shared.is_closing.store(true, Ordering::Release);
        shared.closing.cancel();
        shared.services.tasks.close();
        let drained = tokio::time::timeout_at(deadline, shared.services.tasks.wait()).await;
        self.supervisor.stop().await;
        let engine = services.engine.clone();
        let _ = tokio::task::spawn_blocking(move || engine.close()).await;
        if let Some(failure) = shared.failures.any() {
            return Err(Error::Task(failure));
        }
        if drained.is_err() && services.requests_open() > 0 {
            return Err(Error::Unanswered);
        }
        Ok(())
    }
}

/// How long a connection that is closed by the drain before its first request
/// has for it: it may have been accepted only now, its request on the way.
const FIRST_REQUEST_GRACE: Duration = Duration::from_millis(500);

/// Returns the routes of the admin listener.
fn admin_routes(shared: &Arc<Shared>) -> Routes {
    let metrics = {
        let shared = shared.clone();
        move || shared.services.render_metrics()
    };
    let readiness = {
        let shared = shared.clone();
        move || readiness::of(&shared)
    };
    Routes::Admin(Arc::new(Admin::new(metrics, readiness)))
}

async fn upkeep(metrics: Arc<Metrics>) {
    let mut interval = tokio::time::interval(UPKEEP);
    loop {
        interval.tick().await;
        metrics.fold();
    }
}
