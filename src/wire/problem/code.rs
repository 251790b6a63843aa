//! The table of problem codes (`docs/protocol.md#problem-codes`).

/// Defines [`Code`], [`ALL`] and [`ROWS`] from one row per code. A row that lacks a
/// column does not compile.
macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident: $status:literal, $retryable:ident, $committed:ident,
        $slug:literal, $title:literal;)*) => {
        /// A kind of problem that the gateway reports to clients.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $code,)*
        }

        /// All codes, in the order of their discriminants.
        pub const ALL: [Code; ROWS.len()] = [$(Code::$code),*];

        /// The rows of the table, indexed by the discriminant of the code.
        const ROWS: &[Row] = &[$(Row {
            status: $status,
            retryable: codes!(@bool $retryable),
            may_have_committed: codes!(@bool $committed),
            slug: $slug,
            title: $title,
        }),*];
    };
    (@bool yes) => { true };
    (@bool no) => { false };
}

/// The properties of one problem code.
struct Row {
    status: u16,
    retryable: bool,
    may_have_committed: bool,
    slug: &'static str,
    title: &'static str,
}

// Columns: status, retryable, may have committed, slug, title.
codes! {
    /// The request is malformed.
    MalformedRequest: 400, no, no, "malformed-request", "Malformed request";
    /// The body or message is not JSON, or is JSON that the gateway does not accept.
    MalformedJson: 400, no, no, "malformed-json", "Malformed JSON";
    /// The request has a text that is not an event id in a place where an event id
    /// is required.
    MalformedId: 400, no, no, "malformed-id", "Malformed event id";
    /// A query parameter or a header has an invalid value.
    BadParameter: 400, no, no, "bad-parameter", "Invalid parameter";
    /// A resource id or an event type breaks the rules for names.
    BadName: 400, no, no, "bad-name", "Invalid name";
    /// The body is valid JSON, but it has members or a JSON type that the path does
    /// not accept.
    BadBody: 400, no, no, "bad-body", "Invalid body";
    /// The request has no valid credential.
    Unauthorized: 401, no, no, "unauthorized", "Credential missing or not valid";
    /// The credential does not allow the request.
    Forbidden: 403, no, no, "forbidden", "Not allowed";
    /// The resource, path or operation does not exist.
    NotFound: 404, no, no, "not-found", "Not found";
    /// The collection or topic does not exist.
    UnknownCollection: 404, no, no, "unknown-collection", "Unknown collection or topic";
    /// The path does not support the method.
    MethodNotAllowed: 405, no, no, "method-not-allowed", "Method not allowed";
    /// The path has none of the requested media types.
    NotAcceptable: 406, no, no, "not-acceptable", "Not acceptable";
    /// The request did not arrive in time.
    RequestTimeout: 408, yes, no, "request-timeout", "Request timeout";
    /// The resource exists already.
    Exists: 409, no, no, "exists", "Exists already";
    /// The first request with this idempotency key is still in progress.
    InProgress: 409, yes, no, "in-progress", "First request still in progress";
    /// The log no longer keeps the events after the requested position, or the
    /// position belongs to another log.
    HistoryGone: 410, no, no, "history-gone", "History no longer available";
    /// The condition in `If-Match` or `If-None-Match` is false.
    PreconditionFailed: 412, no, no, "precondition-failed", "Precondition failed";
    /// The body, line or message is larger than the limit.
    BodyTooLarge: 413, no, no, "body-too-large", "Body too large";
    /// The request target is longer than the limit.
    UriTooLong: 414, no, no, "uri-too-long", "URI too long";
    /// The path does not accept the media type of the body.
    UnsupportedMediaType: 415, no, no, "unsupported-media-type", "Unsupported media type";
    /// The header `Expect` has a value other than `100-continue`.
    ExpectationFailed: 417, no, no, "expectation-failed", "Expectation failed";
    /// The idempotency key was used with another request.
    KeyReused: 422, no, no, "key-reused", "Idempotency key used for another request";
    /// The write needs a condition, for example `If-Match`, that names the version
    /// to replace.
    PreconditionRequired: 428, no, no, "precondition-required", "Precondition required";
    /// The path accepts only WebSocket handshakes, and the request is not a
    /// WebSocket handshake.
    UpgradeRequired: 426, no, no, "upgrade-required", "Upgrade required";
    /// The client exceeds a rate limit or another limit for one client.
    TooManyRequests: 429, yes, no, "too-many-requests", "Too many requests";
    /// The request head is larger than the limit or has too many header fields.
    HeadTooLarge: 431, no, no, "head-too-large", "Head too large";
    /// The request failed because of a defect of the gateway.
    Internal: 500, yes, yes, "internal", "Internal error";
    /// The request uses a feature of HTTP that the gateway does not support.
    NotImplemented: 501, no, no, "not-implemented", "Not implemented";
    /// A limit on the load of all clients together is reached.
    Overloaded: 503, yes, no, "overloaded", "Overloaded";
    /// The gateway drains before it stops. It accepts no new requests.
    Draining: 503, yes, no, "draining", "Draining";
    /// The store cannot be written, or did not answer in time.
    Unavailable: 503, yes, yes, "unavailable", "Store unavailable";
    /// The store has no space left.
    DiskFull: 507, yes, no, "disk-full", "Disk full";
    /// The WebSocket command does not exist.
    UnknownCommand: 400, no, no, "unknown-command", "Unknown command";
    /// The WebSocket command lacks a required field.
    MissingField: 400, no, no, "missing-field", "Missing field";
    /// Another subscription on the WebSocket covers some of the same events.
    OverlappingSubscription: 409, no, no, "overlapping-subscription", "Overlapping subscription";
}

impl Code {
    fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// Returns the HTTP status. On a WebSocket the status is a member of the
    /// `error` message.
    pub fn status(self) -> u16 {
        self.row().status
    }

    /// Returns the name of the code, which is the last segment of the member `type`.
    /// Clients compare this text.
    pub fn slug(self) -> &'static str {
        self.row().slug
    }

    /// Returns the title, which is the same for every problem with this code
    /// (RFC 9457 §3.1.3).
    pub fn title(self) -> &'static str {
        self.row().title
    }

    /// Returns whether a client can repeat the same request later. This is true if
    /// the cause is temporary or the operator can remove the cause.
    pub fn retryable(self) -> bool {
        self.row().retryable
    }

    /// Returns whether the rejected write may have been committed in spite of the
    /// error. If so, only an idempotency key or a precondition makes it safe to
    /// repeat the write.
    pub fn may_have_committed(self) -> bool {
        self.row().may_have_committed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slug_is_the_name_of_its_code_in_kebab_case() {
        for code in ALL {
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
    fn a_code_is_retryable_if_and_only_if_its_status_is_temporary() {
        for code in ALL {
            let status = code.status();
            assert!((400..600).contains(&status), "{code:?}");
            assert!(!code.title().is_empty() && !code.title().ends_with('.'), "{code:?}");
            let temporary = matches!(status, 408 | 429 | 500 | 503 | 507);
            assert_eq!(code.retryable(), temporary || code == Code::InProgress, "{code:?}");
            assert!(
                !code.may_have_committed() || status >= 500,
                "{code:?}: a 4xx means nothing was committed"
            );
        }
    }
}
