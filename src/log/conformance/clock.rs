//! A wall clock that is wrong, and one that is corrected.

use std::time::Duration;

use super::{Fixture, Open, one, publish, read, until};
use crate::event::{Offset, Timestamp};
use crate::log::clock::{TestClock, earlier, later};
use crate::log::{Engine, Log, Medium, Written};
use crate::store;

const MEDIA: [Medium; 2] = [Medium::Disk, Medium::Memory];
/// The right time when a test begins: 2026-01-01T00:00:00Z.
const NOW: Timestamp = Timestamp(1_767_225_600_000);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
/// A second less than the ten minutes.
const NEARLY: Duration = Duration::from_secs(599);
const HOUR: Duration = Duration::from_hours(1);
const YEAR: Duration = Duration::from_hours(365 * 24);

fn clock() -> TestClock {
    TestClock::new(NOW)
}

/// Waits until the committer has done all that a tick does by the clocks as
/// they are now. A tick reads them twice, and one may be under way.
async fn a_tick(clock: &TestClock) {
    let due = clock.reads() + 4;
    until(|| clock.reads() >= due).await;
}

async fn write(engine: &Engine, log: &Log) -> Written {
    one(engine, log, publish("1")).await.unwrap()
}

/// The log's time stands still for ten minutes, steps back once, and a start
/// by time then finds what was written after the step.
pub(super) async fn a_corrected_clock_is_taken_after_ten_minutes(open: Open) {
    for medium in MEDIA {
        let clock = clock();
        let fixture = Fixture::new(open).on(medium).at(&clock);
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
        assert_eq!((last.time, log.clock_steps()), (ahead, 0), "on {medium:?}");
        clock.advance(SECOND);
        let two = engine.append(log, vec![publish("2"), publish("3")]).await.unwrap();
        let [stepped, next] = &two[..] else { unreachable!() };
        let (stepped, next) = (stepped.clone().unwrap(), next.clone().unwrap());
        assert_eq!((stepped.time, next.time), (clock.wall(), clock.wall()), "on {medium:?}");
        assert_eq!(log.clock_steps(), 1);
        clock.advance(SECOND);
        assert_eq!(write(&engine, log).await.time, clock.wall());
        assert_eq!(log.clock_steps(), 1, "there is one step");
        for time in [Timestamp(0), NOW, first.time, stepped.time] {
            assert_eq!(log.before(time).unwrap(), (last.offset, true), "{time} on {medium:?}");
        }
        assert_eq!(log.before(later(stepped.time, SECOND)).unwrap(), (next.offset, true));
        assert_eq!(log.before(ahead).unwrap(), (log.head(), true));
        assert_eq!(read(log, Offset::ZERO).await.len() as u64, log.head().0);
    }
}

/// The ten minutes pass although nothing is written in them.
pub(super) async fn a_log_that_nobody_writes_is_watched(open: Open) {
    for medium in MEDIA {
        let clock = clock();
        let fixture = Fixture::new(open).on(medium).at(&clock);
        let engine = fixture.open();
        let log = &engine.log("news").unwrap();
        clock.set_wall(later(NOW, YEAR));
        write(&engine, log).await;
        clock.set_wall(NOW);
        a_tick(&clock).await;
        clock.advance(10 * MINUTE);
        assert_eq!(write(&engine, log).await.time, clock.wall(), "on {medium:?}");
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
        assert_eq!(write(&engine, log).await.time, ahead, "on {medium:?}");
    }
}

/// Ten seconds are no more than two machines may differ by.
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

/// What was stepped over stays so; the ten minutes are those of one run.
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
