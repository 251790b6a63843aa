//! Loads the configuration from the file, the environment and the command line.
//!
//! `tree` and `overlay` parse these three sources into one tree of values. Each
//! value has the source that set it. `section`, `read` and `names` read every known
//! key from the tree, with its type and its default, and build the settings of all
//! layers. They do not stop at the first error; they collect all errors.

mod error;
mod names;
mod overlay;
mod read;
mod section;
mod tree;
mod units;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ffi::OsString;
use std::path::Path;

pub use error::{ConfigError, Source};

use crate::server::GatewayConfig;
use section::{Diagnostics, Section};
use tree::Table;

/// Loads and checks the configuration of the gateway. This function blocks on disk
/// I/O.
///
/// The function reads three sources, and a later source overrides an earlier one:
/// 1. The file at `path`. Without a path, the defaults apply.
/// 2. The variables `STREAMGATE_SECTION__KEY` in `env`.
/// 3. The command-line flags in `sets`. Each flag has the form `key.path=value`.
///
/// # Errors
/// Returns all errors in the configuration. The errors of the file come first, in
/// the order of its lines; then the errors of the variables, by name; then the
/// errors of the flags. If the file is not TOML, only its syntax errors are
/// returned.
pub fn load(
    path: Option<&Path>,
    sets: &[String],
    env: impl Iterator<Item = (OsString, OsString)>,
) -> Result<GatewayConfig, Vec<ConfigError>> {
    let mut table = match path {
        Some(path) => tree::parse(path, &text(path).map_err(|error| vec![error])?)?,
        None => Table::new(),
    };
    let mut errors = Vec::new();
    let others = overlay::environment(&mut table, env, &mut errors);
    overlay::flags(&mut table, sets, &mut errors);
    let (config, diagnostics) = checked(&table);
    errors.extend(overlay::misspelled(others, diagnostics.known()));
    errors.extend(diagnostics.finish());
    errors.sort_by(|a, b| (&a.source, a.line).cmp(&(&b.source, b.line)));
    if errors.is_empty() { Ok(config) } else { Err(errors) }
}

fn text(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError {
        source: Source::File(path.to_owned()),
        line: None,
        key: String::new(),
        message: format!("the file cannot be read: {error}"),
    })
}

fn checked(table: &Table) -> (GatewayConfig, Diagnostics) {
    let diagnostics = RefCell::default();
    let config = read::config(&mut Section::root(table, &diagnostics));
    (config, diagnostics.into_inner())
}
