//! The wall clock and the monotonic clock, as the committer reads them.
//!
//! The wall clock dates events, and an operator or NTP may move it. The
//! monotonic clock measures how long something lasts. Both are read in one
//! place, so that a test can set them.

use std::time::{Duration, Instant};

use crate::event::{Offset, Timestamp};

/// How far a log's newest event may be dated ahead of the wall clock for good:
/// far more than clocks that NTP keeps right ever differ by.
pub(in crate::log) const LEAD_MAX: Duration = Duration::from_secs(10);
/// How long the newest event is further ahead than that before the log's time
/// steps back: a clock that is wrong for a moment must not make a step.
const STEP_AFTER: Duration = Duration::from_mins(10);
/// How long nothing expires after a start by whose clock everything would: time
/// to correct a clock that is ahead.
pub(in crate::log) const START_WAIT: Duration = Duration::from_mins(10);

/// The clocks of one run of the engine.
#[derive(Clone)]
pub(in crate::log) struct Clock {
    source: Source,
    /// The wall clock when the run began.
    started: Timestamp,
}

#[derive(Clone)]
enum Source {
    /// The machine's clocks; the instant at which the run began.
    System(Instant),
    /// The clocks of a test, and their monotonic time when the run began.
    #[cfg(test)]
    Test(TestClock, Duration),
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) struct ClockReading {
    /// The wall clock.
    pub(in crate::log) wall: Timestamp,
    /// The monotonic time since the run began.
    pub(in crate::log) elapsed: Duration,
    /// The time by which events and answers expire: the wall clock, but never
    /// ahead of the monotonic clock counted from the wall clock's time at the
    /// start. A wall clock that jumps forward therefore expires nothing.
    pub(in crate::log) expiry: Timestamp,
}

impl Clock {
    /// The machine's clocks, from now on.
    pub(in crate::log) fn system() -> Clock {
        Clock { source: Source::System(Instant::now()), started: Timestamp::now() }
    }

    /// Both clocks now.
    pub(in crate::log) fn read(&self) -> ClockReading {
        let (wall, elapsed) = match &self.source {
            Source::System(began) => (Timestamp::now(), began.elapsed()),
            #[cfg(test)]
            Source::Test(clock, began) => {
                let (wall, monotonic) = clock.read();
                (wall, monotonic.saturating_sub(*began))
            }
        };
        let expiry = wall.min(later(self.started, elapsed));
        ClockReading { wall, elapsed, expiry }
    }
}

/// How long a log's newest event has been dated ahead of the wall clock. This
/// is known to the process alone: a restart begins to count anew.
#[derive(Clone, Copy, Default)]
pub(in crate::log) struct Lead {
    /// The monotonic time at which this was first seen.
    since: Option<Duration>,
}

/// A step back of a log's time.
#[derive(Clone)]
pub(in crate::log) struct Step {
    /// The newest event before the step.
    pub(in crate::log) after: Offset,
    /// The time of that event.
    pub(in crate::log) from: Timestamp,
    /// The time of the next one.
    pub(in crate::log) to: Timestamp,
}

impl Lead {
    /// Whether the newest event was ahead of the clock when they were compared.
    pub(in crate::log) fn is_ahead(&self) -> bool {
        self.since.is_some()
    }

    /// Compares the time of the newest event with the clocks, and returns
    /// whether the next event is to take the wall clock's time although that
    /// is earlier. To be called at least once a second.
    pub(in crate::log) fn observe(&mut self, newest: Timestamp, now: ClockReading) -> bool {
        if newest <= later(now.wall, LEAD_MAX) {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now.elapsed);
        now.elapsed.saturating_sub(since) >= STEP_AFTER
    }
}

/// The moment `duration` after `time`.
pub(in crate::log) fn later(time: Timestamp, duration: Duration) -> Timestamp {
    Timestamp(time.0.saturating_add(millis(duration)))
}

/// The moment `duration` before `time`.
pub(in crate::log) fn earlier(time: Timestamp, duration: Duration) -> Timestamp {
    Timestamp(time.0.saturating_sub(millis(duration)))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A wall clock and a monotonic clock that a test sets.
#[cfg(test)]
#[derive(Clone)]
pub(in crate::log) struct TestClock(std::sync::Arc<TestClocks>);

#[cfg(test)]
struct TestClocks {
    /// The wall clock, and the monotonic one since this was made.
    now: parking_lot::Mutex<(Timestamp, Duration)>,
    /// How often both were read.
    reads: std::sync::atomic::AtomicU64,
}

#[cfg(test)]
impl TestClock {
    /// Clocks that stand still until they are set.
    pub(in crate::log) fn new(wall: Timestamp) -> TestClock {
        let now = parking_lot::Mutex::new((wall, Duration::ZERO));
        TestClock(std::sync::Arc::new(TestClocks { now, reads: 0.into() }))
    }

    /// The clock of a run that begins now.
    pub(in crate::log) fn start(&self) -> Clock {
        let (started, monotonic) = *self.0.now.lock();
        Clock { source: Source::Test(self.clone(), monotonic), started }
    }

    /// Moves both clocks forward.
    pub(in crate::log) fn advance(&self, duration: Duration) {
        let mut now = self.0.now.lock();
        *now = (later(now.0, duration), now.1 + duration);
    }

    /// Sets the wall clock alone.
    pub(in crate::log) fn set_wall(&self, wall: Timestamp) {
        self.0.now.lock().0 = wall;
    }

    /// The wall clock.
    pub(in crate::log) fn wall(&self) -> Timestamp {
        self.0.now.lock().0
    }

    /// How often the engine has read the clocks.
    pub(in crate::log) fn reads(&self) -> u64 {
        self.0.reads.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn read(&self) -> (Timestamp, Duration) {
        let now = *self.0.now.lock();
        self.0.reads.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        now
    }
}
