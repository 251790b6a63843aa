//! `streamgate verify`: reads the whole store and checks it for damage.

use std::path::Path;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::config_args::ConfigArgs;
use super::exit::{Exit, Failure};
use crate::store::{self, LogBounds, Report};

/// Reads the whole store and reports all damage. Stop the gateway before you run
/// this command.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  streamgate verify --config config.toml\n\n\
    Exit codes:\n  \
    0   the store has no damage\n  \
    74  the store is damaged or cannot be read; standard error has one line for each damage")]
pub(super) struct Options {
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let config = options.config.load()?;
    let path = &config.log.path;
    // Opening a path without a store would create a store.
    if !path.is_dir() {
        let message = format!("{}: no store found; check storage.path", path.display());
        return Err(Failure::located(Exit::Store, vec![message]));
    }
    // `indicatif` hides the bar if standard error is not a terminal.
    let template = "{bar:30} {human_pos}/{human_len} records eta {eta}";
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    let bar = ProgressBar::new(0).with_style(style);
    let report = store::verify(path, |read, all| {
        bar.set_length(all);
        bar.set_position(read);
    });
    bar.finish_and_clear();
    super::print(render(path, &report?)?.as_bytes())
}

/// Returns the text of a report without damage: one line for each log.
///
/// # Errors
/// If the store is damaged: a failure with one line for each damage.
fn render(path: &Path, report: &Report) -> Result<String, Failure> {
    let path = path.display();
    if !report.damage.is_empty() {
        let lines = report.damage.iter().map(|damage| format!("{path}: {damage}")).collect();
        return Err(Failure::located(Exit::Store, lines));
    }
    let mut lines: Vec<String> = report
        .logs
        .iter()
        .map(|log| {
            let LogBounds { head, floor, events, resources, .. } = log.position;
            let (name, epoch) = (&log.name, log.epoch);
            format!(
                "{path}: {name}: {events} event(s) from {epoch}-{floor} to {epoch}-{head}, \
                 {resources} resource(s)\n"
            )
        })
        .collect();
    lines.push(format!("{path}: no damage up to commit {}\n", report.commit));
    Ok(lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Epoch, LogId, Offset};
    use crate::store::LogReport;

    #[test]
    fn the_report_lists_the_logs_of_a_valid_store_and_the_damage_of_a_damaged_one() {
        let position = LogBounds {
            head: Offset(9),
            floor: Offset(4),
            events: 5,
            resources: 2,
            ..LogBounds::default()
        };
        let epoch = Epoch::from_bits(0);
        let log = LogReport { name: "orders".to_owned(), id: LogId(1), epoch, position };
        let mut report = Report { logs: vec![log], damage: Vec::new(), commit: 7 };
        assert_eq!(
            render(Path::new("data"), &report).unwrap(),
            "data: orders: 5 event(s) from 00000000-4 to 00000000-9, 2 resource(s)\n\
             data: no damage up to commit 7\n"
        );
        report.damage = vec!["event 6 of orders fails its checksum".to_owned()];
        let failure = render(Path::new("data"), &report).unwrap_err();
        assert_eq!(failure.exit, Exit::Store);
        assert_eq!(failure.lines, ["data: event 6 of orders fails its checksum"]);
    }

    #[test]
    fn verify_does_not_create_a_store() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("none");
        let set = format!("storage.path={}", path.display());
        let arguments = ["streamgate", "verify", "--set", &set].map(Into::into);
        assert_eq!(crate::cli::run(arguments), 74);
        assert!(!path.exists());
    }
}
