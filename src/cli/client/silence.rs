//! The deadline for the next complete line of a stream.

use std::time::Duration;

use tokio::time::Instant;

/// The average rate at which a long line must arrive, in bytes per second. It is
/// four times the default of `limits.body_rate`. This rate gives no extra time to a
/// short line such as a heartbeat.
const LINE_RATE: u64 = 1024;

/// The deadline for the next complete line of a stream. The bytes of a long line
/// extend the deadline if they arrive continuously and at least at [`LINE_RATE`].
/// Single bytes do not extend the deadline.
pub(in crate::cli) struct Silence {
    timeout: Duration,
    /// The time at which the last complete line arrived.
    last_line: Instant,
    /// The time at which the last bytes arrived.
    last_bytes: Instant,
    /// The number of bytes that arrived since the last complete line.
    bytes: u64,
}

impl Silence {
    /// Creates the deadline for the first line, which is `timeout` from now if the
    /// line is short.
    pub(in crate::cli) fn new(timeout: Duration) -> Silence {
        let now = Instant::now();
        Silence { timeout, last_line: now, last_bytes: now, bytes: 0 }
    }

    /// Returns the deadline. If no complete line arrives before this time, the
    /// connection counts as lost.
    pub(in crate::cli) fn due(&self) -> Instant {
        let line = self.timeout + Duration::from_secs(self.bytes / LINE_RATE);
        (self.last_line + line).min(self.last_bytes + self.timeout)
    }

    /// Records that `bytes` bytes arrived. `complete` is true if these bytes
    /// complete a line.
    pub(in crate::cli) fn record(&mut self, bytes: usize, complete: bool) {
        self.last_bytes = Instant::now();
        self.bytes += bytes as u64;
        if complete {
            (self.last_line, self.bytes) = (self.last_bytes, 0);
        }
    }
}
