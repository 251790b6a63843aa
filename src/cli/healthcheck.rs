//! `streamgate healthcheck`: one question to a running gateway, for
//! containers whose image has no other client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;

use super::client::{self, Target};
use super::exit::{Exit, Failure};
use super::source::Source;

/// For the whole question: less than the 30 s that container runtimes wait.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks a running gateway's admin listener whether it is ready.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  streamgate healthcheck --config config.toml\n\n\
    Exit codes: 0 ready, 1 not.")]
pub(super) struct Options {
    #[command(flatten)]
    source: Source,
    /// The admin listener; without it, the configured one.
    #[arg(long, value_name = "URL")]
    admin_url: Option<String>,
    /// Asks whether the process lives, ready or not.
    #[arg(long)]
    live: bool,
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let url = match &options.admin_url {
        Some(url) => url.clone(),
        None => format!("http://{}", reachable(options.source.load()?.server.admin_listen)),
    };
    let target = Target::parse(&url)?;
    let path = if options.live { "/livez" } else { "/readyz" };
    client::block_on(async {
        let status = tokio::time::timeout(TIMEOUT, target.status(path)).await;
        let why = match status {
            Ok(Ok(status)) if status.is_success() => return Ok(()),
            Ok(Ok(status)) => format!("{path} answered {status}"),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", TIMEOUT.as_secs()),
        };
        Err(Failure::new(Exit::Runtime, format!("{url}: {why}")))
    })
}

/// The address to ask a listener at; one that listens on all is asked on
/// loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
