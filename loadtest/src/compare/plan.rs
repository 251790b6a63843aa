//! How a comparison is run.

use std::io;
use std::path::Path;

use crate::gateway::Gateway;
use crate::report::builds::BESIDE;

/// How a comparison is run.
pub struct RunPlan<'c> {
    /// The scenario.
    pub name: &'c str,
    /// How many rounds.
    pub repeats: usize,
    /// The gateway's configuration.
    pub config: &'c toml::Table,
    /// The builds, by name.
    pub programs: Vec<(&'static str, &'c Path)>,
}

impl RunPlan<'_> {
    /// Starts a gateway of each build.
    ///
    /// # Errors
    /// If one cannot be started.
    pub fn gateways(&self) -> io::Result<Vec<(&'static str, Gateway)>> {
        let start = |&(name, program)| Ok((name, Gateway::start_build(program, self.config)?));
        self.programs.iter().map(start).collect()
    }

    /// Returns whether another build is measured too. Peers are then left out.
    pub fn is_beside(&self) -> bool {
        self.programs.len() > 1
    }

    /// Says which round begins.
    pub fn announce(&self, round: usize) {
        eprintln!("{}: round {round} of {}", self.name, self.repeats);
    }

    /// What this build is held against, where the other one is there.
    pub fn other(&self, name: &str) -> Option<&'static str> {
        (self.is_beside() && name != BESIDE).then_some(BESIDE)
    }
}
