//! The conformance tests of an engine, for each kind of storage.

mod atomic;
mod clock;
mod events;
mod memory;
mod reconfigured;
mod resources;

use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::embedded::{Clock, TestClock};
use super::{
    AppendOutcome, AppendRejection, Engine, FsyncPolicy, Log, LogConfig, Settings, StorageKind,
    Write,
};
use crate::event::{Event, EventType, Offset, ResourceId};
use crate::store::{self, Retention};
use crate::wire::LogKind;
use crate::wire::json::Json;

/// A function that opens an engine on a store.
pub(super) type Open = fn(&Settings, &[LogConfig], Clock) -> Result<Engine, store::Error>;

/// The maximum time to wait for a condition.
const PATIENCE: Duration = Duration::from_secs(20);

/// A store in a temporary folder, with the settings to open an engine on it.
pub(super) struct Fixture {
    _folder: TempDir,
    pub(super) settings: Settings,
    pub(super) configs: Vec<LogConfig>,
    open: Open,
    /// `None` for the clock of the machine.
    clock: Option<TestClock>,
}

impl Fixture {
    pub(super) fn new(open: Open) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { sync: FsyncPolicy::Always, ..Settings::within(folder.path()) };
        let configs =
            vec![collection("orders", "order"), LogConfig::topic("news", StorageKind::Disk)];
        Fixture { _folder: folder, settings, configs, open, clock: None }
    }

    /// Sets the storage of the topic.
    pub(super) fn on(mut self, storage: StorageKind) -> Fixture {
        self.configs[1].durability = storage;
        self
    }

    pub(super) fn keeping(mut self, retention: Retention) -> Fixture {
        for spec in &mut self.configs {
            spec.retention = retention;
        }
        self
    }

    /// Sets the clocks of a test.
    pub(super) fn at(mut self, clock: &TestClock) -> Fixture {
        self.clock = Some(clock.clone());
        self
    }

    pub(super) fn open(&self) -> Engine {
        let clock = self.clock.as_ref().map_or_else(Clock::system, TestClock::start);
        (self.open)(&self.settings, &self.configs, clock).unwrap()
    }
}

pub(super) fn collection(name: &str, resource: &str) -> LogConfig {
    let kind = LogKind::collection(resource).unwrap();
    LogConfig {
        name: name.to_owned(),
        kind,
        retention: Retention::default(),
        durability: StorageKind::Disk,
    }
}

pub(super) fn id(text: &str) -> ResourceId {
    ResourceId::new(text).unwrap()
}

pub(super) fn json(text: &str) -> Json {
    Json::parse(text.as_bytes()).unwrap()
}

pub(super) fn kind(text: &str) -> EventType {
    EventType::new(text).unwrap()
}

pub(super) fn create(log: &Log, name: &str, document: &str) -> Write {
    Write::create(log.identity(), id(name), &json(document)).unwrap()
}

pub(super) fn put(log: &Log, name: &str, document: &str) -> Write {
    Write::put(log.identity(), id(name), &json(document)).unwrap()
}

pub(super) fn publish(text: &str) -> Write {
    Write::publish(None, kind("said"), json(text))
}

pub(super) async fn one(
    engine: &Engine,
    log: &Log,
    write: Write,
) -> Result<AppendOutcome, AppendRejection> {
    engine.append(log, vec![write]).await.unwrap().pop().unwrap()
}

/// Waits until `is` returns true.
pub(super) async fn until(mut is: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is() {
        assert!(tokio::time::Instant::now() < deadline, "it never comes");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Returns all events after `after`, read page by page.
pub(super) async fn read(log: &Log, mut after: Offset) -> Vec<Event> {
    let mut events = Vec::new();
    while after < log.head() {
        let page = log.page(after).await.unwrap();
        assert!(page.scanned_to > after, "a page before the end gets on");
        let first = page.batch.position_after(after) as usize;
        events.extend_from_slice(&page.batch.events()[first..]);
        after = page.scanned_to;
    }
    assert_eq!(log.page(after).await.unwrap().scanned_to, after);
    events
}

pub(super) async fn read_of(log: &Log, name: &str, mut after: Offset) -> Vec<Event> {
    let mut events = Vec::new();
    while after < log.head() {
        let page = log.page_of(&id(name), after).await.unwrap();
        assert!(page.scanned_to > after, "a page before the end gets on");
        events.extend_from_slice(page.batch.events());
        after = page.scanned_to;
    }
    events
}

fn text(bytes: &Bytes) -> &str {
    str::from_utf8(bytes).unwrap()
}

fn offsets(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.offset.0).collect()
}

/// Runs all futures concurrently, and returns their outputs.
async fn futures_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(|it| (Box::pin(it), None)).collect();
    std::future::poll_fn(move |context| {
        for (future, output) in &mut futures {
            if output.is_none()
                && let std::task::Poll::Ready(done) = future.as_mut().poll(context)
            {
                *output = Some(done);
            }
        }
        if futures.iter().any(|(_, output)| output.is_none()) {
            return std::task::Poll::Pending;
        }
        let outputs = futures.iter_mut().filter_map(|(_, output)| output.take()).collect();
        std::task::Poll::Ready(outputs)
    })
    .await
}

/// Runs the suite against the engine that `$open` opens.
macro_rules! conformance {
    ($open:expr; $($part:ident::$name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                crate::log::conformance::$part::$name($open).await;
            }
        )*
    };
    ($open:expr) => {
        conformance!($open;
            atomic::an_atomic_batch_is_committed_to_every_log
            clock::a_rejected_batch_makes_no_clock_step
            atomic::a_rejected_write_leaves_nothing_of_its_batch
            atomic::rejected_batches_leave_no_trace_in_a_commit
            atomic::idempotency_keys_hold_within_an_atomic_batch
            atomic::an_atomic_batch_needs_logs_on_disk_and_room_in_a_commit
            atomic::a_log_of_another_engine_refuses_the_atomic_batch
            atomic::a_cursor_is_durable_and_belongs_to_an_epoch
            atomic::a_topic_in_memory_has_no_durable_cursor
            resources::writes_become_events_and_states
            resources::writes_of_one_call_see_each_other
            resources::one_of_many_rivals_wins
            resources::a_repeat_is_answered_and_not_done
            resources::a_restart_changes_nothing
            resources::what_is_read_at_a_time_is_bounded
            events::tail_and_pages_agree
            events::retention_keeps_the_newest
            events::retention_by_age_trims_in_time
            events::times_are_found
            clock::a_corrected_clock_is_taken_after_ten_minutes
            clock::a_log_that_nobody_writes_is_watched
            clock::a_clock_that_is_a_little_behind_makes_no_step
            clock::a_restart_keeps_the_step_and_begins_the_ten_minutes_anew
            clock::events_ahead_of_the_clock_age_with_the_next_that_is_not
            clock::a_wall_clock_that_jumps_forward_expires_nothing
            clock::a_start_that_would_expire_a_whole_log_waits
            clock::answers_last_a_day_by_both_clocks
            events::a_follower_misses_and_repeats_nothing
            events::observers_are_told_and_closing_refuses
            memory::nothing_of_a_topic_in_memory_is_on_disk
            memory::an_epoch_in_memory_ends_with_the_process
            memory::a_topic_on_disk_waits_while_its_name_is_in_memory
            memory::a_full_tail_raises_the_floor
            memory::the_newest_event_stays_in_memory
            memory::a_reader_is_told_each_gap_of_a_tail_that_runs_away
            memory::one_subject_is_found_without_an_index
            memory::no_answer_is_kept_in_memory
            reconfigured::new_logs_can_be_used_at_once_and_later
            reconfigured::retention_changes_while_it_runs
            reconfigured::who_is_not_named_stays_as_it_is
            reconfigured::a_log_from_before_is_found_again
            reconfigured::what_needs_a_restart_is_named_and_left
            reconfigured::the_largest_resource_changes
            reconfigured::writes_go_on_meanwhile
            reconfigured::a_closed_engine_changes_nothing
            reconfigured::a_log_of_another_engine_is_refused_by_its_name
        );
    };
}

mod embedded {
    use crate::log::Engine;

    conformance!(Engine::open_at);
}
