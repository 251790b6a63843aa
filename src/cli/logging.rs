//! Logging to standard error.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use super::exit::{Exit, Failure};

/// The environment variable that sets the log levels, for example
/// `info,streamgate::log=debug`.
const VARIABLE: &str = "STREAMGATE_LOG";

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging in `format`. If `format` is `None`, the log lines are text on a
/// terminal and JSON otherwise.
pub(super) fn start(format: Option<Format>) -> Result<(), Failure> {
    let directives = std::env::var(VARIABLE).unwrap_or_default();
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .parse(&directives)
        .map_err(|error| {
            let example = "write levels such as info or info,streamgate::log=debug";
            Failure::new(Exit::Config, format!("{VARIABLE}: {error}; {example}"))
        })?;
    let terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { Format::Text } else { Format::Json });
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        Format::Text => logs.with_ansi(terminal).try_init(),
        Format::Json => logs.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::new(Exit::Runtime, format!("cannot start logging: {error}")))
}
