//! The command `loadtest run`.

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::report::page;
use crate::report::result::ScenarioResult;
use crate::run_options::RunOptions;
use crate::scenario::ScenarioFile;
use crate::{run_dir, scenario_files};

/// The arguments of `loadtest run`.
#[derive(Args)]
pub struct Run {
    /// The scenarios, by the names of the files in loadtest/scenarios [default: all]
    scenarios: Vec<String>,
    /// Run the short form: one round, and fewer events or connections
    #[arg(long)]
    short: bool,
    /// The number of rounds, in place of the scenario's own; not for proofs
    #[arg(long, value_name = "ROUNDS", requires = "scenarios")]
    repeats: Option<NonZeroUsize>,
    /// Measure only these of the scenario's targets; for measurements of deliveries only
    #[arg(long, value_delimiter = ',', value_name = "NAMES", requires = "scenarios")]
    targets: Vec<String>,
    /// The program of another build, to be measured in the same rounds as
    /// target/release/streamgate; not for proofs
    ///
    /// The report then has the ratio of the two in each round and a verdict.
    /// Peers are left out, unless --targets names them.
    #[arg(long, value_name = "PROGRAM", requires = "scenarios", conflicts_with = "report")]
    beside: Option<PathBuf>,
    /// Replace the scenario's section in the file that the scenario names
    #[arg(long, conflicts_with = "short")]
    report: bool,
    /// With --report: replace the section even if targets were left out
    #[arg(long, requires = "report")]
    partial: bool,
}

impl Run {
    /// Runs the scenarios.
    ///
    /// # Errors
    /// If a scenario does not exist, cannot be carried to its end, or fails.
    pub fn run(self) -> io::Result<()> {
        let known = scenario_files::names()?;
        if let Some(unknown) = self.scenarios.iter().find(|name| !known.contains(name)) {
            let known = known.join(", ");
            let message = format!("there is no scenario {unknown:?}; the scenarios are {known}");
            return Err(io::Error::other(message));
        }
        let names = if self.scenarios.is_empty() { known } else { self.scenarios.clone() };
        let options = RunOptions {
            repeats: self.repeats.map(NonZeroUsize::get),
            targets: self.targets.clone(),
            beside: self.beside.clone(),
            is_short: self.short,
        };
        let _lock = run_dir::lock()?;
        let mut failed = Vec::new();
        for name in names {
            let scenario = ScenarioFile::read(&scenario_files::path(&name), self.short)?;
            match scenario.run(&options) {
                Ok(result) => {
                    println!("{}", result.section);
                    if !result.passed {
                        failed.push(name.clone());
                    }
                    if self.report {
                        self.publish(scenario.page(), &name, &result)?;
                    }
                }
                // A proof that breaks off fails, and the next scenario runs.
                Err(error) if matches!(scenario, ScenarioFile::Proof(_)) => {
                    eprintln!("loadtest: {name}: {error}");
                    failed.push(name);
                }
                Err(error) => return Err(io::Error::new(error.kind(), format!("{name}: {error}"))),
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        let names = failed.join(", ");
        Err(io::Error::other(format!(
            "failed: {names}; an event was lost or repeated, a bound does not hold, a proof broke \
             off, or this build is worse than the one beside"
        )))
    }

    /// Replaces the section of a scenario, unless the new one lacks rows.
    fn publish(&self, page: &Path, name: &str, result: &ScenarioResult) -> io::Result<()> {
        if !result.left_out.is_empty() && !self.partial {
            eprintln!(
                "loadtest: {name}: the section in {} was not replaced, since the new one lacks {}; \
                 `make peers` installs peers, `--partial` replaces it all the same",
                page.display(),
                result.left_out.join(", ")
            );
            return Ok(());
        }
        page::put(page, &result.section)?;
        match &result.chart {
            Some(chart) => page::put_chart(page, name, chart),
            None => Ok(()),
        }
    }
}
