//! The rounds of a measurement: each measures every target once.

use std::io;
use std::path::Path;

use super::run::measure;
use super::section::{self, Series};
use super::settings::{BASELINE, GATEWAY, Scenario};
use crate::report::builds::{BESIDE, Ratios};
use crate::report::result::ScenarioResult;
use crate::run_options::{RunOptions, order};
use crate::target::{self, Target};

/// Runs a measurement.
///
/// # Errors
/// If no target is installed, or the gateway or the baseline fails. The
/// failure of a peer goes into the report.
pub fn run(scenario: &Scenario, options: &RunOptions) -> io::Result<ScenarioResult> {
    let repeats = options.repeats.unwrap_or(scenario.repeats);
    let Targets { mut all, missing, mut left_out } = Targets::select(scenario, options)?;
    for round in 1..=repeats {
        for at in order(round, all.len()) {
            let (target, series) = &mut all[at];
            eprintln!("{}: round {round} of {repeats}, {}", scenario.name, series.target);
            match measure(scenario, &series.target, target) {
                Ok(samples) => series.rounds.push(samples),
                Err(error) if target.is_peer() => series.fail(round, &error),
                Err(error) => return Err(error),
            }
        }
    }
    let has_no_faults = |(target, series): &(Target, Series)| {
        let mut samples = series.rounds.iter().flatten();
        target.is_peer() || samples.all(|sample| sample.stats.has_no_faults())
    };
    let mut passed = all.iter().all(has_no_faults);
    let all: Vec<Series> = all.into_iter().map(|(_, series)| series).collect();
    let command = options.command(&scenario.name, repeats);
    let mut section = section::section(scenario, &all, &missing, &command);
    if options.beside.is_some() {
        let builds = Ratios::of_builds(section::builds(&all));
        section = format!("{section}\n{}", builds.section());
        passed &= builds.passed();
    }
    left_out.extend(missing);
    Ok(ScenarioResult { section, chart: section::chart(scenario, &all), passed, left_out })
}

/// The targets of a run.
struct Targets {
    /// Those to measure.
    all: Vec<(Target, Series)>,
    /// Those that are not installed.
    missing: Vec<String>,
    /// Those that the options leave out.
    left_out: Vec<String>,
}

impl Targets {
    /// Selects the targets. Beside another build, peers are only measured if
    /// `--targets` names them.
    fn select(scenario: &Scenario, options: &RunOptions) -> io::Result<Targets> {
        let (name, known) = (&scenario.name, &scenario.targets);
        if let Some(unknown) = options.targets.iter().find(|target| !known.contains(target)) {
            let known = known.join(", ");
            return Err(io::Error::other(format!(
                "{name} has no target {unknown:?}; it has {known}"
            )));
        }
        let targets = target::read(Path::new("loadtest/targets.toml"))?;
        let (mut all, mut missing, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
        for name in known {
            let target = targets.get(name);
            let target = target.ok_or_else(|| {
                io::Error::other(format!("loadtest/targets.toml has no target {name:?}"))
            })?;
            let is_wanted = if options.targets.is_empty() {
                options.beside.is_none() || [GATEWAY, BASELINE].contains(&name.as_str())
            } else {
                options.targets.contains(name)
            };
            if !is_wanted {
                left_out.push(name.clone());
                continue;
            }
            if !target.is_installed() {
                missing.push(name.clone());
                continue;
            }
            all.push((target.clone(), Series::new(name, target.version.clone())));
            if let Some(other) = options.beside.as_deref().filter(|_| name == GATEWAY) {
                all.push((target.with_program(other), Series::new(BESIDE, None)));
            }
        }
        if options.beside.is_some() && !all.iter().any(|(_, series)| series.target == BESIDE) {
            let message = format!(
                "--beside compares builds of the gateway; add `gateway` to --targets of {name}"
            );
            return Err(io::Error::other(message));
        }
        if all.is_empty() {
            let message = format!(
                "no target of {name} is installed ({}); `make peers` installs them",
                missing.join(", ")
            );
            return Err(io::Error::other(message));
        }
        Ok(Targets { all, missing, left_out })
    }
}
