//! The configuration from the file, the environment and the command line.
//!
//! `tree` and `overlay` parse the texts into a tree of values. Each value knows
//! the source that set it. `section`, `read` and `names` read every known key
//! from the tree with its type and default, and build the settings of all layers.
//! They collect all errors and do not stop at the first one.

mod fault;
mod names;
mod overlay;
mod read;
mod section;
mod tree;
mod units;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use fault::{ConfigError, Source};

use crate::{api, deliver, hub, log, server};
use section::Diagnostics;
use tree::Table;

/// The settings of all layers. Only a valid configuration becomes a `Config`, so
/// the layers do not check the settings again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The settings of listeners and connections.
    pub server: server::Settings,
    /// The settings of the log engine.
    pub log: log::Settings,
    /// The logs: one for each collection, then one for each topic that is not a
    /// view. They have the order of the file.
    pub logs: Vec<log::LogConfig>,
    /// The settings of the fan-out.
    pub hub: hub::Settings,
    /// The settings of streams.
    pub deliver: deliver::Settings,
    /// The settings of requests, and the collections and topics.
    pub api: api::Settings,
}

impl Default for Config {
    /// Returns the defaults. `config.toml` at the root of the repository lists
    /// them.
    fn default() -> Config {
        checked(&Table::new()).0
    }
}

/// Loads and checks the configuration. This function blocks on the disk.
///
/// The sources are the file at `path`, then the variables
/// `STREAMGATE_SECTION__KEY` in `env`, then the flags in `sets`, each
/// `key.path=value`. A later source overrides an earlier one. Without a path, the
/// defaults apply instead of a file.
///
/// # Errors
/// All errors in the configuration: the errors of the file in the order of its
/// lines, then of the variables by name, then of the flags. If the file is not
/// TOML, only its syntax errors are returned.
pub fn load(
    path: Option<&Path>,
    sets: &[String],
    env: impl Iterator<Item = (String, String)>,
) -> Result<Config, Vec<ConfigError>> {
    let mut table = match path {
        Some(path) => tree::parse(path, &text(path).map_err(|fault| vec![fault])?)?,
        None => Table::new(),
    };
    let mut faults = Vec::new();
    overlay::environment(&mut table, env, &mut faults);
    overlay::flags(&mut table, sets, &mut faults);
    let (config, findings) = checked(&table);
    faults.extend(findings.finish());
    faults.sort_by(|a, b| (&a.source, a.line).cmp(&(&b.source, b.line)));
    if faults.is_empty() { Ok(config) } else { Err(faults) }
}

fn text(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError {
        source: Source::File(path.to_owned()),
        line: None,
        key: String::new(),
        message: format!("the file cannot be read: {error}"),
    })
}

fn checked(table: &Table) -> (Config, Diagnostics) {
    let mut findings = Diagnostics::default();
    let config = section::read(table, &mut findings, read::config);
    (config, findings)
}
