//! Publishers: each a thread with one keep-alive connection, one request at a
//! time.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock;
use crate::mark::{Mark, PUBLISHERS_MAX};

/// For the answer to one request.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

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
        let (mut body, mut head, mut answer) = (Vec::new(), Vec::new(), String::new());
        let mut sequence = 0;
        while sequence < self.events && !stop.load(Ordering::Relaxed) {
            let offset = |rate: f64| Duration::from_secs_f64(sequence as f64 / rate).as_nanos();
            let due = self.rate.map(|rate| start + offset(rate) as u64);
            if let Some(wait) = due.and_then(|due| due.checked_sub(clock::now())) {
                std::thread::sleep(Duration::from_nanos(wait));
            }
            let due = due.unwrap_or_else(clock::now);
            body.clear();
            for sequence in sequence..self.events.min(sequence + lines) {
                body.extend_from_slice(br#"{"type":"tick","data":"#);
                Mark { publisher, sequence, due }.write(&mut body, self.bytes);
                body.extend_from_slice(if self.batch.is_some() { b"}\n" } else { b"}" });
            }
            self.head(&mut head, body.len());
            answer = connection.send(&head, &body)?;
            sequence = self.events.min(sequence + lines);
        }
        Ok(answer)
    }

    fn head(&self, out: &mut Vec<u8>, length: usize) {
        out.clear();
        let form = match self.batch {
            Some(_) => "application/x-ndjson\r\nPrefer: return=minimal",
            None => "application/json",
        };
        write!(
            out,
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: {form}\r\nContent-Length: {length}\r\n\r\n",
            self.path, self.address
        )
        .expect("a Vec takes every write");
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

/// A keep-alive connection.
struct Connection {
    socket: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Connection {
    fn open(address: SocketAddr) -> io::Result<Connection> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        socket.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Connection { reader: BufReader::new(socket.try_clone()?), socket })
    }

    /// Sends a request and gives the body of its answer.
    fn send(&mut self, head: &[u8], body: &[u8]) -> io::Result<String> {
        if body.len() < 16 * 1024 {
            self.socket.write_all(&[head, body].concat())?;
        } else {
            self.socket.write_all(head)?;
            self.socket.write_all(body)?;
        }
        let status = self.line()?;
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            } else if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            } else if line.starts_with("transfer-encoding:") {
                chunked = line.ends_with("chunked");
            }
        }
        let mut answer = Vec::new();
        if chunked {
            loop {
                let size = usize::from_str_radix(&self.line()?, 16).map_err(io::Error::other)?;
                self.take(size, &mut answer)?;
                self.line()?;
                if size == 0 {
                    break;
                }
            }
        } else {
            self.take(length, &mut answer)?;
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let failed = answer.contains(r#""failed":"#) && !answer.contains(r#""failed":0}"#);
        if failed || !status.starts_with("HTTP/1.1 20") {
            return Err(io::Error::other(format!("{status}: {answer}")));
        }
        Ok(answer)
    }

    fn take(&mut self, length: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        out.resize(start + length, 0);
        self.reader.read_exact(&mut out[start..])
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}
