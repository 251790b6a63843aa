//! `streamgate check`: the configuration, without running anything.

use clap::Args;

use super::exit::Failure;
use super::source::Source;

/// Checks the configuration and names each fault with its line and key.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  streamgate check --config config.toml\n\n\
    Exit codes: 0 sound, 78 with a line for each fault on standard error.")]
pub(super) struct Options {
    #[command(flatten)]
    source: Source,
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let config = options.source.load()?;
    let file = match options.source.path() {
        Some(path) => path.display().to_string(),
        None => "the defaults".to_owned(),
    };
    let (collections, topics) = (config.api.collections.len(), config.api.topics.len());
    super::print(
        format!("{file}: sound, with {collections} collection(s) and {topics} topic(s)\n")
            .as_bytes(),
    )
}
