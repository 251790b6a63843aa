//! Random subscribing and leaving, compared with a map as a model.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::hub::{Hub, Settings};
use crate::metrics::{Metrics, Protocol};
use crate::supervisor::Supervisor;

/// The number of resources. One more number stands for the whole log.
const RESOURCES: usize = 4;

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert(usize),
    /// Removes the n-th oldest subscription.
    Remove(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let insert = (0..=RESOURCES).prop_map(Step::Insert);
    prop_oneof![insert, (0..64usize).prop_map(Step::Remove)]
}

fn scope(n: usize) -> Scope {
    if n == RESOURCES {
        return Scope::Whole;
    }
    Scope::Subject(ResourceId::new(&format!("r{n}")).unwrap())
}

fn slots_of(index: &Index, scope: &Scope) -> usize {
    match scope {
        Scope::Whole => index.whole.len(),
        Scope::Subject(resource) => index.subject(resource).map_or(0, Slots::len),
    }
}

fn at(index: &Index, slot: SlotIndex) -> Option<SubscriptionId> {
    let entry = match slot {
        SlotIndex::Whole(slot) => index.whole.get(slot as usize),
        SlotIndex::Subject { group, slot } => {
            index.groups.get(group as usize)?.entries.get(slot as usize)
        }
    };
    entry.map(|entry| entry.subscription)
}

/// The index and its model.
#[derive(Default)]
struct Bench {
    index: Index,
    serial: usize,
    /// The scope and slot of each subscription, by age.
    there: BTreeMap<usize, (usize, SlotIndex, SubscriptionId)>,
    /// The maximum number of subscriptions of a scope since it was last empty.
    most: [usize; RESOURCES + 1],
}

impl Bench {
    fn step(&mut self, step: Step, subscriber: &Arc<Subscriber>, filter: &Arc<Filter>) {
        match step {
            Step::Insert(of) => {
                self.serial += 1;
                let subscription = SubscriptionId::new(self.serial);
                let (subscriber, filter) = (subscriber.clone(), filter.clone());
                let entry = Entry { subscriber, subscription, filter };
                let slot = self.index.insert(&scope(of), entry);
                self.there.insert(self.serial, (of, slot, subscription));
                self.most[of] = self.most[of].max(self.count(of));
            }
            Step::Remove(n) => {
                let Some(&serial) = self.there.keys().nth(n) else { return };
                let (of, slot, subscription) = self.there.remove(&serial).unwrap();
                let removed = self.index.remove(slot).unwrap();
                assert_eq!(removed.subscription, subscription);
                if self.count(of) == 0 {
                    self.most[of] = 0;
                }
            }
        }
    }

    fn count(&self, of: usize) -> usize {
        self.there.values().filter(|(scope, ..)| *scope == of).count()
    }

    fn check(&self) {
        for (_, slot, subscription) in self.there.values() {
            assert_eq!(at(&self.index, *slot), Some(*subscription), "an entry keeps its slot");
        }
        for of in 0..=RESOURCES {
            let slots = slots_of(&self.index, &scope(of));
            assert!(slots <= self.most[of], "a free slot is used again");
        }
        let mut walked = Vec::new();
        let mut cursor = Cursor::default();
        while self.index.walk(&mut cursor, 3, |entry| walked.push(entry.subscription.slot)) {}
        walked.sort_unstable();
        let there = self.there.keys().map(|&serial| serial as u32);
        assert_eq!(walked, there.collect::<Vec<_>>(), "a walk visits each entry once");
        if self.there.is_empty() {
            assert_eq!(self.index.whole.list.capacity(), 0, "the memory is freed");
            assert_eq!(self.index.groups.list.capacity(), 0, "the memory is freed");
            assert_eq!(self.index.by_subject.capacity(), 0, "the memory is freed");
        }
    }
}

#[tokio::test]
async fn an_entry_stays_in_its_slot_until_it_is_removed() {
    let settings = Settings::of_rings(1, 1);
    let metrics = Arc::new(Metrics::new());
    let supervisor = Supervisor::new(metrics.clone());
    let hub = Hub::start(&settings, &metrics, &supervisor, 1);
    let subscriber = hub.join(Protocol::Sse, &settings, 0).unwrap();
    let filter = Filter::shared(Vec::new(), Vec::new());
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in prop::collection::vec(step(), 0..200))| {
        let mut bench = Bench::default();
        for step in steps {
            bench.step(step, &subscriber, &filter);
            bench.check();
        }
        while !bench.there.is_empty() {
            bench.step(Step::Remove(0), &subscriber, &filter);
            bench.check();
        }
    });
}
