//! The index of the subscriptions to one log on one shard. The index separates
//! subscriptions to the whole log from subscriptions to a single resource. To add or
//! to remove a subscription takes constant time.

use std::collections::HashMap;
use std::sync::Arc;

use super::subscriber::Subscriber;
use super::words::{Scope, SlotIndex, SubscriptionId};
use crate::event::ResourceId;
use crate::wire::Filter;

/// An entry of the index: a subscription, and the filter that the fan-out applies
/// for it.
pub(super) struct Entry {
    pub(super) subscriber: Arc<Subscriber>,
    pub(super) subscription: SubscriptionId,
    pub(super) filter: Arc<Filter>,
}

/// A list of values. A value keeps its slot (its index in the list) until it is
/// removed. Free slots are reused. The memory is freed when all slots are free.
pub(super) struct Slots<T> {
    list: Vec<Slot<T>>,
    /// The head of the list of free slots: the slot that was freed last, or [`END`]
    /// if no slot is free.
    next: u32,
    /// The number of used slots.
    used: u32,
}

enum Slot<T> {
    Used(T),
    /// A free slot. Contains the slot that was freed before this one, or [`END`].
    Free(u32),
}

/// The end of the list of free slots.
const END: u32 = u32::MAX;

impl<T> Default for Slots<T> {
    fn default() -> Slots<T> {
        Slots { list: Vec::new(), next: END, used: 0 }
    }
}

impl<T> Slots<T> {
    /// Returns the number of slots, including free ones.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Returns the value of a slot, if the slot is used.
    pub(super) fn get(&self, slot: usize) -> Option<&T> {
        match self.list.get(slot) {
            Some(Slot::Used(value)) => Some(value),
            Some(Slot::Free(_)) | None => None,
        }
    }

    fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        match self.list.get_mut(slot as usize) {
            Some(Slot::Used(value)) => Some(value),
            Some(Slot::Free(_)) | None => None,
        }
    }

    fn insert(&mut self, value: T) -> u32 {
        self.used += 1;
        if let Some(free) = self.list.get_mut(self.next as usize) {
            let slot = self.next;
            if let Slot::Free(next) = std::mem::replace(free, Slot::Used(value)) {
                self.next = next;
            }
            return slot;
        }
        if self.list.is_empty() {
            // Most resources have one subscriber. A new `Vec` would allocate memory
            // for four entries. This would be most of the memory of the index.
            self.list.reserve_exact(1);
        }
        self.list.push(Slot::Used(value));
        self.list.len() as u32 - 1
    }

    fn remove(&mut self, slot: u32) -> Option<T> {
        let stored = self.list.get_mut(slot as usize)?;
        if matches!(stored, Slot::Free(_)) {
            return None;
        }
        let removed = std::mem::replace(stored, Slot::Free(self.next));
        self.next = slot;
        self.used -= 1;
        if self.is_empty() {
            *self = Slots::default();
        }
        match removed {
            Slot::Used(value) => Some(value),
            Slot::Free(_) => None,
        }
    }
}

/// The subscriptions to the events of one resource.
struct Group {
    resource: ResourceId,
    entries: Slots<Entry>,
}

/// The subscriptions of one shard to one log.
#[derive(Default)]
pub(super) struct Index {
    whole: Slots<Entry>,
    groups: Slots<Group>,
    /// For each resource that has a subscription: the slot of its group in `groups`.
    by_subject: HashMap<ResourceId, u32>,
    /// Whether the fan-out of the log has ended on this shard. After the end, no
    /// subscription may be added to this index.
    pub(super) has_ended: bool,
}

/// The position of a walk over all entries ([`Index::walk`]), list by list. List 0
/// has the subscriptions to the whole log. Each other list has the subscriptions to
/// one resource.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    list: usize,
    slot: usize,
}

impl Index {
    pub(super) fn insert(&mut self, scope: &Scope, entry: Entry) -> SlotIndex {
        let Scope::Subject(resource) = scope else {
            return SlotIndex::Whole(self.whole.insert(entry));
        };
        let known = self.by_subject.get(resource).copied();
        let group = known.unwrap_or_else(|| {
            let entries = Slots::default();
            let group = self.groups.insert(Group { resource: resource.clone(), entries });
            self.by_subject.insert(resource.clone(), group);
            group
        });
        let entries = self.groups.get_mut(group).map(|group| &mut group.entries);
        let slot = entries.expect("by_subject names groups that are there").insert(entry);
        SlotIndex::Subject { group, slot }
    }

    /// Removes and returns an entry. If it is the last entry of a resource, also
    /// removes the group of this resource. Does not search the other entries: all
    /// clients of one resource may leave at once.
    pub(super) fn remove(&mut self, slot: SlotIndex) -> Option<Entry> {
        let (group, slot) = match slot {
            SlotIndex::Whole(slot) => return self.whole.remove(slot),
            SlotIndex::Subject { group, slot } => (group, slot),
        };
        let entries = &mut self.groups.get_mut(group)?.entries;
        let removed = entries.remove(slot);
        if entries.is_empty()
            && let Some(Group { resource, .. }) = self.groups.remove(group)
        {
            self.by_subject.remove(&resource);
            if self.by_subject.is_empty() {
                self.by_subject = HashMap::new();
            }
        }
        removed
    }

    /// Returns whether the log has no subscription.
    pub(super) fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.groups.is_empty()
    }

    /// Returns the subscriptions to the whole log.
    pub(super) fn whole(&self) -> &Slots<Entry> {
        &self.whole
    }

    /// Returns whether the log has subscriptions to single resources.
    pub(super) fn has_subjects(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Returns the subscriptions to the events of one resource, if there are any.
    pub(super) fn subject(&self, resource: &ResourceId) -> Option<&Slots<Entry>> {
        let group = *self.by_subject.get(resource)?;
        self.groups.get(group as usize).map(|group| &group.entries)
    }

    /// Calls `visit` for the entries in the next `steps` slots from `cursor` on, and
    /// moves `cursor`. Returns `false` if no slot is left.
    pub(super) fn walk(
        &self,
        cursor: &mut Cursor,
        steps: usize,
        mut visit: impl FnMut(&Entry),
    ) -> bool {
        for _ in 0..steps {
            let entries = match cursor.list.checked_sub(1) {
                None => Some(&self.whole),
                Some(group) if group >= self.groups.len() => return false,
                Some(group) => self.groups.get(group).map(|group| &group.entries),
            };
            match entries {
                Some(entries) if cursor.slot < entries.len() => {
                    entries.get(cursor.slot).into_iter().for_each(&mut visit);
                    cursor.slot += 1;
                }
                _ => *cursor = Cursor { list: cursor.list + 1, slot: 0 },
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
