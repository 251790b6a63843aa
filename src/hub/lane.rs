//! One log on one shard: how far it is fanned out, and who wants of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::subscriber::Subscriber;
use super::subscription::SubscriptionId;
use crate::event::{Offset, ResourceId};
use crate::log::Log;
use crate::sync::{AtomicU64, Mutex};
use crate::wire::Filter;

/// A log as one shard fans it out.
///
/// `tail` is set before the first subscriber of a batch is visited, `fanned`
/// after the last. A subscription that reads `tail` under its own lock, after
/// it was put into the index, can therefore tell whether a batch that it has
/// not read is still going to visit it (`docs/architecture.md#delivery`).
pub(super) struct Lane {
    pub(super) log: Arc<Log>,
    tail: AtomicU64,
    fanned: AtomicU64,
    pub(super) index: Mutex<Index>,
}

impl Lane {
    pub(super) fn new(log: Arc<Log>) -> Lane {
        let head = log.head().0;
        Lane {
            log,
            tail: AtomicU64::new(head),
            fanned: AtomicU64::new(head),
            index: Mutex::default(),
        }
    }

    pub(super) fn tail(&self) -> Offset {
        Offset(self.tail.load(Ordering::SeqCst))
    }

    pub(super) fn fanned(&self) -> Offset {
        Offset(self.fanned.load(Ordering::SeqCst))
    }

    pub(super) fn begin(&self, end: Offset) {
        self.tail.store(end.0, Ordering::SeqCst);
    }

    pub(super) fn finish(&self, end: Offset) {
        self.fanned.store(end.0, Ordering::SeqCst);
    }
}

/// What of its log a subscription covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of it.
    Whole,
    /// The events of one resource.
    Subject(ResourceId),
}

/// A subscription as the fan-out sees it.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) subscriber: Arc<Subscriber>,
    pub(super) subscription: SubscriptionId,
    pub(super) filter: Arc<Filter>,
}

/// Where an entry stands in its index.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(u32);

/// Who wants what of a log.
#[derive(Default)]
pub(super) struct Index {
    /// A freed place is taken again, so places are stable while a fan-out
    /// that pauses between visits is under way.
    pub(super) whole: Vec<Option<Entry>>,
    free: Vec<u32>,
    pub(super) by_subject: HashMap<ResourceId, Vec<Entry>>,
}

impl Index {
    pub(super) fn insert(&mut self, scope: &Scope, entry: Entry) -> Place {
        match scope {
            Scope::Subject(subject) => {
                self.by_subject.entry(subject.clone()).or_default().push(entry);
                Place(0)
            }
            Scope::Whole => {
                if let Some(place) = self.free.pop() {
                    self.whole[place as usize] = Some(entry);
                    Place(place)
                } else {
                    self.whole.push(Some(entry));
                    Place(self.whole.len() as u32 - 1)
                }
            }
        }
    }

    pub(super) fn remove(&mut self, scope: &Scope, place: Place, subscription: SubscriptionId) {
        match scope {
            Scope::Whole => {
                self.whole[place.0 as usize] = None;
                self.free.push(place.0);
                if self.free.len() == self.whole.len() {
                    *self = Index {
                        by_subject: std::mem::take(&mut self.by_subject),
                        ..Index::default()
                    };
                }
            }
            Scope::Subject(subject) => {
                if let Some(entries) = self.by_subject.get_mut(subject) {
                    entries.retain(|entry| entry.subscription != subscription);
                    if entries.is_empty() {
                        self.by_subject.remove(subject);
                    }
                }
            }
        }
    }

    /// Everybody, for when all of them must read the log.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.whole.iter().flatten().chain(self.by_subject.values().flatten())
    }
}
