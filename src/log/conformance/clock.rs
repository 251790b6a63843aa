//! Tests with a wall clock that is wrong, and with a corrected clock.

use std::time::Duration;

use super::{Fixture, Open, create, one, publish, read, until};
use crate::event::{Offset, ResourceId, Timestamp};
use crate::log::embedded::{TestClock, earlier, later};
use crate::log::{
    AppendOutcome, AppendRejection, AtomicBatch, AtomicError, Engine, IdempotencyKey, Log,
    LogConfig, StorageKind, Write,
};
use crate::store::{self, Retention};

const MEDIA: [StorageKind; 2] = [StorageKind::Disk, StorageKind::Memory];
/// The correct time at the start of a test: 2026-01-01T00:00:00Z.
const NOW: Timestamp = Timestamp(1_767_225_600_000);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
/// One second less than ten minutes.
const NEARLY: Duration = Duration::from_secs(599);
const HOUR: Duration = Duration::from_hours(1);
const YEAR: Duration = Duration::from_hours(365 * 24);

fn clock() -> TestClock {
    TestClock::new(NOW)
}

fn aged(age: Duration) -> Retention {
    Retention { age, ..Retention::default() }
}

/// Waits until the committer has completed a tick with the current clocks. A tick
/// reads the clocks twice, and a tick may already be running.
async fn a_tick(clock: &TestClock) {
    let due = clock.reads() + 4;
    until(|| clock.reads() >= due).await;
}

async fn write(engine: &Engine, log: &Log) -> AppendOutcome {
    one(engine, log, publish("1")).await.unwrap()
}

/// A rejected batch takes back the step that one of its writes would have made.
pub(super) async fn a_rejected_batch_makes_no_clock_step(open: Open) {
    let clock = clock();
    let fixture = Fixture::new(open).at(&clock);
    let engine = fixture.open();
    let (orders, news) = (engine.log("orders").unwrap(), engine.log("news").unwrap());
    let ahead = later(NOW, YEAR);
    clock.set_wall(ahead);
    write(&engine, &news).await;
    clock.set_wall(NOW);
    assert_eq!(write(&engine, &news).await.time, ahead);
    clock.advance(NEARLY + SECOND);
    let appends = vec![
        (news.clone(), vec![publish("2")]),
        (orders.clone(), vec![Write::delete(ResourceId::new("missing").unwrap())]),
    ];
    let batch = AtomicBatch { appends, ..AtomicBatch::default() };
    let rejected = engine.append_all(batch).await;
    assert!(matches!(rejected, Err(AtomicError::Rejected { append: 1, .. })), "{rejected:?}");
    assert_eq!(news.clock_steps(), 0);
    let next = write(&engine, &news).await;
    assert_eq!((next.time, news.clock_steps()), (clock.wall(), 1));
}

/// The time of the log stands still for ten minutes and steps back once. A start by
/// time then finds the events after the step.
pub(super) async fn a_corrected_clock_is_taken_after_ten_minutes(open: Open) {
    for storage in MEDIA {
        let clock = clock();
        let fixture = Fixture::new(open).on(storage).at(&clock);
        let engine = fixture.open();
        let log = &engine.log("news").unwrap();
        let first = write(&engine, log).await;
        let ahead = later(NOW, YEAR);
        clock.set_wall(ahead);
        assert_eq!(write(&engine, log).await.time, ahead);
        clock.set_wall(NOW);
        assert_eq!(write(&engine, log).await.time, ahead);
        clock.advance(NEARLY);
        let last = write(&engine, log).await;
        assert_eq!((last.time, log.clock_steps()), (ahead, 0), "on {storage:?}");
        clock.advance(SECOND);
        let two = engine.append(log, vec![publish("2"), publish("3")]).await.unwrap();
        let [stepped, next] = &two[..] else { unreachable!() };
        let (stepped, next) = (stepped.clone().unwrap(), next.clone().unwrap());
        assert_eq!((stepped.time, next.time), (clock.wall(), clock.wall()), "on {storage:?}");
        assert_eq!(log.clock_steps(), 1);
        clock.advance(SECOND);
        assert_eq!(write(&engine, log).await.time, clock.wall());
        assert_eq!(log.clock_steps(), 1, "there is one step");
        for time in [Timestamp(0), NOW, first.time, stepped.time] {
            assert_eq!(log.before(time).unwrap(), (last.offset, true), "{time} on {storage:?}");
        }
        assert_eq!(log.before(later(stepped.time, SECOND)).unwrap(), (next.offset, true));
        assert_eq!(log.before(ahead).unwrap(), (log.head(), true));
        assert_eq!(read(log, Offset::ZERO).await.len() as u64, log.head().0);
    }
}

/// The ten minutes also pass without writes.
pub(super) async fn a_log_that_nobody_writes_is_watched(open: Open) {
    for storage in MEDIA {
        let clock = clock();
        let fixture = Fixture::new(open).on(storage).at(&clock);
        let engine = fixture.open();
        let log = &engine.log("news").unwrap();
        clock.set_wall(later(NOW, YEAR));
        write(&engine, log).await;
        clock.set_wall(NOW);
        a_tick(&clock).await;
        clock.advance(10 * MINUTE);
        assert_eq!(write(&engine, log).await.time, clock.wall(), "on {storage:?}");
        // A clock that is right in between begins the ten minutes anew.
        let ahead = later(clock.wall(), YEAR);
        clock.set_wall(ahead);
        write(&engine, log).await;
        clock.set_wall(NOW);
        a_tick(&clock).await;
        clock.advance(9 * MINUTE);
        clock.set_wall(ahead);
        a_tick(&clock).await;
        clock.set_wall(NOW);
        a_tick(&clock).await;
        clock.advance(9 * MINUTE);
        assert_eq!(write(&engine, log).await.time, ahead, "on {storage:?}");
    }
}

/// The clocks of two machines may differ by ten seconds.
pub(super) async fn a_clock_that_is_a_little_behind_makes_no_step(open: Open) {
    let clock = clock();
    let fixture = Fixture::new(open).at(&clock);
    let engine = fixture.open();
    let log = &engine.log("news").unwrap();
    let written = write(&engine, log).await;
    clock.set_wall(earlier(NOW, 10 * SECOND));
    a_tick(&clock).await;
    clock.advance(10 * MINUTE);
    clock.set_wall(earlier(NOW, 10 * SECOND));
    assert_eq!(write(&engine, log).await.time, written.time);
    assert_eq!(log.clock_steps(), 0);
    clock.set_wall(later(NOW, SECOND));
    assert_eq!(write(&engine, log).await.time, later(NOW, SECOND));
}

/// A step survives a restart. The ten minutes start again with each process.
pub(super) async fn a_restart_keeps_the_step_and_begins_the_ten_minutes_anew(open: Open) {
    let clock = clock();
    let ahead = later(NOW, YEAR);
    let fixture = Fixture::new(open).at(&clock);
    let run = async |times: &[Duration]| {
        let engine = fixture.open();
        let log = &engine.log("news").unwrap();
        for &time in times {
            clock.advance(time);
            write(&engine, log).await;
        }
        let found = |time| log.before(time).unwrap();
        (found(NOW), found(ahead), engine.log("news").unwrap().head())
    };
    clock.set_wall(ahead);
    run(&[Duration::ZERO; 2]).await;
    clock.set_wall(NOW);
    run(&[9 * MINUTE]).await;
    let before = run(&[9 * MINUTE, SECOND]).await;
    assert_eq!(before, ((Offset(0), true), (Offset(0), true), Offset(5)), "no step yet");
    let after = run(&[10 * MINUTE]).await;
    assert_eq!(after, ((Offset(5), true), (Offset(6), true), Offset(6)));
    assert_eq!(run(&[]).await, after, "the step lasts");
    // The last step counts, and each is sound.
    clock.set_wall(ahead);
    run(&[Duration::ZERO; 2]).await;
    clock.set_wall(later(NOW, HOUR));
    let again = run(&[10 * MINUTE, SECOND]).await;
    assert_eq!(again, ((Offset(8), true), (Offset(10), true), Offset(10)));
    let report = store::verify(&fixture.settings.path, |_, _| {}).unwrap();
    assert_eq!(report.damage, Vec::<String>::new());
}

/// Events that are ahead of the clock are trimmed together with the next event that
/// is not ahead. They stay as long as no such event follows.
pub(super) async fn events_ahead_of_the_clock_age_with_the_next_that_is_not(open: Open) {
    for storage in MEDIA {
        let clock = clock();
        let fixture = Fixture::new(open).keeping(aged(HOUR)).on(storage).at(&clock);
        let engine = fixture.open();
        let log = &engine.log("news").unwrap();
        let many = || (0..2000).map(|_| publish("1")).collect();
        clock.set_wall(later(NOW, YEAR));
        engine.append(log, many()).await.unwrap();
        clock.set_wall(NOW);
        clock.advance(2 * HOUR);
        a_tick(&clock).await;
        assert_eq!(log.floor(), Offset::ZERO, "nothing is behind them on {storage:?}");
        clock.advance(10 * MINUTE);
        let stepped = write(&engine, log).await;
        assert_eq!(stepped.time, clock.wall());
        // A second run, with its own event behind it.
        clock.set_wall(later(NOW, 2 * YEAR));
        engine.append(log, many()).await.unwrap();
        clock.set_wall(stepped.time);
        a_tick(&clock).await;
        clock.advance(30 * MINUTE);
        let newest = write(&engine, log).await;
        clock.advance(29 * MINUTE);
        a_tick(&clock).await;
        assert_eq!(log.floor(), Offset::ZERO, "the next one is 59 minutes old");
        clock.advance(2 * MINUTE);
        until(|| log.floor() == stepped.offset).await;
        a_tick(&clock).await;
        assert_eq!(log.floor(), stepped.offset, "on {storage:?}");
        assert_eq!(log.before(NOW).unwrap(), (Offset(newest.offset.0 - 1), true));
        clock.advance(30 * MINUTE);
        // The floor moves just before the events go.
        until(|| log.position().floor == newest.offset).await;
        assert_eq!(log.before(newest.time).unwrap(), (newest.offset, false));
    }
}

/// The age of an event is limited by the monotonic clock.
pub(super) async fn a_wall_clock_that_jumps_forward_expires_nothing(open: Open) {
    for storage in MEDIA {
        let clock = clock();
        let fixture = Fixture::new(open).keeping(aged(HOUR)).on(storage).at(&clock);
        let engine = fixture.open();
        let log = &engine.log("news").unwrap();
        let written = write(&engine, log).await;
        clock.set_wall(later(NOW, YEAR));
        a_tick(&clock).await;
        assert_eq!(log.floor(), Offset::ZERO, "on {storage:?}");
        clock.advance(HOUR + SECOND);
        until(|| log.floor() == written.offset).await;
    }
}

/// An operator has time to correct a clock that is ahead at the start.
pub(super) async fn a_start_that_would_expire_a_whole_log_waits(open: Open) {
    let clock = clock();
    let fixture = Fixture::new(open).keeping(aged(HOUR)).at(&clock);
    let written = {
        let engine = fixture.open();
        let log = &engine.log("news").unwrap();
        write(&engine, log).await;
        write(&engine, log).await
    };
    let ahead = later(NOW, YEAR);
    clock.set_wall(ahead);
    {
        let engine = fixture.open();
        let log = &engine.log("news").unwrap();
        write(&engine, log).await;
        a_tick(&clock).await;
        clock.advance(NEARLY);
        a_tick(&clock).await;
        assert_eq!(log.floor(), Offset::ZERO);
        clock.set_wall(NOW);
        clock.advance(MINUTE);
        a_tick(&clock).await;
        assert_eq!(log.floor(), Offset::ZERO, "it was corrected in time");
    }
    clock.set_wall(later(ahead, 2 * HOUR));
    let young = {
        let engine = fixture.open();
        let log = &engine.log("news").unwrap();
        a_tick(&clock).await;
        assert_eq!(log.floor(), Offset::ZERO);
        clock.advance(10 * MINUTE);
        until(|| log.floor() == written.offset.next()).await;
        write(&engine, log).await;
        clock.advance(40 * MINUTE);
        write(&engine, log).await
    };
    // A log of which some is young is trimmed at once.
    clock.advance(40 * MINUTE);
    let engine = fixture.open();
    let log = &engine.log("news").unwrap();
    until(|| log.floor().next() == young.offset).await;
    // What is set smaller while it runs holds at once.
    clock.advance(MINUTE);
    let mut configs: Vec<LogConfig> = fixture.configs.clone();
    configs[1].retention = aged(SECOND);
    engine.reconfigure(&configs, 1 << 20).await.unwrap();
    until(|| log.floor() == young.offset).await;
}

/// A stored response is never removed early, and is removed eventually.
pub(super) async fn answers_last_a_day_by_both_clocks(open: Open) {
    let day = 24 * HOUR;
    let clock = clock();
    let fixture = Fixture::new(open).at(&clock);
    let ahead = later(NOW, YEAR);
    let repeat = async |engine: &Engine, n: u8| {
        let log = engine.log("orders").unwrap();
        let key = IdempotencyKey { key: [n; 32], body: [0; 32] };
        let write = create(&log, &format!("r{n}"), "{}").with_idempotency_key(key);
        one(engine, &log, write).await.map(|it| it.replayed)
    };
    let is_known = |engine: &Engine, n: u8| engine.store().answer(&[n; 32]).unwrap().is_some();
    {
        let engine = fixture.open();
        assert_eq!(repeat(&engine, 1).await, Ok(false));
        clock.set_wall(ahead);
        a_tick(&clock).await;
        assert_eq!(repeat(&engine, 1).await, Ok(true), "the wall clock jumped");
    }
    let engine = fixture.open();
    a_tick(&clock).await;
    assert_eq!(repeat(&engine, 1).await, Ok(true), "the clock is ahead at the start");
    clock.advance(10 * MINUTE);
    until(|| !is_known(&engine, 1)).await;
    assert_eq!(repeat(&engine, 1).await, Err(AppendRejection::Exists));
    assert_eq!(repeat(&engine, 2).await, Ok(false));
    clock.advance(day + SECOND);
    until(|| !is_known(&engine, 2)).await;
    clock.set_wall(NOW);
    assert_eq!(repeat(&engine, 3).await, Ok(false), "the clock is corrected");
    clock.advance(day.saturating_sub(SECOND));
    a_tick(&clock).await;
    assert!(is_known(&engine, 3));
    clock.advance(2 * SECOND);
    until(|| !is_known(&engine, 3)).await;
}
