//! What a run changes of its scenarios.

use std::path::PathBuf;

/// The options of a run.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Rounds, in place of the scenario's own number.
    pub repeats: Option<usize>,
    /// The only targets to measure. All if empty.
    pub targets: Vec<String>,
    /// Another build of the gateway, measured in the same rounds.
    pub beside: Option<PathBuf>,
    /// Whether scenarios run in their short form.
    pub is_short: bool,
}

impl RunOptions {
    /// Returns the command that repeats a run of `scenario`, for the report.
    pub fn command(&self, scenario: &str, repeats: usize) -> String {
        let mut command = format!("loadtest run {scenario}");
        if self.is_short {
            command.push_str(" --short");
        }
        command = format!("{command} --repeats {repeats}");
        if !self.targets.is_empty() {
            command = format!("{command} --targets {}", self.targets.join(","));
        }
        if let Some(beside) = &self.beside {
            command = format!("{command} --beside {}", beside.display());
        }
        command
    }
}

/// Returns the order in which a round measures `count` targets. Every other
/// round goes backwards, so that no target always runs after the same one.
pub fn order(round: usize, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    if round.is_multiple_of(2) {
        order.reverse();
    }
    order
}
