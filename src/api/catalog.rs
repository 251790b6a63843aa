//! What can be asked for by name: collections, topics, and views.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::Settings;
use crate::event::{EventType, InvalidName};
use crate::hub::Overflow;
use crate::log::{Engine, Log, LogConfig, StorageKind};
use crate::wire::{Filter, LogKind};

/// A collection that is served.
#[derive(Clone)]
pub struct Collection {
    /// Its log.
    pub log: Arc<Log>,
    /// What happens to a client that does not keep up.
    pub overflow: Overflow,
}

/// A topic that is served.
#[derive(Clone)]
pub struct Topic {
    /// Its name, which a view does not share with its log.
    pub name: String,
    /// Its own log, or that of the collection it is a view of.
    pub log: Arc<Log>,
    /// The types a view shows; all if there are none.
    pub types: Arc<[EventType]>,
    /// Whether it shows another's events, and so takes none.
    pub view: bool,
    /// What happens to a client that does not keep up.
    pub overflow: Overflow,
}

impl Topic {
    /// What of its log it shows.
    pub fn filter(&self) -> Filter {
        Filter::new(self.types.to_vec(), Vec::new())
    }
}

/// All that is served, by name.
pub struct Catalog {
    collections: HashMap<String, Collection>,
    topics: HashMap<String, Topic>,
}

/// A configured name that the engine has no log for: it was opened with other
/// specs than [`Settings::specs`] gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoLog(
    /// The name.
    pub String,
);

impl fmt::Display for NoLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the engine has no log for {:?}; open it with the same settings", self.0)
    }
}

impl std::error::Error for NoLog {}

impl Settings {
    /// The logs that these collections and topics need: one for each
    /// collection and each topic that is no view.
    ///
    /// # Errors
    /// When a collection's resource name makes no event types.
    pub fn specs(&self) -> Result<Vec<LogConfig>, InvalidName> {
        let mut specs = Vec::new();
        for collection in &self.collections {
            specs.push(LogConfig {
                name: collection.name.clone(),
                kind: LogKind::collection(&collection.resource)?,
                retention: collection.retention,
                durability: StorageKind::Disk,
            });
        }
        for topic in self.topics.iter().filter(|topic| topic.collection.is_none()) {
            specs.push(LogConfig {
                name: topic.name.clone(),
                kind: LogKind::Topic,
                retention: topic.retention,
                durability: topic.durability,
            });
        }
        Ok(specs)
    }
}

impl Catalog {
    /// What `settings` names, over the logs of `engine`.
    ///
    /// # Errors
    /// When the engine has no log for a name.
    pub fn new(settings: &Settings, engine: &Engine) -> Result<Catalog, NoLog> {
        let logs = engine.logs();
        let log = |name: &str, topic: bool| {
            let is = |log: &&Arc<Log>| {
                log.origin().name == name && matches!(log.origin().kind, LogKind::Topic) == topic
            };
            logs.iter().find(is).cloned().ok_or_else(|| NoLog(name.to_owned()))
        };
        let mut collections = HashMap::new();
        for settings in &settings.collections {
            let log = log(&settings.name, false)?;
            let collection = Collection { log, overflow: settings.overflow };
            collections.insert(settings.name.clone(), collection);
        }
        let mut topics = HashMap::new();
        for settings in &settings.topics {
            let log = match &settings.collection {
                Some(collection) => log(collection, false)?,
                None => log(&settings.name, true)?,
            };
            let topic = Topic {
                name: settings.name.clone(),
                log,
                types: settings.types.clone().into(),
                view: settings.collection.is_some(),
                overflow: settings.overflow,
            };
            topics.insert(settings.name.clone(), topic);
        }
        Ok(Catalog { collections, topics })
    }

    /// The collection `name`.
    pub fn collection(&self, name: &str) -> Option<&Collection> {
        self.collections.get(name)
    }

    /// The topic `name`, its own or a view.
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.get(name)
    }

    /// Returns the names of all collections, in no order.
    pub fn collection_names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.collections.keys().map(String::as_str)
    }

    /// Returns the names of all topics, in no order.
    pub fn topic_names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.topics.keys().map(String::as_str)
    }
}
