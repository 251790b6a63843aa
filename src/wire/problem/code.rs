//! The one table of error codes.

/// Everything that a client is told went wrong. Adding one makes each table
/// below ask for its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request is not HTTP, or not one that makes sense.
    MalformedRequest,
    /// The body or message is not acceptable JSON.
    MalformedJson,
    /// An event id, cursor or `ETag` is none of ours.
    MalformedId,
    /// A query parameter or a header has no such value.
    BadParameter,
    /// A resource id or event type breaks the rules for names.
    BadName,
    /// The body is JSON, but not what this request takes.
    BadBody,
    /// No credential, or one that does not count (any more).
    Unauthorized,
    /// The credential does not allow it.
    Forbidden,
    /// There is no such resource, path or operation.
    NotFound,
    /// There is no such collection or topic.
    UnknownCollection,
    /// The path does not take this method.
    MethodNotAllowed,
    /// The path has none of the forms asked for.
    NotAcceptable,
    /// The request did not arrive in time.
    RequestTimeout,
    /// There is such a resource already.
    Exists,
    /// The first request with this idempotency key has not ended.
    InProgress,
    /// The position asked for is no longer kept, or of another log.
    HistoryGone,
    /// `If-Match` or `If-None-Match` does not hold.
    PreconditionFailed,
    /// The body, line or message is longer than the limit.
    BodyTooLarge,
    /// The request target is longer than the limit.
    UriTooLong,
    /// The body is of a type that is not taken here.
    UnsupportedMediaType,
    /// `Expect` asks for something other than `100-continue`.
    ExpectationFailed,
    /// The idempotency key was used for another request.
    KeyReused,
    /// The write must say which version it replaces.
    PreconditionRequired,
    /// The path speaks WebSocket and the request is no handshake for it.
    UpgradeRequired,
    /// The client is past its rate or its cap.
    TooManyRequests,
    /// The head is longer, or has more fields, than the limit.
    HeadTooLarge,
    /// A fault of the gateway's own.
    Internal,
    /// HTTP has it; the gateway does not.
    NotImplemented,
    /// The gateway is past one of its limits for all clients together.
    Overloaded,
    /// The gateway is about to stop, and takes nothing new.
    Draining,
    /// The store cannot be written or did not answer in time.
    Unavailable,
    /// The store has no room.
    DiskFull,
    /// A WebSocket command that there is not.
    UnknownCommand,
    /// A WebSocket command without a field that it needs.
    MissingField,
    /// A WebSocket subscription to what another one on it has already.
    OverlappingSubscription,
}

/// How many codes there are.
const COUNT: usize = Code::OverlappingSubscription as usize + 1;

/// All codes, in the order of their discriminants.
pub const ALL: [Code; COUNT] = [
    Code::MalformedRequest,
    Code::MalformedJson,
    Code::MalformedId,
    Code::BadParameter,
    Code::BadName,
    Code::BadBody,
    Code::Unauthorized,
    Code::Forbidden,
    Code::NotFound,
    Code::UnknownCollection,
    Code::MethodNotAllowed,
    Code::NotAcceptable,
    Code::RequestTimeout,
    Code::Exists,
    Code::InProgress,
    Code::HistoryGone,
    Code::PreconditionFailed,
    Code::BodyTooLarge,
    Code::UriTooLong,
    Code::UnsupportedMediaType,
    Code::ExpectationFailed,
    Code::KeyReused,
    Code::PreconditionRequired,
    Code::UpgradeRequired,
    Code::TooManyRequests,
    Code::HeadTooLarge,
    Code::Internal,
    Code::NotImplemented,
    Code::Overloaded,
    Code::Draining,
    Code::Unavailable,
    Code::DiskFull,
    Code::UnknownCommand,
    Code::MissingField,
    Code::OverlappingSubscription,
];

impl Code {
    /// The HTTP status; on a WebSocket, a member of the `error` all the same.
    pub fn status(self) -> u16 {
        match self {
            Code::MalformedRequest
            | Code::MalformedJson
            | Code::MalformedId
            | Code::BadParameter
            | Code::BadName
            | Code::BadBody
            | Code::UnknownCommand
            | Code::MissingField => 400,
            Code::Unauthorized => 401,
            Code::Forbidden => 403,
            Code::NotFound | Code::UnknownCollection => 404,
            Code::MethodNotAllowed => 405,
            Code::NotAcceptable => 406,
            Code::RequestTimeout => 408,
            Code::Exists | Code::InProgress | Code::OverlappingSubscription => 409,
            Code::HistoryGone => 410,
            Code::PreconditionFailed => 412,
            Code::BodyTooLarge => 413,
            Code::UriTooLong => 414,
            Code::UnsupportedMediaType => 415,
            Code::ExpectationFailed => 417,
            Code::KeyReused => 422,
            Code::UpgradeRequired => 426,
            Code::PreconditionRequired => 428,
            Code::TooManyRequests => 429,
            Code::HeadTooLarge => 431,
            Code::Internal => 500,
            Code::NotImplemented => 501,
            Code::Overloaded | Code::Draining | Code::Unavailable => 503,
            Code::DiskFull => 507,
        }
    }

    /// The last segment of the problem's `type`, for programs to compare.
    pub fn slug(self) -> &'static str {
        match self {
            Code::MalformedRequest => "malformed-request",
            Code::MalformedJson => "malformed-json",
            Code::MalformedId => "malformed-id",
            Code::BadParameter => "bad-parameter",
            Code::BadName => "bad-name",
            Code::BadBody => "bad-body",
            Code::Unauthorized => "unauthorized",
            Code::Forbidden => "forbidden",
            Code::NotFound => "not-found",
            Code::UnknownCollection => "unknown-collection",
            Code::MethodNotAllowed => "method-not-allowed",
            Code::NotAcceptable => "not-acceptable",
            Code::RequestTimeout => "request-timeout",
            Code::Exists => "exists",
            Code::InProgress => "in-progress",
            Code::HistoryGone => "history-gone",
            Code::PreconditionFailed => "precondition-failed",
            Code::BodyTooLarge => "body-too-large",
            Code::UriTooLong => "uri-too-long",
            Code::UnsupportedMediaType => "unsupported-media-type",
            Code::ExpectationFailed => "expectation-failed",
            Code::KeyReused => "key-reused",
            Code::PreconditionRequired => "precondition-required",
            Code::UpgradeRequired => "upgrade-required",
            Code::TooManyRequests => "too-many-requests",
            Code::HeadTooLarge => "head-too-large",
            Code::Internal => "internal",
            Code::NotImplemented => "not-implemented",
            Code::Overloaded => "overloaded",
            Code::Draining => "draining",
            Code::Unavailable => "unavailable",
            Code::DiskFull => "disk-full",
            Code::UnknownCommand => "unknown-command",
            Code::MissingField => "missing-field",
            Code::OverlappingSubscription => "overlapping-subscription",
        }
    }

    /// The kind of problem in a few words, the same each time (RFC 9457 §3.1.3).
    pub fn title(self) -> &'static str {
        match self {
            Code::MalformedRequest => "Malformed request",
            Code::MalformedJson => "Malformed JSON",
            Code::MalformedId => "Malformed event id",
            Code::BadParameter => "Bad parameter",
            Code::BadName => "Bad name",
            Code::BadBody => "Bad body",
            Code::Unauthorized => "Credential missing or not valid",
            Code::Forbidden => "Not allowed",
            Code::NotFound => "Not found",
            Code::UnknownCollection => "No such collection or topic",
            Code::MethodNotAllowed => "Method not allowed",
            Code::NotAcceptable => "No such form",
            Code::RequestTimeout => "Request took too long to arrive",
            Code::Exists => "Exists already",
            Code::InProgress => "First request still in progress",
            Code::HistoryGone => "History is gone",
            Code::PreconditionFailed => "Precondition failed",
            Code::BodyTooLarge => "Body too large",
            Code::UriTooLong => "URI too long",
            Code::UnsupportedMediaType => "Unsupported media type",
            Code::ExpectationFailed => "Expectation failed",
            Code::KeyReused => "Idempotency key used for another request",
            Code::PreconditionRequired => "Precondition required",
            Code::UpgradeRequired => "Upgrade required",
            Code::TooManyRequests => "Too many requests",
            Code::HeadTooLarge => "Head too large",
            Code::Internal => "Internal error",
            Code::NotImplemented => "Not implemented",
            Code::Overloaded => "Overloaded",
            Code::Draining => "About to stop",
            Code::Unavailable => "Store not available",
            Code::DiskFull => "Disk full",
            Code::UnknownCommand => "Unknown command",
            Code::MissingField => "Missing field",
            Code::OverlappingSubscription => "Overlapping subscription",
        }
    }

    /// Whether the same request may succeed later, without its client having
    /// changed anything: time or the operator cures it.
    pub fn retryable(self) -> bool {
        match self {
            Code::RequestTimeout
            | Code::InProgress
            | Code::TooManyRequests
            | Code::Internal
            | Code::Overloaded
            | Code::Draining
            | Code::Unavailable
            | Code::DiskFull => true,
            Code::MalformedRequest
            | Code::MalformedJson
            | Code::MalformedId
            | Code::BadParameter
            | Code::BadName
            | Code::BadBody
            | Code::Unauthorized
            | Code::Forbidden
            | Code::NotFound
            | Code::UnknownCollection
            | Code::MethodNotAllowed
            | Code::NotAcceptable
            | Code::Exists
            | Code::HistoryGone
            | Code::PreconditionFailed
            | Code::BodyTooLarge
            | Code::UriTooLong
            | Code::UnsupportedMediaType
            | Code::ExpectationFailed
            | Code::KeyReused
            | Code::PreconditionRequired
            | Code::UpgradeRequired
            | Code::HeadTooLarge
            | Code::NotImplemented
            | Code::UnknownCommand
            | Code::MissingField
            | Code::OverlappingSubscription => false,
        }
    }

    /// Whether the write that was refused may have been written after all, so
    /// that only an idempotency key or a precondition makes its repeat safe.
    pub fn wrote(self) -> bool {
        match self {
            Code::Internal | Code::Unavailable => true,
            Code::MalformedRequest
            | Code::MalformedJson
            | Code::MalformedId
            | Code::BadParameter
            | Code::BadName
            | Code::BadBody
            | Code::Unauthorized
            | Code::Forbidden
            | Code::NotFound
            | Code::UnknownCollection
            | Code::MethodNotAllowed
            | Code::NotAcceptable
            | Code::RequestTimeout
            | Code::Exists
            | Code::InProgress
            | Code::HistoryGone
            | Code::PreconditionFailed
            | Code::BodyTooLarge
            | Code::UriTooLong
            | Code::UnsupportedMediaType
            | Code::ExpectationFailed
            | Code::KeyReused
            | Code::PreconditionRequired
            | Code::UpgradeRequired
            | Code::TooManyRequests
            | Code::HeadTooLarge
            | Code::NotImplemented
            | Code::Overloaded
            | Code::Draining
            | Code::DiskFull
            | Code::UnknownCommand
            | Code::MissingField
            | Code::OverlappingSubscription => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_whole_and_each_slug_is_the_codes_own_name() {
        for (i, code) in ALL.into_iter().enumerate() {
            assert_eq!(code as usize, i);
            let mut kebab = String::new();
            for (i, c) in format!("{code:?}").char_indices() {
                if c.is_ascii_uppercase() && i > 0 {
                    kebab.push('-');
                }
                kebab.push(c.to_ascii_lowercase());
            }
            assert_eq!(code.slug(), kebab);
        }
    }

    #[test]
    fn whether_to_repeat_fits_the_status() {
        for code in ALL {
            let status = code.status();
            assert!((400..600).contains(&status), "{code:?}");
            assert!(!code.title().is_empty() && !code.title().ends_with('.'), "{code:?}");
            let cured_by_time = matches!(status, 408 | 429 | 500 | 503 | 507);
            assert_eq!(code.retryable(), cured_by_time || code == Code::InProgress, "{code:?}");
            assert!(!code.wrote() || status >= 500, "{code:?}: a refused write wrote nothing");
        }
    }
}
