//! Constructors of HTTP responses and of their headers.

use std::num::NonZeroU32;

use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName,
    HeaderValue, LOCATION, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE, VARY,
};
use hyper::{Response, StatusCode};

use crate::api::answer::{body::Body, media_type::MediaType};
use crate::event::EventId;
use crate::wire::problem::{Code, Problem};

/// The header of a response that repeats the stored response to an earlier request
/// with the same idempotency key (`docs/protocol.md#paths`).
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The longest path in bytes that a problem contains as its member `instance`.
/// Without the limit, a 414 response would repeat the long request target.
const INSTANCE_BYTES_MAX: usize = 1024;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The header with the largest number of records per data frame.
const BATCH_SIZE: HeaderName = HeaderName::from_static("x-batch-size");

/// The header that makes nginx forward each event at once.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Returns a response without a body.
pub fn empty(status: u16) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() =
        StatusCode::from_u16(status).expect("callers pass valid HTTP statuses");
    response
}

/// Returns a response with a JSON body.
pub fn json(status: u16, body: Body) -> Response<Body> {
    new(status, MediaType::Json, body)
}

/// Returns a response with a body of a media type.
pub fn new(status: u16, media_type: MediaType, body: Body) -> Response<Body> {
    let mut response = empty(status);
    *response.body_mut() = body;
    let media_type = HeaderValue::from_static(media_type.media_type());
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    response
}

/// Adds the header `ETag`. `id` is the id of the newest event of the resource.
pub fn set_etag(response: &mut Response<Body>, id: EventId) {
    let value = HeaderValue::try_from(id.quoted()).expect("an event id is ASCII");
    response.headers_mut().insert(ETAG, value);
}

/// Adds the header `Location`. `path` must consist of valid names and ids, which are
/// ASCII.
pub fn set_location(response: &mut Response<Body>, path: &str) {
    let value = HeaderValue::from_str(path).expect("names and ids are ASCII");
    response.headers_mut().insert(LOCATION, value);
}

/// Adds the header `Idempotency-Replayed: true`.
pub fn set_replayed(response: &mut Response<Body>) {
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
}

/// Adds the header `Vary: Accept`.
pub fn set_vary(response: &mut Response<Body>) {
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
}

/// Returns the response to `HEAD`: the head of the response to `GET`, without a body.
pub fn head_only(response: Response<Body>) -> Response<Body> {
    use hyper::body::Body as _;
    let (mut parts, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact().filter(|_| !body.is_end_stream()) {
        parts.headers.insert(CONTENT_LENGTH, length.into());
    }
    Response::from_parts(parts, Body::Empty)
}

/// Adds the headers that stop caches and proxies from buffering a stream.
pub fn set_unbuffered(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(BUFFERING, HeaderValue::from_static("no"));
}

/// Adds the header `X-Batch-Size` if the client chose a batch size.
pub fn set_batch_size(response: &mut Response<Body>, batch_size: Option<NonZeroU32>) {
    if let Some(size) = batch_size {
        response.headers_mut().insert(BATCH_SIZE, size.get().into());
    }
}

/// Returns the response that contains `problem` as its body. `path` is the path of
/// the request.
pub fn problem(problem: &Problem, path: &str) -> Response<Body> {
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

/// Adds the headers of a rate limit, if the cause of the problem is an empty token
/// bucket: `Retry-After` (RFC 9110 §10.2.3), and `RateLimit` and `RateLimit-Policy`
/// from the draft of the IETF working group HTTPAPI.
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

/// Returns the 405 response. `allow` lists the methods that the path allows.
pub fn method_not_allowed(allow: &'static str, path: &str) -> Response<Body> {
    let detail = format!("the path does not support this method; use one of {allow}");
    let mut response = problem(&Problem::new(Code::MethodNotAllowed, detail), path);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}
