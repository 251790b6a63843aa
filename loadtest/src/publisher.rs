//! Publishers: each is a thread with one keep-alive connection and one request
//! at a time, in the dialect of the server.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Deserialize;

use crate::clock;
use crate::http::{Connection, Response};
use crate::nats;
use crate::stamp::{EventStamp, PUBLISHERS_MAX};

/// The settings of the publishers.
#[derive(Clone, Debug)]
pub struct PublishPlan {
    /// The server.
    pub address: SocketAddr,
    /// The path that takes events. NATS ignores it.
    pub path: String,
    /// The format of events.
    pub dialect: Dialect,
    /// The number of publishers, each with its own connection.
    pub publishers: usize,
    /// The sequence number of each publisher's first event.
    pub first: u64,
    /// The number of events of each publisher.
    pub events: u64,
    /// The number of events a second of each publisher. `None` publishes as fast as possible.
    pub rate: Option<f64>,
    /// The number of events of a request, if the dialect has batches. `None` for one event.
    pub batch: Option<u64>,
    /// The size of an event's data, in bytes.
    pub bytes: usize,
    /// The number of subjects that each publisher cycles through. 0 for events
    /// without a subject.
    pub subjects: u64,
}

/// The format in which a server takes events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// The gateway's: an event with its type, batches as NDJSON.
    #[default]
    Streamgate,
    /// The body is the event.
    Plain,
    /// Each line of the body is an event.
    Lines,
    /// JSON. Each element of an array is an event.
    Array,
    /// The NATS protocol.
    Nats,
}

/// The connection of a publisher.
enum PublisherConnection {
    Http(Connection),
    Nats(nats::Connection),
}

/// Running publishers. Dropping them stops the threads.
pub struct Publishers {
    threads: Vec<JoinHandle<io::Result<String>>>,
    stop: Arc<AtomicBool>,
}

impl PublishPlan {
    /// Starts the publishers.
    ///
    /// # Errors
    /// If one cannot connect, or there are too many.
    pub fn start(&self) -> io::Result<Publishers> {
        if self.publishers > PUBLISHERS_MAX {
            return Err(io::Error::other(format!("`publishers` must be at most {PUBLISHERS_MAX}")));
        }
        let stop = Arc::new(AtomicBool::new(false));
        // Dropped on an error, it stops the publishers started so far.
        let mut publishers = Publishers { threads: Vec::new(), stop };
        for publisher in 0..self.publishers {
            let (publish_plan, stop) = (self.clone(), publishers.stop.clone());
            let connection = match self.dialect {
                Dialect::Nats => PublisherConnection::Nats(nats::Connection::open(self.address)?),
                _ => PublisherConnection::Http(Connection::open(self.address)?),
            };
            let thread = std::thread::Builder::new()
                .name(format!("publisher-{publisher}"))
                .spawn(move || publish_plan.run(publisher, connection, &stop))?;
            publishers.threads.push(thread);
        }
        Ok(publishers)
    }

    /// Returns the number of events of each publisher at the end, those before
    /// `first` included.
    pub fn totals(&self) -> Vec<u64> {
        vec![self.first + self.events; self.publishers]
    }

    fn run(
        &self,
        publisher: usize,
        mut connection: PublisherConnection,
        stop: &AtomicBool,
    ) -> io::Result<String> {
        let start = clock::now();
        let lines = if self.dialect == Dialect::Plain { 1 } else { self.batch.unwrap_or(1) };
        let (mut body, mut response) = (Vec::new(), String::new());
        let (mut sequence, last) = (self.first, self.first + self.events);
        while sequence < last && !stop.load(Ordering::Relaxed) {
            // Publishers take turns. Events sent at the same moment would share
            // one commit.
            let turn = publisher as f64 / self.publishers as f64;
            let offset =
                |rate: f64| Duration::from_secs_f64(((sequence - self.first) as f64 + turn) / rate);
            let due = self.rate.map(|rate| start + offset(rate).as_nanos() as u64);
            if let Some(wait) = due.and_then(|due| due.checked_sub(clock::now())) {
                std::thread::sleep(Duration::from_nanos(wait));
            }
            let due = due.unwrap_or_else(clock::now);
            let end = last.min(sequence + lines);
            self.write(&mut body, publisher, sequence..end, due);
            response = match &mut connection {
                PublisherConnection::Http(connection) => {
                    expect_success(connection.post(&self.path, self.form(), &body)?)?
                }
                PublisherConnection::Nats(connection) => {
                    connection.publish(&body).map(|()| String::new())?
                }
            };
            sequence = end;
        }
        if let PublisherConnection::Nats(connection) = &mut connection {
            connection.flush()?;
        }
        Ok(response)
    }

    fn form(&self) -> &'static str {
        if self.dialect == Dialect::Streamgate && self.batch.is_some() { BATCH } else { JSON }
    }

    /// Writes the body of a request, or the operations that NATS has in its
    /// place.
    fn write(&self, body: &mut Vec<u8>, publisher: usize, sequences: Range<u64>, due: u64) {
        body.clear();
        for sequence in sequences {
            let stamp = EventStamp { publisher, sequence, due };
            match self.dialect {
                Dialect::Streamgate => {
                    write_event(body, stamp, self.bytes, sequence.checked_rem(self.subjects));
                    if self.batch.is_some() {
                        body.push(b'\n');
                    }
                }
                Dialect::Plain => stamp.write(body, self.bytes),
                Dialect::Lines => {
                    stamp.write(body, self.bytes);
                    body.push(b'\n');
                }
                Dialect::Array => {
                    body.push(if body.is_empty() { b'[' } else { b',' });
                    stamp.write(body, self.bytes);
                }
                Dialect::Nats => nats::write(body, |data| stamp.write(data, self.bytes)),
            }
        }
        if self.dialect == Dialect::Array {
            body.push(b']');
        }
    }
}

impl Publishers {
    /// Returns whether all publishers have ended, with or without an error.
    pub fn is_done(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Stops the publishers after their current request.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for the publishers and returns the last response body of each.
    ///
    /// # Errors
    /// If an event was refused.
    pub fn finish(mut self) -> io::Result<Vec<String>> {
        let threads = std::mem::take(&mut self.threads);
        let join = |thread: JoinHandle<io::Result<String>>| match thread.join() {
            Ok(response) => response,
            Err(_) => Err(io::Error::other("a publisher panicked")),
        };
        threads.into_iter().map(join).collect()
    }
}

impl Drop for Publishers {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The header line of a request with one event.
pub const JSON: &str = "Content-Type: application/json\r\n";

const BATCH: &str = "Content-Type: application/x-ndjson\r\nPrefer: return=minimal\r\n";

/// Appends an event as it is posted. The data is `bytes` long. The subject is
/// that number, with the publisher's number before it.
pub fn write_event(out: &mut Vec<u8>, stamp: EventStamp, bytes: usize, subject: Option<u64>) {
    out.extend_from_slice(br#"{"type":"tick","#);
    if let Some(subject) = subject {
        write!(out, r#""subject":"s{}-{subject}","#, stamp.publisher)
            .expect("writing to a Vec cannot fail");
    }
    out.extend_from_slice(br#""data":"#);
    stamp.write(out, bytes);
    out.push(b'}');
}

/// Returns the body of a response that acknowledges every event.
///
/// # Errors
/// If the status is no success, or an event failed.
pub fn expect_success(response: Response) -> io::Result<String> {
    let Response { status, body, .. } = response;
    let failed = body.contains(r#""failed":"#) && !body.contains(r#""failed":0}"#);
    if failed || !(200..300).contains(&status) {
        return Err(io::Error::other(format!("the request failed with status {status}: {body}")));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_has_its_own_body() {
        let check = |dialect, batch, expected: &str| {
            let publish_plan = PublishPlan {
                address: ([127, 0, 0, 1], 1).into(),
                path: "ticks".to_owned(),
                dialect,
                publishers: 1,
                first: 0,
                events: 2,
                rate: None,
                batch,
                bytes: 0,
                subjects: 0,
            };
            let mut body = Vec::new();
            publish_plan.write(&mut body, 0, 0..2, 5);
            let (a, b) = (r#"{"w":0,"s":0,"t":5,"p":""}"#, r#"{"w":0,"s":1,"t":5,"p":""}"#);
            let expected = expected.replace("(a)", a).replace("(b)", b);
            assert_eq!(String::from_utf8(body).unwrap(), expected, "{dialect:?}");
        };
        let ndjson = "{\"type\":\"tick\",\"data\":(a)}\n{\"type\":\"tick\",\"data\":(b)}\n";
        check(Dialect::Streamgate, Some(2), ndjson);
        check(Dialect::Lines, Some(2), "(a)\n(b)\n");
        check(Dialect::Array, Some(2), "[(a),(b)]");
        check(Dialect::Nats, Some(2), "PUB ticks 26\r\n(a)\r\nPUB ticks 26\r\n(b)\r\n");
    }
}
