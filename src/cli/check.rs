//! `streamgate check`: checks the configuration and does not start the gateway.

use clap::Args;

use super::config_args::ConfigArgs;
use super::exit::Failure;

/// Checks the configuration and reports each error with its line and key.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  streamgate check --config config.toml\n\n\
    Exit codes:\n  \
    0   the configuration is valid\n  \
    78  the configuration is invalid; standard error has one line for each error")]
pub(super) struct Options {
    #[command(flatten)]
    source: ConfigArgs,
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let config = options.source.load()?;
    let file = match options.source.path() {
        Some(path) => path.display().to_string(),
        None => "the defaults".to_owned(),
    };
    let (collections, topics) = (config.api.collections.len(), config.api.topics.len());
    super::print(
        format!("{file}: valid, with {collections} collection(s) and {topics} topic(s)\n")
            .as_bytes(),
    )
}
