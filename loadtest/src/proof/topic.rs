//! The topics that the proofs publish to and read.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::gateway::Gateway;
use crate::http::Connection;
use crate::publisher::{self, JSON};
use crate::subscriber::{Protocol, Subscription};
use crate::subscriber_pool::SubscriberPool;

/// The name of the topic in every proof's configuration.
pub const TICKS: &str = "ticks";

/// A topic without readers.
pub const QUIET: &str = "quiet";

/// All protocols, in turn.
pub const PROTOCOLS: [Protocol; 3] = [Protocol::Sse, Protocol::Ndjson, Protocol::Ws];

/// The timeout until the gateway reports the streams as open or closed.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);

/// The most requests that wait for their head at a time.
const OPENING_MAX: usize = 256;

/// Returns how to subscribe to a topic from now on, with a position in the
/// first message.
pub fn subscription(gateway: &Gateway, topic: &str, protocol: Protocol) -> Subscription {
    let path = match protocol {
        Protocol::Sse | Protocol::Ndjson => format!("/events/{topic}"),
        // Without `from`, a WebSocket is not sent a position.
        Protocol::Ws | Protocol::Nats => format!("/events/{topic}/ws?from=now"),
    };
    Subscription { address: gateway.address(), path, protocol, after: None }
}

/// Opens subscribers of a topic over each protocol in turn.
///
/// # Errors
/// If one is refused.
pub fn mixed(gateway: &Gateway, topic: &str, count: usize) -> io::Result<SubscriberPool> {
    let subscriptions = PROTOCOLS.map(|protocol| subscription(gateway, topic, protocol));
    SubscriberPool::open_with(count, OPENING_MAX, |index| {
        subscriptions[index % subscriptions.len()].subscribe(index)
    })
}

/// Returns the epoch of a topic's log. Publishes an event without a stamp,
/// which is not counted.
///
/// # Errors
/// If the event is refused.
pub fn epoch(address: SocketAddr, topic: &str) -> io::Result<String> {
    let event = br#"{"type":"epoch","data":{}}"#;
    let response = Connection::open(address)?.post(&format!("/events/{topic}"), JSON, event)?;
    let response: serde_json::Value = serde_json::from_str(&publisher::expect_success(response)?)?;
    let id = response.get("id").and_then(|id| id.as_str()).unwrap_or_default();
    let (epoch, _) =
        id.split_once('-').ok_or_else(|| io::Error::other("the response has no id"))?;
    Ok(epoch.to_owned())
}

/// Waits until the gateway has exactly `count` open streams.
///
/// # Errors
/// If it does not within 30 s.
pub fn await_streams(gateway: &Gateway, count: usize) -> io::Result<()> {
    let deadline = Instant::now() + STREAMS_TIMEOUT;
    loop {
        let open = gateway.metrics()?.count("streamgate_connections_open", &[]).unwrap_or(0);
        if open == count as u64 {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!(
                "the gateway has {open} streams open; {count} were expected"
            )));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
