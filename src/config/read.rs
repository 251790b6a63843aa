//! The known keys with their types and defaults, and the settings of all layers
//! that they set. `config.toml` at the root of the repository lists the same
//! defaults.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::Config;
use super::names::{self, Names};
use super::section::{Section, Zero};
use crate::event::parse_network;
use crate::hub::Overflow;
use crate::metrics::Protocol;
use crate::store::Retention;
use crate::wire::forwarded::ForwardedHeader;
use crate::{api, deliver, hub, log, server};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

struct Server {
    listen: SocketAddr,
    admin_listen: SocketAddr,
    drain: Duration,
    proxy_protocol: server::ProxyProtocol,
    proxies: api::Proxies,
}

struct Storage {
    path: PathBuf,
    sync: log::FsyncPolicy,
    tail_bytes: usize,
}

struct Streams {
    heartbeat: Duration,
    heartbeat_format: deliver::HeartbeatFormat,
    retry: std::ops::Range<Duration>,
    ring_events: usize,
    ring_bytes: usize,
    overflow: Overflow,
    overflow_choices: Vec<Overflow>,
    pace: deliver::Pace,
    sse_overload: api::SseOverload,
    page_cache: usize,
    catchup_concurrency: usize,
    batch_size_max: u32,
}

struct Limits {
    max_connections: usize,
    max_connections_per_address: usize,
    request_rate: u32,
    request_burst: u32,
    publish_rate: u32,
    publish_burst: u32,
    control_rate: u32,
    head_timeout: Duration,
    body_timeout: Duration,
    body_rate: u64,
    idle_timeout: Duration,
    stall_timeout: Duration,
    body_bytes: usize,
    message_bytes: usize,
    batch_answer_bytes: usize,
    stream_idle_timeout: Duration,
    stream_lifetime: Duration,
    streams_max: [usize; Protocol::ALL.len()],
    http2_streams: u32,
    memory: u64,
}

/// Reads the whole tree. A key with an error has its default in the result. In
/// that case the result must only be used to find more errors.
pub(super) fn config(root: &mut Section<'_, '_>) -> Config {
    let server = root.section("server", server_keys);
    let storage = root.section("storage", storage_keys);
    root.section("engine", |s| s.choice("kind", (), &[("embedded", ())], &["nats"]));
    let streams = root.section("streams", stream_keys);
    let limits = root.section("limits", limit_keys);
    root.section("auth", |s| s.choice("mode", (), &[("none", ())], &["keys", "jwt"]));
    let mut names = Names::default();
    let overflow = streams.overflow;
    let collections = match root.each("collections", |s| collection(s, &mut names, overflow)) {
        Some(listed) => listed.into_iter().flatten().collect(),
        None => vec![names.default_collection(overflow)],
    };
    let topics = match root.each("topics", |s| topic(s, &mut names, &collections, overflow)) {
        Some(listed) => listed.into_iter().flatten().collect(),
        None => names.default_view(&collections).into_iter().collect(),
    };
    compose(server, storage, streams, &limits, collections, topics)
}

fn compose(
    server: Server,
    storage: Storage,
    streams: Streams,
    limits: &Limits,
    collections: Vec<api::CollectionSettings>,
    topics: Vec<api::TopicSettings>,
) -> Config {
    let api = api::Settings {
        body_bytes_max: limits.body_bytes,
        batch_answer_bytes: limits.batch_answer_bytes,
        body_timeout: limits.body_timeout,
        body_rate: limits.body_rate,
        stall_timeout: limits.stall_timeout,
        batch_size_max: streams.batch_size_max,
        request_rate: limits.request_rate,
        request_burst: limits.request_burst,
        publish_rate: limits.publish_rate,
        publish_burst: limits.publish_burst,
        streams_max: limits.streams_max,
        streams_per_client_max: limits.max_connections_per_address,
        overflow_choices: streams.overflow_choices,
        sse_overload: streams.sse_overload,
        proxies: server.proxies,
        collections,
        topics,
    };
    Config {
        server: server::Settings {
            listen: server.listen,
            admin_listen: server.admin_listen,
            drain: server.drain,
            proxy_protocol: server.proxy_protocol,
            connections_max: limits.max_connections,
            connections_per_address_max: limits.max_connections_per_address,
            head_timeout: limits.head_timeout,
            idle_timeout: limits.idle_timeout,
            stall_timeout: limits.stall_timeout,
            http2_streams_max: limits.http2_streams,
            memory_bytes_max: limits.memory,
            control_rate: limits.control_rate,
        },
        log: log::Settings {
            path: storage.path,
            sync: storage.sync,
            tail_bytes: storage.tail_bytes,
            page_cache_bytes: streams.page_cache,
            catchup_concurrency: streams.catchup_concurrency,
            resource_bytes_max: limits.body_bytes,
        },
        // specs() fails only for an invalid resource name, which is reported above.
        logs: api.specs().unwrap_or_default(),
        hub: hub::Settings {
            heartbeat: streams.heartbeat,
            ring_events: streams.ring_events,
            ring_bytes: streams.ring_bytes,
            stall_timeout: limits.stall_timeout,
            stream_idle_timeout: limits.stream_idle_timeout,
            stream_lifetime: limits.stream_lifetime,
        },
        deliver: deliver::Settings {
            retry: streams.retry,
            heartbeat_format: streams.heartbeat_format,
            pace: streams.pace,
            message_bytes_max: limits.message_bytes,
            message_timeout: limits.body_timeout,
            control_rate: limits.control_rate,
        },
        api,
    }
}

fn server_keys(s: &mut Section<'_, '_>) -> Server {
    let (proxy_protocol, proxies) = proxy_keys(s);
    let server = Server {
        listen: s.address("listen", loopback(8080)),
        admin_listen: s.address("admin_listen", loopback(9090)),
        drain: s.duration("drain", seconds(30), Zero::Allowed),
        proxy_protocol,
        proxies,
    };
    if server.listen == server.admin_listen && server.listen.port() != 0 {
        let key = if s.has("admin_listen") { "admin_listen" } else { "listen" };
        let address = server.listen;
        let message = "server.listen and server.admin_listen must be different; both are";
        s.fault(key, format!("{message} \"{address}\""));
    }
    server
}

fn proxy_keys(s: &mut Section<'_, '_>) -> (server::ProxyProtocol, api::Proxies) {
    use server::ProxyProtocol::{Off, Required};
    let listed = s.texts("proxies");
    let mut networks = Vec::new();
    for (place, text) in &listed {
        match parse_network(text) {
            Ok(network) => networks.push(network),
            Err(why) => {
                s.fault_at(place, "proxies", format!("{text:?} is not a network: {why}"));
            }
        }
    }
    let named = |field: ForwardedHeader| (field.name(), Some(field));
    let fields =
        [named(ForwardedHeader::XForwardedFor), named(ForwardedHeader::Forwarded), ("none", None)];
    let field = s.choice("forwarded", Some(ForwardedHeader::XForwardedFor), &fields, &[]);
    let protocol = s.choice("proxy_protocol", Off, &[("off", Off), ("required", Required)], &[]);
    if protocol == Required && listed.is_empty() {
        let message = "needs trusted proxies in server.proxies, because all other connections are \
                       closed; set, for example, proxies = [\"10.0.0.0/8\"]";
        s.fault("proxy_protocol", message.to_owned());
    }
    (protocol, api::Proxies { networks, field })
}

fn storage_keys(s: &mut Section<'_, '_>) -> Storage {
    let interval = s.duration("sync_interval", seconds(1), Zero::Rejected);
    Storage {
        path: s.text("path").unwrap_or_else(|| "data".to_owned()).into(),
        sync: s.choice(
            "sync",
            log::FsyncPolicy::Always,
            &[
                ("always", log::FsyncPolicy::Always),
                ("interval", log::FsyncPolicy::Interval(interval)),
                ("never", log::FsyncPolicy::Never),
            ],
            &[],
        ),
        tail_bytes: s.bytes("tail_bytes", 16 * MIB, Zero::Rejected) as usize,
    }
}

fn stream_keys(s: &mut Section<'_, '_>) -> Streams {
    use api::SseOverload::{Retry, Status};
    use deliver::HeartbeatFormat::{Comment, Event};
    Streams {
        heartbeat: s.duration("heartbeat", seconds(15), Zero::Rejected),
        heartbeat_format: s.choice(
            "heartbeat_format",
            Event,
            &[("event", Event), ("comment", Comment)],
            &[],
        ),
        retry: s.range("retry", seconds(2)..seconds(5)),
        ring_events: s.count("ring_events", 1024, Zero::Rejected) as usize,
        ring_bytes: s.bytes("ring_bytes", MIB, Zero::Rejected) as usize,
        overflow: s.choice("overflow", Overflow::Log, &policies(), &[]),
        overflow_choices: s.choices("overflow_choices", &policies()),
        pace: deliver::Pace {
            events: s.count("pace_events", 0, Zero::Allowed),
            bytes: s.bytes("pace_bytes", 0, Zero::Allowed),
        },
        sse_overload: s.choice("sse_overload", Retry, &[("retry", Retry), ("status", Status)], &[]),
        page_cache: s.bytes("page_cache", 16 * MIB, Zero::Allowed) as usize,
        catchup_concurrency: s.count("catchup_concurrency", 8, Zero::Rejected) as usize,
        batch_size_max: s.count("batch_size_max", 1000, Zero::Rejected),
    }
}

fn policies() -> [(&'static str, Overflow); Overflow::ALL.len()] {
    Overflow::ALL.map(|overflow| (overflow.as_str(), overflow))
}

/// Reads the rate and the burst of a token bucket. If the burst is not set, the
/// bucket has the tokens of one second, because a bucket of size 0 rejects
/// everything.
fn bucket(s: &mut Section<'_, '_>, rate: &'static str, burst: &'static str) -> (u32, u32) {
    let (per_second, at_once) = (s.count(rate, 0, Zero::Allowed), s.count(burst, 0, Zero::Allowed));
    if per_second == 0 && at_once > 0 {
        s.fault(burst, format!("has no effect without limits.{rate}; set limits.{rate} too"));
    }
    (per_second, if at_once == 0 { per_second } else { at_once })
}

fn limit_keys(s: &mut Section<'_, '_>) -> Limits {
    let (request_rate, request_burst) = bucket(s, "request_rate", "request_burst");
    let (publish_rate, publish_burst) = bucket(s, "publish_rate", "publish_burst");
    Limits {
        max_connections: s.count("max_connections", 10_000, Zero::Rejected) as usize,
        max_connections_per_address: s.count("max_connections_per_address", 0, Zero::Allowed)
            as usize,
        request_rate,
        request_burst,
        publish_rate,
        publish_burst,
        control_rate: s.count("control_rate", 200, Zero::Allowed),
        head_timeout: s.duration("head_timeout", seconds(10), Zero::Rejected),
        body_timeout: s.duration("body_timeout", seconds(10), Zero::Rejected),
        body_rate: s.bytes("body_rate", 256, Zero::Allowed),
        idle_timeout: s.duration("idle_timeout", seconds(60), Zero::Rejected),
        stall_timeout: s.duration("stall_timeout", seconds(30), Zero::Rejected),
        body_bytes: s.bytes("body_bytes", MIB, Zero::Rejected) as usize,
        message_bytes: s.bytes("message_bytes", MIB, Zero::Rejected) as usize,
        batch_answer_bytes: s.bytes("batch_answer_bytes", 4096 * KIB, Zero::Rejected) as usize,
        stream_idle_timeout: s.duration("stream_idle_timeout", Duration::ZERO, Zero::Allowed),
        stream_lifetime: s.duration("stream_lifetime", Duration::ZERO, Zero::Allowed),
        streams_max: Protocol::ALL.map(|protocol| {
            let key = match protocol {
                Protocol::Sse => "max_sse",
                Protocol::Ndjson => "max_ndjson",
                Protocol::WebSocket => "max_websocket",
            };
            s.count(key, 0, Zero::Allowed) as usize
        }),
        http2_streams: s.count("http2_streams", 100, Zero::Rejected),
        memory: s.bytes("memory", 0, Zero::Allowed),
    }
}

fn collection(
    s: &mut Section<'_, '_>,
    names: &mut Names,
    overflow: Overflow,
) -> Option<api::CollectionSettings> {
    let name = s.text("name");
    let resource = s.text("resource");
    let retention = retention(s);
    let overflow = s.choice("overflow", overflow, &policies(), &[]);
    let name = names.collection(s, name)?;
    let resource = names::resource(s, &name, resource)?;
    Some(api::CollectionSettings { name, resource, retention, overflow })
}

fn topic(
    s: &mut Section<'_, '_>,
    names: &mut Names,
    collections: &[api::CollectionSettings],
    overflow: Overflow,
) -> Option<api::TopicSettings> {
    let name = s.text("name");
    let collection = s.text("collection");
    let types = names::types(s);
    let retention = retention(s);
    let durability = s.choice(
        "durability",
        log::StorageKind::Disk,
        &[("disk", log::StorageKind::Disk), ("memory", log::StorageKind::Memory)],
        &[],
    );
    if s.has("collection") {
        if s.has("retention") {
            let message = "a view uses the log of its collection; set the retention there";
            s.fault("retention", message.to_owned());
        }
        if s.has("durability") {
            let message = "a view uses the log of its collection, which is on disk; remove the key";
            s.fault("durability", message.to_owned());
        }
    } else if !types.is_empty() {
        let message = "only a view has types; set the key collection, or remove types";
        s.fault("types", message.to_owned());
    }
    let collection = names.viewed(s, collection);
    let viewed = collections.iter().find(|viewed| Some(&viewed.name) == collection.as_ref());
    let overflow = viewed.map_or(overflow, |viewed| viewed.overflow);
    let overflow = s.choice("overflow", overflow, &policies(), &[]);
    let name = names.topic(s, name)?;
    Some(api::TopicSettings { name, collection, types, retention, overflow, durability })
}

fn retention(s: &mut Section<'_, '_>) -> Retention {
    s.section("retention", |s| Retention {
        events: s.number("events", 0),
        bytes: s.bytes("bytes", 0, Zero::Allowed),
        age: s.duration("age", Duration::ZERO, Zero::Allowed),
    })
}
