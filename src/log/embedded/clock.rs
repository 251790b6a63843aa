//! The wall clock and the monotonic clock of the committer.
//!
//! Events get the time of the wall clock, which an operator or NTP may move.
//! Durations are measured with the monotonic clock. Both clocks are read in one
//! place, so that a test can set them.

use std::time::{Duration, Instant};

use crate::event::{Offset, Timestamp};

/// The newest event of a log may have a time that is up to this much later than the
/// wall clock. A larger difference makes the log's time step back after
/// [`STEP_AFTER`]. Clocks that NTP keeps correct differ by far less.
pub(in crate::log) const LEAD_MAX: Duration = Duration::from_secs(10);
/// The time for which the newest event must be more than [`LEAD_MAX`] ahead of the
/// wall clock before the log's time steps back. The next event then has an earlier
/// time than the newest event. A clock that is wrong for a moment causes no step.
const STEP_AFTER: Duration = Duration::from_mins(10);
/// The time for which a log trims nothing by age if every event is older than its
/// retention allows when the engine starts. The clock may be ahead then, and an
/// operator can correct it during this time.
pub(in crate::log) const START_WAIT: Duration = Duration::from_mins(10);

/// The wall clock and the monotonic clock of one run of the engine.
#[derive(Clone)]
pub(in crate::log) struct Clock {
    source: Source,
    /// The time of the wall clock at the start of the run.
    started: Timestamp,
}

#[derive(Clone)]
enum Source {
    /// The clocks of the machine, and the start of the run.
    System(Instant),
    /// The clocks of a test, and their monotonic time at the start of the run.
    #[cfg(test)]
    Test(TestClock, Duration),
}

/// The times of both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) struct ClockReading {
    /// The time of the wall clock.
    pub(in crate::log) wall: Timestamp,
    /// The monotonic time since the start of the run.
    pub(in crate::log) elapsed: Duration,
    /// The time that decides whether events and stored responses are expired. It is
    /// the wall clock, but at most the wall-clock time at the start of the run plus
    /// `elapsed`. A wall clock that jumps forward therefore expires nothing.
    pub(in crate::log) expiry: Timestamp,
}

impl Clock {
    /// Returns the clocks of the machine. The run starts now.
    pub(in crate::log) fn system() -> Clock {
        Clock { source: Source::System(Instant::now()), started: Timestamp::now() }
    }

    /// Reads both clocks.
    pub(in crate::log) fn read(&self) -> ClockReading {
        let (wall, elapsed) = match &self.source {
            Source::System(start) => (Timestamp::now(), start.elapsed()),
            #[cfg(test)]
            Source::Test(clock, start) => {
                let (wall, monotonic) = clock.read();
                (wall, monotonic.saturating_sub(*start))
            }
        };
        let expiry = wall.min(later(self.started, elapsed));
        ClockReading { wall, elapsed, expiry }
    }
}

/// The time for which the newest event of a log has been more than [`LEAD_MAX`]
/// ahead of the wall clock. After a restart the time starts at zero again.
#[derive(Clone, Copy, Default)]
pub(in crate::log) struct Lead {
    /// The monotonic time of the first comparison that found the newest event ahead.
    /// `None` if the event was not ahead at the last comparison.
    since: Option<Duration>,
}

/// A step back of a log's time: an event that has an earlier time than the event
/// before it.
#[derive(Clone)]
pub(in crate::log) struct Step {
    /// The offset of the newest event before the step.
    pub(in crate::log) after: Offset,
    /// The time of the event at `after`.
    pub(in crate::log) from: Timestamp,
    /// The time of the first event after the step. It is earlier than `from`.
    pub(in crate::log) to: Timestamp,
}

impl Lead {
    /// Returns whether the newest event was more than [`LEAD_MAX`] ahead of the wall
    /// clock at the last comparison.
    pub(in crate::log) fn is_ahead(&self) -> bool {
        self.since.is_some()
    }

    /// Compares `newest`, the time of the newest event, with the clocks. Returns
    /// whether the log's time steps back: the next event then gets the time of the
    /// wall clock, although the newest event has a later time. The committer calls
    /// this at least once a second.
    pub(in crate::log) fn observe(&mut self, newest: Timestamp, now: ClockReading) -> bool {
        if !is_ahead(newest, now) {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now.elapsed);
        now.elapsed.saturating_sub(since) >= STEP_AFTER
    }
}

/// Returns whether the newest event is more than [`LEAD_MAX`] ahead of the wall
/// clock.
pub(in crate::log) fn is_ahead(newest: Timestamp, now: ClockReading) -> bool {
    newest > later(now.wall, LEAD_MAX)
}

/// Returns the time `duration` after `time`.
pub(in crate::log) fn later(time: Timestamp, duration: Duration) -> Timestamp {
    Timestamp(time.0.saturating_add(millis(duration)))
}

/// Returns the time `duration` before `time`.
pub(in crate::log) fn earlier(time: Timestamp, duration: Duration) -> Timestamp {
    Timestamp(time.0.saturating_sub(millis(duration)))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A wall clock and a monotonic clock for tests. They stand still until a test sets
/// them.
#[cfg(test)]
#[derive(Clone)]
pub(in crate::log) struct TestClock(std::sync::Arc<TestClocks>);

#[cfg(test)]
struct TestClocks {
    /// The wall clock, and the monotonic time since the creation of the clocks.
    now: parking_lot::Mutex<(Timestamp, Duration)>,
    /// The number of times that both clocks were read.
    reads: std::sync::atomic::AtomicU64,
}

#[cfg(test)]
impl TestClock {
    /// Creates clocks at the time `wall`.
    pub(in crate::log) fn new(wall: Timestamp) -> TestClock {
        let now = parking_lot::Mutex::new((wall, Duration::ZERO));
        TestClock(std::sync::Arc::new(TestClocks { now, reads: 0.into() }))
    }

    /// Returns the clock of a run that starts now.
    pub(in crate::log) fn start(&self) -> Clock {
        let (started, monotonic) = *self.0.now.lock();
        Clock { source: Source::Test(self.clone(), monotonic), started }
    }

    /// Moves both clocks forward.
    pub(in crate::log) fn advance(&self, duration: Duration) {
        let mut now = self.0.now.lock();
        *now = (later(now.0, duration), now.1 + duration);
    }

    /// Sets the wall clock. The monotonic clock does not change.
    pub(in crate::log) fn set_wall(&self, wall: Timestamp) {
        self.0.now.lock().0 = wall;
    }

    /// Returns the time of the wall clock.
    pub(in crate::log) fn wall(&self) -> Timestamp {
        self.0.now.lock().0
    }

    /// Returns the number of times that the engine has read the clocks.
    pub(in crate::log) fn reads(&self) -> u64 {
        self.0.reads.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn read(&self) -> (Timestamp, Duration) {
        let now = *self.0.now.lock();
        self.0.reads.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        now
    }
}
