//! The command-line arguments that select the configuration.

use std::path::{Path, PathBuf};

use clap::Args;

use super::exit::Failure;
use crate::config;
use crate::server::GatewayConfig;

/// The arguments of every command that needs the configuration.
#[derive(Args, Clone, Debug)]
pub(super) struct ConfigArgs {
    /// The configuration file. Without a file, the defaults apply.
    #[arg(long, short, value_name = "FILE", env = "STREAMGATE_CONFIG")]
    config: Option<PathBuf>,
    /// Sets one key of the configuration. This value overrides the file and the
    /// environment.
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
}

impl ConfigArgs {
    /// Loads and checks the configuration.
    pub(super) fn load(&self) -> Result<GatewayConfig, Failure> {
        Ok(config::load(self.path(), &self.set, std::env::vars_os())?)
    }

    /// Returns the path of the configuration file. An empty path counts as no file,
    /// because a compose file can set `STREAMGATE_CONFIG` to an empty text.
    pub(super) fn path(&self) -> Option<&Path> {
        self.config.as_deref().filter(|path| !path.as_os_str().is_empty())
    }
}
