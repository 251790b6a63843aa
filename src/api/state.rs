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

/// Pages of collections that are read at once. A page may scan its whole
/// collection, so more would not be faster, only all slower.
const SCANS_MAX: usize = 8;

/// What every request needs. Shared by all connections.
pub struct Api {
    /// As configured.
    pub settings: Settings,
    /// Where writes go and reads come from.
    pub engine: Arc<Engine>,
    /// What is served, by name.
    pub catalog: Catalog,
    /// Where streams subscribe.
    pub hub: Arc<Hub>,
    /// How streams look.
    pub deliver: Arc<deliver::Settings>,
    /// What a stream's ring may hold, and how old it gets.
    pub(super) rings: hub::Settings,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Connections, streams and sessions, so that an end can wait for them.
    pub tasks: TaskTracker,
    pub(super) keys: idempotency::InProgress,
    pub(super) buckets: Option<Arc<limit::Buckets>>,
    pub(super) publishing: Option<Arc<limit::Buckets>>,
    pub(super) scans: Arc<Semaphore>,
    /// Where whole collections are read.
    pub(super) steps: Arc<streamed_body::ReadScheduler>,
    /// Where single resources are read.
    pub(super) inline: Arc<inline_reads::InlineReads>,
    pub(super) process: Arc<SharedState>,
}

impl Api {
    /// Serves what `settings` names over `engine`, which was opened with
    /// [`Settings::specs`]; streams go through `hub`, look like `deliver` and
    /// have rings as `rings` says.
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

    /// The same process under other settings. Who is connected stays as it is.
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
        // Who has used up its tokens does not get new ones by a reload.
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

    /// What a request would meet now: for a connection that outlives reloads.
    pub fn newest(self: &Arc<Self>) -> Arc<Api> {
        self.process.newest.read().upgrade().unwrap_or_else(|| self.clone())
    }

    /// Begins no stream from here on.
    pub fn drain(&self) {
        self.process.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the gateway is on its way out.
    pub fn is_draining(&self) -> bool {
        self.process.draining.load(Ordering::Relaxed)
    }

    /// Whether memory is so near its bound that no stream begins.
    pub fn set_memory_pressure(&self, crowded: bool) {
        self.process.crowded.store(crowded, Ordering::Relaxed);
    }

    /// Whether no stream begins, since memory is near its bound.
    pub fn is_crowded(&self) -> bool {
        self.process.crowded.load(Ordering::Relaxed)
    }

    /// Requests whose answer has no head yet, and batches whose answers have
    /// not all been taken.
    pub fn requests_open(&self) -> usize {
        self.process.requests.load(Ordering::Relaxed)
    }
}

/// A request that is not answered yet, as long as this lives.
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

/// The API as it is configured at the moment. A request keeps what it began
/// with; the next one sees the whole of what a reload brought.
pub struct ApiHandle(RwLock<Arc<Api>>);

impl ApiHandle {
    /// Lets requests into `api`.
    pub fn new(api: Api) -> ApiHandle {
        let api = Arc::new(api);
        *api.process.newest.write() = Arc::downgrade(&api);
        ApiHandle(RwLock::new(api))
    }

    /// Where the next request goes.
    pub fn current(&self) -> Arc<Api> {
        self.0.read().clone()
    }

    /// Lets requests into `api` from here on, made by [`Api::reconfigured`].
    pub fn swap(&self, api: Api) {
        let api = Arc::new(api);
        *api.process.newest.write() = Arc::downgrade(&api);
        *self.0.write() = api;
    }
}

/// What all configurations of one process have in common.
#[derive(Default)]
pub(super) struct SharedState {
    pub(super) draining: AtomicBool,
    pub(super) requests: AtomicUsize,
    /// Memory is near its bound: no stream begins.
    crowded: AtomicBool,
    /// Streams of each client whose connections are a proxy's.
    pub(super) streams: Mutex<HashMap<IpAddr, usize>>,
    /// What [`ApiHandle::current`] gives; weak, since it is part of that.
    newest: RwLock<Weak<Api>>,
}
