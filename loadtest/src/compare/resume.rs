//! A client that resumes one resource of a long log.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use memchr::memmem;
use serde::Deserialize;

use super::batches::Batches;
use super::document::resource;
use super::plan::RunPlan;
use super::usage::{self, Usage};
use crate::gateway::Gateway;
use crate::http::Connection;
use crate::latency;
use crate::publisher::{self, JSON};
use crate::report::builds::Better;
use crate::report::table::{Column, Table, compared, plain};
use crate::run_options::order;

/// The size of the load.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The number of events of the long log.
    events: u64,
    /// The number of events of the short log.
    few: u64,
    /// The number of resources that are resumed, each once in every round and log.
    resumed: u64,
    /// The size of a resource, in bytes.
    bytes: usize,
}

const COLUMNS: &[Column] = &[
    compared("p50 ms", Better::Lower),
    compared("p99 ms", Better::Lower),
    plain("max ms"),
    compared("CPU µs per resume", Better::Lower),
];

/// The timeout for an event that is in the log.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the comparison.
///
/// # Errors
/// If a gateway cannot be started, or sends another event than the one that is
/// due.
pub fn run(settings: &Settings, plan: &RunPlan) -> io::Result<Table> {
    let name = |events: u64| format!("{events} events");
    let mut table = Table::new(COLUMNS, "short log", "failed");
    let mut logs = Vec::new();
    for events in [settings.events, settings.few] {
        for (build, gateway) in plan.gateways()? {
            let start = settings.fill(&gateway, events)?;
            usage::wait_until_idle(gateway.meter())?;
            let of = |events| format!("{build}, {}", name(events));
            logs.push((of(events), of(settings.few), gateway, start));
        }
    }
    for round in 1..=plan.repeats {
        plan.announce(round);
        for at in order(round, logs.len()) {
            let (row, base, gateway, start) = &logs[at];
            let (took, usage) = Usage::measure(gateway.meter(), || {
                let resume = |number| resume(gateway.address(), number, start);
                (0..settings.resumed).map(resume).collect::<io::Result<Vec<Duration>>>()
            })?;
            let latency = latency::from_values(took.iter().map(|took| took.as_nanos() as u64));
            let at = |quantile| latency::ms(&latency, quantile);
            let figures = vec![at(0.5), at(0.99), at(1.0), usage.cpu_each(settings.resumed)];
            table.add(row, Some(base), figures, 0);
        }
    }
    Ok(table)
}

impl Settings {
    /// Fills a log: first the resources that get another event at the end, then
    /// all others, then those events. Returns the id between the first two
    /// parts.
    fn fill(&self, gateway: &Gateway, events: u64) -> io::Result<String> {
        let address = gateway.address();
        let batches = Batches::of_orders(address);
        let line = |out: &mut Vec<u8>, number| resource(out, number, self.bytes);
        batches.send(0..self.resumed, line)?;
        let mut connection = Connection::open(address)?;
        let start = touch(&mut connection, 0)?;
        batches.send(self.resumed..events.saturating_sub(self.resumed + 1), line)?;
        for number in 0..self.resumed {
            touch(&mut connection, number)?;
        }
        Ok(start)
    }
}

/// Appends an event of a resource and returns its id.
fn touch(connection: &mut Connection, number: u64) -> io::Result<String> {
    let event = br#"{"type":"order-touched","data":{"touched":true}}"#;
    let response = connection.post(&format!("/orders/r{number}/events"), JSON, event)?;
    let response: serde_json::Value = serde_json::from_str(&publisher::expect_success(response)?)?;
    let id = response.get("id").and_then(|id| id.as_str());
    id.map(str::to_owned).ok_or_else(|| io::Error::other("the response has no id"))
}

/// Requests the events of a resource after `start`. Returns the time to the
/// first of them.
fn resume(address: SocketAddr, number: u64, start: &str) -> io::Result<Duration> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let request = format!(
        "GET /orders/r{number}/events HTTP/1.1\r\nHost: {address}\r\n\
         Accept: text/event-stream\r\nLast-Event-ID: {start}\r\n\r\n"
    );
    let begun = Instant::now();
    socket.write_all(request.as_bytes())?;
    let (mut bytes, mut received) = (vec![0; 16 * 1024], Vec::new());
    let mut took = None;
    loop {
        let read = socket.read(&mut bytes)?;
        received.extend_from_slice(&bytes[..read]);
        if let Some(at) = memmem::find(&received, b"event: order-") {
            let took = *took.get_or_insert_with(|| begun.elapsed());
            if let Some(end) = memmem::find(&received[at..], b"\n\n") {
                let event = String::from_utf8_lossy(&received[at..at + end]).into_owned();
                let is_due = event.starts_with("event: order-touched\n")
                    && event.contains(&format!("\"orderId\":\"r{number}\""));
                return if is_due { Ok(took) } else { Err(io::Error::other(event)) };
            }
        }
        if read == 0 {
            return Err(io::Error::other(String::from_utf8_lossy(&received).into_owned()));
        }
    }
}
