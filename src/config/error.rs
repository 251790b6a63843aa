//! The type of configuration errors, and the source of a wrong value.

use std::fmt;
use std::path::PathBuf;

/// One error in the configuration. `Display` writes the error as one line, for
/// example `config.toml:12: streams.heartbeat: must be greater than zero`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The source of the value that has the error.
    pub source: Source,
    /// The line number in the file; the first line is 1. It is `None` if the source
    /// is not a file, or if the error concerns the whole file.
    pub line: Option<u32>,
    /// The configuration key as a path with dots, for example `streams.heartbeat`.
    /// It is empty if the error concerns no key.
    pub key: String,
    /// The text that says what is wrong and what to do.
    pub message: String,
}

/// The source that set a configuration value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The configuration file with this path.
    File(PathBuf),
    /// The environment variable with this name.
    Variable(String),
    /// The command-line flag `--set`.
    Flag,
}

impl fmt::Display for ConfigError {
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
            // A quoted TOML key can contain a line feed, but an error must be
            // written as one line.
            write!(f, ": {}", self.key.escape_debug())?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ConfigError {}
