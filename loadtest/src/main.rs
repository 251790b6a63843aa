//! Measures servers of event streams from outside: what a delivery costs them,
//! how late it is, what a connection weighs, and whether every subscriber got
//! every event, once and in order. Runs on loopback, beside [`baseline`], the
//! least that a server could do. And [proves](proof) what the gateway promises
//! about overload, limits and its end.

mod bare;
mod clock;
mod compare;
mod subscriber_pool;
mod metrics_snapshot;
mod feed;
mod baseline;
mod run_dir;
mod framing;
mod gateway;
mod gateway_config;
mod http;
mod latency;
mod stamp;
mod measure;
mod nats;
mod control_message;
mod process;
mod program;
mod proof;
mod publisher;
mod report;
mod scenario;
mod scenario_files;
mod subscriber;
mod delivery_stats;
mod target;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::compare::Comparison;
use crate::measure::{Scenario, Series};
use crate::proof::Proof;
use crate::report::page;
use crate::scenario::ScenarioFile;
use crate::target::Target;

/// Load for streamgate and for what it is compared with.
#[derive(Parser)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Measures scenarios, from the top folder of the project.
    Run(Run),
    /// Serves as the baseline: one write a delivery, and nothing else.
    Baseline {
        /// Where to listen; port 0 takes a free one.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// Serves one answer to every request, on hyper, and nothing else.
    Bare {
        /// Where to listen; port 0 takes a free one.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// A file with the answer, as it would stand on the wire.
        #[arg(long)]
        answer: PathBuf,
    },
}

#[derive(Args)]
struct Run {
    /// Names of files in loadtest/scenarios; all without any.
    scenarios: Vec<String>,
    /// One round, fewer events or connections; of a proof its short form.
    #[arg(long)]
    short: bool,
    /// Series, in place of the scenarios' own; a proof has none.
    #[arg(long, requires = "scenarios")]
    repeats: Option<NonZeroUsize>,
    /// Of the targets of each scenario, only these; for those with a `[measure]`.
    #[arg(long, value_delimiter = ',', requires = "scenarios")]
    targets: Vec<String>,
    /// Another build of the gateway, to be measured beside this one; for
    /// scenarios with a `[compare]`.
    #[arg(long, requires = "scenarios")]
    beside: Option<PathBuf>,
    /// Puts each section into the file that its scenario names, in place of
    /// the one that is there.
    #[arg(long, conflicts_with = "short")]
    report: bool,
}

fn main() -> ExitCode {
    let done = match Command::parse().verb {
        Verb::Run(run) => run.all(),
        Verb::Baseline { listen } => raise_descriptors().and_then(|()| baseline::serve(listen)),
        Verb::Bare { listen, answer } => bare::serve(listen, &answer),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Run {
    fn all(&self) -> io::Result<()> {
        raise_descriptors()?;
        let known = scenario_files::names()?;
        let unknown = |name: &&String| !known.contains(name);
        if let Some(unknown) = self.scenarios.iter().find(unknown) {
            let known = known.join(", ");
            let why = format!("there is no scenario {unknown:?}; there are {known}");
            return Err(io::Error::other(why));
        }
        let names = if self.scenarios.is_empty() { known } else { self.scenarios.clone() };
        let _lock = run_dir::lock()?;
        let mut unsound = Vec::new();
        for name in names {
            let sound = match ScenarioFile::read(&scenario_files::path(&name), self.short)? {
                ScenarioFile::Measurement(scenario) => self.measure(&scenario)?,
                ScenarioFile::Proof(proof) => self.prove(&proof)?,
                ScenarioFile::Comparison(comparison) => self.compare(&comparison)?,
            };
            if !sound {
                unsound.push(name);
            }
        }
        if unsound.is_empty() {
            return Ok(());
        }
        let names = unsound.join(", ");
        Err(io::Error::other(format!(
            "an event was lost or repeated, a bound broken, or a proof not carried out: {names}"
        )))
    }

    /// Whether every event of the gateway's and the baseline's came once and in
    /// order. A peer may lose, fail, or not be there, which is told.
    fn measure(&self, scenario: &Scenario) -> io::Result<bool> {
        refuse("--beside", self.beside.is_some(), &scenario.name, "a [compare]")?;
        let repeats = self.repeats.map_or(scenario.repeats, NonZeroUsize::get);
        let known = &scenario.targets;
        if let Some(unknown) = self.targets.iter().find(|name| !known.contains(name)) {
            let (name, known) = (&scenario.name, known.join(", "));
            let why = format!("{name} has no target {unknown:?}; it has {known}");
            return Err(io::Error::other(why));
        }
        let targets = target::read(Path::new("loadtest/targets.toml"))?;
        let (mut all, mut left_out) = (Vec::new(), Vec::new());
        for name in scenario.targets.iter().filter(|name| self.wants(name)) {
            let target = targets.get(name);
            let target =
                target.ok_or_else(|| io::Error::other(format!("targets.toml has no {name:?}")))?;
            if target.is_installed() {
                all.push((target, Series::new(name, target.version.clone())));
            } else {
                left_out.push(name.clone());
            }
        }
        if all.is_empty() {
            let (name, left_out) = (&scenario.name, left_out.join(", "));
            let why = format!("{name}: not installed: {left_out}; see make peers");
            return Err(io::Error::other(why));
        }
        for round in 1..=repeats {
            for (target, rounds) in &mut all {
                eprintln!("{}: round {round} of {repeats}, {}", scenario.name, rounds.target);
                match measure::measure(scenario, &rounds.target, target) {
                    Ok(samples) => rounds.rounds.push(samples),
                    Err(error) if target.is_peer() => rounds.fail(round, &error),
                    Err(error) => return Err(error),
                }
            }
        }
        let sound = |(target, rounds): &(&Target, Series)| {
            target.is_peer() || rounds.rounds.iter().flatten().all(|s| s.stats.has_no_faults())
        };
        let is_sound = all.iter().all(sound);
        let all: Vec<Series> = all.into_iter().map(|(_, rounds)| rounds).collect();
        let short = if self.short { " --short" } else { "" };
        let mut command = format!("loadtest run {}{short} --repeats {repeats}", scenario.name);
        if !self.targets.is_empty() {
            command = format!("{command} --targets {}", self.targets.join(","));
        }
        self.publish(&scenario.report, &measure::section(scenario, &all, &left_out, &command))?;
        if let Some(chart) = measure::chart(scenario, &all).filter(|_| self.report) {
            measure::put_chart(scenario, &chart)?;
        }
        Ok(is_sound)
    }

    fn wants(&self, target: &String) -> bool {
        self.targets.is_empty() || self.targets.contains(target)
    }

    /// Whether every bound holds. A proof that cannot be carried to its end
    /// proves nothing, and keeps none of the others from being tried.
    fn prove(&self, proof: &Proof) -> io::Result<bool> {
        refuse("--beside", self.beside.is_some(), &proof.name, "a [compare]")?;
        refuse("--targets", !self.targets.is_empty(), &proof.name, "a [measure]")?;
        refuse("--repeats", self.repeats.is_some(), &proof.name, "a [measure] or [compare]")?;
        eprintln!("{}", proof.name);
        let report = match proof.run() {
            Ok(report) => report,
            Err(error) => {
                eprintln!("loadtest: {}: {error}", proof.name);
                return Ok(false);
            }
        };
        self.publish(&proof.report, &proof.section(&report))?;
        Ok(report.passed())
    }

    /// Whether nothing was lost, repeated or refused.
    fn compare(&self, comparison: &Comparison) -> io::Result<bool> {
        refuse("--targets", !self.targets.is_empty(), &comparison.name, "a [measure]")?;
        let result = comparison.run(self.repeats.map(NonZeroUsize::get), self.beside.as_deref())?;
        self.publish(&comparison.report, &result.section)?;
        Ok(result.has_no_faults)
    }

    fn publish(&self, path: &Path, section: &str) -> io::Result<()> {
        println!("{section}");
        if self.report {
            page::put(path, section)?;
        }
        Ok(())
    }
}

/// Refuses a flag that a scenario would not heed.
fn refuse(flag: &str, given: bool, name: &str, of: &str) -> io::Result<()> {
    let refused = || io::Error::other(format!("{flag} is for scenarios with {of}, not {name}"));
    if given { Err(refused()) } else { Ok(()) }
}

/// Takes as many descriptors as the system gives, for this process and those
/// that it starts.
fn raise_descriptors() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(())
}
