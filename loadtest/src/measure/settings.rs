//! A measurement: what is done to which targets, and how often.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::report::page;
use crate::subscriber::Protocol;

/// The target that is this build of the gateway.
pub const GATEWAY: &str = "gateway";

/// The target that others are compared with.
pub const BASELINE: &str = "baseline";

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
    #[serde(default = "page::benchmarks")]
    pub report: PathBuf,
    /// The targets, in the order of each round. `baseline` among them is what
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
    Fanout(FanoutLoad),
    /// The same, once alone and once beside readers that do not read.
    Stalled {
        /// How many do not read.
        stalled: usize,
        /// What the others get.
        load: FanoutLoad,
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
pub struct FanoutLoad {
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

impl FanoutLoad {
    /// The load of a target, which may have its own number of events.
    #[must_use]
    pub fn of(&self, target: &str) -> FanoutLoad {
        let events = self.events_of.get(target).copied().unwrap_or(self.events);
        FanoutLoad { events, ..self.clone() }
    }
}

impl Scenario {
    /// One round of a quarter of it: enough to see that it works, not to
    /// publish.
    #[must_use]
    pub fn shortened(mut self) -> Scenario {
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
