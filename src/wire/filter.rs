//! The filter of a subscription, which selects events of a log.

use std::sync::{Arc, LazyLock};

use super::batch::{Batch, Selection};
use super::json;
use crate::event::{Event, EventType, Offset};

/// A filter by event type and by fields of the data. An event matches if its
/// type is in `types` and its data matches every condition in `fields`. An empty
/// list of types matches every type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    types: Box<[EventType]>,
    fields: Box<[FieldEquals]>,
}

/// A condition on a top-level member of the data of an event. The value of a string
/// member is compared by its content. The value of any other scalar is compared by
/// its JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldEquals {
    /// The name of the member.
    pub name: String,
    /// The required value.
    pub value: String,
}

impl FieldEquals {
    /// Returns whether the member `name` of `object` has the required value. A
    /// member that is an object or an array never matches.
    pub fn matches(&self, object: &[u8]) -> bool {
        json::member(object, &self.name)
            .and_then(json::scalar_text)
            .is_some_and(|text| text == self.value)
    }
}

impl Filter {
    /// Returns a filter by types and fields. An empty list of types matches every
    /// type. An empty list of fields matches all data.
    pub fn new(types: Vec<EventType>, fields: Vec<FieldEquals>) -> Filter {
        Filter { types: types.into(), fields: fields.into() }
    }

    /// Returns a filter by types and fields in an [`Arc`]. If both lists are empty,
    /// every call returns the same [`Arc`]. The filter that matches every event is
    /// therefore in memory only once, and is evaluated only once for each batch.
    pub fn shared(types: Vec<EventType>, fields: Vec<FieldEquals>) -> Arc<Filter> {
        static OPEN: LazyLock<Arc<Filter>> = LazyLock::new(Arc::default);
        let filter = Filter::new(types, fields);
        if filter.is_open() { OPEN.clone() } else { Arc::new(filter) }
    }

    /// Returns this filter restricted to `types`. Returns `None` if this filter
    /// excludes one of `types`, or if `types` is empty, because a filter without
    /// types matches every type.
    pub fn with_types(&self, types: Vec<EventType>) -> Option<Filter> {
        let included = |name: &EventType| self.types.is_empty() || self.types.contains(name);
        let valid = !types.is_empty() && types.iter().all(included);
        valid.then(|| Filter { types: types.into(), fields: self.fields.clone() })
    }

    /// Returns whether the filter matches every event.
    pub fn is_open(&self) -> bool {
        self.types.is_empty() && self.fields.is_empty()
    }

    /// Returns whether the filter matches `event`.
    pub fn wants(&self, event: &Event) -> bool {
        (self.types.is_empty() || self.types.contains(&event.event_type))
            && self.fields.iter().all(|field| field.matches(&event.data))
    }

    /// Returns the events of `batch` that match the filter and have an offset
    /// greater than `after`. Returns `None` if there are no such events.
    pub fn select(&self, batch: &Batch, after: Offset) -> Option<Selection> {
        let first = batch.position_after(after);
        let end = batch.events().len() as u32;
        if first == end {
            return None;
        }
        self.narrow(batch, &Selection::Run(first..end), after)
    }

    /// Returns the events of `selection` that match the filter and have an offset
    /// greater than `after`. Returns `None` if there are no such events.
    pub fn narrow(&self, batch: &Batch, selection: &Selection, after: Offset) -> Option<Selection> {
        let first = batch.position_after(after);
        if self.is_open() && first <= selection.position(0) {
            return Some(selection.clone());
        }
        let positions = (0..selection.len())
            .map(|n| selection.position(n))
            .filter(|&position| position >= first);
        let matching: Vec<u32> =
            positions.filter(|&position| self.wants(&batch.events()[position as usize])).collect();
        (!matching.is_empty()).then(|| Selection::of(matching))
    }
}
