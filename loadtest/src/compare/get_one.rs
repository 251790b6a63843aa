//! Requests for one resource: the gateway, and servers that send the same bytes
//! without a lookup.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::document::resource;
use super::plan::RunPlan;
use super::server::{COLUMNS, Server};
use crate::bare::CannedResponse;
use crate::http::Connection;
use crate::process::Process;
use crate::publisher::{self, JSON};
use crate::report::table::Table;
use crate::run_dir;
use crate::run_options::order;

/// The size of the load.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Connections, each with one request at a time.
    connections: u32,
    /// Connections of the warm-up, which lasts one second.
    warm_up: u32,
    /// The size of the resource, in bytes.
    bytes: usize,
    /// The duration of each run, in seconds.
    secs: u64,
}

const BARE: &str = "bare hyper";
const PATH: &str = "/orders/r1";
const LOOPBACK: &str = "127.0.0.1:0";

/// Runs the comparison.
///
/// # Errors
/// If a server cannot be started, or wrk is not installed.
pub fn run(settings: &Settings, plan: &RunPlan) -> io::Result<Table> {
    let mut table = Table::new(COLUMNS, BARE, "failed");
    let (mut servers, mut body) = (Vec::new(), Vec::new());
    resource(&mut body, 1, settings.bytes);
    for (name, gateway) in plan.gateways()? {
        let posted = Connection::open(gateway.address())?.post("/orders", JSON, &body)?;
        publisher::expect_success(posted)?;
        servers.push(Server::gateway(name, PATH, gateway));
    }
    let gateways = servers.len();
    let folder = run_dir::temporary()?;
    let answer = CannedResponse::of(servers[0].address(), PATH)?;
    servers.push(Server::process(BARE, PATH, bare(folder.path(), &answer)?));
    match nginx(folder.path(), &answer) {
        _ if plan.is_beside() => servers.truncate(gateways),
        Ok(process) => servers.push(Server::process("nginx `return`", PATH, process)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            table.leave_out("nginx");
        }
        Err(error) => return Err(error),
    }
    for server in &servers {
        server.load(settings.warm_up, Duration::from_secs(1), None).wrk()?;
    }
    let base = Some(BARE).filter(|_| !plan.is_beside());
    for round in 1..=plan.repeats {
        plan.announce(round);
        for server in order(round, servers.len()).into_iter().map(|at| &servers[at]) {
            let load = server.load(settings.connections, Duration::from_secs(settings.secs), None);
            server.measure(&mut table, &server.name, base, || load.wrk().map(Some))?;
        }
        for server in servers.iter().filter(|_| !plan.is_beside()) {
            let load = server.load(settings.connections, Duration::from_secs(settings.secs), None);
            let (row, base) = (format!("{}, oha", server.name), format!("{BARE}, oha"));
            if server.measure(&mut table, &row, Some(&base), || load.oha())?.is_none() {
                table.leave_out("oha");
                break;
            }
        }
    }
    Ok(table)
}

fn bare(folder: &Path, answer: &CannedResponse) -> io::Result<Process> {
    let file = folder.join("answer");
    answer.write(&file)?;
    let this = std::env::current_exe()?.display().to_string();
    let words = [this, "bare".to_owned(), "--answer".to_owned(), file.display().to_string()];
    Process::start(&words, &folder.join("bare"))
}

/// Starts Debian's nginx as one process without a master, so that its process
/// id is known.
fn nginx(folder: &Path, answer: &CannedResponse) -> io::Result<Process> {
    let address = TcpListener::bind(LOOPBACK)?.local_addr()?;
    let (fields, body) = answer.parts()?;
    let mut added = String::new();
    for (name, value) in &fields {
        let value = value.to_str().map_err(io::Error::other)?;
        let word = if name == "content-type" { "default_type" } else { "add_header" };
        let name = if name == "content-type" { "" } else { name.as_str() };
        let _ = writeln!(added, "{word} {name} '{value}';");
    }
    let (folder, body) = (fs::canonicalize(folder)?, String::from_utf8_lossy(&body).into_owned());
    let config = format!(
        "daemon off; master_process off; pid {0}/nginx.pid; error_log stderr;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; tcp_nodelay on;\n\
         client_body_temp_path {0}; proxy_temp_path {0}; fastcgi_temp_path {0};\n\
         uwsgi_temp_path {0}; scgi_temp_path {0};\n\
         server {{ listen {address} backlog=1024; location / {{\n{added}return 200 '{body}'; }} }} }}\n",
        folder.display()
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config)?;
    let file = file.display().to_string();
    let words = ["nginx", "-e", "stderr", "-c", &file].map(str::to_owned);
    Process::start_on(address, &words, &folder.join("nginx"))
}
