//! The data of the demo: the imported resources, and their changes.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::process::Command;

use hyper::Method;
use serde::Deserialize;
use serde_json::Value;

use crate::DemoError;

/// The data of the demo without `DATA` and `EVENTS`.
const EARTHQUAKES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/earthquakes.ndjson");

/// The magnitude from which on the review of an earthquake is posted as an event.
/// The reviews of smaller earthquakes replace the resource.
const REVIEWED_MAGNITUDE: f64 = 2.5;

/// The resources, changes and events that the demo writes.
pub struct Script {
    /// A title for the data.
    pub title: String,
    /// The name of the collection.
    pub collection: String,
    /// The name of one resource, for example `order`.
    pub resource: String,
    /// The name of the topic.
    pub topic: String,
    /// The resources, each as JSON.
    pub resources: Vec<String>,
    /// The changes to the resources, in order.
    pub changes: Vec<Change>,
    /// The events of the topic, each as JSON.
    pub publications: Vec<String>,
}

/// One write to one resource.
#[derive(Clone)]
pub struct Change {
    /// The method.
    pub method: Method,
    /// The path.
    pub path: String,
    /// The body, as JSON.
    pub body: String,
    subject: String,
}

impl Change {
    fn new(method: Method, subject: &str, path: String, body: String) -> Change {
        Change { method, path, body, subject: subject.to_owned() }
    }

    /// Returns the number of the connection for the change, below `count`. All
    /// changes of one resource use the same connection.
    pub fn lane(&self, count: usize) -> usize {
        let mut hasher = DefaultHasher::new();
        self.subject.hash(&mut hasher);
        (hasher.finish() % count as u64) as usize
    }
}

impl Script {
    /// Reads the orders of `DATA` and their `EVENTS`, if these are set.
    /// Otherwise reads the earthquakes that come with the demo.
    pub fn from_environment() -> Result<Script, DemoError> {
        let file = |name| std::env::var(name).ok().filter(|path| !path.is_empty());
        match (file("DATA"), file("EVENTS")) {
            (None, None) => earthquakes(),
            (Some(data), Some(events)) => orders(Path::new(&data), Path::new(&events)),
            _ => Err("set both DATA and EVENTS, or neither".into()),
        }
    }
}

/// Returns a week of earthquakes as they were first reported, then the changes
/// to each.
fn earthquakes() -> Result<Script, DemoError> {
    #[derive(Deserialize)]
    struct Earthquake {
        id: String,
        mag: Option<f64>,
        place: String,
        time: i64,
        updated: i64,
        felt: Option<u32>,
        status: String,
    }
    let mut script = Script {
        title: "a week of earthquakes (USGS, February 2018)".to_owned(),
        collection: "earthquakes".to_owned(),
        resource: "earthquake".to_owned(),
        topic: "felt".to_owned(),
        resources: Vec::new(),
        changes: Vec::new(),
        publications: Vec::new(),
    };
    let mut timed = Vec::new();
    for line in lines(Path::new(EARTHQUAKES))? {
        let quake: Earthquake = serde_json::from_str(&line)?;
        let Earthquake { id, mag, place, time, updated, felt, status } = quake;
        let first = line
            .replace(&format!("\"updated\":{updated}"), &format!("\"updated\":{time}"))
            .replace("\"status\":\"reviewed\"", "\"status\":\"automatic\"");
        script.resources.push(first);
        let path = format!("/earthquakes/{id}");
        let change = match (status.as_str(), mag) {
            ("reviewed", Some(mag)) if mag >= REVIEWED_MAGNITUDE => {
                let data = format!("{{\"status\":\"reviewed\",\"updated\":{updated}}}");
                let body = format!("{{\"type\":\"earthquake-reviewed\",\"data\":{data}}}");
                Change::new(Method::POST, &id, format!("{path}/events"), body)
            }
            ("reviewed", _) => Change::new(Method::PUT, &id, path, line),
            _ => Change::new(Method::PATCH, &id, path, format!("{{\"updated\":{updated}}}")),
        };
        timed.push((updated, change));
        if let Some(felt) = felt {
            let place = Value::from(place);
            script.publications.push(format!(
                "{{\"type\":\"felt\",\"subject\":\"{id}\",\"data\":{{\"people\":{felt},\"place\":{place}}}}}"
            ));
        }
    }
    timed.sort_by_key(|(updated, _)| *updated);
    script.changes = timed.into_iter().map(|(_, change)| change).collect();
    Ok(script)
}

/// Returns orders, then their recorded events, which do not change the orders.
/// Events of unknown orders go to the topic.
fn orders(data: &Path, events: &Path) -> Result<Script, DemoError> {
    #[derive(Deserialize)]
    struct Order {
        id: String,
    }
    #[derive(Deserialize)]
    struct Event {
        r#type: String,
        order_id: Option<String>,
    }
    let resources = lines(data)?;
    let mut known = std::collections::HashSet::new();
    for line in &resources {
        known.insert(serde_json::from_str::<Order>(line)?.id);
    }
    let (mut changes, mut publications) = (Vec::new(), Vec::new());
    for line in lines(events)? {
        let Event { r#type, order_id } = serde_json::from_str(&line)?;
        let body = format!("{{\"type\":\"{type}\",\"data\":{line}}}");
        match order_id.filter(|id| known.contains(id)) {
            Some(id) => {
                let path = format!("/orders/{id}/events?merge=false");
                changes.push(Change::new(Method::POST, &id, path, body));
            }
            None => publications.push(body),
        }
    }
    Ok(Script {
        title: format!("the orders of {} and their events", data.display()),
        collection: "orders".to_owned(),
        resource: "order".to_owned(),
        topic: "stock-events".to_owned(),
        resources,
        changes,
        publications,
    })
}

/// Reads the lines of a file, unpacked if its name ends in `.gz`.
fn lines(path: &Path) -> Result<Vec<String>, DemoError> {
    let named = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let text = if path.extension().is_some_and(|extension| extension == "gz") {
        let unpacked = Command::new("gzip").arg("-dc").arg(path).output()?;
        if !unpacked.status.success() {
            return Err(named(&String::from_utf8_lossy(&unpacked.stderr)).into());
        }
        unpacked.stdout
    } else {
        std::fs::read(path).map_err(|error| named(&error))?
    };
    Ok(String::from_utf8(text)?.lines().map(str::to_owned).collect())
}
