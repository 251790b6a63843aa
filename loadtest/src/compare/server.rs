//! A server of any kind that answers requests.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::usage::Usage;
use super::wrk::{RequestLoad, RequestStats};
use crate::gateway::Gateway;
use crate::process::{Meter, Process};
use crate::report::builds::Better;
use crate::report::table::{Column, Table, compared, plain};
use crate::target::RunningTarget;

/// The columns of a comparison of requests.
pub const COLUMNS: &[Column] = &[
    compared("requests/s", Better::Higher),
    plain("p50 ms"),
    plain("p99 ms"),
    compared("server CPU µs per request", Better::Lower),
    plain("RSS MiB"),
];

/// A server under load. Dropping it ends the process.
pub struct Server {
    /// The name in the report.
    pub name: String,
    /// The path to request.
    pub path: String,
    process: ServerProcess,
}

enum ServerProcess {
    Gateway(Gateway),
    Process(Process),
    Target(RunningTarget),
}

impl Server {
    /// Wraps a gateway.
    pub fn gateway(name: &str, path: &str, gateway: Gateway) -> Server {
        Server {
            name: name.to_owned(),
            path: path.to_owned(),
            process: ServerProcess::Gateway(gateway),
        }
    }

    /// Wraps a process that was started by a command.
    pub fn process(name: &str, path: &str, process: Process) -> Server {
        Server {
            name: name.to_owned(),
            path: path.to_owned(),
            process: ServerProcess::Process(process),
        }
    }

    /// Wraps a target of `targets.toml`, with the path that takes events.
    pub fn target(name: &str, running: RunningTarget) -> Server {
        let path = running.publish().to_owned();
        Server { name: name.to_owned(), path, process: ServerProcess::Target(running) }
    }

    /// Returns the address for requests.
    pub fn address(&self) -> SocketAddr {
        match &self.process {
            ServerProcess::Gateway(gateway) => gateway.address(),
            ServerProcess::Process(process) => process.address,
            ServerProcess::Target(running) => running.publish_address(),
        }
    }

    /// Returns a meter for the process.
    pub fn meter(&self) -> Meter {
        match &self.process {
            ServerProcess::Gateway(gateway) => gateway.meter(),
            ServerProcess::Process(process) => process.meter(),
            ServerProcess::Target(running) => running.process.meter(),
        }
    }

    /// Returns a load on this server. `script` is for wrk, for anything but a
    /// `GET`.
    pub fn load<'s>(
        &'s self,
        connections: u32,
        time: Duration,
        script: Option<&'s Path>,
    ) -> RequestLoad<'s> {
        RequestLoad { address: self.address(), path: &self.path, connections, time, script }
    }

    /// Runs `ask` and adds its figures to `row`. Returns how many requests were
    /// answered. `None` if `ask` made none.
    ///
    /// # Errors
    /// The error of `ask`.
    pub fn measure(
        &self,
        table: &mut Table,
        row: &str,
        base: Option<&str>,
        ask: impl FnOnce() -> io::Result<Option<RequestStats>>,
    ) -> io::Result<Option<u64>> {
        let (requests, usage) = Usage::measure(self.meter(), ask)?;
        let Some(RequestStats { count, rate, p50, p99, failed }) = requests else {
            return Ok(None);
        };
        let rss = usage.rss_max as f64 / 1_048_576.0;
        table.add(row, base, vec![rate, p50, p99, usage.cpu_each(count), rss], failed);
        Ok(Some(count))
    }
}
