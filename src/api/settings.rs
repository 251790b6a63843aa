//! The settings of the API.

use std::time::Duration;

use crate::api::request::address::Proxies;
use crate::event::EventType;
use crate::hub::Overflow;
use crate::log::StorageKind;
use crate::store::Retention;

/// The settings of the API.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The largest request body, or the largest line of an NDJSON batch, in bytes
    /// (`limits.body_bytes`).
    pub body_bytes_max: usize,
    /// The size of the buffer for the answers to an NDJSON batch that the client has
    /// not read yet, in bytes (`limits.batch_answer_bytes`).
    pub batch_answer_bytes: usize,
    /// The longest wait for the next byte of a request body
    /// (`limits.body_timeout`).
    pub body_timeout: Duration,
    /// The lowest average rate of a request body, or of a line of an NDJSON batch,
    /// in bytes per second. The rate applies after
    /// [`body_timeout`](Settings::body_timeout). Zero disables this limit
    /// (`limits.body_rate`).
    pub body_rate: u64,
    /// The longest wait for a client that does not read the answers to its NDJSON
    /// batch (`limits.stall_timeout`).
    pub stall_timeout: Duration,
    /// The largest value of the query parameter `batchSize`
    /// (`streams.batch_size_max`).
    pub batch_size_max: u32,
    /// The largest number of streams of each protocol, in the order of [`Protocol::ALL`]; zero
    /// is no limit (`limits.max_sse`, `limits.max_ndjson`, `limits.max_websocket`).
    ///
    /// [`Protocol::ALL`]: crate::metrics::Protocol::ALL
    pub streams_max: [usize; crate::metrics::Protocol::ALL.len()],
    /// The largest number of streams of one client that connects through proxies;
    /// zero is no limit (`limits.max_connections_per_address`, which also limits
    /// connections).
    pub streams_per_client_max: usize,
    /// The overflow policies that a client may choose (`streams.overflow_choices`).
    pub overflow_choices: Vec<Overflow>,
    /// The largest number of requests per second of one client; zero is no limit
    /// (`limits.request_rate`).
    pub request_rate: u32,
    /// The largest number of requests that one client may send in a burst
    /// (`limits.request_burst`).
    pub request_burst: u32,
    /// The largest number of published events per second of one client; zero is no limit
    /// (`limits.publish_rate`).
    pub publish_rate: u32,
    /// The largest number of events that one client may publish in a burst
    /// (`limits.publish_burst`).
    pub publish_burst: u32,
    /// The response to an `EventSource` whose stream the gateway refuses
    /// (`streams.sse_overload`).
    pub sse_overload: SseOverload,
    /// The trusted proxies, which may name the client of a request in a header.
    pub proxies: Proxies,
    /// The collections in the order of the configuration file.
    pub collections: Vec<CollectionSettings>,
    /// The topics in the order of the configuration file.
    pub topics: Vec<TopicSettings>,
}

/// The response to a browser's `EventSource` whose stream the gateway refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SseOverload {
    /// Respond with 200 and a `retry:` field, and close the stream, so that the
    /// `EventSource` reconnects. After any other status, an `EventSource` never
    /// reconnects.
    Retry,
    /// Respond with the status of the problem, such as 503.
    Status,
}

/// The settings of a collection.
#[derive(Clone, Debug)]
pub struct CollectionSettings {
    /// The name of the collection: the first segment of its path.
    pub name: String,
    /// The name for one resource of the collection, such as `order`.
    pub resource: String,
    /// The retention of the collection's log.
    pub retention: Retention,
    /// The default overflow policy, which applies to a client that does not keep up.
    pub overflow: Overflow,
}

/// The settings of a topic.
#[derive(Clone, Debug)]
pub struct TopicSettings {
    /// The name of the topic: the path segment after `/events/`.
    pub name: String,
    /// The collection whose events the topic shows, if the topic is a view. `None`
    /// for a topic with a log of its own.
    pub collection: Option<String>,
    /// The event types that a view shows. An empty list means all types.
    pub types: Vec<EventType>,
    /// The retention of the log, if the topic has a log of its own.
    pub retention: Retention,
    /// The default overflow policy, which applies to a client that does not keep up.
    pub overflow: Overflow,
    /// The storage of the log (disk or memory), if the topic has a log of its own.
    pub durability: StorageKind,
}
