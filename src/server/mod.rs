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

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{self, Api, ApiHandle};
use crate::hub::{self, Hub};
use crate::log::{self, Engine};
use crate::metrics::Metrics;
use crate::supervisor::{Failure, Failures, Supervisor, Task};
use crate::{deliver, store};

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

/// Everything that a gateway is made of.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Sockets.
    pub server: Settings,
    /// The engine.
    pub log: log::Settings,
    /// Its logs.
    pub logs: Vec<log::LogConfig>,
    /// Fan-out.
    pub hub: hub::Settings,
    /// Streams.
    pub deliver: deliver::Settings,
    /// Requests.
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

/// What connections share.
struct Shared {
    settings: RwLock<Arc<Settings>>,
    /// As it was opened, to tell what a reload cannot change.
    engine: log::Settings,
    gate: ApiHandle,
    metrics: Arc<Metrics>,
    /// Supervised tasks that have failed.
    failures: Arc<Failures>,
    /// Connections, streams and sessions.
    tasks: TaskTracker,
    /// The drain has begun.
    draining: CancellationToken,
    /// Asks connections to end once their request is answered.
    closing: CancellationToken,
    /// Set before `closing` is cancelled: a look at the token takes a lock
    /// that all connections share.
    is_closing: AtomicBool,
    connections: AtomicUsize,
    /// Connections past the cap that wait for their refusal.
    surplus: AtomicUsize,
    /// Connections of each address, also where they are not limited: a reload
    /// may limit them.
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

impl Shared {
    /// As configured at the moment.
    fn settings(&self) -> Arc<Settings> {
        self.settings.read().clone()
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
        let hub = Hub::start(&hub, &metrics, &supervisor, shards);
        let api =
            Api::new(api, deliver, rings, engine, hub, metrics.clone()).map_err(Error::Catalog)?;
        let tasks = api.tasks.clone();
        let shared = Arc::new(Shared {
            settings: RwLock::new(Arc::new(settings)),
            engine: log,
            gate: ApiHandle::new(api),
            metrics,
            failures: supervisor.failures().clone(),
            tasks,
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
            is_closing: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            surplus: AtomicUsize::new(0),
            by_address: Mutex::default(),
        });
        supervisor.spawn(Task::AcceptClients, listener::accept_clients(shared.clone(), clients));
        supervisor.spawn(Task::AcceptAdmin, listener::accept_admin(shared.clone(), admin));
        supervisor.spawn(Task::Upkeep, upkeep(shared.metrics.clone()));
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
        let (drain, api) = (shared.settings().drain, shared.gate.current());
        let deadline = tokio::time::Instant::now() + drain;
        api.drain();
        shared.draining.cancel();
        let spread = drain.mul_f64(DRAIN_SPREAD);
        api.hub.drain(spread, drain.mul_f64(DRAIN_ANSWERS));
        let streams_gone = async {
            while api.hub.open() > 0 {
                tokio::time::sleep(spread.min(Duration::from_millis(50))).await;
            }
        };
        let _ = tokio::time::timeout_at(deadline, streams_gone).await;
        // As long as anybody is owed an answer, others get theirs too.
        let answered = async {
            while api.requests_open() > 0 {
                tokio::time::sleep(spread.min(Duration::from_millis(50))).await;
            }
        };
        let _ = tokio::time::timeout_at(deadline, answered).await;
        shared.is_closing.store(true, Ordering::Release);
        shared.closing.cancel();
        shared.tasks.close();
        let drained = tokio::time::timeout_at(deadline, shared.tasks.wait()).await;
        self.supervisor.stop().await;
        let engine = api.engine.clone();
        let _ = tokio::task::spawn_blocking(move || engine.close()).await;
        if let Some(failure) = shared.failures.any() {
            return Err(Error::Task(failure));
        }
        if drained.is_err() && api.requests_open() > 0 {
            return Err(Error::Unanswered);
        }
        Ok(())
    }
}

/// How long a connection that is closed by the drain before its first request
/// has for it: it may have been accepted only now, its request on the way.
const FIRST_REQUEST_GRACE: Duration = Duration::from_millis(500);

async fn upkeep(metrics: Arc<Metrics>) {
    let mut interval = tokio::time::interval(UPKEEP);
    loop {
        interval.tick().await;
        metrics.fold();
    }
}
