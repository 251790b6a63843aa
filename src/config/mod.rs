//! The configuration: what the file, the environment and the command line
//! ask for, checked as a whole and put together from each layer's settings.
//!
//! A text becomes a tree of values that know where they were given (`tree`,
//! `overlay`); reading the tree (`section`, `read`, `names`) asks for every
//! key by name, kind and default, and collects all faults instead of ending
//! at the first.

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

pub use fault::{Fault, Source};

use crate::{api, deliver, hub, log, server};
use section::Findings;
use tree::Table;

/// Every layer's settings. There is no other way to have one than a checked
/// configuration, so no layer checks again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Sockets.
    pub server: server::Settings,
    /// The engine.
    pub log: log::Settings,
    /// The logs: of each collection, then of each topic of its own, in the
    /// file's order.
    pub logs: Vec<log::Spec>,
    /// Fan-out.
    pub hub: hub::Settings,
    /// Streams.
    pub deliver: deliver::Settings,
    /// Requests, and the collections and topics.
    pub api: api::Settings,
}

impl Default for Config {
    /// What holds without a file: `config.toml` at the top of the repository.
    fn default() -> Config {
        checked(&Table::new()).0
    }
}

/// Reads the file at `path` (none: the defaults), lays `env`'s
/// `STREAMGATE_SECTION__KEY` variables over it and then `sets`, each
/// `key.path=value`, and checks the result. Blocks on the disk.
///
/// # Errors
/// Every fault that was found, in the order of the file, then of the
/// variables by name, then of the flags. A file that is not TOML is not
/// looked at further.
pub fn load(
    path: Option<&Path>,
    sets: &[String],
    env: impl Iterator<Item = (String, String)>,
) -> Result<Config, Vec<Fault>> {
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

fn text(path: &Path) -> Result<String, Fault> {
    std::fs::read_to_string(path).map_err(|error| Fault {
        source: Source::File(path.to_owned()),
        line: None,
        key: String::new(),
        message: format!("cannot be read: {error}"),
    })
}

fn checked(table: &Table) -> (Config, Findings) {
    let mut findings = Findings::default();
    let config = section::read(table, &mut findings, read::config);
    (config, findings)
}
