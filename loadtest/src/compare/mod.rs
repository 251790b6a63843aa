//! Comparisons: requests, batches, snapshots, resumes and scrapes. Each has
//! figures of its own. A [measurement](crate::measure) covers deliveries to
//! many.
//!
//! A scenario file with a `[compare]` table is a comparison. Its `[gateway]`
//! table is the whole configuration of the gateway, except addresses and store.
//! Keys under `[short]` replace the keys of the same name in a short run.

mod batches;
mod document;
mod get_one;
mod ingest;
mod received_set;
mod ndjson;
mod plan;
mod post_one;
mod resume;
mod scrape;
mod server;
mod snapshot;
mod subscriptions;
mod usage;
mod wrk;

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use self::plan::RunPlan;
use crate::gateway;
use crate::gateway_config::overlay;
use crate::report::builds::{BESIDE, Ratios};
use crate::report::page;
use crate::report::result::ScenarioResult;
use crate::run_options::RunOptions;

/// A scenario file with a `[compare]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// The name of the file.
    #[serde(skip)]
    pub name: String,
    /// The introduction of the section in the report.
    about: String,
    /// The page that the section goes to.
    #[serde(default = "page::benchmarks")]
    pub report: PathBuf,
    /// The number of rounds. Each measures every server once.
    repeats: usize,
    /// The kind of comparison and its settings.
    compare: ComparisonKind,
    /// The gateway's configuration.
    #[serde(default)]
    gateway: toml::Table,
}

/// The kind of comparison. Each kind has its own module.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum ComparisonKind {
    GetOne(get_one::Settings),
    PostOne(post_one::Settings),
    Ingest(ingest::Settings),
    Snapshot(snapshot::Settings),
    Resume(resume::Settings),
    Subscriptions(subscriptions::Settings),
    Scrape(scrape::Settings),
}

impl Comparison {
    /// Reads the table of a scenario file. `is_short` applies its `[short]`.
    ///
    /// # Errors
    /// If the table is no comparison.
    pub fn read(
        name: String,
        mut table: toml::Table,
        is_short: bool,
    ) -> Result<Comparison, toml::de::Error> {
        if let Some(toml::Value::Table(short)) = table.remove("short")
            && is_short
        {
            overlay(&mut table, short);
        }
        Ok(Comparison { name, ..table.try_into()? })
    }

    /// Runs the comparison.
    ///
    /// # Errors
    /// If a server cannot be started, refuses a request, or breaks off.
    pub fn run(&self, options: &RunOptions) -> io::Result<ScenarioResult> {
        let repeats = options.repeats.unwrap_or(self.repeats).max(1);
        let mut programs = vec![("gateway", Path::new(gateway::PROGRAM))];
        programs.extend(options.beside.as_deref().map(|path| (BESIDE, path)));
        let plan = RunPlan { name: &self.name, repeats, config: &self.gateway, programs };
        let mut ratios = Vec::new();
        let table = match &self.compare {
            ComparisonKind::GetOne(settings) => get_one::run(settings, &plan),
            ComparisonKind::PostOne(settings) => post_one::run(settings, &plan),
            ComparisonKind::Ingest(settings) => ingest::run(settings, &plan),
            ComparisonKind::Snapshot(settings) => snapshot::run(settings, &plan),
            ComparisonKind::Resume(settings) => resume::run(settings, &plan),
            ComparisonKind::Subscriptions(settings) => subscriptions::run(settings, &plan),
            ComparisonKind::Scrape(settings) => scrape::run(settings, &plan).map(|(table, own)| {
                ratios.push(own);
                table
            }),
        }?;
        let command = options.command(&self.name, repeats);
        let mut section = table.section(&self.name, &self.about, &command);
        let mut passed = table.has_no_faults();
        if options.beside.is_some() {
            ratios.push(Ratios::of_builds(table.builds()));
        }
        for ratios in ratios {
            section = format!("{section}\n{}", ratios.section());
            passed &= ratios.passed();
        }
        Ok(ScenarioResult { section, chart: None, passed, left_out: table.left_out().to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario_files;

    #[test]
    fn every_comparison_reads_in_both_forms() {
        let comparisons = scenario_files::with("compare");
        for (name, table) in &comparisons {
            for is_short in [false, true] {
                let read = Comparison::read(name.clone(), table.clone(), is_short);
                assert!(read.is_ok(), "{name}: {:?}", read.err());
            }
        }
        assert_eq!(comparisons.len(), 8);
    }
}
