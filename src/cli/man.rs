//! `streamgate man`: the command line as manual pages.

use clap::{Args, CommandFactory as _};

use super::exit::{Exit, Failure};

/// Prints a manual page.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  \
    streamgate man import > /usr/local/share/man/man1/streamgate-import.1")]
pub(super) struct Options {
    /// The verb whose page it is; without one, the page of all.
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
        Some(verb) => match command.find_subcommand(verb) {
            Some(found) => found.clone(),
            None => return Err(Failure::new(Exit::Usage, format!("there is no verb {verb:?}"))),
        },
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
