//! The names of collections and topics, and what depends on them.

use std::collections::BTreeSet;

use super::section::Section;
use crate::api;
use crate::event::{BadName, EventType, NAME_BYTES_MAX, RESERVED_NAMES};
use crate::hub::Overflow;
use crate::log::Medium;
use crate::store::Retention;
use crate::wire::Kind;

/// What a collection's events are called, which a view may ask for.
const DEFAULT_COLLECTION: (&str, &str) = ("orders", "order");
const DEFAULT_VIEW: (&str, [&str; 2]) = ("order-updates", ["order-created", "order-updated"]);

/// The names met so far: one set for collections and topics, since each is
/// the name of a log, a label of metrics and a word in commands.
#[derive(Default)]
pub(super) struct Names {
    collections: BTreeSet<String>,
    topics: BTreeSet<String>,
}

impl Names {
    /// The name of a collection, if it may be one.
    pub(super) fn collection(
        &mut self,
        s: &mut Section<'_, '_>,
        name: Option<String>,
    ) -> Option<String> {
        let name = self.checked(s, name, "a collection")?;
        self.collections.insert(name.clone());
        Some(name)
    }

    /// The name of a topic, if it may be one.
    pub(super) fn topic(
        &mut self,
        s: &mut Section<'_, '_>,
        name: Option<String>,
    ) -> Option<String> {
        let name = self.checked(s, name, "a topic")?;
        self.topics.insert(name.clone());
        Some(name)
    }

    /// The collection that a view is of, if there is such a one.
    pub(super) fn viewed(
        &self,
        s: &mut Section<'_, '_>,
        collection: Option<String>,
    ) -> Option<String> {
        let collection = collection?;
        if !self.collections.contains(&collection) {
            s.fault("collection", format!("there is no collection {collection:?}"));
        }
        Some(collection)
    }

    /// The collection that there is when the file lists none.
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

    /// The view that there is when the file lists no topics; none where the
    /// file's collections leave no place for it.
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
            types: types.iter().filter_map(|kind| EventType::new(kind).ok()).collect(),
            retention: Retention::default(),
            overflow: viewed.overflow,
            durability: Medium::Disk,
        })
    }

    fn checked(&self, s: &mut Section<'_, '_>, name: Option<String>, what: &str) -> Option<String> {
        let Some(name) = name else {
            if !s.has("name") {
                s.fault("name", format!("{what} needs a name"));
            }
            return None;
        };
        let taken = if self.collections.contains(&name) {
            Some("a collection")
        } else if self.topics.contains(&name) {
            Some("a topic")
        } else {
            None
        };
        let message = if let Some(taken) = taken {
            format!("{name:?} is already the name of {taken}")
        } else if let Err(why) = name_of_log(&name) {
            format!("{name:?} is no name of {what}: {why}")
        } else {
            return Some(name);
        };
        s.fault("name", message);
        None
    }
}

/// A name stands as one segment of a path, so a colon, which a resource id
/// may have, is not in it.
fn name_of_log(name: &str) -> Result<(), String> {
    if name.len() > NAME_BYTES_MAX {
        return Err(BadName::TooLong.to_string());
    }
    let allowed = |c: &char| c.is_ascii_alphanumeric() || "._~-".contains(*c);
    if let Some(c) = name.chars().find(|c| !allowed(c)) {
        return Err(format!("{c:?} is not one of A-Z a-z 0-9 . _ ~ -"));
    }
    if [".", ".."].contains(&name) || RESERVED_NAMES.contains(&name) {
        return Err(BadName::Reserved.to_string());
    }
    Ok(())
}

/// What a resource of the collection `name` is called; without the key, the
/// collection's name less a final `s`.
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
    if let Err(why) = Kind::collection(&resource) {
        let message = format!("{resource:?} makes no event types such as \"order-created\": {why}");
        s.fault("resource", message);
        return None;
    }
    Some(resource)
}

/// The event types that a view shows.
pub(super) fn types(s: &mut Section<'_, '_>) -> Vec<EventType> {
    let mut types = Vec::new();
    for (place, text) in s.texts("types") {
        match EventType::new(&text) {
            Ok(kind) => types.push(kind),
            Err(why) => s.fault_at(&place, "types", format!("{text:?} is no event type: {why}")),
        }
    }
    types
}
