//! The services that all requests share, and the settings of a request.

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

/// Returns the API with the newest settings, or `None` after the end of the gateway.
type Newest = Box<dyn Fn() -> Option<Arc<Api>> + Send + Sync>;

/// The services that all requests share. A reload does not change them.
pub struct Services {
    /// The engine that writes go to and reads come from.
    pub engine: Arc<Engine>,
    /// The hub that streams subscribe to.
    pub hub: Hub,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The tasks of connections, streams and sessions. A drain waits for these tasks.
    pub tasks: TaskTracker,
    /// The idempotency keys of requests in progress.
    pub(super) keys: idempotency::InProgress,
    pub(super) scans: Arc<Semaphore>,
    /// The scheduler for reads of whole collections.
    pub(super) steps: Arc<streamed_body::ReadScheduler>,
    /// Decides where reads of single resources run.
    pub(super) inline: Arc<inline_reads::InlineReads>,
    /// The number of streams of each client behind a proxy.
    pub(super) streams: Mutex<HashMap<IpAddr, usize>>,
    draining: AtomicBool,
    /// Whether memory is near its limit.
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

    /// Sets the function that [`Api::newest`] calls. Without the function, a session
    /// keeps the settings with which it began. Only the first call has an effect.
    pub fn set_newest(&self, newest: impl Fn() -> Option<Arc<Api>> + Send + Sync + 'static) {
        self.newest.get_or_init(|| Box::new(newest));
    }

    /// Refuses all new streams from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Returns whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Sets whether memory is near its limit. New streams are refused while it is.
    pub fn set_memory_pressure(&self, crowded: bool) {
        self.crowded.store(crowded, Ordering::Relaxed);
    }

    /// Returns whether new streams are refused because memory is near its limit.
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

/// The API for one request: the settings, and the services. A request keeps the settings
/// with which it began.
pub struct Api {
    /// The settings of requests.
    pub settings: Settings,
    /// The collections and topics by name.
    pub catalog: Catalog,
    /// The settings of streams.
    pub deliver: Arc<deliver::Settings>,
    /// The limits of a stream's ring.
    pub(super) rings: hub::Settings,
    /// The buckets for requests; `None` without a limit.
    pub(super) buckets: Option<Arc<limit::Buckets>>,
    /// The buckets for published events; `None` without a limit.
    pub(super) publishing: Option<Arc<limit::Buckets>>,
    pub(super) services: Arc<Services>,
}

/// Handlers use the settings and the services in the same way.
impl Deref for Api {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.services
    }
}

impl Api {
    /// Creates the API for the collections and topics of `settings`. The engine must have
    /// been opened with [`Settings::specs`].
    ///
    /// # Errors
    /// [`NoLog`] if the engine has no log for a name.
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

    /// Creates the API with other settings for the same services.
    ///
    /// # Errors
    /// [`NoLog`] if the engine has no log for a name.
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

    /// Returns the API with the newest settings, for a session that outlives reloads.
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
    /// Counts a request of `api`.
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
