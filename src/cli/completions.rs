//! `streamgate completions`: prints a completion script for a shell.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::exit::Failure;

/// Prints the completion script for a shell.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  \
    streamgate completions bash > /etc/bash_completion.d/streamgate")]
pub(super) struct Options {
    /// The shell for which the command prints the script.
    shell: Shell,
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    super::print(&script(options.shell))
}

pub(super) fn script(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut super::Arguments::command(), "streamgate", &mut text);
    text
}
