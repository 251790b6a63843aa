//! What the process says about itself, on standard error.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use super::exit::{Exit, Failure};

/// The variable that says what is logged, as in `info,streamgate::log=debug`.
const VARIABLE: &str = "STREAMGATE_LOG";

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Starts logging: as asked, else text on a terminal and JSON otherwise.
pub(super) fn start(format: Option<Format>) -> Result<(), Failure> {
    let directives = std::env::var(VARIABLE).unwrap_or_default();
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .parse(&directives)
        .map_err(|error| Failure::new(Exit::Config, format!("{VARIABLE}: {error}")))?;
    let terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { Format::Text } else { Format::Json });
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        Format::Text => logs.with_ansi(terminal).try_init(),
        Format::Json => logs.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::new(Exit::Runtime, format!("logging: {error}")))
}
