//! A scenario: what is done to which targets, and how often.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::compare::Comparison;
use crate::proof::Trial;
use crate::subscriber::Protocol;

/// The target that others are compared with.
pub const FLOOR: &str = "floor";

const FOLDER: &str = "loadtest/scenarios";

/// The names of all there are, in order.
///
/// # Errors
/// If they are not there: they are found from the project's folder.
pub fn names() -> io::Result<Vec<String>> {
    let entries = std::fs::read_dir(FOLDER).map_err(|error| {
        let hint = "run it in the project's folder";
        io::Error::new(error.kind(), format!("{FOLDER}: {error}; {hint}"))
    })?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".toml").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Where the scenario of that name is.
pub fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{name}.toml"))
}

/// A file of `loadtest/scenarios`.
pub enum File {
    /// It has a `[measure]`: numbers, to be compared.
    Measurement(Scenario),
    /// It has a `[proof]`: bounds, that hold or do not.
    Proof(Trial),
    /// It has a `[compare]`: figures of its own.
    Comparison(Comparison),
}

/// A file that holds a measurement.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name: the file's.
    #[serde(skip)]
    pub name: String,
    /// What it shows, in a sentence for the report.
    pub about: String,
    /// The file that its section goes to.
    #[serde(default = "benchmarks")]
    pub report: PathBuf,
    /// The targets, in the order of each round. `floor` among them is what
    /// the others are compared with. One that does not speak the protocol is
    /// measured over the first that it speaks.
    pub targets: Vec<String>,
    /// Rounds; each measures every target once.
    pub repeats: usize,
    /// Subscribers of the warm-up.
    pub warm_up: usize,
    /// What is measured.
    pub measure: Measure,
}

/// What is measured.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Measure {
    /// The cost and latency of deliveries, less the cost of publishing.
    Fanout(Load),
    /// The same, once alone and once beside readers that do not read.
    Stalled {
        /// How many do not read.
        stalled: usize,
        /// What the others get.
        load: Load,
    },
    /// Memory of connections that get nothing.
    Idle {
        /// How many connections.
        connections: usize,
        /// Over which protocols, one after the other.
        protocols: Vec<Protocol>,
    },
    /// Everybody comes back at once, with a position.
    Reconnect {
        /// How many come.
        clients: usize,
        /// Events that each of them has missed.
        events: u64,
        /// Bytes of an event's data.
        bytes: usize,
        /// How they come.
        protocol: Protocol,
    },
}

/// Subscribers, and what is published to them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// How events come.
    pub protocol: Protocol,
    /// How many subscribers.
    pub subscribers: usize,
    /// Bytes of an event's data.
    pub bytes: usize,
    /// Events a second, all publishers together; flat out without it.
    pub rate: Option<f64>,
    /// Events, all publishers together.
    pub events: u64,
    /// The same for targets that would take too long, or too much memory.
    #[serde(default)]
    pub events_of: BTreeMap<String, u64>,
    /// Events of a request, where a target takes several; one without it.
    pub batch: Option<u64>,
    /// How many publish.
    #[serde(default = "one")]
    pub publishers: usize,
}

fn one() -> usize {
    1
}

/// Where figures are published.
pub fn benchmarks() -> PathBuf {
    PathBuf::from("docs/benchmarks.md")
}

impl Load {
    /// The load of a target, which may have its own number of events.
    #[must_use]
    pub fn of(&self, target: &str) -> Load {
        let events = self.events_of.get(target).copied().unwrap_or(self.events);
        Load { events, ..self.clone() }
    }
}

impl File {
    /// Reads a file, in its short form where that is asked for.
    ///
    /// # Errors
    /// If it cannot be read or is none.
    pub fn read(path: &Path, is_short: bool) -> io::Result<File> {
        let named = |error: &dyn std::fmt::Display| {
            io::Error::other(format!("{}: {error}", path.display()))
        };
        let text = std::fs::read_to_string(path).map_err(|error| named(&error))?;
        let table: toml::Table = toml::from_str(&text).map_err(|error| named(&error))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if table.contains_key("proof") {
            let trial = Trial::read(name, table, is_short).map_err(|error| named(&error))?;
            return Ok(File::Proof(trial));
        }
        if table.contains_key("compare") {
            let comparison = Comparison::read(name, table, is_short);
            return Ok(File::Comparison(comparison.map_err(|error| named(&error))?));
        }
        let scenario: Scenario = toml::from_str(&text).map_err(|error| named(&error))?;
        let scenario = Scenario { name, ..scenario };
        Ok(File::Measurement(if is_short { scenario.shortened() } else { scenario }))
    }
}

impl Scenario {
    /// One round of a quarter of it: enough to see that it works, not to
    /// publish.
    #[must_use]
    fn shortened(mut self) -> Scenario {
        self.repeats = 1;
        match &mut self.measure {
            Measure::Fanout(load) | Measure::Stalled { load, .. } => {
                for events in load.events_of.values_mut().chain([&mut load.events]) {
                    *events = (*events / 4).max(10);
                }
            }
            Measure::Idle { connections, .. } => *connections = (*connections / 5).max(100),
            Measure::Reconnect { .. } => {}
        }
        self
    }
}

/// The scenarios that have the section `key`, by their files' names.
#[cfg(test)]
pub fn with(key: &str) -> Vec<(String, toml::Table)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let read = files.map(|path| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path.display().to_string(), toml::from_str::<toml::Table>(&text).unwrap())
    });
    read.filter(|(_, table)| table.contains_key(key)).collect()
}
