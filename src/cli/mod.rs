//! The commands of the binary: one file a verb, each with its arguments, its
//! doing and its end as an exit code.

mod check;
mod client;
mod completions;
mod exit;
mod healthcheck;
mod import;
mod logging;
mod man;
mod serve;
mod source;
mod tail;
mod verify;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::Write as _;

use clap::{Parser, Subcommand};

use exit::{Exit, Failure};

/// Puts collections of JSON resources and streams of events on the web: REST,
/// NDJSON, Server-Sent Events and WebSocket, live and resumable from a
/// durable log.
///
/// Without a verb, serves.
#[derive(Debug, Parser)]
#[command(name = "streamgate", version, args_conflicts_with_subcommands = true)]
#[command(after_help = "Example:\n  streamgate serve --config config.toml\n\n\
    Exit codes: 0 done, 1 failed, 2 usage, 3 drain deadline hit with writes unanswered,\n\
    74 store, 78 configuration.")]
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

/// Does what the command line asks for and gives the exit code. `arguments`
/// begin with the program's name. Says on standard error, in one line, why
/// the code is not zero.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    match parsed(arguments).and_then(|arguments| match arguments {
        Some(arguments) => act(arguments),
        None => Ok(()),
    }) {
        Ok(()) => 0,
        Err(failure) => failure.told(),
    }
}

/// The arguments; none where they asked for help or the version, which are
/// then printed.
fn parsed(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<Arguments>, Failure> {
    match Arguments::try_parse_from(arguments) {
        Ok(arguments) => Ok(Some(arguments)),
        Err(error) if error.exit_code() == 0 => {
            print(error.render().to_string().as_bytes())?;
            Ok(None)
        }
        Err(error) => {
            let text = error.render().to_string();
            let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
            let what = lines.collect::<Vec<_>>().join(" ");
            let what = what.strip_prefix("error: ").unwrap_or(&what);
            Err(Failure::new(Exit::Usage, format!("{what}; see --help")))
        }
    }
}

fn act(arguments: Arguments) -> Result<(), Failure> {
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

/// Writes to standard output; a reader that has gone is no failure.
fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Runtime, format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Says something on the way on standard error.
fn note(text: &str) {
    // With standard error gone there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "streamgate: {text}");
}
