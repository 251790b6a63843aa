//! Answers that are no problem.

use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LOCATION, VARY};
use hyper::{Response, StatusCode};

use super::body::Body;
use super::negotiate::MediaType;
use crate::event::EventId;

/// Says that the answer is an earlier one's (`docs/protocol.md#paths`).
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// An answer without a body.
pub fn empty(status: u16) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::from_u16(status).expect("callers name statuses of HTTP");
    response
}

/// An answer in JSON.
pub fn json(status: u16, body: Body) -> Response<Body> {
    form(status, MediaType::Json, body)
}

/// An answer in one of the forms.
pub fn form(status: u16, form: MediaType, body: Body) -> Response<Body> {
    let mut response = empty(status);
    *response.body_mut() = body;
    let media_type = HeaderValue::from_static(form.media_type());
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    response
}

/// Adds `ETag`: the id of the resource's newest event.
pub fn set_etag(response: &mut Response<Body>, id: EventId) {
    let value = HeaderValue::try_from(id.quoted()).expect("an event id is ASCII");
    response.headers_mut().insert(ETAG, value);
}

/// Adds `Location`, a path made of checked names.
pub fn set_location(response: &mut Response<Body>, path: &str) {
    let value = HeaderValue::from_str(path).expect("names and ids are ASCII");
    response.headers_mut().insert(LOCATION, value);
}

/// Adds `Idempotency-Replayed: true`.
pub fn set_replayed(response: &mut Response<Body>) {
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
}

/// Adds `Vary: Accept`.
pub fn set_vary(response: &mut Response<Body>) {
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
}

/// The answer to `HEAD` that this is to `GET`: the same head, no body.
pub fn head_only(response: Response<Body>) -> Response<Body> {
    use hyper::body::Body as _;
    let (mut parts, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact().filter(|_| !body.is_end_stream()) {
        parts.headers.insert(CONTENT_LENGTH, length.into());
    }
    Response::from_parts(parts, Body::Empty)
}
