//! `streamgate serve`: the gateway itself.

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::{Exit, Failure};
use super::logging::{self, Format};
use super::source::Source;
use crate::config::Config;
use crate::server::{self, Gateway, Setup};

/// Runs the gateway until SIGTERM or SIGINT; SIGHUP reads the configuration again.
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
    runtime.block_on(gateway(config, &options.source))
}

/// Serves until a signal or the failure of a supervised task has ended it in
/// order, or a further signal at once.
async fn gateway(config: Config, source: &Source) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(|error| Failure::because(Exit::Runtime, &error))?;
    let gateway = Gateway::start(setup(config)).await?;
    tracing::info!(
        listen = %gateway.address(),
        admin_listen = %gateway.admin_address(),
        "serving",
    );
    tokio::select! {
        () = serve(&gateway, &mut signals, source) => {
            tracing::info!("draining; a second signal ends at once");
        }
        _ = gateway.failed() => tracing::info!("draining after a failure; a signal ends at once"),
    }
    let again = async {
        while signals.next().await == Asked::Reload {
            tracing::warn!("SIGHUP is ignored while draining");
        }
    };
    tokio::select! {
        drained = gateway.drain() => Ok(drained?),
        () = again => Err(Failure::new(Exit::Runtime, "ended by a second signal")),
    }
}

/// Reloads on SIGHUP, until a signal asks for the end.
async fn serve(gateway: &Gateway, signals: &mut Signals, source: &Source) {
    while signals.next().await == Asked::Reload {
        // With a disk that hangs, a reload may never end; the process must.
        let asked = tokio::select! {
            () = reload(gateway, source) => Asked::Reload,
            () = signals.end() => Asked::End,
        };
        if asked == Asked::End {
            return;
        }
    }
}

fn setup(config: Config) -> Setup {
    let Config { server, log, logs, hub, deliver, api, .. } = config;
    Setup { server, log, logs, hub, deliver, api }
}

/// Reads the configuration again. One with a fault changes nothing: the
/// gateway goes on with what it has.
async fn reload(gateway: &Gateway, source: &Source) {
    let config = match source.load() {
        Ok(config) => config,
        Err(failure) => {
            for fault in &failure.lines {
                tracing::error!(%fault, "the configuration is faulty; nothing was changed");
            }
            return gateway.reload_was_faulty();
        }
    };
    match gateway.reload(setup(config)).await {
        Ok(waiting) if waiting.is_empty() => tracing::info!("the configuration was read again"),
        Ok(waiting) => {
            let keys = waiting.join(", ");
            tracing::warn!(keys, "the configuration was read again; these keys wait for a restart");
        }
        Err(error) => {
            let cause = std::error::Error::source(&error);
            tracing::error!(%error, ?cause, "the configuration was not taken; nothing was changed");
            gateway.reload_was_faulty();
        }
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    End,
    Reload,
}

/// The signals that the gateway hears.
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

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

impl From<server::Error> for Failure {
    fn from(error: server::Error) -> Failure {
        let exit = match &error {
            server::Error::Store(_) => Exit::Store,
            server::Error::Unanswered => Exit::Drain,
            server::Error::Listen(..)
            | server::Error::Catalog(_)
            | server::Error::Log(_)
            | server::Error::Task(_) => Exit::Runtime,
        };
        Failure::because(exit, &error)
    }
}
