//! Random pushes to a ring of two subscriptions, and random steps of the writer.
//! Each event is written once and in order, or a drop marker in its place counts
//! it.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::event::{Epoch, Event, EventType, Timestamp};
use crate::hub::run::Slice;
use crate::hub::words::WriteBudget;
use crate::wire::{LogIdentity, LogKind, WireFormat};

const BOUNDS: Bounds = Bounds { events: 8, bytes: 2_000 };

#[derive(Clone, Debug)]
enum Step {
    /// A batch is pushed to a subscription: the resource and size of each event.
    Push(usize, Vec<(u8, u16)>),
    /// The writer peeks at the ring.
    Peek { events: u32 },
    /// The writer writes this number of its slices, and gives the others up.
    Write { slices: usize },
    /// A log evicts the older half of its tail.
    Evict(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let events = prop::collection::vec((0..6u8, 1..300u16), 1..6);
    prop_oneof![
        4 => (0..2usize, events).prop_map(|(which, events)| Step::Push(which, events)),
        3 => (1..12u32).prop_map(|events| Step::Peek { events }),
        3 => (0..4usize).prop_map(|slices| Step::Write { slices }),
        1 => (0..2usize).prop_map(Step::Evict),
    ]
}

/// The model of one subscription and its client.
struct Side {
    id: SubscriptionId,
    policy: Overflow,
    pushed: Vec<(Offset, u8)>,
    written: Vec<Offset>,
    dropped: u64,
    waiting: i64,
    /// Whether the subscription has caught up from the log.
    has_caught_up: bool,
}

impl Side {
    fn new(policy: Overflow) -> Side {
        Side {
            id: SubscriptionId::new(0),
            policy,
            pushed: Vec::new(),
            written: Vec::new(),
            dropped: 0,
            waiting: 0,
            has_caught_up: false,
        }
    }

    fn last(&self) -> Offset {
        self.written.last().copied().unwrap_or(Offset::ZERO)
    }

    /// Reads the log after the last written event. Events that a marker has counted
    /// may be written now.
    fn read_log(&mut self) {
        self.waiting = 0;
        self.has_caught_up = true;
        let after = self.last();
        let rest = self.pushed.iter().filter(|(offset, _)| *offset > after);
        self.written.extend(rest.map(|(offset, _)| *offset));
    }

    fn write(&mut self, slice: &Slice) {
        assert!(slice.through > self.last(), "each event once and in order");
        // The offsets in a batch have no gaps in this test.
        let first = slice.through.0 + 1 - u64::from(slice.events);
        self.written.extend((first..=slice.through.0).map(Offset));
    }

    fn check(&self) {
        assert_eq!(self.waiting, 0);
        let (all, pushed) = (self.written.len() as u64 + self.dropped, self.pushed.len() as u64);
        assert!(
            all == pushed || (self.has_caught_up && all > pushed),
            "written or dropped: {all} {pushed}"
        );
        for resource in 0..6 {
            let newest = self.pushed.iter().rev().find(|(_, of)| *of == resource);
            let kept = newest.is_none_or(|(offset, _)| self.written.contains(offset));
            assert!(kept || self.policy != Overflow::Conflate, "the newest event of each resource");
        }
    }
}

struct Bench {
    ring: Ring,
    identity: Arc<LogIdentity>,
    sides: [Side; 2],
    slices: Vec<Slice>,
}

impl Bench {
    fn new(policies: [Overflow; 2]) -> Bench {
        let kind = LogKind::collection("order").unwrap();
        let identity = Arc::new(LogIdentity::new("orders".to_owned(), Epoch::from_bits(1), kind));
        let (ring, slices) = (Ring::default(), Vec::new());
        Bench { ring, identity, sides: policies.map(Side::new), slices }
    }

    fn push(&mut self, which: usize, events: &[(u8, u16)]) {
        let Bench { ring, identity, sides, slices } = self;
        let side = &mut sides[which];
        let first = side.pushed.len() as u64 + 1;
        let events = events.iter().zip(first..).map(|(&(resource, size), offset)| {
            side.pushed.push((Offset(offset), resource));
            let data = format!("{{\"note\":\"{}\"}}", "x".repeat(usize::from(size)));
            Event {
                offset: Offset(offset),
                time: Timestamp(0),
                event_type: EventType::new("order-noted").unwrap(),
                subject: Some(ResourceId::new(&format!("r{resource}")).unwrap()),
                merge: false,
                data: data.into(),
            }
        });
        let events: Vec<Event> = events.collect();
        let selection = Selection::Run(0..events.len() as u32);
        let batch = Arc::new(Batch::new(identity.clone(), events, None));
        let run = Run::new(side.id, batch, selection, WireFormat::Ndjson);
        if ring.fits(&run, BOUNDS) {
            side.waiting += run.events().cast_signed();
            ring.push(run);
            return;
        }
        let change = match side.policy {
            Overflow::DropOldest => Some(ring.push_over_oldest(run, BOUNDS)),
            Overflow::DropNewest => Some(ring.push_what_fits(run, BOUNDS)),
            _ => ring.conflate(run, BOUNDS),
        };
        if let Some(change) = change {
            side.waiting += change;
        } else {
            ring.remove(side.id);
            slices.retain(|slice| slice.subscription != side.id);
            side.read_log();
        }
    }

    fn peek(&mut self, events: u32) {
        // The writer gives up the slices that it has not written.
        self.slices.clear();
        self.ring.end_peek();
        while let Some(marker) = self.ring.take_marker() {
            let side = self.sides.iter_mut().find(|side| side.id == marker.subscription).unwrap();
            side.dropped += marker.count;
            side.waiting -= 1;
        }
        self.ring.peek(&mut self.slices, &mut WriteBudget::for_write(events));
    }

    fn write(&mut self, slices: usize) {
        self.ring.end_peek();
        for slice in self.slices.drain(..).take(slices) {
            let before = self.ring.events();
            let passed = self.ring.remove_written(slice.subscription, slice.through);
            assert_eq!(passed, u64::from(slice.events), "the slices of the writer are not dropped");
            assert_eq!(before - self.ring.events(), passed);
            let side = self.sides.iter_mut().find(|side| side.id == slice.subscription).unwrap();
            side.waiting -= passed.cast_signed();
            side.write(&slice);
        }
    }

    fn evict(&mut self, which: usize) {
        let Bench { ring, sides, slices, .. } = self;
        let side = &mut sides[which];
        // The older half of the pushed events.
        let half = side.pushed.len() as u64 / 2;
        let held = |end: Offset| end.0 > half;
        let is_held = |id, end| id != side.id || held(end);
        let evicted = ring.evicted(2, is_held);
        let conflates = side.policy == Overflow::Conflate;
        let reaction = |id| {
            if conflates { OnEviction::CatchUp } else { OnEviction::Drop(DropProgress::new(id)) }
        };
        let mut evicted: HashMap<_, _> = evicted.into_iter().map(|id| (id, reaction(id))).collect();
        ring.evict(&mut evicted, is_held);
        for (id, evicted) in evicted {
            assert_eq!(id, side.id);
            match evicted {
                OnEviction::CatchUp => {
                    slices.retain(|slice| slice.subscription != id);
                    side.read_log();
                }
                OnEviction::Drop(dropped) => side.waiting += dropped.change,
            }
        }
        assert!(ring.evicted(2, |id, end| id != side.id || held(end)).is_empty());
    }

    fn check(&self) {
        let events = self.ring.events();
        // The newest event of each subscription may be above the bounds, and one
        // more while the writer has the slices of all these events.
        assert!(events <= BOUNDS.events + 4, "{events} events in the ring");
        let items = self.ring.len() as u64;
        assert!(items <= 2 * events + 2, "{items} items for {events} events");
        for side in &self.sides {
            assert_eq!(self.ring.count_of(side.id), side.waiting);
        }
    }

    fn finish(&mut self) {
        self.write(0);
        while !self.ring.is_empty() {
            self.peek(u32::MAX);
            self.write(usize::MAX);
        }
        assert_eq!((self.ring.events(), self.ring.bytes()), (0, 0));
        self.sides.iter().for_each(Side::check);
    }
}

fn policy() -> impl Strategy<Value = Overflow> {
    let policies = [Overflow::DropOldest, Overflow::DropNewest, Overflow::Conflate];
    prop::sample::select(policies.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_event_is_written_once_or_counted_as_dropped(
        policies in [policy(), policy()],
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut bench = Bench::new(policies);
        for step in steps {
            match step {
                Step::Push(which, events) => bench.push(which, &events),
                Step::Peek { events } => bench.peek(events),
                Step::Write { slices } => bench.write(slices),
                Step::Evict(which) => bench.evict(which),
            }
            bench.check();
        }
        bench.finish();
    }
}

#[test]
fn an_empty_ring_takes_one_event_of_any_size() {
    for policy in [Overflow::DropOldest, Overflow::DropNewest] {
        let mut bench = Bench::new([policy, policy]);
        bench.push(0, &[(0, 3000), (1, 3000)]);
        assert_eq!(bench.ring.events(), 1, "{policy:?}");
        bench.finish();
        assert_eq!((bench.sides[0].written.len(), bench.sides[0].dropped), (1, 1), "{policy:?}");
    }
}

#[test]
fn a_policy_has_one_name() {
    for policy in Overflow::ALL {
        assert_eq!(Overflow::named(policy.as_str()), Some(policy));
    }
    assert_eq!(Overflow::named("drop"), None);
}
