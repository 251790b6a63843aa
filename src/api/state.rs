//! The services that all requests share, and the settings that one request uses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::api::answer::{inline_reads, streamed_body};
use crate::api::catalog::{Catalog, NoLog};
use crate::api::limit;
use crate::api::request::idempotency;
use crate::api::settings::Settings;
use crate::deliver;
use crate::hub::{self, Hub};
use crate::log::Engine;
use crate::metrics::Metrics;

/// The largest number of collection pages that are read at the same time. A page may
/// scan its whole collection, so more concurrent pages would only slow each other down.
const SCANS_MAX: usize = 8;

/// A function that returns the API with the newest settings, or `None` after the
/// gateway has ended.
type Newest = Box<dyn Fn() -> Option<Arc<Api>> + Send + Sync>;

/// The services that all requests share. A reload of the configuration does not
/// replace them.
pub struct Services {
    /// The log engine, which commits writes and reads events and resources.
    pub engine: Arc<Engine>,
    /// The hub, which pushes new events to the subscribers of streams.
    pub hub: Hub,
    /// The metrics of the gateway.
    pub metrics: Arc<Metrics>,
    /// The tasks of connections, streams and WebSocket sessions. The graceful
    /// shutdown (drain) waits for these tasks.
    pub tasks: TaskTracker,
    /// The idempotency keys of the requests in progress.
    pub(super) keys: idempotency::InProgress,
    pub(super) scans: Arc<Semaphore>,
    /// The scheduler for response bodies that are read from the store step by step.
    pub(super) steps: Arc<streamed_body::ReadScheduler>,
    /// Decides whether a read runs on the calling task or on a blocking thread.
    pub(super) inline: Arc<inline_reads::InlineReads>,
    /// The number of open streams of each client behind a proxy, by the address of
    /// the client.
    pub(super) streams: Mutex<HashMap<IpAddr, usize>>,
    draining: AtomicBool,
    /// Whether the memory of the process is near its limit.
    crowded: AtomicBool,
    in_flight: AtomicUsize,
    newest: OnceLock<Newest>,
}

impl Services {
    /// Creates the services of a gateway.
    pub fn new(engine: Arc<Engine>, hub: Hub, metrics: Arc<Metrics>) -> Services {
        let inline = Arc::new(inline_reads::InlineReads::new());
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Services {
            engine,
            hub,
            metrics,
            tasks: TaskTracker::new(),
            keys: idempotency::InProgress::default(),
            scans: Arc::new(Semaphore::new(SCANS_MAX)),
            steps: Arc::new(streamed_body::ReadScheduler::new(inline.clone(), processors)),
            inline,
            streams: Mutex::default(),
            draining: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            newest: OnceLock::new(),
        }
    }

    /// Sets the function that [`Api::newest`] calls. Without this function, a
    /// WebSocket session keeps the settings with which it began. Only the first call
    /// of `set_newest` has an effect.
    pub fn set_newest(&self, newest: impl Fn() -> Option<Arc<Api>> + Send + Sync + 'static) {
        self.newest.get_or_init(|| Box::new(newest));
    }

    /// Starts the drain (the graceful shutdown): refuses all new streams from now
    /// on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Returns whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Sets whether the memory of the process is near its limit. While `crowded` is
    /// true, new streams are refused.
    pub fn set_memory_pressure(&self, crowded: bool) {
        self.crowded.store(crowded, Ordering::Relaxed);
    }

    /// Returns whether new streams are refused because the memory of the process is
    /// near its limit.
    pub fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }

    /// Returns the number of requests in flight. A request is in flight from the arrival of
    /// its whole body to the head of its response. A batch is in flight while it has lines
    /// that are not answered, or answers that the client has not read.
    pub fn requests_open(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// The API for one request: the settings, and the shared services. A request keeps
/// the settings with which it began, also after a reload of the configuration.
pub struct Api {
    /// The settings that apply to requests.
    pub settings: Settings,
    /// The collections and topics by name.
    pub catalog: Catalog,
    /// The settings that apply to the delivery of streams.
    pub deliver: Arc<deliver::Settings>,
    /// The limits of the ring of a stream (its buffer of new events).
    pub(super) rings: hub::Settings,
    /// The token buckets that limit the request rate of each client. `None` if there
    /// is no limit.
    pub(super) buckets: Option<Arc<limit::Buckets>>,
    /// The token buckets that limit the publish rate of each client. `None` if there
    /// is no limit.
    pub(super) publishing: Option<Arc<limit::Buckets>>,
    pub(super) services: Arc<Services>,
}

/// Makes the services available as fields of [`Api`], like the settings.
impl Deref for Api {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.services
    }
}

impl Api {
    /// Creates the API for the collections and topics of `settings`. The engine must
    /// have been opened with the log configurations of [`Settings::log_configs`].
    ///
    /// # Errors
    /// [`NoLog`] if the engine has no log for a configured name.
    pub fn new(
        settings: Settings,
        deliver: deliver::Settings,
        rings: hub::Settings,
        services: Arc<Services>,
    ) -> Result<Api, NoLog> {
        let Settings { request_rate, request_burst, publish_rate, publish_burst, .. } = settings;
        let buckets = |policy, rate, burst| limit::Buckets::new(policy, rate, burst).map(Arc::new);
        Ok(Api {
            catalog: Catalog::new(&settings, &services.engine)?,
            buckets: buckets(limit::Policy::Requests, request_rate, request_burst),
            publishing: buckets(limit::Policy::Events, publish_rate, publish_burst),
            settings,
            deliver: Arc::new(deliver),
            rings,
            services,
        })
    }

    /// Creates the API with the settings of a reload. The services stay the same.
    ///
    /// # Errors
    /// [`NoLog`] if the engine has no log for a configured name.
    pub fn reloaded(
        &self,
        settings: Settings,
        deliver: deliver::Settings,
        rings: hub::Settings,
    ) -> Result<Api, NoLog> {
        let mut next = Api::new(settings, deliver, rings, self.services.clone())?;
        let requests = |api: &Api| (api.settings.request_rate, api.settings.request_burst);
        let events = |api: &Api| (api.settings.publish_rate, api.settings.publish_burst);
        // A reload must not refill the buckets of clients.
        if requests(&next) == requests(self) {
            next.buckets.clone_from(&self.buckets);
        }
        if events(&next) == events(self) {
            next.publishing.clone_from(&self.publishing);
        }
        Ok(next)
    }

    /// Returns the API with the newest settings. A WebSocket session needs this
    /// because it can last longer than its first settings.
    pub fn newest(self: &Arc<Self>) -> Arc<Api> {
        self.services.newest.get().and_then(|newest| newest()).unwrap_or_else(|| self.clone())
    }
}

/// Excludes a request from the requests in flight until the guard is dropped. The request
/// must have an [`InFlightGuard`]. The guard is held while the body of the request arrives:
/// the drain must not wait for a client that does not send.
pub struct BodyWait<'a>(&'a Services);

impl BodyWait<'_> {
    /// Excludes a request of `api`.
    pub(super) fn new(api: &Api) -> BodyWait<'_> {
        api.in_flight.fetch_sub(1, Ordering::Relaxed);
        BodyWait(&api.services)
    }
}

impl Drop for BodyWait<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts a request as in flight until the guard is dropped.
pub struct InFlightGuard(Arc<Services>);

impl InFlightGuard {
    /// Counts one more request of `api` as in flight.
    pub(super) fn new(api: &Api) -> InFlightGuard {
        api.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlightGuard(api.services.clone())
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
