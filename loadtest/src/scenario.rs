//! A scenario file, of whatever kind it is.

use std::io;
use std::path::Path;

use crate::compare::Comparison;
use crate::measure::Scenario;
use crate::proof::Proof;

/// A file of `loadtest/scenarios`.
pub enum ScenarioFile {
    /// It has a `[measure]`: numbers, to be compared.
    Measurement(Scenario),
    /// It has a `[proof]`: bounds, that hold or do not.
    Proof(Proof),
    /// It has a `[compare]`: figures of its own.
    Comparison(Comparison),
}

impl ScenarioFile {
    /// Reads a file, in its short form where that is asked for.
    ///
    /// # Errors
    /// If it cannot be read or is none.
    pub fn read(path: &Path, is_short: bool) -> io::Result<ScenarioFile> {
        let named = |error: &dyn std::fmt::Display| {
            io::Error::other(format!("{}: {error}", path.display()))
        };
        let text = std::fs::read_to_string(path).map_err(|error| named(&error))?;
        let table: toml::Table = toml::from_str(&text).map_err(|error| named(&error))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if table.contains_key("proof") {
            let proof = Proof::read(name, table, is_short).map_err(|error| named(&error))?;
            return Ok(ScenarioFile::Proof(proof));
        }
        if table.contains_key("compare") {
            let comparison = Comparison::read(name, table, is_short);
            return Ok(ScenarioFile::Comparison(comparison.map_err(|error| named(&error))?));
        }
        let scenario: Scenario = toml::from_str(&text).map_err(|error| named(&error))?;
        let scenario = Scenario { name, ..scenario };
        Ok(ScenarioFile::Measurement(if is_short { scenario.shortened() } else { scenario }))
    }
}
