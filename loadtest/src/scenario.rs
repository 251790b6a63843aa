//! A scenario file of any kind.

use std::io;
use std::path::Path;

use crate::compare::Comparison;
use crate::measure::{self, Scenario};
use crate::proof::Proof;
use crate::report::result::ScenarioResult;
use crate::run_options::RunOptions;

/// A scenario file of any kind.
pub enum ScenarioFile {
    /// The file has a `[measure]`: deliveries or connections, for several
    /// targets.
    Measurement(Scenario),
    /// The file has a `[proof]`: bounds that hold or do not.
    Proof(Proof),
    /// The file has a `[compare]`: other figures, for several servers.
    Comparison(Comparison),
}

impl ScenarioFile {
    /// Reads a file, in its short form if `is_short`.
    ///
    /// # Errors
    /// If the file cannot be read or parsed.
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

    /// Runs the scenario.
    ///
    /// # Errors
    /// If an option does not apply to a scenario of this kind, or the scenario
    /// cannot be carried to its end.
    pub fn run(&self, options: &RunOptions) -> io::Result<ScenarioResult> {
        let (has_targets, is_proof) = match self {
            ScenarioFile::Measurement(_) => (true, false),
            ScenarioFile::Comparison(_) => (false, false),
            ScenarioFile::Proof(_) => (false, true),
        };
        refuse("--targets", !options.targets.is_empty() && !has_targets, "a [measure]")?;
        refuse("--repeats", options.repeats.is_some() && is_proof, "a [measure] or [compare]")?;
        refuse("--beside", options.beside.is_some() && is_proof, "a [measure] or [compare]")?;
        match self {
            ScenarioFile::Measurement(scenario) => measure::run(scenario, options),
            ScenarioFile::Comparison(comparison) => comparison.run(options),
            ScenarioFile::Proof(proof) => proof.run(),
        }
    }

    /// Returns the file that the section of the scenario goes to.
    pub fn page(&self) -> &Path {
        match self {
            ScenarioFile::Measurement(scenario) => &scenario.report,
            ScenarioFile::Comparison(comparison) => &comparison.report,
            ScenarioFile::Proof(proof) => &proof.page,
        }
    }
}

/// Rejects an option that the scenario would ignore.
fn refuse(option: &str, is_ignored: bool, section: &str) -> io::Result<()> {
    if is_ignored {
        return Err(io::Error::other(format!("{option} applies to scenarios with {section} only")));
    }
    Ok(())
}
