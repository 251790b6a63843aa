//! The handlers for operators: metrics and health.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::api::answer::{body::Body, problem, response};
use crate::api::authorize::{Action, Permit, Target, authorize};
use crate::api::context::Caller;
use crate::api::request::address::{Client, Peer};
use crate::api::state::Services;
use crate::log::WriteState;
use crate::metrics::LogValues;
use crate::wire::WireFormat;

const METRICS_TYPE: &str = "text/plain; version=0.0.4";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";

/// The longest time from a request for the metrics (a scrape) to its response,
/// including the wait for earlier scrapes. Prometheus waits 10 s.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);

/// The functions that answer requests on the admin listener.
pub struct Admin {
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    readiness: Box<dyn Fn() -> Readiness + Send + Sync>,
    /// Allows one scrape at a time, because a scrape (a request for the metrics)
    /// occupies a blocking thread and visits every log.
    permit: Arc<Semaphore>,
}

/// The response to `/readyz`: each component with its state
/// (`docs/operations.md#readiness`).
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Readiness {
    /// Whether a load balancer should send clients to this gateway. The status of
    /// the response is 200 if true, and 503 if false.
    pub ready: bool,
    /// Whether the drain (the graceful shutdown) has begun.
    pub draining: bool,
    /// Whether the logs on disk accept writes.
    pub log: &'static str,
    /// Whether the thread that commits writes to the log runs.
    pub engine: &'static str,
    /// Whether the gateway accepts connections.
    pub listener: &'static str,
    /// Whether the hub pushes events to subscribers.
    pub hub: &'static str,
    /// Whether the memory of the process is near its limit.
    pub memory: &'static str,
    /// Whether the task that aggregates the samples of the metrics runs.
    pub metrics: &'static str,
}

impl Admin {
    /// Creates the handler state of the admin listener. `metrics` renders the
    /// metrics in the text format of Prometheus and may block. `readiness` returns
    /// the state of each component.
    pub fn new(
        metrics: impl Fn() -> String + Send + Sync + 'static,
        readiness: impl Fn() -> Readiness + Send + Sync + 'static,
    ) -> Admin {
        let permit = Arc::new(Semaphore::new(1));
        Admin { metrics: Arc::new(metrics), readiness: Box::new(readiness), permit }
    }

    /// Waits for earlier scrapes, and then renders the metrics on a blocking thread.
    async fn scrape(&self) -> Response<Body> {
        let rendered = async {
            let permit = self.permit.clone().acquire_owned().await;
            let metrics = self.metrics.clone();
            let render = move || {
                // The thread holds the permit. If the scraper disconnects, no second
                // rendering can start while this one still runs. The semaphore is
                // never closed, so `permit` is never an error.
                let _permit = permit;
                metrics()
            };
            problem::joined(tokio::task::spawn_blocking(render).await)
        };
        match tokio::time::timeout(SCRAPE_TIMEOUT, rendered).await {
            Ok(Ok(metrics)) => text(200, METRICS_TYPE, metrics),
            Ok(Err(problem)) => response::problem(&problem, "/metrics"),
            Err(_) => text(
                503,
                TEXT_TYPE,
                "earlier scrapes take too long; scrape again later\n".to_owned(),
            ),
        }
    }
}

impl Services {
    /// Returns the current metrics in the text format of Prometheus. Takes no lock
    /// of a connection, and does not read the store. Blocks while it reads `/proc`.
    pub fn render_metrics(&self) -> String {
        let logs = self.engine.logs();
        for format in WireFormat::ALL {
            // The variants of a format with and without HTTP/1.1 chunks have the
            // same label.
            let same_label =
                WireFormat::ALL.into_iter().filter(|other| other.label() == format.label());
            let counts =
                same_label.flat_map(|it| logs.iter().map(move |log| log.identity().encodings(it)));
            let label = ("form", format.label().to_owned());
            self.metrics.counted("streamgate_encodings_total", label, counts.sum());
        }
        let (catching_up, lag) = self.hub.lag_stats();
        self.metrics.catching_up.set(catching_up as f64);
        self.metrics.lag.set(lag as f64);
        let writable = self.engine.write_state() == WriteState::Writable;
        self.metrics.log_writable.set(f64::from(u8::from(writable)));
        // If two logs have the same name, the log that clients can read comes first.
        let values = logs.iter().map(|log| {
            let position = log.position();
            LogValues {
                name: &log.identity().name,
                appended: log.appended(),
                clock_steps: log.clock_steps(),
                events: position.events,
                bytes: position.bytes,
                resources: position.resources,
                earliest: position.floor.0,
                head: position.head.0,
            }
        });
        self.metrics.render(&values.collect::<Vec<_>>())
    }
}

/// Handles a request for `/metrics`, `/livez` or `/readyz` on the admin listener.
///
/// # Cancel safety
/// Safe: a rendering of the metrics that has begun continues to its end, and its
/// result is dropped.
pub async fn handle<B>(admin: &Admin, peer: Peer, request: Request<B>) -> Response<Body> {
    const ALLOWED: &str = "GET, HEAD, OPTIONS";
    let (head, _) = request.into_parts();
    let path = head.uri.path();
    if !["/metrics", "/livez", "/readyz"].contains(&path) {
        return response::problem(
            &problem::not_found("the path does not exist; use /metrics, /livez or /readyz"),
            path,
        );
    }
    let client = Client { address: peer.address.to_canonical(), via_proxy: false };
    let caller = Caller::anonymous(client);
    let permit = match authorize(&caller, Action::Operate, Target::Gateway) {
        Ok(permit) => permit,
        Err(problem) => return response::problem(&problem, path),
    };
    match head.method {
        Method::GET => respond(admin, permit, path).await,
        Method::HEAD => response::head_only(respond(admin, permit, path).await),
        Method::OPTIONS => {
            let mut response = response::empty(204);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(ALLOWED));
            response
        }
        _ => response::method_not_allowed(ALLOWED, path),
    }
}

async fn respond(admin: &Admin, _permit: Permit, path: &str) -> Response<Body> {
    match path {
        "/metrics" => admin.scrape().await,
        "/readyz" => ready(&(admin.readiness)()),
        _ => text(200, TEXT_TYPE, "ok\n".to_owned()),
    }
}

/// Returns the response to `/readyz`.
///
/// # Panics
/// Never: a [`Readiness`] is an object of strings and booleans.
fn ready(readiness: &Readiness) -> Response<Body> {
    let status = if readiness.ready { 200 } else { 503 };
    let json = serde_json::to_string(readiness).expect("a Readiness is valid JSON");
    text(status, "application/json", json + "\n")
}

fn text(status: u16, media_type: &'static str, text: String) -> Response<Body> {
    let mut response = response::empty(status);
    *response.body_mut() = Body::Full(text.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
