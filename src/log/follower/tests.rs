//! Tests of the follower against a model, and of its loop over a real engine.

use std::ops::Range;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::event::EventType;
use crate::log::{Engine, FsyncPolicy, LogConfig, Settings, StorageKind, Write};
use crate::store::Retention;
use crate::wire::json::Json;

/// An action of the log, its fan-out, the owner of the follower, or the ring.
#[derive(Clone, Debug)]
enum Step {
    /// The log commits this number of events.
    Commit(u64),
    /// The fan-out sets `tail` to the end of the next batch.
    Begin,
    /// The fan-out visits the follower with the batch that ends at `tail`.
    Visit,
    /// The fan-out sets `fanned_to`.
    Finish,
    /// The owner joins, or reads a page of at most this number of events.
    Read(u64),
    /// The owner writes at most this number of the pushed events.
    Write(u64),
    /// The ring overflows.
    Overflow,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..4_u64).prop_map(Step::Commit),
        Just(Step::Begin),
        Just(Step::Visit),
        Just(Step::Visit),
        Just(Step::Finish),
        (1..5_u64).prop_map(Step::Read),
        (1..5_u64).prop_map(Step::Read),
        (1..4_u64).prop_map(Step::Write),
        Just(Step::Overflow),
    ]
}

/// The events of the log are the numbers from 1 to the end of its last batch.
struct Model {
    ends: Vec<u64>,
    tail: u64,
    fanned_to: u64,
    is_visited: bool,
    ring: Vec<u64>,
    client: Vec<u64>,
    follower: Follower,
}

impl Model {
    fn new(start: u64) -> Model {
        let (ring, client) = (Vec::new(), Vec::new());
        let follower = Follower::new(Offset(start));
        let (ends, tail, fanned_to) = (vec![3], 3, 3);
        Model { ends, tail, fanned_to, is_visited: true, ring, client, follower }
    }

    fn head(&self) -> u64 {
        self.ends.last().copied().unwrap()
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Commit(events) => self.ends.push(self.head() + events),
            Step::Begin if self.tail == self.fanned_to => {
                let next = self.ends.iter().find(|end| **end > self.tail);
                self.is_visited &= next.is_none();
                self.tail = next.copied().unwrap_or(self.tail);
            }
            Step::Visit if self.tail > self.fanned_to && !self.is_visited => {
                self.is_visited = true;
                let end = Offset(self.tail);
                if let Some(after) = self.follower.accept(end, Offset(self.fanned_to)) {
                    if self.ring.is_empty() {
                        self.follower.advance(Offset(self.fanned_to));
                    }
                    self.ring.extend(after.0 + 1..=end.0);
                    self.follower.push(end);
                }
            }
            Step::Finish if self.is_visited => self.fanned_to = self.tail,
            Step::Read(most) => {
                if self.follower.join(Offset(self.tail)) {
                    return;
                }
                if let Some(after) = self.follower.read_after() {
                    let to = self.head().min(after.0 + most);
                    self.client.extend(after.0 + 1..=to);
                    self.follower.advance(Offset(to));
                }
            }
            Step::Write(most) => {
                let count = self.ring.len().min(most as usize);
                for event in self.ring.drain(..count) {
                    self.client.push(event);
                    self.follower.advance(Offset(event));
                }
            }
            Step::Overflow if !self.ring.is_empty() => {
                self.ring.clear();
                self.follower.fall_behind();
            }
            Step::Begin | Step::Visit | Step::Finish | Step::Overflow => {}
        }
    }

    fn check(&self, start: u64) {
        let expected: Vec<u64> = (start + 1..).take(self.client.len()).collect();
        assert_eq!(self.client, expected);
        let position = self.follower.position(self.ring.is_empty(), Offset(self.fanned_to));
        let last = self.client.last().copied().unwrap_or(start);
        assert_eq!(position, Offset(last), "of {:?}", self.follower);
    }
}

proptest! {
    #[test]
    fn a_follower_gets_each_event_once_in_every_order(
        start in 0..=3_u64,
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut model = Model::new(start);
        for step in &steps {
            model.run(step);
            model.check(start);
        }
        let all = model.ends.len() * 3 + 4;
        for _ in 0..all {
            let rest = [Step::Visit, Step::Finish, Step::Begin, Step::Write(9), Step::Read(9)];
            for step in &rest {
                model.run(step);
            }
            model.check(start);
        }
        prop_assert_eq!(model.client.len() as u64, model.head() - start, "none is missing");
    }
}

#[test]
fn a_follower_is_two_offsets() {
    assert_eq!(size_of::<Follower>(), 2 * size_of::<Offset>());
}

const WRITERS: u64 = 4;
const WRITES: u64 = 150;

/// Publishes events from several tasks while `follows` consumers follow the log.
/// Returns the parts that each consumer got.
async fn beside_writers(tail_bytes: usize, retention: Retention, follows: usize) -> Vec<Seen> {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        Settings { sync: FsyncPolicy::Never, tail_bytes, ..Settings::within(folder.path()) };
    let config = LogConfig { retention, ..LogConfig::topic("news", StorageKind::Disk) };
    let engine = Arc::new(Engine::open(&settings, &[config]).unwrap());
    let log = engine.log("news").unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..follows {
        let follow = Follow::new(log.clone(), log.head());
        tasks.spawn(read(follow, n));
    }
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let (engine, log) = (engine.clone(), log.clone());
        writers.spawn(async move {
            for _ in 0..WRITES {
                let data = Json::parse(br#"{"note":"0123456789"}"#).unwrap();
                let write = Write::publish(None, EventType::new("said").unwrap(), data);
                engine.append(&log, vec![write]).await.unwrap();
            }
        });
    }
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    let mut seen = Vec::new();
    while let Some(task) = tasks.join_next().await {
        seen.push(task.unwrap());
    }
    engine.close();
    seen
}

#[derive(Default)]
struct Seen {
    events: Vec<u64>,
    gaps: Vec<Range<u64>>,
    was_live: bool,
}

/// Follows the log to its end. Every second consumer is slow and cancels each wait
/// once, to show that `next` is cancel safe.
async fn read(mut follow: Follow, n: usize) -> Seen {
    let mut seen = Seen::default();
    while follow.written_to().0 < WRITERS * WRITES {
        if n % 2 == 1 {
            tokio::task::yield_now().await;
            let polled = tokio::time::timeout(Duration::ZERO, follow.next()).await;
            let Ok(next) = polled else { continue };
            seen.take(next.unwrap());
        } else {
            seen.take(follow.next().await.unwrap());
        }
        seen.was_live |= follow.follower.is_live();
    }
    seen
}

impl Seen {
    fn take(&mut self, next: Followed) {
        match next {
            Followed::Events { batch, after } => {
                let from = batch.position_after(after) as usize;
                self.events.extend(batch.events()[from..].iter().map(|event| event.offset.0));
            }
            Followed::Gap { from, to } => self.gaps.push(from.0 + 1..to.0 + 1),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follow_beside_writers_gets_each_event_once() {
    for tail_bytes in [64 << 20, 2048] {
        for seen in beside_writers(tail_bytes, Retention::default(), 4).await {
            assert_eq!(seen.events, (1..=WRITERS * WRITES).collect::<Vec<_>>());
            assert!(seen.gaps.is_empty());
            assert!(seen.was_live);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follow_beside_trims_gets_each_event_once_or_a_gap() {
    let retention = Retention { events: 20, ..Retention::default() };
    for mut seen in beside_writers(2048, retention, 4).await {
        assert!(seen.events.is_sorted_by(|one, next| one < next));
        seen.events.extend(seen.gaps.into_iter().flatten());
        seen.events.sort_unstable();
        assert_eq!(seen.events, (1..=WRITERS * WRITES).collect::<Vec<_>>());
    }
}
