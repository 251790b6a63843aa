//! The deadline for the next complete line of a stream.

use std::time::Duration;

use tokio::time::Instant;

/// The average rate at which a long line must arrive, in bytes per second. It is four times the
/// default of `limits.body_rate`. A short line such as a heartbeat gets no extra time from it.
const LINE_RATE: u64 = 1024;

/// The deadline for the next complete line of a stream. A long line extends the deadline if its
/// bytes arrive continuously at [`LINE_RATE`]; single bytes do not.
pub(in crate::cli) struct Silence {
    timeout: Duration,
    /// The time of the last complete line.
    last_line: Instant,
    /// The time of the last bytes.
    last_bytes: Instant,
    /// The number of bytes since the last complete line.
    bytes: u64,
}

impl Silence {
    /// Starts the deadline now. A short line has `timeout` to arrive.
    pub(in crate::cli) fn new(timeout: Duration) -> Silence {
        let now = Instant::now();
        Silence { timeout, last_line: now, last_bytes: now, bytes: 0 }
    }

    /// Returns the time at which the stream counts as silent.
    pub(in crate::cli) fn due(&self) -> Instant {
        let line = self.timeout + Duration::from_secs(self.bytes / LINE_RATE);
        (self.last_line + line).min(self.last_bytes + self.timeout)
    }

    /// Records bytes. `complete` is true if they complete a line.
    pub(in crate::cli) fn record(&mut self, bytes: usize, complete: bool) {
        self.last_bytes = Instant::now();
        self.bytes += bytes as u64;
        if complete {
            (self.last_line, self.bytes) = (self.last_bytes, 0);
        }
    }
}
