//! Errors in a configuration, and their source.

use std::fmt;
use std::path::PathBuf;

/// One error in a configuration. `Display` writes it as one line, for example
/// `config.toml:12: streams.heartbeat: must be greater than zero`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The source of the value.
    pub source: Source,
    /// The line in the file, from 1. It is `None` for the other sources, and for
    /// an error of the whole file.
    pub line: Option<u32>,
    /// The key as a path with dots. It is empty if the error has no key.
    pub key: String,
    /// The error and what to do.
    pub message: String,
}

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The file with this path.
    File(PathBuf),
    /// The environment variable with this name.
    Variable(String),
    /// The flag `--set` of the command line.
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
            // A quoted key can contain a line feed, and an error must be one line.
            write!(f, ": {}", self.key.escape_debug())?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ConfigError {}
