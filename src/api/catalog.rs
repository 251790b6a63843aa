//! The catalog: finds a collection, a topic or a view by its name.

use std::collections::HashMap;
use std::collections::hash_map::Keys;
use std::fmt;
use std::sync::Arc;

use crate::api::answer::problem;
use crate::api::authorize::Target;
use crate::api::settings::Settings;
use crate::event::{EventType, InvalidName, NAME_BYTES_MAX};
use crate::hub::Overflow;
use crate::log::{Engine, Log, LogConfig, StorageKind};
use crate::wire::problem::Problem;
use crate::wire::{Filter, LogKind};

/// The largest number of configured names that the gateway compares with an unknown
/// name to suggest a similar one. With more names, there is no suggestion.
const SUGGESTED_FROM_MAX: usize = 1000;

/// A collection.
#[derive(Clone)]
pub struct Collection {
    /// The log of the collection.
    pub log: Arc<Log>,
    /// The default overflow policy, which applies to a client that does not keep up.
    pub overflow: Overflow,
}

/// A topic or a view.
#[derive(Clone)]
pub struct Topic {
    /// The name of the topic or view. A view has no log of its own, and the log of
    /// its collection has another name.
    pub name: String,
    /// The log of the topic. For a view, the log of its collection.
    pub log: Arc<Log>,
    /// The event types that a view shows. An empty list means all types.
    pub types: Arc<[EventType]>,
    /// Whether the topic is a view. A view does not accept events.
    pub view: bool,
    /// The default overflow policy, which applies to a client that does not keep up.
    pub overflow: Overflow,
}

impl Topic {
    /// Returns the topic as the target of an action, for authorization.
    pub fn target(&self) -> Target<'_> {
        Target::Log { log: &self.log, topic: Some(&self.name), resource: None }
    }

    /// Returns the filter for the events that the topic shows.
    pub fn filter(&self) -> Filter {
        Filter::new(self.types.to_vec(), Vec::new())
    }
}

/// All collections and topics by name.
pub struct Catalog {
    collections: HashMap<String, Collection>,
    topics: HashMap<String, Topic>,
}

/// The error if the engine has no log for a configured name. The cause is that the
/// engine was opened with log configurations other than those of
/// [`Settings::log_configs`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoLog(
    /// The configured name.
    pub String,
);

impl fmt::Display for NoLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the engine has no log for {:?}; open the engine with the settings of the catalog",
            self.0
        )
    }
}

impl std::error::Error for NoLog {}

impl Settings {
    /// Returns the configurations of all logs: one for each collection, and one for
    /// each topic that is not a view.
    ///
    /// # Errors
    /// [`InvalidName`] if no valid event type can be formed from the resource name
    /// of a collection.
    pub fn log_configs(&self) -> Result<Vec<LogConfig>, InvalidName> {
        let mut configs = Vec::new();
        for collection in &self.collections {
            configs.push(LogConfig {
                name: collection.name.clone(),
                kind: LogKind::collection(&collection.resource)?,
                retention: collection.retention,
                durability: StorageKind::Disk,
            });
        }
        for topic in self.topics.iter().filter(|topic| topic.collection.is_none()) {
            configs.push(LogConfig {
                name: topic.name.clone(),
                kind: LogKind::Topic,
                retention: topic.retention,
                durability: topic.durability,
            });
        }
        Ok(configs)
    }
}

impl Catalog {
    /// Creates the catalog of `settings` over the logs of `engine`.
    ///
    /// # Errors
    /// [`NoLog`] if the engine has no log for a configured name.
    pub fn new(settings: &Settings, engine: &Engine) -> Result<Catalog, NoLog> {
        let log = |name: &str, topic: bool| {
            let log = engine.log(name).filter(|log| log.identity().is_topic() == topic);
            log.ok_or_else(|| NoLog(name.to_owned()))
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

    /// Returns the collection `name`.
    ///
    /// # Errors
    /// 404 if there is no such collection. The problem suggests the collection with
    /// the most similar name, if a name is similar.
    pub fn collection(&self, name: &str) -> Result<Collection, Problem> {
        let found = self.collections.get(name).cloned();
        found.ok_or_else(|| unknown("collection", name, self.collections.keys()))
    }

    /// Returns the topic or view `name`.
    ///
    /// # Errors
    /// 404 if there is no such topic. The problem suggests the topic with the most
    /// similar name, if a name is similar.
    pub fn topic(&self, name: &str) -> Result<Topic, Problem> {
        let found = self.topics.get(name).cloned();
        found.ok_or_else(|| unknown("topic", name, self.topics.keys()))
    }
}

fn unknown<V>(kind: &str, name: &str, known: Keys<'_, String, V>) -> Problem {
    let detail = format!("no {kind} named {name:?}");
    problem::unknown(match nearest(name, known.map(String::as_str)) {
        Some(nearest) => format!("{detail}; did you mean {nearest:?}?"),
        None => detail,
    })
}

/// Returns the name in `known` that is nearest to `name`, if at most a third
/// of the characters of `name` differ.
///
/// Every request for an unknown name runs this search. Two limits keep the search
/// cheaper than the rest of the request. There is no suggestion for a name that is
/// longer than any valid name. There is no suggestion if more than
/// [`SUGGESTED_FROM_MAX`] names are configured.
fn nearest<'a>(name: &str, known: impl ExactSizeIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > NAME_BYTES_MAX || known.len() > SUGGESTED_FROM_MAX {
        return None;
    }
    let most = name.chars().count() / 3;
    known
        .filter(|known| known.len().abs_diff(name.len()) <= 4 * most)
        .map(|known| (strsim::levenshtein(name, known), known))
        .filter(|&(distance, _)| distance <= most)
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suggestion_is_the_nearest_similar_name() {
        let known = ["orders", "order-updates", "carts", "a"];
        for (name, expected) in [
            ("orderz", Some("orders")),
            ("Orders", Some("orders")),
            ("order", Some("orders")),
            ("cart", Some("carts")),
            ("order_update", Some("order-updates")),
            ("örders", Some("orders")),
            ("b", None),
            ("", None),
            ("invoices", None),
            (&"x".repeat(NAME_BYTES_MAX + 1), None),
        ] {
            assert_eq!(nearest(name, known.into_iter()), expected, "{name}");
        }
        let many: Vec<String> = (0..=SUGGESTED_FROM_MAX).map(|n| format!("orders-{n}")).collect();
        assert_eq!(nearest("orders-x", many.iter().map(String::as_str)), None);
    }
}
