//! One event a request, on disk before the response: the gateway, and other
//! servers that promise the same.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use memchr::memmem;
use serde::Deserialize;

use super::ndjson;
use super::plan::RunPlan;
use super::server::{COLUMNS, Server};
use crate::http::Connection;
use crate::publisher::{self, JSON};
use crate::report::builds::BESIDE;
use crate::report::table::Table;
use crate::run_dir;
use crate::run_options::order;
use crate::stamp::EventStamp;
use crate::target;

/// The size of the load.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Connections, each with one request at a time. Each number is a run of
    /// its own.
    connections: Vec<u32>,
    /// Connections of the warm-up, which lasts one second.
    warm_up: u32,
    /// The size of a request's body, in bytes.
    bytes: usize,
    /// The duration of each run, in seconds.
    secs: u64,
    /// Targets of `targets.toml` that take one event by `POST`.
    targets: Vec<String>,
}

const PATH: &str = "/events/ticks";

/// The number of bytes of an event without its data.
const AROUND: usize = r#"{"type":"tick","data":}"#.len();

/// Runs the comparison.
///
/// # Errors
/// If a server cannot be started, or wrk is not installed.
pub fn run(settings: &Settings, plan: &RunPlan) -> io::Result<Table> {
    let peers = if plan.is_beside() { &[] } else { settings.targets.as_slice() };
    let against = peers.first().map(String::as_str);
    let mut table = Table::new(COLUMNS, against.unwrap_or(BESIDE), "failed or lost");
    let folder = run_dir::temporary()?;
    let script = folder.path().join("post.lua");
    fs::write(&script, post(settings.bytes))?;
    let mut servers = Vec::new();
    for (name, gateway) in plan.gateways()? {
        servers.push(Server::gateway(name, PATH, gateway));
    }
    let gateways = servers.len();
    for name in peers {
        match target::named(name)?.start() {
            Ok(running) => servers.push(Server::target(name, running)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                table.leave_out(name);
            }
            Err(error) => return Err(error),
        }
    }
    let mut acknowledged = vec![0; servers.len()];
    for (server, acknowledged) in servers.iter().zip(&mut acknowledged) {
        let load = server.load(settings.warm_up, Duration::from_secs(1), Some(&script));
        *acknowledged += load.wrk()?.count;
    }
    for round in 1..=plan.repeats {
        plan.announce(round);
        for &connections in &settings.connections {
            for at in order(round, servers.len()) {
                let (server, acknowledged) = (&servers[at], &mut acknowledged[at]);
                let time = Duration::from_secs(settings.secs);
                let load = server.load(connections, time, Some(&script));
                let row = |name: &str| format!("{name}, {connections}");
                let base = against.or(plan.other(&server.name)).map(row);
                let name = row(&server.name);
                let asked =
                    server.measure(&mut table, &name, base.as_deref(), || load.wrk().map(Some))?;
                *acknowledged += asked.unwrap_or(0);
            }
        }
    }
    for (server, acknowledged) in servers.iter().zip(acknowledged).take(gateways) {
        let lost = acknowledged.saturating_sub(count(server)?);
        table.add_faults(&format!("{}, {}", server.name, settings.connections[0]), lost);
    }
    Ok(table)
}

/// Returns the number of events in the log.
fn count(server: &Server) -> io::Result<u64> {
    let last = br#"{"type":"last","data":{}}"#;
    publisher::expect_success(Connection::open(server.address())?.post(PATH, JSON, last)?)?;
    let mut count = 0;
    ndjson::read_lines(server.address(), &format!("{PATH}?from=earliest"), |line| {
        count += u64::from(memmem::find(line, br#""type":"tick""#).is_some());
        match memmem::find(line, br#""type":"last""#) {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    })?;
    Ok(count)
}

/// Returns the script for wrk. Its request is constant, so wrk builds the
/// request once and spends no time in the script.
fn post(bytes: usize) -> String {
    let mut body = Vec::new();
    let stamp = EventStamp { publisher: 0, sequence: 0, due: 0 };
    publisher::write_event(&mut body, stamp, bytes.saturating_sub(AROUND), None);
    format!(
        "wrk.method = \"POST\"\nwrk.headers[\"Content-Type\"] = \"application/json\"\n\
         wrk.body = '{}'\n",
        String::from_utf8_lossy(&body)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_posts_an_event_of_its_size() {
        let script = post(300);
        let body = script.split('\'').nth(1).unwrap();
        assert_eq!(body.len(), 300);
        assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["type"], "tick");
    }
}
