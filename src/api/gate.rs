//! Who is let in: the API as it is configured at the moment, and what a client
//! is told for whom there is no room.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use hyper::header::{CONNECTION, HeaderValue};
use hyper::http::Extensions;
use hyper::{Request, Response, Version};
use parking_lot::{Mutex, RwLock};

use super::address::{Client, client_key};
use super::body::Body;
use super::catalog::{Catalog, NoLog};
use super::subscribe;
use super::{Api, Settings, error, limit};
use crate::deliver;
use crate::hub::{self, Subscriber};
use crate::metrics::Protocol;
use crate::wire::problem::{Code, Problem};

/// What all configurations of one process have in common.
#[derive(Default)]
pub(super) struct SharedState {
    pub(super) draining: AtomicBool,
    pub(super) requests: AtomicUsize,
    /// Memory is near its bound: no stream begins.
    crowded: AtomicBool,
    /// Streams of each client whose connections are a proxy's.
    streams: Mutex<HashMap<IpAddr, usize>>,
    /// What [`ApiHandle::current`] gives; weak, since it is part of that.
    newest: RwLock<Weak<Api>>,
}

/// A stream for which there is room.
pub(super) struct Admitted {
    pub(super) subscriber: Arc<Subscriber>,
    /// Counts it as its client's.
    pub(super) share: Option<Box<dyn Send + Sync>>,
}

/// A stream that counts as a client's as long as this lives.
struct ClientStreamGuard {
    process: Arc<SharedState>,
    address: IpAddr,
}

impl Drop for ClientStreamGuard {
    fn drop(&mut self) {
        let mut streams = self.process.streams.lock();
        if let Entry::Occupied(mut count) = streams.entry(self.address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
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

/// Why a connection is not served (`limits.max_connections` and
/// `limits.max_connections_per_address`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapacityError {
    /// There are as many as there may be.
    Connections,
    /// Its address has as many as one may have.
    Address,
}

impl CapacityError {
    /// The label `reason` in metrics.
    pub fn reason(self) -> &'static str {
        match self {
            CapacityError::Connections => "connections",
            CapacityError::Address => "connections-per-address",
        }
    }

    fn problem(self) -> Problem {
        match self {
            CapacityError::Connections => Problem::new(
                Code::Overloaded,
                "the gateway has as many connections as it may; come back later",
            ),
            CapacityError::Address => Problem::new(
                Code::TooManyRequests,
                "your address has as many connections as one may have; close one first",
            ),
        }
    }
}

impl Api {
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
            buckets = settings.request_buckets();
        }
        let mut publishing = self.publishing.clone();
        if events(&settings) != events(&self.settings) {
            publishing = settings.publish_buckets();
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

    /// Whether memory is so near its bound that no stream begins.
    pub fn set_memory_pressure(&self, crowded: bool) {
        self.process.crowded.store(crowded, Ordering::Relaxed);
    }

    /// Whether no stream begins, since memory is near its bound.
    pub fn is_crowded(&self) -> bool {
        self.process.crowded.load(Ordering::Relaxed)
    }

    /// Room for one more stream of a protocol, for a request with these
    /// extensions.
    ///
    /// # Errors
    /// 503, counted, when the gateway is on its way out, short of memory, or
    /// has as many of them as it may; 429 when the client has.
    pub(super) fn admit(
        &self,
        protocol: Protocol,
        extensions: &Extensions,
    ) -> Result<Admitted, Problem> {
        if self.is_draining() {
            self.metrics.refused("draining");
            return Err(Problem::new(Code::Draining, "the gateway is going; connect again"));
        }
        if self.is_crowded() {
            self.metrics.refused("memory");
            let detail = "the gateway is short of memory; connect again later";
            return Err(Problem::new(Code::Overloaded, detail));
        }
        let client = extensions.get::<Client>().filter(|client| client.via_proxy);
        let share = client.map(|client| self.share(client.address)).transpose()?;
        let most = self.settings.streams_max[protocol as usize];
        let Some(subscriber) = self.hub.join(protocol, &self.rings, most) else {
            self.metrics.refused(protocol.label());
            let detail = "the gateway has as many streams of this kind as it may";
            return Err(Problem::new(Code::Overloaded, detail));
        };
        Ok(Admitted { subscriber, share })
    }

    /// One more stream of a client whose connections are a proxy's.
    fn share(&self, address: IpAddr) -> Result<Box<dyn Send + Sync>, Problem> {
        let most = self.settings.streams_per_client_max;
        let address = client_key(address);
        let mut streams = self.process.streams.lock();
        let count = streams.entry(address).or_insert(0);
        if most > 0 && *count >= most {
            self.metrics.refused(CapacityError::Address.reason());
            return Err(CapacityError::Address.problem());
        }
        *count += 1;
        Ok(Box::new(ClientStreamGuard { process: self.process.clone(), address }))
    }

    /// Answers the one request of a connection that is not served.
    pub fn refuse<B>(
        self: &Arc<Self>,
        request: &Request<B>,
        full: CapacityError,
    ) -> Response<Body> {
        let mut response = self.turn_away(request, full.problem());
        if request.version() < Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Turns a client away that asks more often than it may.
    pub(super) fn too_often<B>(
        self: &Arc<Self>,
        request: &Request<B>,
        wait: limit::RateLimited,
    ) -> Response<Body> {
        self.metrics.refused(wait.policy.reason());
        self.turn_away(request, error::too_often(wait))
    }

    /// Takes what one published event of a client costs.
    ///
    /// # Errors
    /// 429, counted, when it publishes more than it may.
    pub(super) fn may_publish(&self, client: Client) -> Result<(), Problem> {
        let Some(buckets) = &self.publishing else { return Ok(()) };
        buckets.take(client.address).map_err(|wait| {
            self.metrics.refused(wait.policy.reason());
            error::too_often(wait)
        })
    }

    /// Waits until a client may publish more, and gives how many events of
    /// `count`, at least one: a batch is slowed down, not refused.
    ///
    /// # Cancel safety
    /// Safe: what was taken is lost.
    pub(super) async fn publish_in_time(&self, client: Client, count: u32) -> u32 {
        let Some(buckets) = &self.publishing else { return count };
        loop {
            match buckets.take_some(client.address, count) {
                Ok(taken) => return taken,
                Err(wait) => tokio::time::sleep(wait.retry).await,
            }
        }
    }

    /// A problem as the client that asks can understand it.
    fn turn_away<B>(self: &Arc<Self>, request: &Request<B>, problem: Problem) -> Response<Body> {
        let path = request.uri().path();
        let (method, headers) = (request.method(), request.headers());
        subscribe::reject_stream(self, method, headers, request.version(), problem)
            .unwrap_or_else(|problem| error::answer(&problem, path))
    }
}
