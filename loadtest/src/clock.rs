//! One monotonic clock for publishers and subscribers, in nanoseconds.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

static START: OnceLock<Instant> = OnceLock::new();

/// Returns the nanoseconds since the first call in this process.
pub fn now() -> u64 {
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// A schedule of equal steps of time. A step that runs late does not move the
/// following ones, so latency counts from the time at which an event was due.
pub struct Pace {
    start: u64,
    steps: u64,
    rate: f64,
}

impl Pace {
    /// Starts a schedule of `rate` steps a second now.
    pub fn new(rate: f64) -> Pace {
        Pace { start: now(), steps: 0, rate }
    }

    /// Waits for the next step and returns the time at which it was due.
    pub fn wait(&mut self) -> u64 {
        let offset = Duration::from_secs_f64(self.steps as f64 / self.rate);
        self.steps += 1;
        let due = self.start + offset.as_nanos() as u64;
        if let Some(wait) = due.checked_sub(now()) {
            std::thread::sleep(Duration::from_nanos(wait));
        }
        due
    }
}
