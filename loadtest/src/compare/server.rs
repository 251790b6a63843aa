//! A server that answers plain requests, of whatever kind it is.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::usage::Usage;
use super::wrk::{Load, Requests};
use crate::gateway::Gateway;
use crate::process::{Meter, Process};
use crate::report::table::{Column, Table, compared, plain};
use crate::target::Running;

/// What is told of requests.
pub const COLUMNS: &[Column] = &[
    compared("requests/s"),
    plain("p50 ms"),
    plain("p99 ms"),
    compared("server CPU µs per request"),
    plain("RSS MiB"),
];

/// A server under requests; it ends with this value.
pub struct Server {
    /// Its name in the report.
    pub name: String,
    /// The path that is asked for.
    pub path: String,
    process: Kind,
}

enum Kind {
    Gateway(Gateway),
    Process(Process),
    Target(Running),
}

impl Server {
    /// A gateway.
    pub fn gateway(name: &str, path: &str, gateway: Gateway) -> Server {
        Server { name: name.to_owned(), path: path.to_owned(), process: Kind::Gateway(gateway) }
    }

    /// Anything that was started by a command.
    pub fn process(name: &str, path: &str, process: Process) -> Server {
        Server { name: name.to_owned(), path: path.to_owned(), process: Kind::Process(process) }
    }

    /// A target of `targets.toml`, where it takes events.
    pub fn target(name: &str, running: Running) -> Server {
        let path = running.publish().to_owned();
        Server { name: name.to_owned(), path, process: Kind::Target(running) }
    }

    /// Where it takes requests.
    pub fn address(&self) -> SocketAddr {
        match &self.process {
            Kind::Gateway(gateway) => gateway.address(),
            Kind::Process(process) => process.address,
            Kind::Target(running) => running.publish_address(),
        }
    }

    /// A meter for it.
    pub fn meter(&self) -> Meter {
        match &self.process {
            Kind::Gateway(gateway) => gateway.meter(),
            Kind::Process(process) => process.meter(),
            Kind::Target(running) => running.process.meter(),
        }
    }

    /// Requests of it for so long; `script` is wrk's, for anything but a `GET`.
    pub fn load<'s>(
        &'s self,
        connections: u32,
        time: Duration,
        script: Option<&'s Path>,
    ) -> Load<'s> {
        Load { address: self.address(), path: &self.path, connections, time, script }
    }

    /// Adds a round to `row`, of what `ask` does to this server. Gives how
    /// many requests were answered, if any were made.
    ///
    /// # Errors
    /// What `ask` says.
    pub fn measure(
        &self,
        table: &mut Table,
        row: &str,
        base: Option<&str>,
        ask: impl FnOnce() -> io::Result<Option<Requests>>,
    ) -> io::Result<Option<u64>> {
        let (requests, usage) = Usage::of(self.meter(), ask)?;
        let Some(Requests { count, rate, p50, p99, failed }) = requests else { return Ok(None) };
        let rss = usage.rss_max as f64 / 1_048_576.0;
        table.add(row, base, vec![rate, p50, p99, usage.cpu_each(count), rss], failed);
        Ok(Some(count))
    }
}
