//! The problems of requests, and the HTTP response for a problem.

use hyper::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Response, StatusCode};

use super::body::Body;
use super::limit::{Policy, RateLimited};
use crate::event::{EventId, InvalidName, MalformedId, Offset};
use crate::log::{self, AppendRejection, BadWrite};
use crate::wire::LogIdentity;
use crate::wire::problem::{Code, Problem};

/// The longest path in bytes that a problem has as its `instance`. Without the
/// limit, a 414 response would repeat its long request target.
const INSTANCE_BYTES_MAX: usize = 1024;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Returns the 400 problem for a malformed request. `detail` names the error and
/// its place.
pub fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new(Code::MalformedRequest, detail)
}

/// Returns the 501 problem for an extended CONNECT whose `:protocol` is not
/// `websocket`.
pub fn no_such_protocol() -> Problem {
    Problem::new(Code::NotImplemented, "a CONNECT must have the :protocol websocket")
}

/// Returns the 400 problem for the query parameter `name`.
pub fn parameter(name: &str, why: &str) -> Problem {
    Problem::new(Code::BadParameter, format!("parameter {name:?}: {why}")).with("parameter", name)
}

/// Returns the 400 problem for a header. `detail` must begin with the name of the
/// header.
pub fn header(detail: impl Into<String>) -> Problem {
    Problem::new(Code::BadParameter, detail)
}

/// Returns the 400 problem for an invalid event id in the parameter or header
/// `name`.
pub fn malformed_id(name: &str, why: MalformedId) -> Problem {
    Problem::new(Code::MalformedId, format!("{name}: {why}")).with("parameter", name)
}

/// Returns the 400 problem for an invalid resource id or event type.
pub fn bad_name(what: &str, why: InvalidName) -> Problem {
    Problem::new(Code::BadName, format!("{what}: {why}"))
}

/// Returns the 400 problem for a body that is JSON of the wrong form.
pub fn bad_body(detail: impl Into<String>) -> Problem {
    Problem::new(Code::BadBody, detail)
}

/// Returns the 400 problem for a body that is not a valid write.
pub fn bad_write(bad: &BadWrite) -> Problem {
    bad_body(bad.to_string())
}

/// Returns the 404 problem for a path or a resource.
pub fn not_found(detail: impl Into<String>) -> Problem {
    Problem::new(Code::NotFound, detail)
}

/// Returns the 404 problem for a collection or a topic.
pub fn unknown(detail: impl Into<String>) -> Problem {
    Problem::new(Code::UnknownCollection, detail)
}

/// Returns the 406 problem. It lists the media types that are available.
pub fn not_acceptable(available: Vec<&str>) -> Problem {
    let detail = format!(
        "the Accept header allows no available media type; accept one of {}",
        available.join(", ")
    );
    Problem::new(Code::NotAcceptable, detail).with("available", available)
}

/// Returns the 408 problem for a body that arrives too slowly.
pub fn slow_body() -> Problem {
    let detail = "the body did not arrive in time, or arrived more slowly than limits.body_rate";
    Problem::new(Code::RequestTimeout, detail)
}

/// Returns the 431 problem for a head with more than `most` fields.
pub fn too_many_fields(most: usize) -> Problem {
    Problem::new(Code::HeadTooLarge, format!("the head must not have more than {most} fields"))
}

/// Returns the 409 problem for an idempotency key whose first request is still in
/// progress.
pub fn key_in_progress() -> Problem {
    Problem::new(
        Code::InProgress,
        "a request with this Idempotency-Key is still in progress; repeat the request later",
    )
}

/// Returns the 410 problem for a position whose next events are gone. The member
/// `earliest` is `floor`, the earliest position from which the log is complete.
pub fn gone(origin: &LogIdentity, reason: &'static str, floor: Offset) -> Problem {
    let earliest = origin.id(floor).to_string();
    let detail =
        format!("the events after the position are gone ({reason}); start from {earliest}");
    Problem::new(Code::HistoryGone, detail).with("earliest", earliest).with("reason", reason)
}

/// Returns the 412 problem. `present` is the version of the resource, if the
/// resource exists.
pub fn precondition_failed(present: Option<EventId>) -> Problem {
    let problem = Problem::new(Code::PreconditionFailed, "a precondition of the request is false");
    match present {
        Some(id) => problem.with("etag", id.quoted()),
        None => problem,
    }
}

/// Returns the 413 problem for a `what` that is larger than `bytes_max`.
pub fn too_large(what: &str, bytes_max: usize) -> Problem {
    Problem::new(Code::BodyTooLarge, format!("{what} is larger than {bytes_max} bytes"))
        .with("limit", bytes_max)
}

/// Returns the 414 problem for a request target that is longer than `bytes_max`.
pub fn uri_too_long(bytes_max: usize) -> Problem {
    let detail = format!("the request target must not be longer than {bytes_max} bytes");
    Problem::new(Code::UriTooLong, detail).with("limit", bytes_max)
}

/// Returns the 415 problem. It lists the media types that the path accepts.
pub fn unsupported(why: &str, accepted: &[&str]) -> Problem {
    let detail = format!("{why}; send {}", accepted.join(" or "));
    Problem::new(Code::UnsupportedMediaType, detail).with("available", accepted.to_vec())
}

/// Returns the 417 problem.
pub fn expectation() -> Problem {
    Problem::new(Code::ExpectationFailed, "the value of Expect must be 100-continue")
}

/// Returns the 503 problem for too many concurrent reads of the disk.
pub fn busy() -> Problem {
    Problem::new(Code::Overloaded, "too many concurrent reads; repeat the request later")
}

/// Returns the 429 problem for an empty token bucket. Its members tell the client
/// the rate and the time to wait. They are also the values of the response's
/// `RateLimit` fields.
pub fn too_often(wait: RateLimited) -> Problem {
    let RateLimited { retry, rate, burst, policy } = wait;
    let unit = match policy {
        Policy::Requests => "requests",
        Policy::Events => "events",
    };
    let millis = retry.as_millis().max(1) as u64;
    let detail =
        format!("the limit is {rate} {unit} per second and {burst} in a burst; wait {millis} ms");
    let window = burst.div_ceil(rate.max(1)).max(1);
    Problem::new(Code::TooManyRequests, detail)
        .with("policy", policy.name())
        .with("quota", burst.max(rate))
        .with("window", window)
        .with("retryAfter", millis.div_ceil(1000))
}

/// Returns the 500 problem for a defect. The caller logs the details.
pub fn internal() -> Problem {
    Problem::new(Code::Internal, "internal error; the log of the gateway has the details")
}

/// Returns the problem for a rejected write.
pub fn refused(refusal: &AppendRejection, origin: &LogIdentity) -> Problem {
    match refusal {
        AppendRejection::Exists => Problem::new(Code::Exists, "the id is in use"),
        AppendRejection::NotFound => not_found("no resource with this id"),
        AppendRejection::Precondition(revision) => {
            precondition_failed(revision.map(|revision| origin.id(revision)))
        }
        AppendRejection::TooLarge => Problem::new(
            Code::BodyTooLarge,
            "the resource would be larger than limits.body_bytes; split the resource",
        ),
        AppendRejection::KeyReused => Problem::new(
            Code::KeyReused,
            "this Idempotency-Key was used with another request body; use a new key",
        ),
        AppendRejection::KeyNotKept => {
            header("Idempotency-Key: a topic in memory cannot store the response; omit the header")
        }
    }
}

/// Returns the problem for a log that cannot be written or read.
pub fn unavailable(error: &log::Error) -> Problem {
    let code = match error {
        log::Error::Full => Code::DiskFull,
        log::Error::Closed | log::Error::Poisoned => Code::Unavailable,
        log::Error::Store(_) => Code::Internal,
    };
    if let log::Error::Store(source) = error {
        tracing::error!(error = %source, "the store could not be read");
    }
    Problem::new(code, error.to_string())
}

/// Returns the problem for a failed read of the store.
pub fn store(error: crate::store::Error) -> Problem {
    unavailable(&log::Error::Store(error))
}

/// Returns the response for a problem. `path` is the path of the request.
pub fn answer(problem: &Problem, path: &str) -> Response<Body> {
    // A plain CONNECT request has no path.
    let instance = (1..=INSTANCE_BYTES_MAX).contains(&path.len()).then_some(path);
    let mut response = Response::new(Body::Full(problem.to_json(instance)));
    *response.status_mut() =
        StatusCode::from_u16(problem.status()).expect("every code has a valid HTTP status");
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if problem.code() == Code::UpgradeRequired {
        // A 426 response must name the protocol to upgrade to (RFC 9110 §15.5.22)
        // and its version (RFC 6455 §4.4).
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    if matches!(problem.status(), 429 | 503) {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    set_rate(headers, problem);
    response
}

/// Adds the headers about the client's rate, if the problem is an empty token
/// bucket: `Retry-After` (RFC 9110 §10.2.3), and `RateLimit` and
/// `RateLimit-Policy` from the draft of the IETF working group HTTPAPI.
fn set_rate(headers: &mut HeaderMap, problem: &Problem) {
    let text = |name| problem.member(name)?.as_str();
    let number = |name| problem.member(name)?.as_u64();
    let (Some(policy), Some(seconds)) = (text("policy"), number("retryAfter")) else { return };
    let (Some(quota), Some(window)) = (number("quota"), number("window")) else { return };
    let fields = [
        (RETRY_AFTER, seconds.to_string()),
        (RATELIMIT, format!("\"{policy}\";r=0;t={seconds}")),
        (RATELIMIT_POLICY, format!("\"{policy}\";q={quota};w={window}")),
    ];
    for (name, value) in fields {
        let value = HeaderValue::from_str(&value).expect("digits and quotes are ASCII");
        headers.insert(name, value);
    }
}

/// Returns the 405 response with the allowed methods.
pub fn method_not_allowed(allow: &'static str, path: &str) -> Response<Body> {
    let detail = format!("the path does not support this method; use one of {allow}");
    let mut response = answer(&Problem::new(Code::MethodNotAllowed, detail), path);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}
