//! What is imported, and what then happens to it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::process::Command;

use hyper::Method;
use serde::Deserialize;
use serde_json::Value;

use crate::DemoError;

/// What the demo does where nothing else is asked for.
const EARTHQUAKES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/earthquakes.ndjson");

/// Earthquakes from this magnitude on get an event of their own when they are
/// reviewed; smaller ones are replaced.
const REVIEWED_MAGNITUDE: f64 = 2.5;

/// Everything that will be written.
pub struct Script {
    /// What the data is, for the first line.
    pub title: String,
    /// The collection's name.
    pub collection: String,
    /// What one of its resources is called.
    pub resource: String,
    /// The topic's name.
    pub topic: String,
    /// The resources, a JSON text each.
    pub resources: Vec<String>,
    /// What happens to them, in order.
    pub changes: Vec<Change>,
    /// The topic's events, a JSON text each.
    pub publications: Vec<String>,
}

/// One write that concerns one resource.
#[derive(Clone)]
pub struct Change {
    /// The method.
    pub method: Method,
    /// The path.
    pub path: String,
    /// JSON.
    pub body: String,
    subject: String,
}

impl Change {
    fn new(method: Method, subject: &str, path: String, body: String) -> Change {
        Change { method, path, body, subject: subject.to_owned() }
    }

    /// Which of `count` lanes it belongs to: one resource's changes share one.
    pub fn lane(&self, count: usize) -> usize {
        let mut hasher = DefaultHasher::new();
        self.subject.hash(&mut hasher);
        (hasher.finish() % count as u64) as usize
    }
}

impl Script {
    /// The orders of `DATA` and their `EVENTS`, where these are set; else
    /// the earthquakes that come with the demo.
    pub fn from_environment() -> Result<Script, DemoError> {
        let file = |name| std::env::var(name).ok().filter(|path| !path.is_empty());
        match (file("DATA"), file("EVENTS")) {
            (None, None) => earthquakes(),
            (Some(data), Some(events)) => orders(Path::new(&data), Path::new(&events)),
            _ => Err("DATA and EVENTS go together".into()),
        }
    }
}

/// A week of them as they were first reported, then what became of each.
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

/// Orders, then what was recorded of each as events that leave it as it is.
/// What concerns no known order goes to the topic.
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

/// The lines of a file, unpacked where its name ends in `.gz`.
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
