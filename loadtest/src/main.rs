//! Measures servers of event streams from outside: what a delivery costs them,
//! how late it is, what a connection weighs, and whether every subscriber got
//! every event, once and in order. Runs on loopback, beside [`floor`], the
//! least that a server could do. And [proves](proof) what the gateway promises
//! about overload, limits and its end.

mod clock;
mod crowd;
mod exposition;
mod feed;
mod floor;
mod framing;
mod gateway;
mod http;
mod latency;
mod mark;
mod measure;
mod notice;
mod process;
mod proof;
mod publisher;
mod report;
mod scenario;
mod subscriber;
mod tally;
mod target;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::proof::Trial;
use crate::report::Rounds;
use crate::scenario::{File, Scenario};

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
    /// Serves as the floor: one write a delivery, and nothing else.
    Floor {
        /// Where to listen; port 0 takes a free one.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
}

#[derive(Args)]
struct Run {
    /// Names of files in loadtest/scenarios; all without any.
    scenarios: Vec<String>,
    /// One round, a quarter of the events; of a proof its short form.
    #[arg(long)]
    short: bool,
    /// Rounds, in place of the scenario's; a proof has none.
    #[arg(long)]
    repeats: Option<usize>,
    /// Puts each section into the file that its scenario names.
    #[arg(long)]
    report: bool,
}

fn main() -> ExitCode {
    let done = match Command::parse().verb {
        Verb::Run(run) => run.all(),
        Verb::Floor { listen } => raise_descriptors().and_then(|()| floor::serve(listen)),
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
        let folder = Path::new("loadtest/scenarios");
        let mut names = self.scenarios.clone();
        if names.is_empty() {
            for entry in std::fs::read_dir(folder)? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                names.extend(name.strip_suffix(".toml").map(str::to_owned));
            }
            names.sort();
        }
        let mut unsound = Vec::new();
        for name in names {
            let sound = match File::read(&folder.join(format!("{name}.toml")), self.short)? {
                File::Measurement(scenario) => self.measure(&scenario)?,
                File::Proof(trial) => self.prove(&trial)?,
            };
            if !sound {
                unsound.push(name);
            }
        }
        if unsound.is_empty() {
            return Ok(());
        }
        let names = unsound.join(", ");
        Err(io::Error::other(format!("an event was lost or repeated, or a bound broken: {names}")))
    }

    /// Whether every event came once and in order.
    fn measure(&self, scenario: &Scenario) -> io::Result<bool> {
        let repeats = self.repeats.unwrap_or(scenario.repeats).max(1);
        let targets = target::read(Path::new("loadtest/targets.toml"))?;
        let none = |target| Rounds { target, rounds: Vec::new() };
        let mut all: Vec<Rounds> = scenario.targets.iter().cloned().map(none).collect();
        for round in 1..=repeats {
            for rounds in &mut all {
                eprintln!("{}: round {round} of {repeats}, {}", scenario.name, rounds.target);
                let target = targets.get(&rounds.target).ok_or_else(|| {
                    io::Error::other(format!("targets.toml has no {:?}", rounds.target))
                })?;
                rounds.rounds.push(measure::measure(scenario, &rounds.target, target)?);
            }
        }
        let short = if self.short { " --short" } else { "" };
        let command = format!("loadtest run {}{short} --repeats {repeats}", scenario.name);
        self.publish(&scenario.report, &report::section(scenario, &all, &command))?;
        let mut samples = all.iter().flat_map(|rounds| rounds.rounds.iter().flatten());
        Ok(samples.all(|sample| sample.tally.is_whole()))
    }

    /// Whether every bound holds. A proof that cannot be carried to its end
    /// proves nothing, and keeps none of the others from being tried.
    fn prove(&self, trial: &Trial) -> io::Result<bool> {
        eprintln!("{}", trial.name);
        let findings = match trial.run() {
            Ok(findings) => findings,
            Err(error) => {
                eprintln!("loadtest: {}: {error}", trial.name);
                return Ok(false);
            }
        };
        self.publish(&trial.report, &trial.section(&findings))?;
        Ok(findings.hold())
    }

    fn publish(&self, path: &Path, section: &str) -> io::Result<()> {
        println!("{section}");
        if self.report {
            report::put(path, section)?;
        }
        Ok(())
    }
}

/// Takes as many descriptors as the system gives, for this process and those
/// that it starts.
fn raise_descriptors() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(())
}
