//! `streamgate verify`: the store, read as a whole.

use std::io::IsTerminal as _;
use std::path::Path;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::exit::{Exit, Failure};
use super::source::Source;
use crate::store::{self, Position, Report};

/// Reads the whole store and names any damage. The gateway must not be
/// running on it.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  streamgate verify --config config.toml\n\n\
    Exit codes: 0 sound, 74 with a line for each damage on standard error.")]
pub(super) struct Options {
    #[command(flatten)]
    source: Source,
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let config = options.source.load()?;
    let path = &config.log.path;
    // Opening would make one.
    if !path.is_dir() {
        let message = format!("{}: there is no store", path.display());
        return Err(Failure::located(Exit::Store, vec![message]));
    }
    let bar = bar();
    let report = store::verify(path, |read, all| {
        bar.set_length(all);
        bar.set_position(read);
    });
    bar.finish_and_clear();
    super::print(told(path, &report?)?.as_bytes())
}

/// A bar on a terminal; nothing elsewhere.
fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    match ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} records eta {eta}") {
        Ok(style) => ProgressBar::new(0).with_style(style),
        Err(_) => ProgressBar::new(0),
    }
}

/// A line for each log of a sound store.
fn told(path: &Path, report: &Report) -> Result<String, Failure> {
    let path = path.display();
    if !report.damage.is_empty() {
        let lines = report.damage.iter().map(|damage| format!("{path}: {damage}")).collect();
        return Err(Failure::located(Exit::Store, lines));
    }
    let mut lines: Vec<String> = report
        .logs
        .iter()
        .map(|log| {
            let Position { head, floor, events, resources, .. } = log.position;
            let (name, epoch) = (&log.name, log.epoch);
            format!(
                "{path}: {name}: {events} event(s) from {epoch}-{floor} to {epoch}-{head}, \
                 {resources} resource(s)\n"
            )
        })
        .collect();
    lines.push(format!("{path}: sound up to commit {}\n", report.commit));
    Ok(lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Epoch, LogId, Offset};
    use crate::store::LogReport;

    #[test]
    fn a_sound_store_is_told_log_by_log_and_a_damaged_one_by_its_damage() {
        let position = Position {
            head: Offset(9),
            floor: Offset(4),
            events: 5,
            resources: 2,
            ..Position::default()
        };
        let epoch = Epoch::from_bits(0);
        let log = LogReport { name: "orders".to_owned(), id: LogId(1), epoch, position };
        let mut report = Report { logs: vec![log], damage: Vec::new(), commit: 7 };
        assert_eq!(
            told(Path::new("data"), &report).unwrap(),
            "data: orders: 5 event(s) from 00000000-4 to 00000000-9, 2 resource(s)\n\
             data: sound up to commit 7\n"
        );
        report.damage = vec!["event 6 of orders fails its checksum".to_owned()];
        let failure = told(Path::new("data"), &report).unwrap_err();
        assert_eq!(failure.exit, Exit::Store);
        assert_eq!(failure.lines, ["data: event 6 of orders fails its checksum"]);
    }

    #[test]
    fn no_store_is_made_where_there_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("none");
        let set = format!("storage.path={}", path.display());
        let arguments = ["streamgate", "verify", "--set", &set].map(Into::into);
        assert_eq!(crate::cli::run(arguments), 74);
        assert!(!path.exists());
    }
}
