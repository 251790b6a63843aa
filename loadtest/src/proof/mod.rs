//! Proofs: what the gateway promises about overload, limits and its end. Each
//! has bounds that hold or do not.
//!
//! A scenario file with a `[proof]` table is a proof. Its `[gateway]` table is
//! the whole configuration of the gateway, except addresses and store. Keys
//! under `[short]` replace the keys of the same name in a short run.

mod drain;
mod policies;
mod reload;
mod reload_files;
mod slow_attacks;
mod stalled_readers;
mod storm;
mod topic;

use std::io;
use std::path::PathBuf;

use serde::Deserialize;

use crate::gateway_config;
use crate::report::proof_report::ProofReport;
use crate::report::result::ScenarioResult;

/// A scenario file with a `[proof]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The name of the file.
    #[serde(skip)]
    pub name: String,
    /// The introduction of the section in the report.
    about: String,
    /// The page that the section goes to.
    #[serde(rename = "report")]
    pub page: PathBuf,
    /// The kind of proof and its settings.
    #[serde(rename = "proof")]
    kind: ProofKind,
    /// The gateway's configuration.
    #[serde(default)]
    gateway: toml::Table,
    /// The `[short]` of the file, if this is a short run.
    #[serde(skip)]
    short: Option<toml::Table>,
}

/// The kind of proof. Each kind has its own module.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum ProofKind {
    StalledReaders(stalled_readers::Settings),
    SlowAttacks(slow_attacks::Settings),
    Drain(drain::Settings),
    Reload(reload::Settings),
    Storm(storm::Settings),
    Policies(policies::Settings),
}

impl Proof {
    /// Reads the table of a scenario file. `is_short` applies its `[short]`.
    ///
    /// # Errors
    /// If the table is no proof.
    pub fn read(
        name: String,
        mut table: toml::Table,
        is_short: bool,
    ) -> Result<Proof, toml::de::Error> {
        let short = match table.remove("short") {
            Some(toml::Value::Table(short)) if is_short => Some(short),
            _ => None,
        };
        gateway_config::overlay(&mut table, short.clone().unwrap_or_default());
        Ok(Proof { name, short, ..table.try_into()? })
    }

    /// Runs the proof.
    ///
    /// # Errors
    /// If the proof cannot be carried to its end.
    pub fn run(&self) -> io::Result<ScenarioResult> {
        eprintln!("{}", self.name);
        let report = self.report()?;
        let mut command = format!("`loadtest run {}`", self.name);
        if let Some(short) = &self.short {
            let changed = toml::Value::Table(short.clone());
            command = format!("`loadtest run {} --short`, with `{changed}`", self.name);
        }
        let section = report.section(&self.name, &self.about, &command);
        let (chart, passed, left_out) = (None, report.passed(), Vec::new());
        Ok(ScenarioResult { section, chart, passed, left_out })
    }

    fn report(&self) -> io::Result<ProofReport> {
        let gateway = &self.gateway;
        match &self.kind {
            ProofKind::StalledReaders(settings) => stalled_readers::run(settings, gateway),
            ProofKind::SlowAttacks(settings) => slow_attacks::run(settings, gateway),
            ProofKind::Drain(settings) => drain::run(settings, gateway),
            ProofKind::Reload(settings) => reload::run(settings, gateway),
            ProofKind::Storm(settings) => storm::run(settings, gateway),
            ProofKind::Policies(settings) => policies::run(settings, gateway),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario_files;

    #[test]
    fn every_proof_reads_in_both_forms() {
        let proofs = scenario_files::with("proof");
        for (name, table) in &proofs {
            for is_short in [false, true] {
                let proof = Proof::read(name.clone(), table.clone(), is_short);
                assert!(proof.is_ok(), "{name}: {:?}", proof.err());
            }
        }
        assert_eq!(proofs.len(), 6);
    }
}
