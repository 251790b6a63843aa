//! Publishers: each a thread with one keep-alive connection, one request at a
//! time.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock;
use crate::http::{Answer, Connection};
use crate::mark::{Mark, PUBLISHERS_MAX};

/// What is published.
#[derive(Clone, Debug)]
pub struct Publishing {
    /// The server.
    pub address: SocketAddr,
    /// The path that takes events.
    pub path: String,
    /// How many publishers, each with a connection of its own.
    pub publishers: usize,
    /// Events of each publisher.
    pub events: u64,
    /// Events a second of each publisher; flat out without it.
    pub rate: Option<f64>,
    /// Lines of a request as NDJSON; one event a request as JSON without it.
    pub batch: Option<u64>,
    /// Bytes of an event's data.
    pub bytes: usize,
    /// Subjects that each publisher's events go round; none at 0.
    pub subjects: u64,
}

/// Publishers at work.
pub struct Publishers {
    threads: Vec<JoinHandle<io::Result<String>>>,
    stop: Arc<AtomicBool>,
}

impl Publishing {
    /// Starts the publishers.
    ///
    /// # Errors
    /// If one cannot connect, or there are too many.
    pub fn start(&self) -> io::Result<Publishers> {
        if self.publishers > PUBLISHERS_MAX {
            return Err(io::Error::other(format!("at most {PUBLISHERS_MAX} publishers")));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..self.publishers).map(|publisher| {
            let (publishing, stop) = (self.clone(), stop.clone());
            let connection = Connection::open(self.address)?;
            std::thread::Builder::new()
                .name(format!("publisher-{publisher}"))
                .spawn(move || publishing.run(publisher, connection, &stop))
        });
        Ok(Publishers { threads: threads.collect::<io::Result<_>>()?, stop })
    }

    /// What each publisher has published in the end.
    pub fn totals(&self) -> Vec<u64> {
        vec![self.events; self.publishers]
    }

    fn run(
        &self,
        publisher: usize,
        mut connection: Connection,
        stop: &AtomicBool,
    ) -> io::Result<String> {
        let start = clock::now();
        let lines = self.batch.unwrap_or(1);
        let form = match self.batch {
            Some(_) => "Content-Type: application/x-ndjson\r\nPrefer: return=minimal\r\n",
            None => JSON,
        };
        let (mut body, mut answer) = (Vec::new(), String::new());
        let mut sequence = 0;
        while sequence < self.events && !stop.load(Ordering::Relaxed) {
            // Publishers take turns: all at once they would be one batch.
            let turn = publisher as f64 / self.publishers as f64;
            let offset = |rate: f64| Duration::from_secs_f64((sequence as f64 + turn) / rate);
            let due = self.rate.map(|rate| start + offset(rate).as_nanos() as u64);
            if let Some(wait) = due.and_then(|due| due.checked_sub(clock::now())) {
                std::thread::sleep(Duration::from_nanos(wait));
            }
            let due = due.unwrap_or_else(clock::now);
            body.clear();
            for sequence in sequence..self.events.min(sequence + lines) {
                let subject = sequence.checked_rem(self.subjects);
                write_event(&mut body, Mark { publisher, sequence, due }, self.bytes, subject);
                if self.batch.is_some() {
                    body.push(b'\n');
                }
            }
            answer = taken(connection.post(&self.path, form, &body)?)?;
            sequence = self.events.min(sequence + lines);
        }
        Ok(answer)
    }
}

impl Publishers {
    /// Whether all have published what they were to.
    pub fn is_done(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits for them and gives the last answer of each.
    ///
    /// # Errors
    /// If an event was not taken.
    pub fn finish(mut self) -> io::Result<Vec<String>> {
        let threads = std::mem::take(&mut self.threads);
        let join = |thread: JoinHandle<io::Result<String>>| match thread.join() {
            Ok(answer) => answer,
            Err(_) => Err(io::Error::other("a publisher panicked")),
        };
        threads.into_iter().map(join).collect()
    }
}

impl Drop for Publishers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The field that goes with one event.
pub const JSON: &str = "Content-Type: application/json\r\n";

/// Appends an event as it is posted: its data is `bytes` long, its subject the
/// publisher's of that number.
pub fn write_event(out: &mut Vec<u8>, mark: Mark, bytes: usize, subject: Option<u64>) {
    out.extend_from_slice(br#"{"type":"tick","#);
    if let Some(subject) = subject {
        write!(out, r#""subject":"s{}-{subject}","#, mark.publisher)
            .expect("a Vec takes every write");
    }
    out.extend_from_slice(br#""data":"#);
    mark.write(out, bytes);
    out.push(b'}');
}

/// The body of an answer that says that everything was written.
///
/// # Errors
/// If it does not.
pub fn taken(answer: Answer) -> io::Result<String> {
    let Answer { status, body, .. } = answer;
    let failed = body.contains(r#""failed":"#) && !body.contains(r#""failed":0}"#);
    if failed || !(200..300).contains(&status) {
        return Err(io::Error::other(format!("{status}: {body}")));
    }
    Ok(body)
}
