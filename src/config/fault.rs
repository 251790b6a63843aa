//! What is wrong with a configuration, and where it was written.

use std::fmt;
use std::path::PathBuf;

/// One thing wrong with a configuration. Prints as one line, as in
/// `config.toml:12: streams.retry: the range ends before it starts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where the value was given.
    pub source: Source,
    /// The line in the file, from 1; none for other sources and where the
    /// file as a whole is meant.
    pub line: Option<u32>,
    /// The key as a path with dots; empty where no key is meant.
    pub key: String,
    /// What is wrong with it.
    pub message: String,
}

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// In this file.
    File(PathBuf),
    /// In the environment variable of this name.
    Variable(String),
    /// On the command line, by `--set`.
    Flag,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::File(path) => write!(f, "{}", path.display())?,
            Source::Variable(name) => write!(f, "{name}")?,
            Source::Flag => write!(f, "--set")?,
        }
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            // A quoted key may have a line feed in it; a fault is one line.
            write!(f, ": {}", self.key.escape_debug())?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Fault {}
