//! Problems by what went wrong here, and a problem as an answer.

use hyper::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Response, StatusCode};

use super::body::Body;
use super::limit::{Policy, Wait};
use crate::event::{BadName, EventId, MalformedId, Offset};
use crate::log::{self, BadWrite, Refusal};
use crate::wire::Origin;
use crate::wire::problem::{Code, Problem};

/// Longest path that a problem repeats as its `instance`, in bytes: the target
/// of a 414 need not go back.
const INSTANCE_BYTES_MAX: usize = 1024;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// 400: the request makes no sense; `detail` says what and where.
pub fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new(Code::MalformedRequest, detail)
}

/// 501 for an extended CONNECT to anything but a WebSocket.
pub fn no_such_protocol() -> Problem {
    Problem::new(Code::NotImplemented, "a CONNECT is taken with the :protocol websocket alone")
}

/// 400 naming a parameter of the query.
pub fn parameter(name: &str, why: &str) -> Problem {
    Problem::new(Code::BadParameter, format!("parameter {name:?}: {why}")).with("parameter", name)
}

/// 400 for a header; `detail` begins with its name.
pub fn header(detail: impl Into<String>) -> Problem {
    Problem::new(Code::BadParameter, detail)
}

/// 400 for an event id, given as `name`.
pub fn malformed_id(name: &str, why: MalformedId) -> Problem {
    Problem::new(Code::MalformedId, format!("{name}: {why}")).with("parameter", name)
}

/// 400 for a resource's id or an event's type.
pub fn bad_name(what: &str, why: BadName) -> Problem {
    Problem::new(Code::BadName, format!("{what}: {why}"))
}

/// 400 for a body that is JSON, but not what is taken here.
pub fn bad_body(detail: impl Into<String>) -> Problem {
    Problem::new(Code::BadBody, detail)
}

/// 400 for a body that cannot become a write.
pub fn bad_write(bad: &BadWrite) -> Problem {
    bad_body(bad.to_string())
}

/// 404 for a path or a resource.
pub fn not_found(detail: impl Into<String>) -> Problem {
    Problem::new(Code::NotFound, detail)
}

/// 404 for a collection or a topic.
pub fn unknown(detail: impl Into<String>) -> Problem {
    Problem::new(Code::UnknownCollection, detail)
}

/// 406 listing the media types that there are.
pub fn not_acceptable(available: Vec<&str>) -> Problem {
    let detail = format!("nothing accepted; there is {}", available.join(", "));
    Problem::new(Code::NotAcceptable, detail).with("available", available)
}

/// 408: the body came too slowly.
pub fn slow_body() -> Problem {
    let detail = "the body did not come in time, or slower than limits.body_rate";
    Problem::new(Code::RequestTimeout, detail)
}

/// 431: a head has more fields than so many.
pub fn too_many_fields(most: usize) -> Problem {
    Problem::new(Code::HeadTooLarge, format!("the head has more than {most} fields"))
}

/// 409: the same key is being written.
pub fn key_in_progress() -> Problem {
    Problem::new(
        Code::InProgress,
        "a request with this Idempotency-Key is still in progress; repeat it later",
    )
}

/// 410: what followed the position asked for is gone; `earliest` is where
/// what is kept begins.
pub fn gone(origin: &Origin, reason: &'static str, floor: Offset) -> Problem {
    let earliest = origin.id(floor).to_string();
    let detail = format!("events after the id are missing ({reason}); go on from {earliest}");
    Problem::new(Code::HistoryGone, detail).with("earliest", earliest).with("reason", reason)
}

/// 412, with the resource's present tag where it is there.
pub fn precondition_failed(present: Option<EventId>) -> Problem {
    let problem =
        Problem::new(Code::PreconditionFailed, "the condition of the request does not hold");
    match present {
        Some(id) => problem.with("etag", id.quoted()),
        None => problem,
    }
}

/// 413 for more than `bytes_max` bytes of `what`.
pub fn too_large(what: &str, bytes_max: usize) -> Problem {
    Problem::new(Code::BodyTooLarge, format!("{what} is larger than {bytes_max} bytes"))
        .with("limit", bytes_max)
}

/// 414.
pub fn uri_too_long(bytes_max: usize) -> Problem {
    Problem::new(Code::UriTooLong, format!("the request's target is over {bytes_max} bytes"))
        .with("limit", bytes_max)
}

/// 415 listing the media types that are taken.
pub fn unsupported(why: &str, taken: &[&str]) -> Problem {
    let detail = format!("{why}; send {}", taken.join(" or "));
    Problem::new(Code::UnsupportedMediaType, detail).with("available", taken.to_vec())
}

/// 417.
pub fn expectation() -> Problem {
    Problem::new(Code::ExpectationFailed, "the only expectation that is met is 100-continue")
}

/// 503: too many reads of the disk at once.
pub fn busy() -> Problem {
    Problem::new(Code::Overloaded, "too many pages are being read; repeat the request later")
}

/// 429: the client's bucket is empty. Its members say what a client needs to
/// keep to its rate, and become the answer's `RateLimit` fields.
pub fn too_often(wait: Wait) -> Problem {
    let Wait { retry, rate, burst, policy } = wait;
    let what = match policy {
        Policy::Requests => "requests",
        Policy::Events => "events",
    };
    let millis = retry.as_millis().max(1) as u64;
    let detail =
        format!("{rate} {what} a second and {burst} at once are allowed; wait {millis} ms");
    let window = burst.div_ceil(rate.max(1)).max(1);
    Problem::new(Code::TooManyRequests, detail)
        .with("policy", policy.name())
        .with("quota", burst.max(rate))
        .with("window", window)
        .with("retryAfter", millis.div_ceil(1000))
}

/// 500: a defect, told in the log.
pub fn internal() -> Problem {
    Problem::new(Code::Internal, "the gateway failed; its log says why")
}

/// Why one write was not done.
pub fn refused(refusal: &Refusal, origin: &Origin) -> Problem {
    match refusal {
        Refusal::Exists => Problem::new(Code::Exists, "the id is in use"),
        Refusal::NotFound => not_found("there is no such resource"),
        Refusal::Precondition(revision) => {
            precondition_failed(revision.map(|revision| origin.id(revision)))
        }
        Refusal::TooLarge => Problem::new(
            Code::BodyTooLarge,
            "the resource would grow beyond what one may hold; split it",
        ),
        Refusal::KeyReused => Problem::new(
            Code::KeyReused,
            "this Idempotency-Key was used with another request body; use a new key",
        ),
        Refusal::KeyNotKept => header(
            "Idempotency-Key: the topic is kept in memory, so no answer could be kept for a repeat",
        ),
    }
}

/// Why a log took nothing or could not be read.
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

/// A read of the store that failed.
pub fn store(error: crate::store::Error) -> Problem {
    unavailable(&log::Error::Store(error))
}

/// A problem as an answer; `path` is the request's.
pub fn answer(problem: &Problem, path: &str) -> Response<Body> {
    // A CONNECT to another host has no path.
    let instance = (1..=INSTANCE_BYTES_MAX).contains(&path.len()).then_some(path);
    let mut response = Response::new(Body::Full(problem.to_json(instance)));
    *response.status_mut() =
        StatusCode::from_u16(problem.status()).expect("every code has a status of HTTP");
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if problem.code() == Code::UpgradeRequired {
        // RFC 9110 §15.5.22 and RFC 6455 §4.4: what to upgrade to.
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

/// Adds what a client needs to keep to its rate, where its bucket is why:
/// `Retry-After` (RFC 9110 §10.2.3), and `RateLimit` and `RateLimit-Policy` as
/// the IETF's HTTP API group drafts them.
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

/// 405 with the methods that are allowed.
pub fn method_not_allowed(allow: &'static str, path: &str) -> Response<Body> {
    let detail = format!("the method is not allowed here; allowed are {allow}");
    let mut response = answer(&Problem::new(Code::MethodNotAllowed, detail), path);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}
