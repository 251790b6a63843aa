//! How a comparison is run.

use std::io;
use std::path::Path;

use crate::gateway::Gateway;
use crate::report::builds::BESIDE;

/// The options of a comparison.
pub struct RunPlan<'c> {
    /// The name of the scenario.
    pub name: &'c str,
    /// The number of rounds.
    pub repeats: usize,
    /// The gateway's configuration.
    pub config: &'c toml::Table,
    /// The programs of the builds, with their names.
    pub programs: Vec<(&'static str, &'c Path)>,
}

impl RunPlan<'_> {
    /// Starts a gateway of each build.
    ///
    /// # Errors
    /// If a gateway cannot be started.
    pub fn gateways(&self) -> io::Result<Vec<(&'static str, Gateway)>> {
        let start = |&(name, program)| Ok((name, Gateway::start_build(program, self.config)?));
        self.programs.iter().map(start).collect()
    }

    /// Returns whether another build is measured too. Peers are then left out.
    pub fn is_beside(&self) -> bool {
        self.programs.len() > 1
    }

    /// Prints which round starts.
    pub fn announce(&self, round: usize) {
        eprintln!("{}: round {round} of {}", self.name, self.repeats);
    }

    /// Returns the build that the ratios of `name` refer to, if there is
    /// another one.
    pub fn other(&self, name: &str) -> Option<&'static str> {
        (self.is_beside() && name != BESIDE).then_some(BESIDE)
    }
}
