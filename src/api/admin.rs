//! For operators: metrics and health.

use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response};

use super::body::Body;
use super::{error, respond};
use crate::wire::Form;

/// What the operators' listener serves.
pub struct Admin {
    /// The metrics in Prometheus' text format.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// Whether the gateway should be sent clients; if not, why.
    pub ready: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
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
        let (catching_up, lag) = self.hub.lag_stats();
        self.metrics.catching_up.set(catching_up as f64);
        self.metrics.lag.set(lag as f64);
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
        "/readyz" => |admin| match (admin.ready)() {
            Ok(()) => text(200, "text/plain; charset=utf-8", "ok\n".to_owned()),
            Err(why) => text(503, "text/plain; charset=utf-8", format!("{why}\n")),
        },
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

fn text(status: u16, media_type: &'static str, text: String) -> Response<Body> {
    let mut response = respond::empty(status);
    *response.body_mut() = Body::Full(text.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
