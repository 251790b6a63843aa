//! The commands of the binary. Each command has one file with its arguments, its
//! implementation and its exit codes.

mod check;
mod client;
mod completions;
mod exit;
mod healthcheck;
mod import;
mod logging;
mod man;
mod serve;
mod config_args;
mod tail;
mod verify;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::Write as _;

use clap::{Parser, Subcommand};

use exit::{Exit, Failure};

/// Serves collections of JSON resources and streams of events over HTTP: REST,
/// NDJSON, Server-Sent Events and WebSocket. Clients receive events live and can
/// resume a stream from a durable log.
///
/// Without a command, streamgate runs the command serve.
#[derive(Debug, Parser)]
#[command(name = "streamgate", version, args_conflicts_with_subcommands = true)]
#[command(after_help = "Example:\n  streamgate serve --config config.toml\n\n\
    Exit codes:\n  \
    0   the command succeeded\n  \
    1   the command failed\n  \
    2   the command line is invalid\n  \
    3   the drain reached its deadline before all writes were answered\n  \
    74  the store cannot be used or is damaged\n  \
    78  the configuration is invalid")]
struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    serve: serve::Options,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Serve(serve::Options),
    Check(check::Options),
    Verify(verify::Options),
    Import(import::Options),
    Tail(tail::Options),
    Healthcheck(healthcheck::Options),
    Completions(completions::Options),
    Man(man::Options),
}

/// Runs the command line and returns the exit code. `arguments` begin with the name
/// of the program. If the exit code is not 0, writes the reason to standard error.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    match parse(arguments).and_then(|arguments| match arguments {
        Some(arguments) => execute(arguments),
        None => Ok(()),
    }) {
        Ok(()) => 0,
        Err(failure) => failure.report(),
    }
}

/// Parses the arguments. If they request the help or the version, prints the text
/// and returns `None`.
fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<Arguments>, Failure> {
    match Arguments::try_parse_from(arguments) {
        Ok(arguments) => Ok(Some(arguments)),
        Err(error) if error.exit_code() == 0 => {
            print(error.render().to_string().as_bytes())?;
            Ok(None)
        }
        Err(error) => {
            let text = error.render().to_string();
            let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
            let reason = lines.collect::<Vec<_>>().join(" ");
            let reason = reason.strip_prefix("error: ").unwrap_or(&reason);
            Err(Failure::new(Exit::Usage, format!("{reason}; see --help")))
        }
    }
}

fn execute(arguments: Arguments) -> Result<(), Failure> {
    match arguments.verb.unwrap_or(Verb::Serve(arguments.serve)) {
        Verb::Serve(options) => serve::run(&options),
        Verb::Check(options) => check::run(&options),
        Verb::Verify(options) => verify::run(&options),
        Verb::Import(options) => import::run(&options),
        Verb::Tail(options) => tail::run(&options),
        Verb::Healthcheck(options) => healthcheck::run(&options),
        Verb::Completions(options) => completions::run(&options),
        Verb::Man(options) => man::run(&options),
    }
}

/// Writes to standard output. A closed pipe is not a failure.
fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Runtime, format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a line to standard error while a command runs.
fn note(text: &str) {
    // If standard error is closed, nobody can read the line; ignore the error.
    let _ = writeln!(std::io::stderr(), "streamgate: {text}");
}
