//! A server for the tests of the client commands: a real socket that sends fixed bytes, waits
//! for expected bytes, and closes connections.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The time after which a test fails.
const DEADLINE: Duration = Duration::from_secs(20);

/// The actions of the server on one connection.
pub(in crate::cli) type Step = Box<dyn FnOnce(&mut Peer) + Send>;

/// A server that accepts one connection for each step.
pub(in crate::cli) struct Script {
    pub(in crate::cli) url: String,
    thread: JoinHandle<()>,
}

impl Script {
    pub(in crate::cli) fn start(steps: Vec<Step>) -> Script {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            for step in steps {
                step(&mut Peer { stream: accept(&listener), received: Vec::new() });
            }
        });
        Script { url, thread }
    }

    /// Waits until all steps are done. Panics if a step failed.
    pub(in crate::cli) fn finish(self) {
        self.thread.join().unwrap();
    }

    /// Waits until all steps are done, without blocking the runtime of the client.
    pub(in crate::cli) async fn finished(self) {
        tokio::task::spawn_blocking(|| self.finish()).await.unwrap();
    }
}

fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let started = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                return stream;
            }
            Err(error) => assert!(started.elapsed() < DEADLINE, "no client connects: {error}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One connection of the server.
pub(in crate::cli) struct Peer {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Peer {
    /// Reads until `text` has arrived, and returns all bytes up to its end.
    pub(in crate::cli) fn until(&mut self, text: &str) -> String {
        loop {
            let found = self.received.windows(text.len()).position(|w| w == text.as_bytes());
            if let Some(at) = found {
                let rest = self.received.split_off(at + text.len());
                let text = std::mem::replace(&mut self.received, rest);
                return String::from_utf8(text).unwrap();
            }
            let mut buffer = [0; 4096];
            let read = self.stream.read(&mut buffer).unwrap();
            let so_far = String::from_utf8_lossy(&self.received);
            assert!(read > 0, "ended before {text:?}: {so_far:?}");
            self.received.extend_from_slice(&buffer[..read]);
        }
    }

    /// Reads the head of a request, and returns it in lower case.
    pub(in crate::cli) fn head(&mut self) -> String {
        self.until("\r\n\r\n").to_ascii_lowercase()
    }

    pub(in crate::cli) fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// Sends the head of a chunked NDJSON answer.
    pub(in crate::cli) fn accept(&mut self) {
        self.send(
            "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\
             transfer-encoding: chunked\r\n\r\n",
        );
    }

    /// Sends a chunk.
    pub(in crate::cli) fn chunk(&mut self, text: &str) {
        self.send(&format!("{:x}\r\n{text}\r\n", text.len()));
    }

    /// Sends `piece` as a chunk every 20 ms until the client closes the connection.
    pub(in crate::cli) fn drip(&mut self, piece: &str) {
        let started = Instant::now();
        let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
        while self.stream.write_all(chunk.as_bytes()).is_ok() {
            assert!(started.elapsed() < DEADLINE, "the client does not close the connection");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a complete answer with a problem.
    pub(in crate::cli) fn reject(&mut self, status: &str, headers: &str, problem: &str) {
        let length = problem.len();
        self.send(&format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\n{headers}\
             content-length: {length}\r\n\r\n{problem}"
        ));
    }

    /// Waits until the client closes the connection.
    pub(in crate::cli) fn gone(&mut self) {
        let mut buffer = [0; 4096];
        while matches!(self.stream.read(&mut buffer), Ok(1..)) {}
    }
}
