//! Reads the body of a request within the limits of size and time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, timeout_at};

use crate::api::answer::problem;
use crate::api::settings::Settings;
use crate::metrics::Metrics;
use crate::wire::problem::Problem;

/// Reads a request body with two deadlines: one for the next byte, and one for the
/// average rate. Without the second deadline, a client could keep a request open
/// forever by sending a few bytes from time to time.
pub struct BodyReader {
    body: Incoming,
    arrival: ArrivalRate,
    received: metrics::Counter,
    /// The time at which the current wait for bytes began. `None` if the reader does
    /// not wait for bytes.
    waits_since: Option<Instant>,
}

impl BodyReader {
    /// Creates a reader of `body` with the limits of `settings`.
    pub fn new(settings: &Settings, metrics: &Metrics, body: Incoming) -> BodyReader {
        let arrival = ArrivalRate::new(settings.body_timeout, settings.body_rate);
        BodyReader { body, arrival, received: metrics.received_bytes.clone(), waits_since: None }
    }

    /// Returns the next bytes of the body, and counts them in the metrics. Returns
    /// `None` at the end of the body.
    ///
    /// # Errors
    /// 408 if the bytes do not arrive in time, 400 if the connection ends before the
    /// end of the body.
    ///
    /// # Cancel safety
    /// Safe: no bytes are lost. The time for the next byte continues to run until
    /// [`hold`](Self::hold) is called.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        let due = since + self.arrival.left();
        loop {
            match timeout_at(due, self.body.frame()).await {
                Err(_) => return Err(problem::slow_body()),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => {
                    return Err(problem::malformed(format!(
                        "the body ended early: {error}; send the complete body"
                    )));
                }
                Ok(Some(Ok(frame))) => {
                    // Ignore trailers. A frame without data does not restart the
                    // deadline.
                    let bytes = frame.into_data().unwrap_or_default();
                    if !bytes.is_empty() {
                        self.hold();
                        self.arrival.record_bytes(bytes.len());
                        self.received.increment(bytes.len() as u64);
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// Stops the deadlines until [`next`](Self::next) is called again. In the
    /// meantime the gateway does not read, and this time must not count against the
    /// client.
    pub fn hold(&mut self) {
        if let Some(since) = self.waits_since.take() {
            self.arrival.record_wait(since.elapsed());
        }
    }

    /// Restarts the measurement of the average rate for a new line of an NDJSON
    /// batch. The last `bytes` bytes that were read belong to this line. If `bytes`
    /// is zero, the line has not begun, and the rate does not apply yet.
    pub fn begin_line(&mut self, bytes: usize) {
        self.arrival.begin_line(bytes);
    }

    /// Reads the whole body. Rejects a `Content-Length` above `bytes_max` before it
    /// reads the body.
    ///
    /// # Errors
    /// 413 for more than `bytes_max` bytes, and the errors of [`next`](Self::next).
    ///
    /// # Cancel safety
    /// Not safe: if the future is dropped, the bytes that were already read are
    /// lost.
    pub async fn whole(mut self, bytes_max: usize) -> Result<Bytes, Problem> {
        let too_large = || problem::too_large("the body", bytes_max);
        if self.body.size_hint().lower() > bytes_max as u64 {
            return Err(too_large());
        }
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(bytes) = self.next().await? {
            if first.len() + rest.len() + bytes.len() > bytes_max {
                return Err(too_large());
            }
            if first.is_empty() {
                first = bytes;
            } else {
                rest.extend_from_slice(&bytes);
            }
            // With a Content-Length, the end of the body is known here. Another call
            // of `next` would only poll hyper's connection once more.
            if self.body.is_end_stream() {
                break;
            }
        }
        if rest.is_empty() {
            return Ok(first);
        }
        let mut all = BytesMut::with_capacity(first.len() + rest.len());
        all.extend_from_slice(&first);
        all.extend_from_slice(&rest);
        Ok(all.freeze())
    }
}

/// Measures how fast a request body, or one line of an NDJSON batch, arrives.
#[derive(Debug)]
struct ArrivalRate {
    /// The longest wait for the next byte. The lowest rate applies only after this
    /// time.
    timeout: Duration,
    /// The lowest average rate in bytes per second. Zero disables this limit.
    rate: u64,
    /// The time for which the reader has waited since the last byte arrived.
    since_last: Duration,
    /// The time for which the reader has waited since the first byte arrived.
    since_first: Duration,
    bytes: u64,
}

impl ArrivalRate {
    fn new(timeout: Duration, rate: u64) -> ArrivalRate {
        ArrivalRate {
            timeout,
            rate,
            since_last: Duration::ZERO,
            since_first: Duration::ZERO,
            bytes: 0,
        }
    }

    /// Returns the time that is left until the next byte must arrive.
    fn left(&self) -> Duration {
        let next = self.timeout.saturating_sub(self.since_last);
        if self.bytes == 0 {
            return next;
        }
        let Some(millis) = self.bytes.saturating_mul(1000).checked_div(self.rate) else {
            return next;
        };
        let whole = self.timeout.max(Duration::from_millis(millis));
        next.min(whole.saturating_sub(self.since_first))
    }

    fn record_wait(&mut self, time: Duration) {
        self.since_last += time;
        if self.bytes > 0 {
            self.since_first += time;
        }
    }

    fn record_bytes(&mut self, bytes: usize) {
        self.since_last = Duration::ZERO;
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    fn begin_line(&mut self, bytes: usize) {
        self.since_first = Duration::ZERO;
        self.bytes = bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn secs(n: f64) -> Duration {
        Duration::from_secs_f64(n)
    }

    /// Returns the time at which the deadline ends a body that gets `bytes` bytes each `every`
    /// seconds. Returns `None` if the body survives 1,000 such steps.
    fn ends_at(rate: u64, bytes: usize, every: f64) -> Option<f64> {
        let mut arrival = ArrivalRate::new(TIMEOUT, rate);
        let mut now = Duration::ZERO;
        for _ in 0..1000 {
            if arrival.left() <= secs(every) {
                return Some((now + arrival.left()).as_secs_f64());
            }
            now += secs(every);
            arrival.record_wait(secs(every));
            arrival.record_bytes(bytes);
        }
        None
    }

    #[test]
    fn a_body_below_the_rate_ends_and_a_body_above_it_does_not() {
        assert_eq!(ends_at(256, 0, 20.0), Some(10.0), "no byte at all");
        assert_eq!(ends_at(256, 1, 3.0), Some(13.0), "ten seconds from the first byte on");
        assert_eq!(ends_at(256, 255, 1.0), Some(11.0), "just below the rate");
        assert_eq!(ends_at(256, 257, 1.0), None);
        assert_eq!(ends_at(256, 1_000_000, 9.9), None);
        assert_eq!(ends_at(256, 1_000_000, 10.1), Some(10.0), "the deadline for the next byte");
        assert_eq!(ends_at(0, 1, 9.9), None, "no rate");
    }

    #[test]
    fn the_rate_of_a_line_counts_from_its_start() {
        let mut arrival = ArrivalRate::new(TIMEOUT, 256);
        for _ in 0..100 {
            // A wait, the start of a line, a wait, the end of the line.
            arrival.record_wait(secs(9.0));
            arrival.record_bytes(10);
            arrival.begin_line(10);
            assert_eq!(arrival.left(), TIMEOUT);
            arrival.record_wait(secs(9.0));
            assert_eq!(arrival.left(), secs(1.0));
            arrival.record_bytes(10);
            arrival.begin_line(0);
            assert_eq!(arrival.left(), TIMEOUT);
        }
    }

    #[test]
    fn a_fast_start_extends_the_deadline_of_the_rate() {
        let mut arrival = ArrivalRate::new(TIMEOUT, 256);
        arrival.record_bytes(256 * 60);
        arrival.record_wait(secs(9.0));
        arrival.record_bytes(1);
        assert_eq!(arrival.left(), TIMEOUT);
        arrival.record_wait(secs(9.9));
        assert_eq!(arrival.left(), secs(0.1), "the deadline for the next byte applies");
    }
}
