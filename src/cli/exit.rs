//! How a command ends when it does not end well.

use std::error::Error;
use std::io::Write as _;

use crate::config::Fault;
use crate::store;

/// The exit codes beside 0. They are a promise to service managers and
/// scripts (`docs/protocol.md#the-binary`); the upper ones are those of
/// `sysexits.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// Something failed while it ran.
    Runtime = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The drain deadline was hit with writes unanswered.
    Drain = 3,
    /// The store cannot be used or is damaged.
    Store = 74,
    /// The configuration has faults.
    Config = 78,
}

/// An end with a code that is not 0.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    /// What to say, a line each; usually one.
    pub(super) lines: Vec<String>,
    /// Whether the lines begin with a file of their own, as editors and
    /// people look for it, and not with the program's name.
    located: bool,
}

impl Failure {
    /// An end with one line to say.
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, lines: vec![message.into()], located: false }
    }

    /// An end with lines that each begin with the place they are about.
    pub(super) fn located(exit: Exit, lines: Vec<String>) -> Failure {
        Failure { exit, lines, located: true }
    }

    /// An end with an error and what lies under it, in one line.
    pub(super) fn because(exit: Exit, error: &dyn Error) -> Failure {
        let mut message = error.to_string();
        let mut under = error.source();
        while let Some(error) = under {
            message = format!("{message}: {error}");
            under = error.source();
        }
        Failure::new(exit, message.replace('\n', " "))
    }

    /// Says why on standard error and gives the code.
    pub(super) fn told(&self) -> u8 {
        let mut err = std::io::stderr().lock();
        for line in &self.lines {
            let program = if self.located { "" } else { "streamgate: " };
            // With standard error gone there is nobody left to tell.
            let _ = writeln!(err, "{program}{line}");
        }
        self.exit as u8
    }
}

impl From<Vec<Fault>> for Failure {
    fn from(faults: Vec<Fault>) -> Failure {
        Failure::located(Exit::Config, faults.iter().map(ToString::to_string).collect())
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Failure {
        Failure::because(Exit::Store, &error)
    }
}
