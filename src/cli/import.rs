//! `streamgate import`: a file of lines into a collection or a topic, as one
//! streamed batch, across cuts.

mod batch;
mod input;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::client::{self, Backoff, Connection, GatewayUrl};
use super::exit::{Exit, Failure};
use batch::{Batch, Tally};
use input::Input;

/// Writes each line of a file to a collection or a topic.
#[derive(Args, Clone, Debug)]
#[command(allow_missing_positional = true)]
#[command(after_help = "Examples:\n  \
    streamgate import orders orders.ndjson\n  \
    zcat orders.ndjson.gz | streamgate import orders -\n  \
    streamgate import --topic alerts alerts.ndjson\n\n\
    Each line is a write of its own; a bad one fails alone. After a cut the import\n\
    goes on behind the last line that was answered. A resource whose line was\n\
    under way then counts as already there; a line without an id, or an event of a\n\
    topic, may then be written twice.\n\n\
    Exit codes: 0 every line is there, 1 not.")]
pub(super) struct Options {
    /// The collection whose resources the lines are.
    #[arg(required_unless_present = "topic", conflicts_with = "topic")]
    collection: Option<String>,
    /// The file, one JSON object a line; - for standard input.
    file: PathBuf,
    /// In place of a collection: the topic whose events the lines are.
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
    #[command(flatten)]
    connection: Connection,
    /// Gives up after so many failures in a row.
    #[arg(long, value_name = "N", default_value_t = 20)]
    retries: u32,
    /// Longest wait for the answer to the oldest line without one.
    #[arg(skip = batch::SILENCE)]
    silence: Duration,
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let target = options.connection.target()?;
    let name = if options.file.as_os_str() == "-" {
        "standard input".to_owned()
    } else {
        options.file.display().to_string()
    };
    client::block_on(async {
        let input = Input::open(&options.file)
            .await
            .map_err(|error| Failure::new(Exit::Runtime, format!("{name}: {error}")))?;
        let progress = progress(input.bytes());
        let result = import(options, &target, input, &progress).await;
        progress.finish_and_clear();
        let (tally, stopped) = result;
        report(&name, &tally, stopped)
    })
}

/// Sends all lines, over as many connections as it takes. Gives what became
/// of them and, where that was not all, why.
async fn import(
    options: &Options,
    target: &GatewayUrl,
    input: Input,
    progress: &ProgressBar,
) -> (Tally, Option<String>) {
    let mut path = String::from("/");
    if let Some(topic) = &options.topic {
        path.push_str("events/");
        client::escape(topic, &mut path);
    } else if let Some(collection) = &options.collection {
        client::escape(collection, &mut path);
    }
    let mut batch = Batch::new(input, options.silence, progress);
    let mut backoff = Backoff::new(options.retries);
    loop {
        match batch.wait().await {
            Ok(true) => {}
            Ok(false) => return (batch.into_tally(), None),
            Err(error) => return (batch.into_tally(), Some(error.to_string())),
        }
        let answered = batch.answered();
        let stop = match batch.connected(target, &path).await {
            Ok(()) => continue,
            Err(stop) => stop,
        };
        let error = match stop {
            batch::Stop::Input(error) => return (batch.into_tally(), Some(error.to_string())),
            batch::Stop::Stream(error) => error,
        };
        if batch.answered() > answered {
            backoff.reset();
        }
        // Nothing was under way: the gateway does not wait for a slow input
        // for ever, and need not.
        if batch.is_idle() {
            continue;
        }
        let wait = if error.is_transient() { backoff.next() } else { None };
        let Some(wait) = wait else {
            return (batch.into_tally(), Some(error.to_string()));
        };
        let wait = error.after().map_or(wait, |after| after + wait);
        progress.suspend(|| {
            super::note(&format!("{error}; going on in {:.1} s", wait.as_secs_f64()));
        });
        tokio::time::sleep(wait).await;
    }
}

/// A bar on a terminal; nothing elsewhere.
fn progress(bytes: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match bytes {
        Some(bytes) => (
            ProgressBar::new(bytes),
            "{bar:30} {bytes}/{total_bytes} {msg} {bytes_per_sec} eta {eta}",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {msg} {bytes_per_sec}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Says what became of the lines.
fn report(name: &str, tally: &Tally, stopped: Option<String>) -> Result<(), Failure> {
    super::print(format!("{name}: {tally}\n").as_bytes())?;
    let mut lines: Vec<String> =
        tally.problems.iter().map(|(number, why)| format!("{name}:{number}: {why}")).collect();
    let unnamed = tally.failed - tally.problems.len() as u64;
    if unnamed > 0 {
        lines.push(format!("{name}: and {unnamed} more lines failed"));
    }
    if let Some(why) = stopped {
        lines.push(format!("{name}: stopped after {} lines: {why}", tally.answered()));
    }
    if lines.is_empty() { Ok(()) } else { Err(Failure::located(Exit::Runtime, lines)) }
}

#[cfg(test)]
mod tests;
