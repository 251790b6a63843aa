//! `streamgate serve`: the gateway itself.

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::{Exit, Failure};
use super::logging::{self, Format};
use super::source::Source;
use crate::config::Config;
use crate::server::{self, Gateway, Setup};

/// Runs the gateway until SIGTERM or SIGINT.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  \
    streamgate serve --config config.toml --set server.listen=0.0.0.0:8080\n\n\
    Each key is also a variable: STREAMGATE_SERVER__LISTEN=0.0.0.0:8080.\n\
    STREAMGATE_LOG says what is logged: info, or info,streamgate::log=debug.")]
pub(super) struct Options {
    #[command(flatten)]
    source: Source,
    /// How log lines look; without it, text on a terminal and JSON otherwise.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<Format>,
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let config = options.source.load()?;
    logging::start(options.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because(Exit::Runtime, &error))?;
    runtime.block_on(gateway(config))
}

/// Serves until a signal has ended it: the first in order, the second at once.
async fn gateway(config: Config) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(|error| Failure::because(Exit::Runtime, &error))?;
    let Config { server, log, logs, hub, deliver, api, .. } = config;
    let gateway = Gateway::start(Setup { server, log, logs, hub, deliver, api }).await?;
    tracing::info!(
        listen = %gateway.address(),
        admin_listen = %gateway.admin_address(),
        "serving",
    );
    signals.next().await;
    tracing::info!("draining; a second signal ends at once");
    tokio::select! {
        drained = gateway.drain() => Ok(drained?),
        () = signals.next() => Err(Failure::new(Exit::Runtime, "ended by a second signal")),
    }
}

/// The signals that end the gateway.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one that asks for an end. A hangup does not: by default it
    /// would kill the process, and with it every write in flight.
    async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    tracing::warn!("SIGHUP is ignored: restart to read the configuration again");
                }
            }
        }
    }
}

impl From<server::Error> for Failure {
    fn from(error: server::Error) -> Failure {
        let exit = match &error {
            server::Error::Store(_) => Exit::Store,
            server::Error::Unanswered => Exit::Drain,
            server::Error::Listen(..) | server::Error::Catalog(_) => Exit::Runtime,
        };
        Failure::because(exit, &error)
    }
}
