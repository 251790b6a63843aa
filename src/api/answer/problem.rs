//! Constructors of the problems (RFC 9457) with which the gateway answers requests.

use std::fmt::Display;

use crate::event::{EventId, InvalidName, MalformedId, Offset};
use crate::log::{self, AppendRejection, BadWrite};
use crate::wire::LogIdentity;
use crate::wire::problem::{Code, Problem};

/// Returns the 400 problem for a malformed request. `detail` names the malformed
/// part of the request and the error.
pub fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new(Code::MalformedRequest, detail)
}

/// Returns the 501 problem for an extended CONNECT whose `:protocol` is not
/// `websocket`.
pub fn no_such_protocol() -> Problem {
    Problem::new(Code::NotImplemented, "the :protocol of a CONNECT must be websocket")
}

/// Returns the 501 problem for a transfer coding other than `chunked`.
pub fn transfer_coding() -> Problem {
    let detail = "the only transfer coding is chunked; send the body without another coding";
    Problem::new(Code::NotImplemented, detail)
}

/// Returns the 400 problem for a query parameter `name` that is not valid. `why` is
/// the reason.
pub fn parameter(name: &str, why: &str) -> Problem {
    Problem::new(Code::BadParameter, format!("parameter {name:?}: {why}")).with("parameter", name)
}

/// Returns the 400 problem for a header that is not valid. `detail` must begin with
/// the name of the header.
pub fn header(detail: impl Into<String>) -> Problem {
    Problem::new(Code::BadParameter, detail)
}

/// Returns the 400 problem for an invalid event id in the parameter or header
/// `name`.
pub fn malformed_id(name: &str, why: MalformedId) -> Problem {
    Problem::new(Code::MalformedId, format!("{name}: {why}")).with("parameter", name)
}

/// Returns the 400 problem for an invalid resource id or event type. `what` names
/// the part of the request that contains it.
pub fn bad_name(what: &str, why: InvalidName) -> Problem {
    Problem::new(Code::BadName, format!("{what}: {why}"))
}

/// Returns the 400 problem for a body that is JSON with a wrong type or wrong members.
pub fn bad_body(detail: impl Into<String>) -> Problem {
    Problem::new(Code::BadBody, detail)
}

/// Returns the 400 problem for a body that is not a valid write.
pub fn bad_write(bad: &BadWrite) -> Problem {
    bad_body(bad.to_string())
}

/// Returns the 404 problem for a path or a resource that does not exist.
pub fn not_found(detail: impl Into<String>) -> Problem {
    Problem::new(Code::NotFound, detail)
}

/// Returns the 404 problem for a collection or a topic that does not exist.
pub fn unknown(detail: impl Into<String>) -> Problem {
    Problem::new(Code::UnknownCollection, detail)
}

/// Returns the 406 problem for an `Accept` header that allows no available media
/// type. The problem lists the available media types.
pub fn not_acceptable(available: Vec<&str>) -> Problem {
    let detail = format!(
        "the Accept header allows no available media type; accept one of {}",
        available.join(", ")
    );
    Problem::new(Code::NotAcceptable, detail).with("available", available)
}

/// Returns the 408 problem for a body that arrives too slowly.
pub fn slow_body() -> Problem {
    let detail =
        "the body did not arrive in time, or arrived below limits.body_rate; send it faster";
    Problem::new(Code::RequestTimeout, detail)
}

/// Returns the 431 problem for a head with more than `most` fields.
pub fn too_many_fields(most: usize) -> Problem {
    Problem::new(Code::HeadTooLarge, format!("the head has more than {most} fields; send fewer"))
}

/// Returns the 409 problem for an idempotency key whose first request is still in
/// progress.
pub fn key_in_progress() -> Problem {
    Problem::new(
        Code::InProgress,
        "a request with this Idempotency-Key is still in progress; repeat the request later",
    )
}

/// Returns the 410 problem for a start position after which events are missing in
/// the log. The member `earliest` is `floor` as an event id: the earliest position
/// from which the log is complete.
pub fn gone(identity: &LogIdentity, reason: &'static str, floor: Offset) -> Problem {
    let earliest = identity.id(floor).to_string();
    let detail =
        format!("the events after the position are gone ({reason}); start from {earliest}");
    Problem::new(Code::HistoryGone, detail).with("earliest", earliest).with("reason", reason)
}

/// Returns the 412 problem for a precondition that is false. `present` is the
/// current revision of the resource. `None` if the resource does not exist.
pub fn precondition_failed(present: Option<EventId>) -> Problem {
    let problem = Problem::new(
        Code::PreconditionFailed,
        "the resource is not in the state that If-Match or If-None-Match requires; read it again",
    );
    match present {
        Some(id) => problem.with("etag", id.quoted()),
        None => problem,
    }
}

/// Returns the 413 problem for a body or a line that is larger than `bytes_max`
/// bytes. `what` names the body or the line.
pub fn too_large(what: &str, bytes_max: usize) -> Problem {
    Problem::new(Code::BodyTooLarge, format!("{what} is larger than {bytes_max} bytes; send less"))
        .with("limit", bytes_max)
}

/// Returns the 414 problem for a request target that is longer than `bytes_max`
/// bytes.
pub fn uri_too_long(bytes_max: usize) -> Problem {
    let detail = format!("the request target must not be longer than {bytes_max} bytes");
    Problem::new(Code::UriTooLong, detail).with("limit", bytes_max)
}

/// Returns the 415 problem for a request body that the path does not accept. The
/// problem lists the media types that the path accepts.
pub fn unsupported(why: &str, accepted: &[&str]) -> Problem {
    let detail = format!("{why}; send {}", accepted.join(" or "));
    Problem::new(Code::UnsupportedMediaType, detail).with("available", accepted.to_vec())
}

/// Returns the 417 problem for an `Expect` header with a value other than
/// `100-continue`.
pub fn expectation() -> Problem {
    Problem::new(Code::ExpectationFailed, "the value of Expect must be 100-continue")
}

/// Returns the 503 problem for too many concurrent reads of the disk.
pub fn busy() -> Problem {
    Problem::new(Code::Overloaded, "too many concurrent reads; repeat the request later")
}

/// Returns the 500 problem for a defect of the gateway. The caller logs the details.
pub fn internal() -> Problem {
    Problem::new(Code::Internal, "internal error; the log of the gateway has the details")
}

/// Returns the problem for a write that the log rejected. `bytes_max` is the largest
/// size of a resource, in bytes.
pub fn rejected(rejection: &AppendRejection, identity: &LogIdentity, bytes_max: usize) -> Problem {
    match rejection {
        AppendRejection::Exists => {
            Problem::new(Code::Exists, "a resource with this id exists; use another id, or PUT")
        }
        AppendRejection::NotFound => not_found("the resource does not exist"),
        AppendRejection::Precondition(revision) => {
            precondition_failed(revision.map(|revision| identity.id(revision)))
        }
        AppendRejection::TooLarge => Problem::new(
            Code::BodyTooLarge,
            "the resource would be larger than limits.body_bytes; split the resource",
        )
        .with("limit", bytes_max),
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

/// Returns the result of a read that ran on a blocking thread or on the calling
/// task.
///
/// # Errors
/// 500 if the read panicked.
pub fn joined<T>(read: Result<T, impl Display>) -> Result<T, Problem> {
    read.map_err(|error| {
        tracing::error!(%error, "a read panicked");
        internal()
    })
}
