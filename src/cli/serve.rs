//! `streamgate serve`: runs the gateway.

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::config_args::ConfigArgs;
use super::exit::{Exit, Failure};
use super::logging::{self, Format};
use crate::server::{self, Gateway, GatewayConfig};

/// Runs the gateway until SIGTERM or SIGINT. SIGHUP reloads the configuration.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  \
    streamgate serve --config config.toml --set server.listen=0.0.0.0:8080\n\n\
    An environment variable can set a key too: STREAMGATE_SERVER__LISTEN=0.0.0.0:8080.\n\
    STREAMGATE_LOG sets the log levels: info, or info,streamgate::log=debug.")]
pub(super) struct Options {
    #[command(flatten)]
    source: ConfigArgs,
    /// The format of log lines. Without it, the lines are text on a terminal and
    /// JSON otherwise.
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

/// Runs the gateway until SIGTERM, SIGINT or the failure of a supervised task. Then
/// the gateway drains. During the drain, SIGTERM or SIGINT ends the process at once.
async fn gateway(config: GatewayConfig, source: &ConfigArgs) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(|error| Failure::because(Exit::Runtime, &error))?;
    let gateway = Gateway::start(config).await?;
    tracing::info!(
        listen = %gateway.address(),
        admin_listen = %gateway.admin_address(),
        "serving",
    );
    tokio::select! {
        () = serve(&gateway, &mut signals, source) => {
            tracing::info!("draining; a second signal ends the process at once");
        }
        _ = gateway.failed() => {
            tracing::info!("draining after a failure; a signal ends the process at once");
        }
    }
    let end_signal = async {
        while signals.next().await == Action::Reload {
            tracing::warn!("SIGHUP is ignored while draining");
        }
    };
    tokio::select! {
        drained = gateway.drain() => Ok(drained?),
        () = end_signal => Err(Failure::new(Exit::Runtime, "ended by a second signal")),
    }
}

/// Reloads the configuration at each SIGHUP, until SIGTERM or SIGINT.
async fn serve(gateway: &Gateway, signals: &mut Signals, source: &ConfigArgs) {
    while signals.next().await == Action::Reload {
        // If the disk hangs, the reload can hang too. A signal must still end the
        // process.
        let action = tokio::select! {
            () = reload(gateway, source) => Action::Reload,
            () = signals.end() => Action::End,
        };
        if action == Action::End {
            return;
        }
    }
}

/// Reloads the configuration. If the new configuration is invalid, the gateway
/// keeps its settings.
async fn reload(gateway: &Gateway, source: &ConfigArgs) {
    let config = match source.load() {
        Ok(config) => config,
        Err(failure) => {
            for error in &failure.lines {
                tracing::error!(%error, "the configuration is invalid; no setting was changed");
            }
            return gateway.count_failed_reload();
        }
    };
    match gateway.reload(config).await {
        Ok(pending) if pending.is_empty() => tracing::info!("the configuration was reloaded"),
        Ok(pending) => {
            let keys = pending.join(", ");
            tracing::warn!(keys, "the configuration was reloaded; these keys need a restart");
        }
        Err(error) => {
            let cause = std::error::Error::source(&error);
            tracing::error!(%error, ?cause, "the reload failed; requests and streams keep the old configuration");
            gateway.count_failed_reload();
        }
    }
}

/// The action that a signal requests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    End,
    Reload,
}

/// The signals that the process handles.
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

    async fn next(&mut self) -> Action {
        tokio::select! {
            _ = self.terminate.recv() => Action::End,
            _ = self.interrupt.recv() => Action::End,
            _ = self.hangup.recv() => Action::Reload,
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
