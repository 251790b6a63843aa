//! The running gateway: its two listeners, their connections, and the drain (the
//! graceful shutdown).

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

/// The settings of listeners and connections.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address of the listener for clients (`server.listen`).
    pub listen: SocketAddr,
    /// The address of the admin listener, which serves metrics and health checks
    /// (`server.admin_listen`).
    pub admin_listen: SocketAddr,
    /// The longest duration of a drain, the graceful shutdown (`server.drain`).
    pub drain: Duration,
    /// Whether client connections begin with a PROXY header
    /// (`server.proxy_protocol`).
    pub proxy_protocol: ProxyProtocol,
    /// The largest number of open client connections (`limits.max_connections`).
    pub connections_max: usize,
    /// The largest number of open client connections from one IP address; zero means
    /// no limit (`limits.max_connections_per_address`).
    pub connections_per_address_max: usize,
    /// The time in which a client must send a complete request head. For the first
    /// head of a connection, the time starts when the connection is accepted, and
    /// includes the PROXY header. For a later HTTP/1 head, the time starts with the
    /// first byte of the head (`limits.head_timeout`).
    pub head_timeout: Duration,
    /// The time after which a connection is closed if it has no request in progress
    /// (`limits.idle_timeout`).
    pub idle_timeout: Duration,
    /// The time after which a connection is closed if the client accepts no bytes of
    /// a pending write (`limits.stall_timeout`).
    pub stall_timeout: Duration,
    /// The largest number of concurrent streams of one HTTP/2 connection
    /// (`limits.http2_streams`).
    pub http2_streams_max: u32,
    /// The limit of the resident memory of the process, in bytes. Zero means three
    /// quarters of the available memory (`limits.memory`).
    pub memory_bytes_max: u64,
    /// The largest number of control frames per second that the client of an HTTP/2
    /// connection may send; zero means no limit (`limits.control_rate`).
    pub control_rate: u32,
}

/// Whether client connections begin with a PROXY header, in which a proxy sends the
/// address of its client. The gateway does not detect the header by its first bytes,
/// because then every client could send a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Client connections have no PROXY header.
    Off,
    /// Every client connection comes from a trusted proxy and begins with a PROXY
    /// header. The gateway closes all other connections.
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
    /// The logs to open: one for each collection, and then one for each topic that
    /// is not a view. They have the order in which the configuration file lists
    /// them.
    pub logs: Vec<log::LogConfig>,
    /// The settings of the fan-out to subscribers.
    pub hub: hub::Settings,
    /// The settings of SSE, NDJSON and WebSocket streams.
    pub deliver: deliver::Settings,
    /// The settings of the HTTP API, and the collections and topics.
    pub api: api::Settings,
}

/// A running gateway.
pub struct Gateway {
    shared: Arc<Shared>,
    address: SocketAddr,
    admin_address: SocketAddr,
    /// Owns the tasks that run as long as the gateway. A drop of the supervisor
    /// aborts these tasks.
    supervisor: Supervisor,
}

/// The state that all connections of the gateway share.
struct Shared {
    services: Arc<Services>,
    reloadable: ArcSwap<Reloadable>,
    /// The settings with which the log engine was opened. A reload of the
    /// configuration compares them with the new settings.
    log: log::Settings,
    /// The tasks of the supervisor that have failed.
    failures: Arc<Failures>,
    /// The token that is cancelled when the drain begins.
    draining: CancellationToken,
    /// The token that is cancelled when the drain begins to close the connections
    /// that have no request in progress.
    closing: CancellationToken,
    /// Set to true before `closing` is cancelled. Connections check this flag first,
    /// because a check of the token takes a lock that all connections share.
    is_closing: AtomicBool,
}

/// The state that a reload of the configuration replaces in one step.
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

/// The reason why a gateway does not start, does not reload its configuration, or
/// does not shut down gracefully.
#[derive(Debug)]
pub enum Error {
    /// The store on disk cannot be opened.
    Store(store::Error),
    /// The gateway cannot listen on the address.
    Listen(SocketAddr, std::io::Error),
    /// The log engine lacks a log that the settings name.
    Catalog(api::NoLog),
    /// The log engine cannot create a log.
    Log(log::Error),
    /// A task that must run as long as the gateway has failed.
    Task(Failure),
    /// The drain reached its deadline before all requests were answered.
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
            Error::Unanswered => {
                write!(f, "the drain reached its deadline before all requests were answered")
            }
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

/// The time between two updates of the metrics exporter. Between two updates, the
/// exporter keeps every recorded sample in memory.
const UPKEEP: Duration = Duration::from_secs(5);

/// The fraction of the drain time over which the gateway distributes the ends of the
/// streams. The rest of the drain time is for the slowest streams and for writes in
/// progress.
const DRAIN_SPREAD: f64 = 2.0 / 3.0;

/// The fraction of the drain time in which the close of a WebSocket waits for the
/// answer to a command. The rest of the drain time is for the close itself.
const DRAIN_ANSWERS: f64 = 5.0 / 6.0;

impl Gateway {
    /// Opens the store, binds the addresses of both listeners, and starts to serve
    /// requests on the current tokio runtime.
    ///
    /// # Errors
    /// Returns [`Error::Store`], [`Error::Listen`] or [`Error::Catalog`]. After an
    /// error, no task of the gateway runs.
    ///
    /// # Cancel safety
    /// Safe: the gateway serves no request before the future is ready.
    pub async fn start(config: GatewayConfig) -> Result<Gateway, Error> {
        let GatewayConfig { server: mut settings, log, logs, hub, deliver, api } = config;
        settings.connections_max = descriptors::connections_max(settings.connections_max);
        let metrics = Arc::new(Metrics::new());
        let log_settings = log.clone();
        let opening = tokio::task::spawn_blocking(move || Engine::open(&log_settings, &logs));
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
        let hub = Hub::start(&hub, &metrics, &supervisor, shards);
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

    /// Returns the address of the listener for clients, with the port that was
    /// bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address of the admin listener, with the port that was bound.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Resolves when a task that must run as long as the gateway has failed. The
    /// caller must then drain the gateway and end the process.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn failed(&self) -> Failure {
        self.shared.failures.first().await
    }

    /// Drains the gateway: shuts it down gracefully. `/readyz` answers 503, the
    /// streams end one after the other, the requests in progress are answered, and
    /// the log is synced to disk and closed.
    ///
    /// # Errors
    /// [`Error::Task`] if a supervised task has failed. Otherwise
    /// [`Error::Unanswered`] if the drain reached its deadline before all requests
    /// were answered.
    ///
    /// # Cancel safety
    /// Dropping the future stops the gateway at once. Writes that were already
    /// answered with success stay durable.
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
        // While a request is in progress, the gateway also answers new requests.
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

/// When the drain closes connections, a connection that has had no request yet stays
/// open for this time. The first request of a new connection can be on its way.
const FIRST_REQUEST_GRACE: Duration = Duration::from_millis(500);

/// Returns the routes of the admin listener.
fn admin_routes(shared: &Arc<Shared>) -> Routes {
    let metrics = {
        let shared = shared.clone();
        move || shared.services.render_metrics()
    };
    let readiness = {
        let shared = shared.clone();
        move || readiness::current(&shared)
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
