//! How long a stream's next whole line may take.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes a second at which a long line must come on average once the silence
/// has passed: four times the rate that a gateway asks of a body by default
/// (`limits.body_rate`), since a heartbeat is far shorter than that.
const LINE_RATE: u64 = 1024;

/// The deadline of a stream's next whole line. Single bytes do not put it off;
/// a long line on a slow network does, as long as its bytes keep coming.
pub(in crate::cli) struct Silence {
    most: Duration,
    /// When the last whole line came.
    line: Instant,
    /// When the last bytes came.
    heard: Instant,
    /// Bytes since the last whole line.
    bytes: u64,
}

impl Silence {
    /// A deadline that begins now and leaves `most` for a short line.
    pub(in crate::cli) fn new(most: Duration) -> Silence {
        let now = Instant::now();
        Silence { most, line: now, heard: now, bytes: 0 }
    }

    /// When the stream counts as silent.
    pub(in crate::cli) fn due(&self) -> Instant {
        let line = self.most + Duration::from_secs(self.bytes / LINE_RATE);
        (self.line + line).min(self.heard + self.most)
    }

    /// Bytes have come, among them the end of a line if `whole`.
    pub(in crate::cli) fn came(&mut self, bytes: usize, whole: bool) {
        self.heard = Instant::now();
        self.bytes += bytes as u64;
        if whole {
            (self.line, self.bytes) = (self.heard, 0);
        }
    }
}
