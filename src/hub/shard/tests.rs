//! A shard on a runtime with one thread. The test and the fan-out task take turns:
//! the test runs only when the fan-out task yields.

mod queue;

use std::task::{Context, Waker};

use proptest::prelude::*;

use super::*;
use crate::event::{EventType, Offset, ResourceId};
use crate::hub::fanout_pass::COST_AT_ONCE;
use crate::hub::{
    Hub, OnGap, Overflow, PollMode, Scope, SubscriptionId, SubscriptionSpec, WriteBudget,
    WriterAction,
};
use crate::log::{self, Engine, LogConfig, StorageKind, Write};
use crate::supervisor::Supervisor;
use crate::wire::json::Json;
use crate::wire::{Filter, WireFormat};

struct Bench {
    _folder: tempfile::TempDir,
    engine: Engine,
    hub: Hub,
    _supervisor: Supervisor,
    settings: Settings,
}

impl Bench {
    /// Two topics in memory, and rings that do not overflow.
    fn start() -> Bench {
        Bench::with_rings(1 << 20)
    }

    fn with_rings(ring_events: usize) -> Bench {
        Bench::with(&["busy", "new"], 1, ring_events)
    }

    fn with(topics: &[&str], shards: usize, ring_events: usize) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let topic = |name: &&str| LogConfig::topic(name, StorageKind::Memory);
        let configs: Vec<_> = topics.iter().map(topic).collect();
        let log = log::Settings { tail_bytes: 1 << 20, ..log::Settings::within(folder.path()) };
        let engine = Engine::open(&log, &configs).unwrap();
        let settings = Settings::of_rings(ring_events, 1 << 30);
        let metrics = Arc::new(Metrics::new());
        let supervisor = Supervisor::new(metrics.clone());
        let hub = Hub::start(&settings, &metrics, &supervisor, shards);
        Bench { _folder: folder, engine, hub, _supervisor: supervisor, settings }
    }

    /// Adds a connection with a live subscription to a topic.
    fn subscribe(&self, topic: &str, filter: Arc<Filter>) -> Arc<Subscriber> {
        let subscriber = self.hub.join(Protocol::Sse, &self.settings, 0).unwrap();
        self.follow(&subscriber, topic, filter);
        subscriber
    }

    /// Adds a live subscription to a topic.
    fn follow(&self, subscriber: &Arc<Subscriber>, topic: &str, filter: Arc<Filter>) {
        self.follow_as(subscriber, topic, Scope::Whole, filter, Overflow::Log);
    }

    fn follow_as(
        &self,
        subscriber: &Arc<Subscriber>,
        topic: &str,
        scope: Scope,
        filter: Arc<Filter>,
        overflow: Overflow,
    ) {
        let spec = SubscriptionSpec {
            scope,
            filter,
            format: WireFormat::SseChunked,
            credit: None,
            snapshot: false,
            on_gap: OnGap::Event,
            overflow,
        };
        subscriber.subscribe(&self.engine.log(topic).unwrap(), spec, None);
        let (mut slices, mut budget) = (Vec::new(), WriteBudget::for_write(u32::MAX));
        let cx = Context::from_waker(Waker::noop());
        assert!(matches!(
            subscriber.next(&cx, PollMode::Ring, &mut slices, &mut budget),
            WriterAction::Wait
        ));
    }

    /// Publishes events in one commit. The fan-out task does not run meanwhile.
    fn publish(&self, topic: &str, count: usize) {
        self.publish_about(None, topic, count);
    }

    fn publish_about(&self, subject: Option<&ResourceId>, topic: &str, count: usize) {
        let log = self.engine.log(topic).unwrap();
        let data = Json::parse(b"1").unwrap();
        let write =
            || Write::publish(subject.cloned(), EventType::new("tick").unwrap(), data.clone());
        let writes = (0..count).map(|_| write()).collect();
        let append = || {
            let aside = tokio::runtime::Builder::new_current_thread().build().unwrap();
            aside.block_on(self.engine.append(&log, writes)).unwrap();
        };
        std::thread::scope(|scope| scope.spawn(append).join().unwrap());
    }
}

fn everything() -> Arc<Filter> {
    Filter::shared(Vec::new(), Vec::new())
}

#[tokio::test]
async fn a_log_that_is_always_behind_leaves_a_new_one_its_turn() {
    let bench = Bench::start();
    // More subscriptions than a pass visits between two yields.
    let _busy: Vec<_> = (0..=COST_AT_ONCE).map(|_| bench.subscribe("busy", everything())).collect();
    bench.publish("busy", 1);
    tokio::task::yield_now().await;
    // The fan-out of this log starts during the pass of the other log.
    let subscriber = bench.subscribe("new", everything());
    bench.publish("new", 1);
    for _ in 0..100 {
        bench.publish("busy", 1);
        tokio::task::yield_now().await;
        if !subscriber.state.lock().ring.is_empty() {
            return;
        }
    }
    panic!("the new log has not had its turn");
}

#[tokio::test]
async fn many_small_passes_yield_to_other_tasks() {
    const COMMITS: usize = COST_AT_ONCE;
    let bench = Bench::start();
    let subscribers = [(); 4].map(|()| bench.subscribe("busy", everything()));
    for _ in 0..COMMITS {
        bench.publish("busy", 1);
    }
    tokio::task::yield_now().await;
    let came = || subscribers[0].state.lock().ring.events() as usize;
    assert!(came() < COMMITS, "the fan-out did not yield");
    while came() < COMMITS {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_ring_frees_the_evicted_batches_of_one_log_and_keeps_those_of_another() {
    let bench = Bench::start();
    let subscriber = bench.subscribe("new", everything());
    bench.follow(&subscriber, "busy", everything());
    let waiting = || subscriber.state.lock().ring.events();
    bench.publish("new", 1);
    while waiting() < 1 {
        tokio::task::yield_now().await;
    }
    bench.publish("busy", 1);
    while waiting() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(!subscriber.state.lock().release_evicted());
    let (busy, new) = (bench.engine.log("busy").unwrap(), bench.engine.log("new").unwrap());
    let head = busy.head();
    while busy.holds(head) {
        bench.publish("busy", 1 << 10);
    }
    assert!(new.holds(new.head()));
    assert!(subscriber.state.lock().release_evicted());
    assert_eq!(waiting(), 1, "the event of the log that still has the batch stays");
}

/// A connection may have a thousand subscriptions with events of the same evicted
/// batch.
#[tokio::test]
async fn the_evicted_batches_of_many_subscriptions_are_found_in_one_pass() {
    const SUBSCRIPTIONS: u64 = 1000;
    for overflow in [Overflow::Log, Overflow::DropOldest] {
        let bench = Bench::start();
        let subscriber = bench.hub.join(Protocol::Sse, &bench.settings, 0).unwrap();
        for _ in 0..SUBSCRIPTIONS {
            bench.follow_as(&subscriber, "busy", Scope::Whole, everything(), overflow);
        }
        bench.publish("busy", 1);
        while subscriber.state.lock().ring.events() < SUBSCRIPTIONS {
            tokio::task::yield_now().await;
        }
        let log = bench.engine.log("busy").unwrap();
        let head = log.head();
        while log.holds(head) {
            bench.publish("busy", 1 << 10);
        }
        let mut state = subscriber.state.lock();
        state.ring.visits.set(0);
        assert!(state.release_evicted());
        let visits = state.ring.visits.get();
        assert!(visits < 8 * SUBSCRIPTIONS, "{visits} items visited, {overflow:?}");
        assert_eq!(state.ring.events(), 0);
        let marks = if overflow == Overflow::Log { 0 } else { SUBSCRIPTIONS };
        assert_eq!(state.ring.len() as u64, marks, "{overflow:?}");
        let waiting = state.subscriptions.iter().flatten().map(|it| it.waiting).sum::<u64>();
        assert_eq!(waiting, marks, "{overflow:?}");
    }
}

#[tokio::test]
async fn filters_that_match_nothing_yield_to_other_tasks() {
    const FILTERS: usize = 32;
    let bench = Bench::start();
    let other = || Filter::shared(vec![EventType::new("other").unwrap()], Vec::new());
    let _picky: Vec<_> = (0..FILTERS).map(|_| bench.subscribe("busy", other())).collect();
    let last = bench.subscribe("busy", everything());
    bench.publish("busy", 4096);
    let mut turns = 0;
    while last.state.lock().ring.is_empty() {
        assert!(turns < 10_000, "no event arrives");
        tokio::task::yield_now().await;
        turns += 1;
    }
    assert!(
        turns >= FILTERS,
        "{turns} turns while {FILTERS} filters looked at a whole commit each"
    );
}

/// Subscribers of one scope, four times as many as a pass visits at once.
struct Crowd {
    bench: Bench,
    resource: ResourceId,
    all: Vec<Arc<Subscriber>>,
    /// The number of references to subscribers while no pass runs.
    references: usize,
    /// A connection without a subscription. Only a tick visits it.
    bystander: Arc<Subscriber>,
    bystander_references: usize,
}

impl Crowd {
    fn gather(scope: impl Fn(ResourceId) -> Scope) -> Crowd {
        let (bench, resource) = (Bench::start(), ResourceId::new("hot").unwrap());
        let subscribe = |_| {
            let subscriber = bench.hub.join(Protocol::Sse, &bench.settings, 0).unwrap();
            let (scope, filter) = (scope(resource.clone()), everything());
            bench.follow_as(&subscriber, "busy", scope, filter, Overflow::Log);
            subscriber
        };
        let all: Vec<_> = (0..4 * COST_AT_ONCE).map(subscribe).collect();
        let references = all.iter().map(Arc::strong_count).sum();
        let bystander = bench.hub.join(Protocol::Sse, &bench.settings, 0).unwrap();
        let bystander_references = Arc::strong_count(&bystander);
        Crowd { bench, resource, all, references, bystander, bystander_references }
    }

    /// Returns the number of references to subscribers that the pass has. A tick
    /// that runs has one more reference to each connection.
    fn held(&self) -> usize {
        let references: usize = self.all.iter().map(Arc::strong_count).sum();
        let ticks = Arc::strong_count(&self.bystander) - self.bystander_references;
        references - self.references - ticks * self.all.len()
    }

    /// Runs the fan-out until `is_visited` is true for every subscriber.
    async fn check(&self, is_visited: impl Fn(&Subscriber) -> bool) {
        let mut turns = 0;
        while !self.all.iter().all(|subscriber| is_visited(subscriber)) {
            assert!(turns < 10_000, "some are not visited");
            tokio::task::yield_now().await;
            assert!(self.held() <= COST_AT_ONCE, "{} references at once", self.held());
            turns += 1;
        }
        assert!(turns >= 4, "the pass pauses");
    }
}

#[tokio::test]
async fn a_pass_over_many_subscribers_has_few_references_at_a_time() {
    for scope in [Scope::Subject, |_| Scope::Whole] {
        let crowd = Crowd::gather(scope);
        crowd.bench.publish_about(Some(&crowd.resource), "busy", 1);
        crowd.check(|subscriber| !subscriber.state.lock().ring.is_empty()).await;
    }
}

#[tokio::test]
async fn a_walk_that_makes_all_catch_up_has_few_references_at_a_time() {
    for scope in [Scope::Subject, |_| Scope::Whole] {
        let crowd = Crowd::gather(scope);
        let log = crowd.bench.engine.log("busy").unwrap();
        while log.tail(Offset::ZERO).is_some() {
            crowd.bench.publish("busy", 1 << 10);
        }
        crowd.check(|subscriber| !subscriber.is_live()).await;
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A connection joins, with a subscription of each policy.
    Join,
    /// A connection adds a subscription, with a snapshot if `true`.
    Subscribe(usize, bool),
    Publish(usize),
    /// The fan-out task runs.
    FanOut,
    /// A writer writes all events of its ring and of the log.
    Write(usize),
    /// A subscription restarts.
    Restart(usize, bool),
    Unsubscribe(usize),
    Leave(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let which = || 0..4usize;
    prop_oneof![
        1 => Just(Step::Join),
        1 => (which(), any::<bool>()).prop_map(|(which, snapshot)| Step::Subscribe(which, snapshot)),
        1 => (1..6usize).prop_map(Step::Publish),
        3 => Just(Step::FanOut),
        3 => which().prop_map(Step::Write),
        1 => (which(), any::<bool>()).prop_map(|(which, snapshot)| Step::Restart(which, snapshot)),
        1 => which().prop_map(Step::Unsubscribe),
        1 => which().prop_map(Step::Leave),
    ]
}

/// A connection and its subscriptions.
type Member = (Arc<Subscriber>, Vec<SubscriptionId>);

impl Bench {
    async fn step(&self, step: Step, members: &mut Vec<Member>) {
        let of = |which: usize| which.checked_rem(members.len());
        match step {
            Step::Join => {
                let subscriber = self.hub.join(Protocol::Sse, &self.settings, 0).unwrap();
                let ids = Overflow::ALL.map(|overflow| self.add(&subscriber, overflow, false));
                members.push((subscriber, ids.to_vec()));
            }
            Step::Subscribe(which, snapshot) => {
                let Some(which) = of(which) else { return };
                let (subscriber, ids) = &mut members[which];
                ids.push(self.add(subscriber, Overflow::Log, snapshot));
            }
            Step::Publish(count) => self.publish("busy", count),
            Step::FanOut => tokio::task::yield_now().await,
            Step::Write(which) => {
                let Some(which) = of(which) else { return };
                write(&members[which].0);
            }
            Step::Restart(which, snapshot) => {
                let Some((subscriber, ids)) = of(which).map(|which| &members[which]) else {
                    return;
                };
                if let Some(&id) = ids.first() {
                    subscriber.restart(id, Offset::ZERO, snapshot);
                }
            }
            Step::Unsubscribe(which) => {
                let Some(which) = of(which) else { return };
                let (subscriber, ids) = &mut members[which];
                if let Some(id) = ids.pop() {
                    assert!(subscriber.unsubscribe(id));
                }
            }
            Step::Leave(which) => {
                let Some(which) = of(which) else { return };
                members.remove(which).0.leave();
            }
        }
    }

    fn add(
        &self,
        subscriber: &Arc<Subscriber>,
        overflow: Overflow,
        snapshot: bool,
    ) -> SubscriptionId {
        let spec = SubscriptionSpec {
            scope: Scope::Whole,
            filter: everything(),
            format: WireFormat::SseChunked,
            credit: None,
            snapshot,
            on_gap: OnGap::Event,
            overflow,
        };
        subscriber.subscribe(&self.engine.log("busy").unwrap(), spec, None).0
    }

    fn recount(&self) -> (u64, u64) {
        self.hub.shards[0].count_lag()
    }
}

/// Writes the events of the ring, and reads each log to its head.
fn write(subscriber: &Subscriber) {
    let cx = Context::from_waker(Waker::noop());
    loop {
        let (mut slices, mut budget) = (Vec::new(), WriteBudget::for_write(u32::MAX));
        match subscriber.next(&cx, PollMode::Ring, &mut slices, &mut budget) {
            WriterAction::Write => subscriber.note_written(&slices),
            WriterAction::Read(reading) => {
                subscriber.note_read(reading.subscription, reading.log.head());
            }
            WriterAction::Snapshot(reading) => {
                subscriber.restart(reading.subscription, reading.log.head(), false);
            }
            WriterAction::Dropped(..) | WriterAction::Heartbeat(_) => {}
            WriterAction::PartialWrite(_) | WriterAction::End(..) | WriterAction::Wait => return,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_count_of_catching_up_subscriptions_equals_a_recount(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::with_rings(4);
            let mut members = Vec::new();
            for step in steps {
                bench.step(step, &mut members).await;
                assert_eq!(bench.hub.lag_stats().0, bench.recount().0, "after {step:?}");
            }
            while let Some((subscriber, _)) = members.pop() {
                subscriber.leave();
            }
            assert_eq!(bench.hub.lag_stats().0, 0);
        });
    }
}

#[tokio::test]
async fn the_tick_updates_the_lag() {
    let bench = Bench::with_rings(4);
    let subscriber = bench.subscribe("busy", everything());
    let until = async |lag| {
        while bench.hub.lag_stats().1 != lag {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(bench.recount().1, lag);
    };
    bench.publish("busy", 40);
    until(40).await;
    write(&subscriber);
    until(0).await;
    bench.publish("busy", 7);
    until(7).await;
    subscriber.leave();
    until(0).await;
}
