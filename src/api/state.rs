//! The state that all requests share.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
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

/// The state that all requests share.
pub struct Api {
    /// The settings.
    pub settings: Settings,
    /// The engine that writes go to and reads come from.
    pub engine: Arc<Engine>,
    /// The collections and topics by name.
    pub catalog: Catalog,
    /// The hub that streams subscribe to.
    pub hub: Arc<Hub>,
    /// The settings of streams.
    pub deliver: Arc<deliver::Settings>,
    /// The limits of a stream's ring.
    pub(super) rings: hub::Settings,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The tasks of connections, streams and sessions. A drain waits for these tasks.
    pub tasks: TaskTracker,
    pub(super) keys: idempotency::InProgress,
    pub(super) buckets: Option<Arc<limit::Buckets>>,
    pub(super) publishing: Option<Arc<limit::Buckets>>,
    pub(super) scans: Arc<Semaphore>,
    /// The scheduler for reads of whole collections.
    pub(super) steps: Arc<streamed_body::ReadScheduler>,
    /// Decides where reads of single resources run.
    pub(super) inline: Arc<inline_reads::InlineReads>,
    pub(super) process: Arc<SharedState>,
}

impl Api {
    /// Serves the collections and topics of `settings`. `engine` must have been opened
    /// with [`Settings::specs`].
    ///
    /// # Errors
    /// When the engine has no log for a name.
    pub fn new(
        settings: Settings,
        deliver: deliver::Settings,
        rings: hub::Settings,
        engine: Arc<Engine>,
        hub: Hub,
        metrics: Arc<Metrics>,
    ) -> Result<Api, NoLog> {
        let catalog = Catalog::new(&settings, &engine)?;
        let inline = Arc::new(inline_reads::InlineReads::new());
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Api {
            buckets: request_buckets(&settings),
            publishing: publish_buckets(&settings),
            settings,
            engine,
            catalog,
            hub: Arc::new(hub),
            deliver: Arc::new(deliver),
            rings,
            metrics,
            tasks: TaskTracker::new(),
            keys: idempotency::InProgress::default(),
            scans: Arc::new(Semaphore::new(SCANS_MAX)),
            steps: Arc::new(streamed_body::ReadScheduler::new(inline.clone(), processors)),
            inline,
            process: Arc::default(),
        })
    }

    /// Returns the API of the same process with other settings. Existing connections keep
    /// their settings.
    ///
    /// # Errors
    /// When the engine has no log for a name.
    pub fn reconfigured(
        &self,
        settings: Settings,
        deliver: deliver::Settings,
        rings: hub::Settings,
    ) -> Result<Api, NoLog> {
        let catalog = Catalog::new(&settings, &self.engine)?;
        let requests = |of: &Settings| (of.request_rate, of.request_burst);
        let events = |of: &Settings| (of.publish_rate, of.publish_burst);
        // A reload must not refill the buckets of clients.
        let mut buckets = self.buckets.clone();
        if requests(&settings) != requests(&self.settings) {
            buckets = request_buckets(&settings);
        }
        let mut publishing = self.publishing.clone();
        if events(&settings) != events(&self.settings) {
            publishing = publish_buckets(&settings);
        }
        Ok(Api {
            settings,
            engine: self.engine.clone(),
            catalog,
            hub: self.hub.clone(),
            deliver: Arc::new(deliver),
            rings,
            metrics: self.metrics.clone(),
            tasks: self.tasks.clone(),
            keys: self.keys.clone(),
            buckets,
            publishing,
            scans: self.scans.clone(),
            steps: self.steps.clone(),
            inline: self.inline.clone(),
            process: self.process.clone(),
        })
    }

    /// Returns the API with the current settings, for a connection that outlives reloads.
    pub fn newest(self: &Arc<Self>) -> Arc<Api> {
        self.process.newest.read().upgrade().unwrap_or_else(|| self.clone())
    }

    /// Refuses all new streams from now on.
    pub fn drain(&self) {
        self.process.draining.store(true, Ordering::Relaxed);
    }

    /// Returns whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        self.process.draining.load(Ordering::Relaxed)
    }

    /// Sets whether memory is near its limit. New streams are refused while it is.
    pub fn set_memory_pressure(&self, crowded: bool) {
        self.process.crowded.store(crowded, Ordering::Relaxed);
    }

    /// Returns whether new streams are refused because memory is near its limit.
    pub fn is_crowded(&self) -> bool {
        self.process.crowded.load(Ordering::Relaxed)
    }

    /// Returns the number of requests whose response has no head yet, and of batches whose
    /// response the client has not read to the end.
    pub fn requests_open(&self) -> usize {
        self.process.requests.load(Ordering::Relaxed)
    }
}

/// Counts a request as in flight until the guard is dropped.
pub struct InFlightGuard(Arc<Api>);

impl InFlightGuard {
    /// Counts a request of `api`.
    pub(super) fn new(api: &Arc<Api>) -> InFlightGuard {
        api.process.requests.fetch_add(1, Ordering::Relaxed);
        InFlightGuard(api.clone())
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.process.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

fn request_buckets(settings: &Settings) -> Option<Arc<limit::Buckets>> {
    let Settings { request_rate: rate, request_burst: burst, .. } = *settings;
    limit::Buckets::new(limit::Policy::Requests, rate, burst).map(Arc::new)
}

fn publish_buckets(settings: &Settings) -> Option<Arc<limit::Buckets>> {
    let Settings { publish_rate: rate, publish_burst: burst, .. } = *settings;
    limit::Buckets::new(limit::Policy::Events, rate, burst).map(Arc::new)
}

/// The API with the current settings. A request keeps the settings with which it began;
/// the next request sees all changes of a reload.
pub struct ApiHandle(RwLock<Arc<Api>>);

impl ApiHandle {
    /// Creates a handle for `api`.
    pub fn new(api: Api) -> ApiHandle {
        let api = Arc::new(api);
        *api.process.newest.write() = Arc::downgrade(&api);
        ApiHandle(RwLock::new(api))
    }

    /// Returns the API for the next request.
    pub fn current(&self) -> Arc<Api> {
        self.0.read().clone()
    }

    /// Replaces the API for all later requests. [`Api::reconfigured`] makes `api`.
    pub fn swap(&self, api: Api) {
        let api = Arc::new(api);
        *api.process.newest.write() = Arc::downgrade(&api);
        *self.0.write() = api;
    }
}

/// The state that survives a reload.
#[derive(Default)]
pub(super) struct SharedState {
    pub(super) draining: AtomicBool,
    pub(super) requests: AtomicUsize,
    /// Whether memory is near its limit, so that new streams are refused.
    crowded: AtomicBool,
    /// The number of streams of each client behind a proxy.
    pub(super) streams: Mutex<HashMap<IpAddr, usize>>,
    /// The API that [`ApiHandle::current`] returns. Weak, because that API owns this state.
    newest: RwLock<Weak<Api>>,
}
