//! Logging to standard error.

use std::ffi::OsString;
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
    let directives = directives(std::env::var_os(VARIABLE))?;
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

/// Returns the text of the variable. Without the variable, the text is empty.
fn directives(value: Option<OsString>) -> Result<String, Failure> {
    value.unwrap_or_default().into_string().map_err(|_| {
        Failure::new(
            Exit::Config,
            format!("{VARIABLE}: the value is not valid UTF-8; use UTF-8 text"),
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn a_variable_that_is_not_utf_8_is_an_error_of_the_configuration() {
        assert_eq!(directives(None).unwrap(), "");
        assert_eq!(directives(Some("debug".into())).unwrap(), "debug");
        let failure = directives(Some(OsString::from_vec(b"\xff".to_vec()))).unwrap_err();
        assert_eq!(failure.exit, Exit::Config);
        assert_eq!(failure.lines, ["STREAMGATE_LOG: the value is not valid UTF-8; use UTF-8 text"]);
    }
}
