//! The settings of a measurement: which targets, what load, and how many
//! rounds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::report::page;
use crate::subscriber::Protocol;

/// The target that is this build of the gateway.
pub const GATEWAY: &str = "gateway";

/// The target that others are compared with.
pub const BASELINE: &str = "baseline";

/// A scenario file with a `[measure]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The name of the file.
    #[serde(skip)]
    pub name: String,
    /// The introduction of the section in the report.
    pub about: String,
    /// The page that the section goes to.
    #[serde(default = "page::benchmarks")]
    pub report: PathBuf,
    /// The targets, in the order of each round. Ratios refer to `baseline` if
    /// it is among them. A target without the protocol is measured over the
    /// first one that it has.
    pub targets: Vec<String>,
    /// The number of rounds. Each measures every target once.
    pub repeats: usize,
    /// The number of subscribers in the warm-up.
    pub warm_up: usize,
    /// The kind of measurement and its settings.
    pub measure: Measure,
}

/// The kind of measurement and its settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Measure {
    /// The cost and latency of deliveries, without the cost of publishing.
    Fanout(FanoutLoad),
    /// The same, first alone and then beside readers that do not read.
    Stalled {
        /// The number of readers that do not read.
        stalled: usize,
        /// The load of the other readers.
        load: FanoutLoad,
    },
    /// The memory of connections that receive no event.
    Idle {
        /// The number of connections.
        connections: usize,
        /// The protocols, measured one after the other.
        protocols: Vec<Protocol>,
    },
    /// Many clients that reconnect at once, each with a position.
    Reconnect {
        /// The number of clients.
        clients: usize,
        /// The number of events that each client has missed.
        events: u64,
        /// The size of an event's data, in bytes.
        bytes: usize,
        /// The protocol of the clients.
        protocol: Protocol,
    },
}

/// Subscribers, and what is published to them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FanoutLoad {
    /// The protocol of the subscribers.
    pub protocol: Protocol,
    /// The number of subscribers.
    pub subscribers: usize,
    /// The size of an event's data, in bytes.
    pub bytes: usize,
    /// Events a second of all publishers together. Without it, publishers send
    /// as fast as possible.
    pub rate: Option<f64>,
    /// The number of events of all publishers together.
    pub events: u64,
    /// The number of events for single targets that would need too much time or
    /// memory.
    #[serde(default)]
    pub events_of: BTreeMap<String, u64>,
    /// The number of events of a request, if the target accepts batches. Without it, one event.
    pub batch: Option<u64>,
    /// The number of publishers.
    #[serde(default = "one")]
    pub publishers: usize,
}

fn one() -> usize {
    1
}

impl FanoutLoad {
    /// Returns the load of a target, which may have its own number of events.
    #[must_use]
    pub fn of(&self, target: &str) -> FanoutLoad {
        let events = self.events_of.get(target).copied().unwrap_or(self.events);
        FanoutLoad { events, ..self.clone() }
    }
}

impl Scenario {
    /// Returns the short form: one round with a quarter of the load. It shows
    /// that the scenario works. Its figures are not for publication.
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
