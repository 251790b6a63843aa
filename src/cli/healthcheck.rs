//! `streamgate healthcheck`: sends one health request to a running gateway. A
//! container can use this command if its image has no other HTTP client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;

use super::client::{self, GatewayUrl};
use super::config_args::ConfigArgs;
use super::exit::{Exit, Failure};

/// The timeout of the whole request. Container runtimes end a health check after 30
/// s, so this timeout is shorter.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Checks whether a running gateway is ready, with one request to its admin
/// listener.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  streamgate healthcheck --config config.toml\n\n\
    Exit codes:\n  \
    0  the gateway is ready\n  \
    1  the gateway is not ready, or did not answer")]
pub(super) struct Options {
    #[command(flatten)]
    config: ConfigArgs,
    /// The URL of the admin listener. Without it, the command uses the address in
    /// the configuration.
    #[arg(long, value_name = "URL")]
    admin_url: Option<String>,
    /// Checks only whether the process is alive, with /livez instead of /readyz.
    #[arg(long)]
    live: bool,
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let url = match &options.admin_url {
        Some(url) => url.clone(),
        None => format!("http://{}", reachable(options.config.load()?.server.admin_listen)),
    };
    let target = GatewayUrl::parse(&url)?;
    let path = if options.live { "/livez" } else { "/readyz" };
    client::block_on(async {
        let status = tokio::time::timeout(TIMEOUT, target.status(path)).await;
        let reason = match status {
            Ok(Ok(status)) if status.is_success() => return Ok(()),
            Ok(Ok(status)) => format!("{path} answered {status}"),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", TIMEOUT.as_secs()),
        };
        Err(Failure::new(Exit::Runtime, format!("{url}: {reason}")))
    })
}

/// Returns the address at which a client on this machine reaches a listener with
/// this `address`. If the listener accepts connections on all addresses, the result
/// is the loopback address.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
