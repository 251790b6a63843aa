//! The settings of the API.

use std::time::Duration;

use crate::api::request::address::Proxies;
use crate::event::EventType;
use crate::hub::Overflow;
use crate::log::StorageKind;
use crate::store::Retention;

/// What requests may cost and how they are turned away.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Largest request body, or line of an NDJSON batch, in bytes
    /// (`limits.body_bytes`).
    pub body_bytes_max: usize,
    /// Unread answers to an NDJSON batch that are kept, in bytes
    /// (`limits.batch_answer_bytes`).
    pub batch_answer_bytes: usize,
    /// Longest wait for the next byte of a request body
    /// (`limits.body_timeout`).
    pub body_timeout: Duration,
    /// Bytes a second at which a request body, or a line of an NDJSON batch,
    /// must come on average once [`body_timeout`](Settings::body_timeout) has
    /// passed; zero is no rate (`limits.body_rate`).
    pub body_rate: u64,
    /// Longest wait for a client to read a batch's answers
    /// (`limits.stall_timeout`).
    pub stall_timeout: Duration,
    /// Largest `?batchSize=` (`streams.batch_size_max`).
    pub batch_size_max: u32,
    /// Most streams of each protocol, in the order of [`Protocol::ALL`]; zero
    /// is no limit (`limits.max_sse`, `limits.max_ndjson`, `limits.max_websocket`).
    ///
    /// [`Protocol::ALL`]: crate::metrics::Protocol::ALL
    pub streams_max: [usize; crate::metrics::Protocol::ALL.len()],
    /// Most streams of one client over proxies' connections; zero is no limit
    /// (`limits.max_connections_per_address`, as for connections).
    pub streams_per_client_max: usize,
    /// Overflow policies that a client may ask for (`streams.overflow_choices`).
    pub overflow_choices: Vec<Overflow>,
    /// Requests a second and client, and how many at once
    /// (`limits.request_rate`, `limits.request_burst`); zero is no limit.
    pub request_rate: u32,
    /// See `request_rate`.
    pub request_burst: u32,
    /// Events a second and client that are published, and how many at once
    /// (`limits.publish_rate`, `limits.publish_burst`); zero is no limit.
    pub publish_rate: u32,
    /// See `publish_rate`.
    pub publish_burst: u32,
    /// How an `EventSource` that cannot be served is told
    /// (`streams.sse_overload`).
    pub sse_overload: SseOverload,
    /// Who may say whom a request comes from.
    pub proxies: Proxies,
    /// The collections, in the file's order.
    pub collections: Vec<CollectionSettings>,
    /// The topics, in the file's order.
    pub topics: Vec<TopicSettings>,
}

/// How an `EventSource` that cannot be served is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SseOverload {
    /// 200 with `retry:` and a close, since `EventSource` gives up for good
    /// on any other status.
    Retry,
    /// The status.
    Status,
}

/// A collection as configured.
#[derive(Clone, Debug)]
pub struct CollectionSettings {
    /// Its name, the first path segment.
    pub name: String,
    /// What one resource is called, as in `order`.
    pub resource: String,
    /// How much of its log is kept.
    pub retention: Retention,
    /// What happens to a client that does not keep up.
    pub overflow: Overflow,
}

/// A topic as configured.
#[derive(Clone, Debug)]
pub struct TopicSettings {
    /// Its name, the segment after `/events/`.
    pub name: String,
    /// The collection it is a view of; none for a log of its own.
    pub collection: Option<String>,
    /// The types a view shows; all if there are none.
    pub types: Vec<EventType>,
    /// How much of its own log is kept.
    pub retention: Retention,
    /// What happens to a client that does not keep up.
    pub overflow: Overflow,
    /// Where its own log is kept.
    pub durability: StorageKind,
}
