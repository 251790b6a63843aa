//! Where a command takes the configuration from.

use std::path::{Path, PathBuf};

use clap::Args;

use super::exit::Failure;
use crate::config::{self, Config};

/// The arguments of every verb that needs the configuration.
#[derive(Args, Clone, Debug)]
pub(super) struct Source {
    /// The configuration file; without one the defaults hold.
    #[arg(long, short, value_name = "FILE", env = "STREAMGATE_CONFIG")]
    config: Option<PathBuf>,
    /// Sets one key, whatever the file or the environment say.
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
}

impl Source {
    /// Reads and checks the configuration.
    pub(super) fn load(&self) -> Result<Config, Failure> {
        // A variable that is not UTF-8 sets no key: their values are texts.
        let env = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Ok(config::load(self.path(), &self.set, env)?)
    }

    /// The file; an empty `STREAMGATE_CONFIG` is how a compose file says none.
    pub(super) fn path(&self) -> Option<&Path> {
        self.config.as_deref().filter(|path| !path.as_os_str().is_empty())
    }
}
