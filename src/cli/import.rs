//! `streamgate import`: sends the lines of a file to a collection or a topic as one
//! streamed batch, and connects again after the connection is lost.

mod batch;
mod input;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::client::{self, Backoff, Connection, GatewayUrl};
use super::exit::{Exit, Failure};
use batch::{Batch, Counts, Stop};
use input::Input;

/// Writes each line of a file to a collection or a topic.
#[derive(Args, Clone, Debug)]
#[command(allow_missing_positional = true)]
#[command(after_help = "Examples:\n  \
    streamgate import orders orders.ndjson\n  \
    zcat orders.ndjson.gz | streamgate import orders -\n  \
    streamgate import --topic alerts alerts.ndjson\n\n\
    Each line is a separate write; an invalid line fails alone. After a lost connection,\n\
    the import continues after the last answered line and sends the lines without an\n\
    answer again. A resource that exists by then counts as already there. A line without\n\
    an id, or an event of a topic, may be written twice.\n\n\
    Exit codes:\n  \
    0  every line was written or was already there\n  \
    1  a line failed, or the import stopped")]
pub(super) struct Options {
    /// The collection to which the lines are written as resources.
    #[arg(conflicts_with = "topic")]
    collection: Option<String>,
    /// The file with one JSON object per line; - for standard input.
    file: PathBuf,
    /// The topic to which the lines are published as events, instead of a collection.
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
    #[command(flatten)]
    connection: Connection,
    /// Retries a failed connection at most this number of times in a row.
    #[arg(long, value_name = "N", default_value_t = 20)]
    retries: u32,
    /// The longest wait for the answer to the oldest line without an answer.
    #[arg(skip = batch::ANSWER_TIMEOUT)]
    answer_timeout: Duration,
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    // With one positional argument, clap cannot know which of the two is missing.
    if options.collection.is_none() && options.topic.is_none() {
        let one = options.file.display();
        let message = format!(
            "{one}: COLLECTION or FILE is missing; write streamgate import COLLECTION FILE"
        );
        return Err(Failure::new(Exit::Usage, message));
    }
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
        let (counts, stopped) = import(options, &target, input, &progress).await;
        progress.finish_and_clear();
        report(&name, &counts, stopped)
    })
}

/// Sends all lines of `input`, over several connections if necessary. Returns the
/// numbers of answered lines. If the import stops before the last line, also returns
/// the reason.
async fn import(
    options: &Options,
    target: &GatewayUrl,
    input: Input,
    progress: &ProgressBar,
) -> (Counts, Option<String>) {
    let mut path = String::from("/");
    if let Some(topic) = &options.topic {
        path.push_str("events/");
        client::escape(topic, &mut path);
    } else if let Some(collection) = &options.collection {
        client::escape(collection, &mut path);
    }
    let mut batch = Batch::new(input, options.answer_timeout, progress);
    let mut backoff = Backoff::new(options.retries);
    loop {
        match batch.wait().await {
            Ok(true) => {}
            Ok(false) => return (batch.into_counts(), None),
            Err(error) => return (batch.into_counts(), Some(error.to_string())),
        }
        let answered = batch.answered();
        let stop = match batch.connected(target, &path).await {
            Ok(()) => continue,
            Err(stop) => stop,
        };
        let error = match stop {
            Stop::Input(error) => return (batch.into_counts(), Some(error.to_string())),
            Stop::Stream(error) => error,
        };
        if batch.answered() > answered {
            backoff.reset();
        }
        // Every sent line has an answer. The gateway closed the connection because the input
        // is slow. This is not a failure.
        if batch.is_idle() {
            continue;
        }
        let wait = if error.is_transient() { backoff.next() } else { None };
        let Some(wait) = wait else {
            return (batch.into_counts(), Some(error.to_string()));
        };
        let wait = error.retry_after().map_or(wait, |after| after + wait);
        progress.suspend(|| {
            super::note(&format!("{error}; connecting again in {:.1} s", wait.as_secs_f64()));
        });
        tokio::time::sleep(wait).await;
    }
}

/// Returns a progress bar for an input of `bytes` bytes, or of unknown size.
/// `indicatif` hides the bar if standard error is not a terminal.
fn progress(bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match bytes {
        Some(bytes) => (
            ProgressBar::new(bytes),
            "{bar:30} {bytes}/{total_bytes} {msg} {bytes_per_sec} eta {eta}",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {msg} {bytes_per_sec}"),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("the template is valid"))
}

/// Prints the numbers of answered lines. Returns a failure if a line failed or if
/// the import stopped early.
fn report(name: &str, counts: &Counts, stopped: Option<String>) -> Result<(), Failure> {
    super::print(format!("{name}: {counts}\n").as_bytes())?;
    let mut lines: Vec<String> =
        counts.problems.iter().map(|(number, why)| format!("{name}:{number}: {why}")).collect();
    let unlisted = counts.failed - counts.problems.len() as u64;
    if unlisted > 0 {
        lines.push(format!("{name}: {unlisted} more lines failed"));
    }
    if let Some(why) = stopped {
        lines.push(format!("{name}: stopped after {} answered lines: {why}", counts.answered()));
    }
    if lines.is_empty() { Ok(()) } else { Err(Failure::located(Exit::Runtime, lines)) }
}

#[cfg(test)]
mod tests;
