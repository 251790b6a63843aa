//! `streamgate man`: prints manual pages.

use clap::{Args, CommandFactory as _};

use super::exit::{Exit, Failure};

/// Prints a manual page.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  \
    streamgate man import > /usr/local/share/man/man1/streamgate-import.1")]
pub(super) struct Options {
    /// The command to describe. Without it, the page describes streamgate itself.
    verb: Option<String>,
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    super::print(&page(options.verb.as_deref())?)
}

pub(super) fn page(verb: Option<&str>) -> Result<Vec<u8>, Failure> {
    let mut command = super::Arguments::command();
    command.build();
    let command = match verb {
        None => command,
        Some(verb) => {
            let Some(found) = command.find_subcommand(verb) else {
                let message = format!("no command named {verb:?}; see --help for all commands");
                return Err(Failure::new(Exit::Usage, message));
            };
            found.clone()
        }
    };
    let title = command.get_display_name().unwrap_or("streamgate").to_uppercase();
    let source = concat!("streamgate ", env!("CARGO_PKG_VERSION"));
    let mut text = Vec::new();
    clap_mangen::Man::new(command)
        .title(title)
        .source(source)
        .render(&mut text)
        .map_err(|error| Failure::because(Exit::Runtime, &error))?;
    Ok(text)
}
