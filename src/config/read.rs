//! The list of the known configuration keys with their types and defaults. This
//! module builds the settings of all layers from the keys. `config.toml` at the root
//! of the repository lists the same defaults.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::names::{self, Names};
use super::section::{Section, Zero};
use crate::event::parse_network;
use crate::hub::Overflow;
use crate::metrics::Protocol;
use crate::server::GatewayConfig;
use crate::store::Retention;
use crate::wire::forwarded::ForwardedHeader;
use crate::{api, deliver, hub, log, server};

const MIB: u64 = 1 << 20;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Reads the whole configuration. If a key has an error, the result contains the
/// default of this key. The caller must then not use the result as a configuration,
/// only to find more errors.
pub(super) fn config(root: &mut Section<'_, '_>) -> GatewayConfig {
    let mut tables = Tables {
        server: root.section("server"),
        storage: root.section("storage"),
        streams: root.section("streams"),
        limits: root.section("limits"),
    };
    root.section("engine").choice("kind", (), &[("embedded", ())], &["nats"]);
    root.section("auth").choice("mode", (), &[("none", ())], &["keys", "jwt"]);
    let server = server_settings(&mut tables);
    let api = api_settings(&mut tables, root, &server);
    GatewayConfig {
        log: log_settings(&mut tables, &api),
        // log_configs() fails only for an invalid resource name, which is reported above.
        logs: api.log_configs().unwrap_or_default(),
        hub: hub_settings(&mut tables, &server),
        deliver: deliver_settings(&mut tables, &server, &api),
        server,
        api,
    }
}

/// The configuration tables whose keys set more than one layer of the gateway.
struct Tables<'t, 'd> {
    server: Section<'t, 'd>,
    storage: Section<'t, 'd>,
    streams: Section<'t, 'd>,
    limits: Section<'t, 'd>,
}

fn server_settings(Tables { server: s, limits, .. }: &mut Tables<'_, '_>) -> server::Settings {
    use server::ProxyProtocol::{Off, Required};
    let listen = s.address("listen", loopback(8080));
    let admin_listen = s.address("admin_listen", loopback(9090));
    if listen == admin_listen && listen.port() != 0 {
        let key = if s.has("admin_listen") { "admin_listen" } else { "listen" };
        let message = "server.listen and server.admin_listen must be different; both are";
        s.error(key, format!("{message} \"{listen}\""));
    }
    server::Settings {
        listen,
        admin_listen,
        drain: s.duration("drain", seconds(30), Zero::Allowed),
        proxy_protocol: s.choice(
            "proxy_protocol",
            Off,
            &[("off", Off), ("required", Required)],
            &[],
        ),
        connections_max: limits.count("max_connections", 10_000, Zero::Rejected) as usize,
        connections_per_address_max: limits.count("max_connections_per_address", 0, Zero::Allowed)
            as usize,
        head_timeout: limits.duration("head_timeout", seconds(10), Zero::Rejected),
        idle_timeout: limits.duration("idle_timeout", seconds(60), Zero::Rejected),
        stall_timeout: limits.duration("stall_timeout", seconds(30), Zero::Rejected),
        http2_streams_max: limits.count("http2_streams", 100, Zero::Rejected),
        memory_bytes_max: limits.bytes("memory", 0, Zero::Allowed),
        control_rate: limits.count("control_rate", 200, Zero::Allowed),
    }
}

fn log_settings(
    Tables { storage, streams, .. }: &mut Tables<'_, '_>,
    api: &api::Settings,
) -> log::Settings {
    use log::FsyncPolicy::{Always, Interval, Never};
    let interval = storage.duration("sync_interval", seconds(1), Zero::Rejected);
    let policies = [("always", Always), ("interval", Interval(interval)), ("never", Never)];
    log::Settings {
        path: storage.text("path").unwrap_or_else(|| "data".to_owned()).into(),
        sync: storage.choice("sync", Always, &policies, &[]),
        tail_bytes: storage.bytes("tail_bytes", 16 * MIB, Zero::Rejected) as usize,
        page_cache_bytes: streams.bytes("page_cache", 16 * MIB, Zero::Allowed) as usize,
        catchup_concurrency: streams.count("catchup_concurrency", 8, Zero::Rejected) as usize,
        resource_bytes_max: api.body_bytes_max,
    }
}

fn hub_settings(
    Tables { streams, limits, .. }: &mut Tables<'_, '_>,
    server: &server::Settings,
) -> hub::Settings {
    hub::Settings {
        heartbeat: streams.duration("heartbeat", seconds(15), Zero::Rejected),
        ring_events: streams.count("ring_events", 1024, Zero::Rejected) as usize,
        ring_bytes: streams.bytes("ring_bytes", MIB, Zero::Rejected) as usize,
        stall_timeout: server.stall_timeout,
        stream_idle_timeout: limits.duration("stream_idle_timeout", Duration::ZERO, Zero::Allowed),
        stream_lifetime: limits.duration("stream_lifetime", Duration::ZERO, Zero::Allowed),
    }
}

fn deliver_settings(
    Tables { streams, limits, .. }: &mut Tables<'_, '_>,
    server: &server::Settings,
    api: &api::Settings,
) -> deliver::Settings {
    use deliver::HeartbeatFormat::{Comment, Event};
    let formats = [("event", Event), ("comment", Comment)];
    deliver::Settings {
        retry: streams.range("retry", seconds(2)..seconds(5)),
        heartbeat_format: streams.choice("heartbeat_format", Event, &formats, &[]),
        message_bytes_max: limits.bytes("message_bytes", MIB, Zero::Rejected) as usize,
        pace: deliver::Pace {
            events: streams.count("pace_events", 0, Zero::Allowed),
            bytes: streams.bytes("pace_bytes", 0, Zero::Allowed),
        },
        message_timeout: api.body_timeout,
        control_rate: server.control_rate,
    }
}

fn api_settings(
    Tables { server: s, streams, limits, .. }: &mut Tables<'_, '_>,
    root: &mut Section<'_, '_>,
    server: &server::Settings,
) -> api::Settings {
    use api::SseOverload::{Retry, Status};
    let (request_rate, request_burst) = bucket(limits, "request_rate", "request_burst");
    let (publish_rate, publish_burst) = bucket(limits, "publish_rate", "publish_burst");
    let overflow = streams.choice("overflow", Overflow::Log, &policies(), &[]);
    let (collections, topics) = catalog(root, overflow);
    let streams_max = Protocol::ALL.map(|protocol| {
        let key = match protocol {
            Protocol::Sse => "max_sse",
            Protocol::Ndjson => "max_ndjson",
            Protocol::WebSocket => "max_websocket",
        };
        limits.count(key, 0, Zero::Allowed) as usize
    });
    api::Settings {
        body_bytes_max: limits.bytes("body_bytes", MIB, Zero::Rejected) as usize,
        batch_answer_bytes: limits.bytes("batch_answer_bytes", 4 * MIB, Zero::Rejected) as usize,
        body_timeout: limits.duration("body_timeout", seconds(10), Zero::Rejected),
        body_rate: limits.bytes("body_rate", 256, Zero::Allowed),
        stall_timeout: server.stall_timeout,
        batch_size_max: streams.count("batch_size_max", 1000, Zero::Rejected),
        streams_max,
        streams_per_client_max: server.connections_per_address_max,
        overflow_choices: streams.choices("overflow_choices", &policies()),
        request_rate,
        request_burst,
        publish_rate,
        publish_burst,
        sse_overload: streams.choice(
            "sse_overload",
            Retry,
            &[("retry", Retry), ("status", Status)],
            &[],
        ),
        proxies: proxies(s, server.proxy_protocol),
        collections,
        topics,
    }
}

fn catalog(
    root: &mut Section<'_, '_>,
    overflow: Overflow,
) -> (Vec<api::CollectionSettings>, Vec<api::TopicSettings>) {
    let mut names = Names::default();
    let collections: Vec<_> = match root.sections("collections") {
        Some(tables) => {
            tables.into_iter().filter_map(|s| collection(s, &mut names, overflow)).collect()
        }
        None => vec![names.default_collection(overflow)],
    };
    let topics = match root.sections("topics") {
        Some(tables) => {
            let topic = |s| topic(s, &mut names, &collections, overflow);
            tables.into_iter().filter_map(topic).collect()
        }
        None => names.default_view(&collections).into_iter().collect(),
    };
    (collections, topics)
}

fn proxies(s: &mut Section<'_, '_>, protocol: server::ProxyProtocol) -> api::Proxies {
    let listed = s.texts("proxies");
    let mut networks = Vec::new();
    for (location, text) in &listed {
        match parse_network(text) {
            Ok(network) => networks.push(network),
            Err(why) => {
                s.error_at(location, "proxies", format!("{text:?} is not a network: {why}"));
            }
        }
    }
    if protocol == server::ProxyProtocol::Required && listed.is_empty() {
        let message = "needs trusted proxies in server.proxies, because all other connections are \
                       closed; set, for example, proxies = [\"10.0.0.0/8\"]";
        s.error("proxy_protocol", message.to_owned());
    }
    let named = |field: ForwardedHeader| (field.name(), Some(field));
    let fields =
        [named(ForwardedHeader::XForwardedFor), named(ForwardedHeader::Forwarded), ("none", None)];
    let field = s.choice("forwarded", Some(ForwardedHeader::XForwardedFor), &fields, &[]);
    api::Proxies { networks, field }
}

fn policies() -> [(&'static str, Overflow); Overflow::ALL.len()] {
    Overflow::ALL.map(|overflow| (overflow.as_str(), overflow))
}

/// Reads the rate and the burst of a token bucket. If the burst is not set, it is
/// the number of tokens of one second, because a bucket with a burst of 0 would
/// reject everything.
fn bucket(s: &mut Section<'_, '_>, rate: &'static str, burst: &'static str) -> (u32, u32) {
    let (per_second, at_once) = (s.count(rate, 0, Zero::Allowed), s.count(burst, 0, Zero::Allowed));
    if per_second == 0 && at_once > 0 {
        s.error(burst, format!("has no effect without limits.{rate}; set limits.{rate} too"));
    }
    (per_second, if at_once == 0 { per_second } else { at_once })
}

fn collection(
    mut s: Section<'_, '_>,
    names: &mut Names,
    overflow: Overflow,
) -> Option<api::CollectionSettings> {
    let name = s.text("name");
    let resource = s.text("resource");
    let retention = retention(&mut s);
    let overflow = s.choice("overflow", overflow, &policies(), &[]);
    let name = names.collection(&mut s, name)?;
    let resource = names::resource(&mut s, &name, resource)?;
    Some(api::CollectionSettings { name, resource, retention, overflow })
}

fn topic(
    mut s: Section<'_, '_>,
    names: &mut Names,
    collections: &[api::CollectionSettings],
    overflow: Overflow,
) -> Option<api::TopicSettings> {
    let name = s.text("name");
    let collection = s.text("collection");
    let types = names::types(&mut s);
    let retention = retention(&mut s);
    let kinds = [("disk", log::StorageKind::Disk), ("memory", log::StorageKind::Memory)];
    let durability = s.choice("durability", log::StorageKind::Disk, &kinds, &[]);
    if s.has("collection") {
        if s.has("retention") {
            let message = "a view uses the log of its collection; set the retention there";
            s.error("retention", message.to_owned());
        }
        if s.has("durability") {
            let message = "a view uses the log of its collection, which is on disk; remove the key";
            s.error("durability", message.to_owned());
        }
    } else if !types.is_empty() {
        let message =
            "only a view can have types; set the key `collection` too, or remove this key";
        s.error("types", message.to_owned());
    }
    let collection = names.viewed(&mut s, collection);
    let viewed = collections.iter().find(|viewed| Some(&viewed.name) == collection.as_ref());
    let overflow = viewed.map_or(overflow, |viewed| viewed.overflow);
    let overflow = s.choice("overflow", overflow, &policies(), &[]);
    let name = names.topic(&mut s, name)?;
    Some(api::TopicSettings { name, collection, types, retention, overflow, durability })
}

fn retention(s: &mut Section<'_, '_>) -> Retention {
    let mut s = s.section("retention");
    Retention {
        events: s.number("events", 0),
        bytes: s.bytes("bytes", 0, Zero::Allowed),
        age: s.duration("age", Duration::ZERO, Zero::Allowed),
    }
}
