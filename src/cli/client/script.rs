//! A server for the clients' tests: a real socket that says fixed bytes,
//! waits for what it is sent, and cuts.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Past this a test has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// What is done with one connection.
pub(in crate::cli) type Step = Box<dyn FnOnce(&mut Peer) + Send>;

/// A server that takes one connection for each step and no more.
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

    /// Waits until every step is done; fails when one has failed.
    pub(in crate::cli) fn finish(self) {
        self.thread.join().unwrap();
    }

    /// The same where a runtime has connections to close meanwhile.
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
            Err(error) => assert!(started.elapsed() < DEADLINE, "nobody connects: {error}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The other end of one connection.
pub(in crate::cli) struct Peer {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Peer {
    /// Reads until `text` has come, and gives all up to its end.
    pub(in crate::cli) fn until(&mut self, text: &str) -> String {
        loop {
            let found = self.received.windows(text.len()).position(|w| w == text.as_bytes());
            if let Some(at) = found {
                let rest = self.received.split_off(at + text.len());
                let taken = std::mem::replace(&mut self.received, rest);
                return String::from_utf8(taken).unwrap();
            }
            let mut buffer = [0; 4096];
            let read = self.stream.read(&mut buffer).unwrap();
            let so_far = String::from_utf8_lossy(&self.received);
            assert!(read > 0, "ended before {text:?}: {so_far:?}");
            self.received.extend_from_slice(&buffer[..read]);
        }
    }

    /// Reads a request's head.
    pub(in crate::cli) fn head(&mut self) -> String {
        self.until("\r\n\r\n").to_ascii_lowercase()
    }

    pub(in crate::cli) fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// Says the head of a chunked NDJSON answer.
    pub(in crate::cli) fn accept(&mut self) {
        self.say(
            "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\
             transfer-encoding: chunked\r\n\r\n",
        );
    }

    /// Says a chunk.
    pub(in crate::cli) fn chunk(&mut self, text: &str) {
        self.say(&format!("{:x}\r\n{text}\r\n", text.len()));
    }

    /// Says `piece` as a chunk every 20 ms until the client has gone.
    pub(in crate::cli) fn drip(&mut self, piece: &str) {
        let started = Instant::now();
        let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
        while self.stream.write_all(chunk.as_bytes()).is_ok() {
            assert!(started.elapsed() < DEADLINE, "the client waits for ever");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Says a whole answer with a problem.
    pub(in crate::cli) fn refuse(&mut self, status: &str, headers: &str, problem: &str) {
        let length = problem.len();
        self.say(&format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\n{headers}\
             content-length: {length}\r\n\r\n{problem}"
        ));
    }

    /// Waits until the client has gone.
    pub(in crate::cli) fn gone(&mut self) {
        let mut buffer = [0; 4096];
        while matches!(self.stream.read(&mut buffer), Ok(1..)) {}
    }
}
