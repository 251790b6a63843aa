//! Batches of events, sent as fast as possible.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::http::Connection;
use crate::publisher;

/// The format of a batch.
#[derive(Clone, Copy, Debug)]
pub enum BatchFormat {
    /// The gateway's: NDJSON, with a response that counts the lines written.
    Ndjson,
    /// A JSON array, with a status as the response.
    Array,
}

/// The address and the format of batches.
#[derive(Clone, Debug)]
pub struct Batches<'b> {
    /// The server.
    pub address: SocketAddr,
    /// The path that takes batches.
    pub path: &'b str,
    /// The number of publishers, each with its own connection.
    pub publishers: usize,
    /// Lines of a batch.
    pub lines: u64,
    /// The format of a batch.
    pub format: BatchFormat,
}

impl Batches<'_> {
    /// Returns the settings that fill a collection of the gateway.
    pub fn of_orders(address: SocketAddr) -> Batches<'static> {
        Batches {
            address,
            path: "/orders",
            publishers: 2,
            lines: 5000,
            format: BatchFormat::Ndjson,
        }
    }

    /// Sends a line for each of `numbers` and waits for all acknowledgements.
    ///
    /// # Errors
    /// If a batch is not acknowledged as a whole.
    pub fn send(
        &self,
        numbers: Range<u64>,
        line: impl Fn(&mut Vec<u8>, u64) + Sync,
    ) -> io::Result<()> {
        let next = AtomicU64::new(numbers.start);
        let (next, line) = (&next, &line);
        std::thread::scope(|scope| {
            let publish = || self.publish(next, numbers.end, line);
            let threads: Vec<_> = (0..self.publishers).map(|_| scope.spawn(publish)).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, io::Result<()>>| {
                thread.join().map_err(|_| io::Error::other("a publisher panicked"))?
            };
            threads.into_iter().try_for_each(join)
        })
    }

    fn publish(
        &self,
        next: &AtomicU64,
        end: u64,
        line: impl Fn(&mut Vec<u8>, u64),
    ) -> io::Result<()> {
        let mut connection = Connection::open(self.address)?;
        let mut body = Vec::new();
        loop {
            let start = next.fetch_add(self.lines, Ordering::Relaxed);
            let numbers = start..end.min(start.saturating_add(self.lines));
            if numbers.is_empty() {
                return Ok(());
            }
            let count = numbers.end - numbers.start;
            body.clear();
            for number in numbers {
                body.push(self.format.before(body.is_empty()));
                line(&mut body, number);
            }
            body.extend_from_slice(self.format.end());
            let response = connection.post(self.path, self.format.fields(), &body)?;
            let received = publisher::expect_success(response)?;
            if !self.format.is_whole(&received, count) {
                return Err(io::Error::other(format!(
                    "the server did not write all {count} lines: {received}"
                )));
            }
        }
    }
}

impl BatchFormat {
    fn fields(self) -> &'static str {
        match self {
            BatchFormat::Ndjson => {
                "Content-Type: application/x-ndjson\r\nPrefer: return=minimal\r\n"
            }
            BatchFormat::Array => publisher::JSON,
        }
    }

    /// Returns the separator before an event. NDJSON may start with an empty
    /// line.
    fn before(self, is_first: bool) -> u8 {
        match self {
            BatchFormat::Ndjson => b'\n',
            BatchFormat::Array if is_first => b'[',
            BatchFormat::Array => b',',
        }
    }

    fn end(self) -> &'static [u8] {
        match self {
            BatchFormat::Ndjson => b"\n",
            BatchFormat::Array => b"]",
        }
    }

    fn is_whole(self, received: &str, count: u64) -> bool {
        match self {
            BatchFormat::Ndjson => received.contains(&format!("\"written\":{count},")),
            BatchFormat::Array => true,
        }
    }
}
