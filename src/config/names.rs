//! Checks the names of collections, topics, resources and event types in the
//! configuration.

use std::collections::BTreeSet;

use super::section::Section;
use crate::api;
use crate::event::{EventType, InvalidName, NAME_BYTES_MAX, RESERVED_NAMES};
use crate::hub::Overflow;
use crate::log::StorageKind;
use crate::store::Retention;
use crate::wire::LogKind;

/// The default collection: its name, and the name of one resource.
const DEFAULT_COLLECTION: (&str, &str) = ("orders", "order");

/// The default view of the default collection: its name and its event types. A view
/// is a topic that shows some events of a collection.
const DEFAULT_VIEW: (&str, [&str; 2]) = ("order-updates", ["order-created", "order-updated"]);

/// The names of the collections and topics that were read so far. A collection and a
/// topic cannot have the same name: the name identifies a log, is a label of
/// metrics, and is the target of commands.
#[derive(Default)]
pub(super) struct Names {
    collections: BTreeSet<String>,
    topics: BTreeSet<String>,
}

impl Names {
    /// Checks the name of a collection and adds it to the used names. Returns `None`
    /// if the name is missing or invalid.
    pub(super) fn collection(
        &mut self,
        s: &mut Section<'_, '_>,
        name: Option<String>,
    ) -> Option<String> {
        let name = self.check(s, name, "a collection")?;
        self.collections.insert(name.clone());
        Some(name)
    }

    /// Checks the name of a topic and adds it to the used names. Returns `None` if
    /// the name is missing or invalid.
    pub(super) fn topic(
        &mut self,
        s: &mut Section<'_, '_>,
        name: Option<String>,
    ) -> Option<String> {
        let name = self.check(s, name, "a topic")?;
        self.topics.insert(name.clone());
        Some(name)
    }

    /// Checks that the collection that a view shows exists. Records an error if it
    /// does not exist.
    pub(super) fn viewed(
        &self,
        s: &mut Section<'_, '_>,
        collection: Option<String>,
    ) -> Option<String> {
        let collection = collection?;
        if !self.collections.contains(&collection) {
            s.error("collection", format!("no collection named {collection:?}"));
        }
        Some(collection)
    }

    /// Returns the default collection, which is used if the configuration lists no
    /// collections.
    pub(super) fn default_collection(&mut self, overflow: Overflow) -> api::CollectionSettings {
        let (name, resource) = DEFAULT_COLLECTION;
        self.collections.insert(name.to_owned());
        api::CollectionSettings {
            name: name.to_owned(),
            resource: resource.to_owned(),
            retention: Retention::default(),
            overflow,
        }
    }

    /// Returns the default view, which is used if the configuration lists no topics.
    /// Returns `None` if `collections` does not contain the default collection, or
    /// if a collection has the name of the default view.
    pub(super) fn default_view(
        &self,
        collections: &[api::CollectionSettings],
    ) -> Option<api::TopicSettings> {
        let (name, types) = DEFAULT_VIEW;
        let (collection, _) = DEFAULT_COLLECTION;
        if self.collections.contains(name) {
            return None;
        }
        let viewed = collections.iter().find(|viewed| viewed.name == collection)?;
        Some(api::TopicSettings {
            name: name.to_owned(),
            collection: Some(collection.to_owned()),
            types: types.iter().filter_map(|text| EventType::new(text).ok()).collect(),
            retention: Retention::default(),
            overflow: viewed.overflow,
            durability: StorageKind::Disk,
        })
    }

    fn check(
        &self,
        s: &mut Section<'_, '_>,
        name: Option<String>,
        subject: &str,
    ) -> Option<String> {
        let Some(name) = name else {
            if !s.has("name") {
                s.error("name", format!("{subject} needs a name"));
            }
            return None;
        };
        let taken = |owner| format!("{name:?} is already the name of {owner}; use another name");
        let message = if self.collections.contains(&name) {
            taken("a collection")
        } else if self.topics.contains(&name) {
            taken("a topic")
        } else if let Err(why) = check_log_name(&name) {
            format!("{name:?} is not a valid name of {subject}: {why}")
        } else {
            return Some(name);
        };
        s.error("name", message);
        None
    }
}

/// Checks the syntax of the name of a collection or topic. The name must be usable
/// as one path segment of a URL. Unlike a resource id, it cannot contain a colon.
fn check_log_name(name: &str) -> Result<(), String> {
    if name.len() > NAME_BYTES_MAX {
        return Err(InvalidName::TooLong.to_string());
    }
    let allowed = |c: &char| c.is_ascii_alphanumeric() || "._~-".contains(*c);
    if let Some(c) = name.chars().find(|c| !allowed(c)) {
        return Err(format!("the character {c:?} is not allowed; use A-Z a-z 0-9 . _ ~ -"));
    }
    if [".", ".."].contains(&name) || RESERVED_NAMES.contains(&name) {
        return Err(InvalidName::Reserved.to_string());
    }
    Ok(())
}

/// Checks the resource name of the collection `name`, for example `order` for
/// `orders`. If the key `resource` is not set, the resource name is the name of the
/// collection without a final `s`. Returns `None` if the resource name has an error.
pub(super) fn resource(
    s: &mut Section<'_, '_>,
    name: &str,
    resource: Option<String>,
) -> Option<String> {
    if resource.is_none() && s.has("resource") {
        return None;
    }
    let singular = || match name.strip_suffix('s') {
        None | Some("") => name.to_owned(),
        Some(stem) => stem.to_owned(),
    };
    let resource = resource.unwrap_or_else(singular);
    if let Err(why) = LogKind::collection(&resource) {
        let message = format!(
            "{resource:?} cannot be a resource name, because the names of event types begin with \
             it: {why}"
        );
        s.error("resource", message);
        return None;
    }
    Some(resource)
}

/// Reads the list of event types of a view (the key `types`), and records an error
/// for each invalid event type.
pub(super) fn types(s: &mut Section<'_, '_>) -> Vec<EventType> {
    let mut types = Vec::new();
    for (location, text) in s.texts("types") {
        match EventType::new(&text) {
            Ok(event_type) => types.push(event_type),
            Err(why) => {
                s.error_at(&location, "types", format!("{text:?} is not an event type: {why}"));
            }
        }
    }
    types
}
