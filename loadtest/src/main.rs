//! Measures servers of event streams from outside: what a delivery costs them,
//! how late it is, what a connection weighs, and whether every subscriber got
//! every event, once and in order. Runs on loopback, beside [`floor`], the
//! least that a server could do.

mod clock;
mod crowd;
mod floor;
mod framing;
mod mark;
mod measure;
mod process;
mod publisher;
mod report;
mod scenario;
mod subscriber;
mod tally;
mod target;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::report::Rounds;
use crate::scenario::Scenario;

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
    /// One round, a quarter of the events.
    #[arg(long)]
    short: bool,
    /// Rounds, in place of the scenario's.
    #[arg(long)]
    repeats: Option<usize>,
    /// A Markdown file whose sections are replaced.
    #[arg(long)]
    report: Option<PathBuf>,
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
            let scenario = Scenario::read(&folder.join(format!("{name}.toml")))?;
            if !self.one(scenario)? {
                unsound.push(name);
            }
        }
        if unsound.is_empty() {
            return Ok(());
        }
        let names = unsound.join(", ");
        Err(io::Error::other(format!("not every event came once and in order: {names}")))
    }

    /// Whether every event came once and in order.
    fn one(&self, mut scenario: Scenario) -> io::Result<bool> {
        if self.short {
            scenario = scenario.shortened();
        }
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
                rounds.rounds.push(measure::measure(&scenario, &rounds.target, target)?);
            }
        }
        let short = if self.short { " --short" } else { "" };
        let command = format!("loadtest run {}{short} --repeats {repeats}", scenario.name);
        let section = report::section(&scenario, &all, &command);
        println!("{section}");
        if let Some(path) = &self.report {
            report::put(path, &section)?;
        }
        let mut samples = all.iter().flat_map(|rounds| rounds.rounds.iter().flatten());
        Ok(samples.all(|sample| sample.tally.is_whole()))
    }
}

/// Takes as many descriptors as the system gives, for this process and those
/// that it starts.
fn raise_descriptors() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(())
}
