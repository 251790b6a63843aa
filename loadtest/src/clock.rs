//! One monotonic clock for publishers and subscribers, in nanoseconds.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

static START: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds since the first call in this process.
pub fn now() -> u64 {
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Equal steps of time. What comes late does not move what comes next, so
/// that a latency counts from when something was due.
pub struct Pace {
    start: u64,
    steps: u64,
    rate: f64,
}

impl Pace {
    /// So many steps a second, from now on.
    pub fn new(rate: f64) -> Pace {
        Pace { start: now(), steps: 0, rate }
    }

    /// Waits for the next step and says when it was due.
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
