//! For operators: metrics and health.

use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response};
use serde::Serialize;

use super::body::Body;
use super::{error, respond};
use crate::log::WriteState;
use crate::wire::Form;

/// What the operators' listener serves.
pub struct Admin {
    /// The metrics in Prometheus' text format.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// Whether the gateway should be sent clients.
    pub readiness: Box<dyn Fn() -> Readiness + Send + Sync>,
}

/// The answer to `/readyz`: each component with its state
/// (`docs/operations.md#readiness`).
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Readiness {
    /// Whether clients should be sent here: the status is 200 then, else 503.
    pub ready: bool,
    /// Whether the drain has begun.
    pub draining: bool,
    /// Whether the logs on disk take writes.
    pub log: &'static str,
    /// Whether the log's thread runs.
    pub engine: &'static str,
    /// Whether connections are accepted.
    pub listener: &'static str,
    /// Whether events are pushed to subscribers.
    pub hub: &'static str,
    /// How near the process's memory is to its bound.
    pub memory: &'static str,
    /// Whether metrics are folded.
    pub metrics: &'static str,
}

impl super::Api {
    /// The metrics in Prometheus' text format, current to this moment.
    pub fn render_metrics(&self) -> String {
        let logs = self.engine.logs();
        for form in Form::ALL {
            // With and without chunks is one form to an operator.
            let alike = Form::ALL.into_iter().filter(|other| other.label() == form.label());
            let made = alike.flat_map(|it| logs.iter().map(move |log| log.origin().encodings(it)));
            let label = ("form", form.label().to_owned());
            self.metrics.counted("streamgate_encodings_total", label, made.sum());
        }
        let (parked, lag) = self.hub.census();
        self.metrics.parked.set(parked as f64);
        self.metrics.lag.set(lag as f64);
        let writable = self.engine.write_state() == WriteState::Writable;
        self.metrics.log_writable.set(f64::from(u8::from(writable)));
        // Of two logs of one name, the one that is served is first and has the
        // last word.
        for log in logs.iter().rev() {
            let name = log.origin().name.as_str();
            let Ok(position) = log.position() else { continue };
            let gauges = [
                ("streamgate_log_events", position.events),
                ("streamgate_log_bytes", position.bytes),
                ("streamgate_log_resources", position.resources),
                ("streamgate_log_earliest_offset", position.floor.0),
                ("streamgate_log_head_offset", position.head.0),
            ];
            for (gauge, value) in gauges {
                self.metrics.log_gauge(gauge, name, value);
            }
            let appended = ("log", name.to_owned());
            self.metrics.counted("streamgate_events_appended_total", appended, log.appended());
            let stepped = ("log", name.to_owned());
            self.metrics.counted("streamgate_clock_steps_total", stepped, log.clock_steps());
        }
        self.metrics.render()
    }
}

/// Answers `/metrics`, `/livez` and `/readyz`.
pub fn handle<B>(admin: &Admin, request: &Request<B>) -> Response<Body> {
    const ALLOWED: &str = "GET, HEAD, OPTIONS";
    let path = request.uri().path();
    let answer: fn(&Admin) -> Response<Body> = match path {
        "/metrics" => |admin| text(200, "text/plain; version=0.0.4", (admin.metrics)()),
        "/livez" => |_| text(200, "text/plain; charset=utf-8", "ok\n".to_owned()),
        "/readyz" => |admin| ready(&(admin.readiness)()),
        _ => return error::answer(&error::not_found("there is no such path"), path),
    };
    match *request.method() {
        Method::GET => answer(admin),
        Method::HEAD => respond::head_only(answer(admin)),
        Method::OPTIONS => {
            let mut response = respond::empty(204);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(ALLOWED));
            response
        }
        _ => error::method_not_allowed(ALLOWED, path),
    }
}

/// # Panics
/// Never: a [`Readiness`] is an object of strings and booleans.
fn ready(readiness: &Readiness) -> Response<Body> {
    let status = if readiness.ready { 200 } else { 503 };
    let json = serde_json::to_string(readiness).expect("it is JSON");
    text(status, "application/json", json + "\n")
}

fn text(status: u16, media_type: &'static str, text: String) -> Response<Body> {
    let mut response = respond::empty(status);
    *response.body_mut() = Body::Full(text.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
