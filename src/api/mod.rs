//! Before the head: a request becomes a status, or a stream begins.

pub mod admin;
pub mod body;
pub mod catalog;
pub mod negotiate;
pub mod query;
pub mod session;
pub mod start;
pub mod subscribe;

mod address;
mod batch;
mod condition;
mod error;
mod event;
mod gate;
mod head;
mod idempotency;
mod inline_reads;
mod body_reader;
mod limit;
mod page;
mod event_page;
mod streamed_body;
mod resource;
mod respond;
mod route;
mod snapshot;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::header::{ALLOW, CONNECTION, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, Version};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::deliver::{self, H2SendTracker, TakeoverSlot};
use crate::event::EventType;
use crate::hub::{self, Hub, Overflow};
use crate::log::{Engine, StorageKind};
use crate::metrics::Metrics;
use crate::store::Retention;
use crate::wire::problem::Problem;

pub use address::{Client, Peer, Proxies, client_key};
use body::Body;
pub use catalog::NoLog;
pub use gate::{ApiHandle, CapacityError};

use catalog::Catalog;
use event::Events;
use negotiate::MediaType;
use query::Query;
use route::{Route, RouteError, RouteMatch};

/// Pages of collections that are read at once. A page may scan its whole
/// collection, so more would not be faster, only all slower.
const SCANS_MAX: usize = 8;

/// What requests may cost and how they are turned away.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Largest request body, or line of an NDJSON batch, in bytes
    /// (`limits.body_bytes`).
    pub body_bytes_max: usize,
    /// Unread answers to an NDJSON batch that are kept, in bytes
    /// (`limits.batch_answer_bytes`).
    pub batch_answer_bytes: usize,
    /// Longest wait for the next byte of a request body
    /// (`limits.body_timeout`).
    pub body_timeout: Duration,
    /// Bytes a second at which a request body, or a line of an NDJSON batch,
    /// must come on average once [`body_timeout`](Settings::body_timeout) has
    /// passed; zero is no rate (`limits.body_rate`).
    pub body_rate: u64,
    /// Longest wait for a client to read a batch's answers
    /// (`limits.stall_timeout`).
    pub stall_timeout: Duration,
    /// Largest `?batchSize=` (`streams.batch_size_max`).
    pub batch_size_max: u32,
    /// Most streams of each protocol, in the order of [`Protocol::ALL`]; zero
    /// is no limit (`limits.max_sse`, `limits.max_ndjson`, `limits.max_websocket`).
    ///
    /// [`Protocol::ALL`]: crate::metrics::Protocol::ALL
    pub streams_max: [usize; crate::metrics::Protocol::ALL.len()],
    /// Most streams of one client over proxies' connections; zero is no limit
    /// (`limits.max_connections_per_address`, as for connections).
    pub streams_per_client_max: usize,
    /// Overflow policies that a client may ask for (`streams.overflow_choices`).
    pub overflow_choices: Vec<Overflow>,
    /// Requests a second and client, and how many at once
    /// (`limits.request_rate`, `limits.request_burst`); zero is no limit.
    pub request_rate: u32,
    /// See `request_rate`.
    pub request_burst: u32,
    /// Events a second and client that are published, and how many at once
    /// (`limits.publish_rate`, `limits.publish_burst`); zero is no limit.
    pub publish_rate: u32,
    /// See `publish_rate`.
    pub publish_burst: u32,
    /// How an `EventSource` that cannot be served is told
    /// (`streams.sse_overload`).
    pub sse_overload: SseOverload,
    /// Who may say whom a request comes from.
    pub proxies: Proxies,
    /// The collections, in the file's order.
    pub collections: Vec<CollectionSettings>,
    /// The topics, in the file's order.
    pub topics: Vec<TopicSettings>,
}

impl Settings {
    fn request_buckets(&self) -> Option<Arc<limit::Buckets>> {
        let Settings { request_rate: rate, request_burst: burst, .. } = *self;
        limit::Buckets::new(limit::Policy::Requests, rate, burst).map(Arc::new)
    }

    fn publish_buckets(&self) -> Option<Arc<limit::Buckets>> {
        let Settings { publish_rate: rate, publish_burst: burst, .. } = *self;
        limit::Buckets::new(limit::Policy::Events, rate, burst).map(Arc::new)
    }
}

/// How an `EventSource` that cannot be served is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SseOverload {
    /// 200 with `retry:` and a close, since `EventSource` gives up for good
    /// on any other status.
    Retry,
    /// The status.
    Status,
}

/// A collection as configured.
#[derive(Clone, Debug)]
pub struct CollectionSettings {
    /// Its name, the first path segment.
    pub name: String,
    /// What one resource is called, as in `order`.
    pub resource: String,
    /// How much of its log is kept.
    pub retention: Retention,
    /// What happens to a client that does not keep up.
    pub overflow: Overflow,
}

/// A topic as configured.
#[derive(Clone, Debug)]
pub struct TopicSettings {
    /// Its name, the segment after `/events/`.
    pub name: String,
    /// The collection it is a view of; none for a log of its own.
    pub collection: Option<String>,
    /// The types a view shows; all if there are none.
    pub types: Vec<EventType>,
    /// How much of its own log is kept.
    pub retention: Retention,
    /// What happens to a client that does not keep up.
    pub overflow: Overflow,
    /// Where its own log is kept.
    pub durability: StorageKind,
}

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
    rings: hub::Settings,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Connections, streams and sessions, so that an end can wait for them.
    pub tasks: TaskTracker,
    keys: idempotency::InProgress,
    buckets: Option<Arc<limit::Buckets>>,
    publishing: Option<Arc<limit::Buckets>>,
    scans: Arc<Semaphore>,
    /// Where whole collections are read.
    steps: Arc<streamed_body::ReadScheduler>,
    /// Where single resources are read.
    inline: Arc<inline_reads::InlineReads>,
    process: Arc<gate::SharedState>,
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
            buckets: settings.request_buckets(),
            publishing: settings.publish_buckets(),
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

    /// Begins no stream from here on.
    pub fn drain(&self) {
        self.process.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the gateway is on its way out.
    pub fn is_draining(&self) -> bool {
        self.process.draining.load(Ordering::Relaxed)
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
    fn new(api: &Arc<Api>) -> InFlightGuard {
        api.process.requests.fetch_add(1, Ordering::Relaxed);
        InFlightGuard(api.clone())
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.process.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a request comes over.
pub struct ConnectionContext {
    /// Who is at the other end.
    pub peer: Peer,
    /// Where the handler of a stream or a session leaves its takeover. `None`
    /// for a request that cannot take its connection over.
    pub handover: Option<Arc<TakeoverSlot>>,
    /// An HTTP/2 stream's.
    pub flow: Option<Arc<H2SendTracker>>,
}

/// A request without its body.
pub struct RequestContext {
    /// Its head.
    pub head: Parts,
    /// `/v1` where its path begins with it.
    pub prefix: &'static str,
    /// The parameters that nobody has taken yet.
    pub query: Query,
    /// Whose request it is, as far as addresses tell.
    pub client: Client,
    /// The HTTP/2 stream that it came on.
    pub flow: Option<Arc<H2SendTracker>>,
}

impl RequestContext {
    /// Whether it is for the head of an answer alone.
    pub fn is_head(&self) -> bool {
        self.head.method == Method::HEAD
    }

    /// Who asks; all are one until they can say who they are.
    #[expect(clippy::unused_self, reason = "a request will carry its principal")]
    fn principal(&self) -> &'static str {
        ""
    }
}

/// Answers one request.
///
/// # Cancel safety
/// Not safe: a write that was queued is committed, unanswered.
pub async fn handle(
    api: &Arc<Api>,
    request: Request<Incoming>,
    via: ConnectionContext,
) -> Response<Body> {
    let _unanswered = InFlightGuard::new(api);
    let begun = Instant::now();
    let uri = request.uri().clone();
    let reads = is_read(request.method());
    let head = *request.method() == Method::HEAD;
    let version = request.version();
    let mut label = "unknown";
    let client = api.settings.proxies.client(request.headers(), via.peer);
    let taken = api.buckets.as_ref().map_or(Ok(()), |buckets| buckets.take(client.address));
    let answered = match taken.map(|()| find(api, &request, &mut label)) {
        Err(wait) => Ok(api.too_often(&request, wait)),
        Ok(Err(miss)) => Err(miss),
        // The request that there are the most of, in a future of its own: that
        // of all the others is large, and would be moved about for each.
        Ok(Ok((RouteMatch { route: Route::Resource(collection, id), .. }, query))) if reads => {
            let read = resource::get(api, begun, request.headers(), query, &collection, id);
            read.await.map_err(RouteError::Problem)
        }
        Ok(Ok((found, query))) => {
            let answered = Box::pin(dispatch(api, found, request, query, (client, via)));
            answered.await.map_err(RouteError::Problem)
        }
    };
    let mut response = match answered {
        Ok(response) => response,
        Err(RouteError::Problem(problem)) => error::answer(&problem, uri.path()),
        Err(RouteError::Method(allow)) => error::method_not_allowed(allow, uri.path()),
        Err(RouteError::Options(allow)) => {
            let mut response = respond::empty(204);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
            response
        }
    };
    if reads {
        respond::set_vary(&mut response);
    }
    if api.is_draining() && version == Version::HTTP_11 && response.status() != 101 {
        // Whoever sends the next one has connected elsewhere by then.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    api.metrics.answered(label, response.status().as_u16(), begun.elapsed());
    if head { respond::head_only(response) } else { response }
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// What is asked for. Sets `label` to the name of the route in metrics, once
/// it is known.
fn find(
    api: &Api,
    request: &Request<Incoming>,
    label: &mut &'static str,
) -> Result<(RouteMatch, Query), RouteError> {
    head::check(request)?;
    if *request.method() == Method::OPTIONS && request.uri().path() == "*" {
        return Err(RouteError::Options("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    let protocol = request.extensions().get::<Protocol>();
    if protocol.is_some_and(|protocol| protocol.as_str() != "websocket") {
        // RFC 9220 §3, which says for all of HTTP what RFC 8441 left out.
        return Err(error::no_such_protocol().into());
    }
    let path = request.uri().path();
    let found = route::route(&api.catalog, request.method(), protocol.is_some(), path)?;
    *label = found.route.label();
    Ok((found, Query::parse(request.uri().query())?))
}

async fn dispatch(
    api: &Arc<Api>,
    RouteMatch { route, prefix }: RouteMatch,
    mut request: Request<Incoming>,
    query: Query,
    (client, via): (Client, ConnectionContext),
) -> Result<Response<Body>, Problem> {
    let ConnectionContext { handover, flow, .. } = via;
    let method = request.method().clone();
    let post = method == Method::POST;
    if is_read(&method) || method == Method::CONNECT {
        // What a stream or session takes with it.
        request.extensions_mut().insert(client);
        if let Some(handover) = handover {
            request.extensions_mut().insert(handover);
        }
    }
    let (head, body) = request.into_parts();
    let mut ask = RequestContext { head, prefix, query, client, flow };
    match route {
        Route::Collection(collection) if post => {
            resource::create(api, &mut ask, body, &collection).await
        }
        Route::Collection(collection) => {
            match negotiate::accept(&ask.head.headers, &negotiate::COLLECTION)? {
                MediaType::Json => page::page(api, &mut ask, &collection).await,
                form => snapshot::snapshot(api, &mut ask, &collection, form).await,
            }
        }
        Route::Snapshot(collection) => {
            let form = negotiate::accept(&ask.head.headers, &negotiate::SNAPSHOT)?;
            snapshot::snapshot(api, &mut ask, &collection, form).await
        }
        Route::Resource(collection, id) => match method {
            Method::PUT => resource::put(api, &mut ask, body, &collection, id).await,
            Method::PATCH => resource::patch(api, &mut ask, body, &collection, id).await,
            Method::DELETE => resource::delete(api, &mut ask, &collection, id).await,
            _ => unreachable!("a read is answered before, and the route takes no other method"),
        },
        Route::ResourceEvents(collection, id) if post => {
            event::post_to_resource(api, &mut ask, body, &collection, id).await
        }
        Route::Topic(topic) if post => event::post_to_topic(api, &mut ask, body, &topic).await,
        Route::ResourceEvents(collection, id) => {
            event::read(api, &mut ask, Events::of_collection(&collection, Some(id))).await
        }
        Route::CollectionEvents(collection) => {
            event::read(api, &mut ask, Events::of_collection(&collection, None)).await
        }
        Route::Topic(topic) => event::read(api, &mut ask, Events::of_topic(&topic)).await,
        Route::ResourceSocket(collection, id) => {
            socket(api, ask, body, Events::of_collection(&collection, Some(id))).await
        }
        Route::CollectionSocket(collection) => {
            socket(api, ask, body, Events::of_collection(&collection, None)).await
        }
        Route::TopicSocket(topic) => socket(api, ask, body, Events::of_topic(&topic)).await,
        Route::Socket => {
            ask.query.finish()?;
            let request = Request::from_parts(ask.head, body);
            session::upgrade(api, request, ask.client, None).await
        }
    }
}

async fn socket(
    api: &Arc<Api>,
    mut ask: RequestContext,
    body: Incoming,
    events: Events<'_>,
) -> Result<Response<Body>, Problem> {
    ask.query.refuse(&["batchSize"])?;
    let target = events.target(api, &mut ask)?;
    let request = Request::from_parts(ask.head, body);
    session::upgrade(api, request, ask.client, Some(target)).await
}

/// What a read gave, on a thread or on the task that asked.
///
/// # Errors
/// 500 when it panicked.
fn joined<T>(read: Result<T, impl Display>) -> Result<T, Problem> {
    read.map_err(|error| {
        tracing::error!(%error, "a read panicked");
        error::internal()
    })
}
