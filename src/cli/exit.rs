//! Failures of commands, and their exit codes.

use std::error::Error;
use std::io::Write as _;

use crate::config::ConfigError;
use crate::store;

/// The exit codes other than 0. Service managers and scripts depend on them
/// (`docs/protocol.md#the-binary`). 74 and 78 are the codes of `sysexits.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// The command failed while it ran.
    Runtime = 1,
    /// The command line is invalid.
    Usage = 2,
    /// The drain reached its deadline before all writes were answered.
    Drain = 3,
    /// The store cannot be used or is damaged.
    Store = 74,
    /// The configuration is invalid.
    Config = 78,
}

/// The failure of a command.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    /// The lines for standard error, usually one.
    pub(super) lines: Vec<String>,
    /// Whether each line begins with a file name. Such a line does not begin with
    /// the program name, because editors and people expect the file name first.
    located: bool,
}

impl Failure {
    /// Returns a failure with one line.
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, lines: vec![message.into()], located: false }
    }

    /// Returns a failure with lines that each begin with a file name.
    pub(super) fn located(exit: Exit, lines: Vec<String>) -> Failure {
        Failure { exit, lines, located: true }
    }

    /// Returns a failure with the text of `error` and of all its sources, in one
    /// line.
    pub(super) fn because(exit: Exit, error: &dyn Error) -> Failure {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            message = format!("{message}: {error}");
            source = error.source();
        }
        Failure::new(exit, message.replace('\n', " "))
    }

    /// Writes the lines to standard error and returns the exit code.
    pub(super) fn report(&self) -> u8 {
        let mut err = std::io::stderr().lock();
        for line in &self.lines {
            let program = if self.located { "" } else { "streamgate: " };
            // If standard error is closed, nobody can read the line; ignore the error.
            let _ = writeln!(err, "{program}{line}");
        }
        self.exit as u8
    }
}

impl From<Vec<ConfigError>> for Failure {
    fn from(errors: Vec<ConfigError>) -> Failure {
        Failure::located(Exit::Config, errors.iter().map(ToString::to_string).collect())
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Failure {
        Failure::because(Exit::Store, &error)
    }
}
