//! Which events a subscription wants.

use std::sync::{Arc, LazyLock};

use super::batch::{Batch, Selection};
use super::json;
use crate::event::{Event, EventType, Offset};

/// Wants an event when its type is one of `types` (any, if there are none)
/// and its data has every one of `fields`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    types: Box<[EventType]>,
    fields: Box<[Field]>,
}

/// A top-level member that must have a value: compared as a string's content
/// or as the JSON text of any other scalar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The member's name.
    pub name: String,
    /// What its text must be.
    pub value: String,
}

impl Field {
    /// Whether the object has the member with the value; never where the
    /// member is itself an object or array.
    pub fn matches(&self, object: &[u8]) -> bool {
        json::member(object, &self.name)
            .and_then(json::scalar_text)
            .is_some_and(|text| text == self.value)
    }
}

impl Filter {
    /// A filter by type and by fields; empty lists want everything.
    pub fn new(types: Vec<EventType>, fields: Vec<Field>) -> Filter {
        Filter { types: types.into(), fields: fields.into() }
    }

    /// The same for who shares it. All that want everything share one: it is
    /// asked once a batch, and held once.
    pub fn shared(types: Vec<EventType>, fields: Vec<Field>) -> Arc<Filter> {
        static OPEN: LazyLock<Arc<Filter>> = LazyLock::new(Arc::default);
        let filter = Filter::new(types, fields);
        if filter.is_open() { OPEN.clone() } else { Arc::new(filter) }
    }

    /// The same for these types alone; none where one of them is not among
    /// its own, since a filter without types would let everything through.
    pub fn with_types(&self, types: Vec<EventType>) -> Option<Filter> {
        let own = |kind: &EventType| self.types.is_empty() || self.types.contains(kind);
        let all = !types.is_empty() && types.iter().all(own);
        all.then(|| Filter { types: types.into(), fields: self.fields.clone() })
    }

    /// Whether it wants every event.
    pub fn is_open(&self) -> bool {
        self.types.is_empty() && self.fields.is_empty()
    }

    /// Whether it wants this event.
    pub fn wants(&self, event: &Event) -> bool {
        (self.types.is_empty() || self.types.contains(&event.kind))
            && self.fields.iter().all(|field| field.matches(&event.data))
    }

    /// The events of `batch` after `after` that it wants; none if there are none.
    pub fn select(&self, batch: &Batch, after: Offset) -> Option<Selection> {
        let first = batch.position_after(after);
        let end = batch.events().len() as u32;
        if first == end {
            return None;
        }
        self.narrow(batch, &Selection::Run(first..end), after)
    }

    /// What it wants of a selection, after `after`; none if there is nothing.
    pub fn narrow(&self, batch: &Batch, of: &Selection, after: Offset) -> Option<Selection> {
        let first = batch.position_after(after);
        if self.is_open() && first <= of.position(0) {
            return Some(of.clone());
        }
        let positions = (0..of.len()).map(|n| of.position(n)).filter(|&position| position >= first);
        let wanted: Vec<u32> =
            positions.filter(|&position| self.wants(&batch.events()[position as usize])).collect();
        (!wanted.is_empty()).then(|| Selection::of(wanted))
    }
}
