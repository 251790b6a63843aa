//! The baseline: a server that writes an encoded frame to each subscriber, with
//! one `write(2)` for each delivery. It has no log, no rings and no filters. A
//! server that writes each event when it arrives cannot cost less.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use memchr::memmem;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use crate::framing;
use crate::subscriber::Protocol;

/// The time after which the server ends by itself.
const LIFETIME: Duration = Duration::from_mins(30);

/// The longest wait of a write for a subscriber that does not read. All other
/// subscribers wait too.
const STALL_TIMEOUT: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

const LISTENER: u64 = u64::MAX;

const STREAM_FIELDS: &str = "Cache-Control: no-cache, no-transform\r\nX-Accel-Buffering: no\r\n\
     Connection: keep-alive\r\nTransfer-Encoding: chunked\r\nVary: Accept\r\n\r\n";

struct Client {
    socket: TcpStream,
    request: Vec<u8>,
    protocol: Option<Protocol>,
}

struct Baseline {
    epoll: OwnedFd,
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    bytes: Vec<u8>,
    offset: u64,
}

/// Serves on `address` until the process is killed.
///
/// # Errors
/// If the address cannot be bound, or epoll fails.
pub fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    println!(r#"{{"message":"serving","listen":"{}"}}"#, listener.local_addr()?);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    let (clients, free, bytes) = (Vec::new(), Vec::new(), vec![0; 256 * 1024]);
    let mut baseline = Baseline { epoll, clients, free, bytes, offset: 0 };
    let mut ready = Vec::with_capacity(1024);
    let end = Instant::now() + LIFETIME;
    while Instant::now() < end {
        ready.clear();
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        epoll::wait(&baseline.epoll, spare_capacity(&mut ready), Some(&second))?;
        for event in &ready {
            match event.data.u64() {
                LISTENER => baseline.accept(&listener)?,
                index => {
                    if baseline.read(index as usize).is_err() {
                        baseline.remove(index as usize);
                    }
                }
            }
        }
    }
    Ok(())
}

impl Baseline {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        while let Ok((socket, _)) = listener.accept() {
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            let index = self.free.pop().unwrap_or(self.clients.len());
            let key = epoll::EventData::new_u64(index as u64);
            epoll::add(&self.epoll, &socket, key, epoll::EventFlags::IN)?;
            let client = Some(Client { socket, request: Vec::new(), protocol: None });
            match self.clients.get_mut(index) {
                Some(place) => *place = client,
                None => self.clients.push(client),
            }
        }
        Ok(())
    }

    fn remove(&mut self, index: usize) {
        if self.clients[index].take().is_some() {
            self.free.push(index);
        }
    }

    fn read(&mut self, index: usize) -> io::Result<()> {
        let Some(client) = &mut self.clients[index] else { return Ok(()) };
        let read = match client.socket.read(&mut self.bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        if client.protocol.is_some() {
            return Ok(());
        }
        client.request.extend_from_slice(&self.bytes[..read]);
        let Some(head) = memmem::find(&client.request, b"\r\n\r\n") else { return Ok(()) };
        if client.request.starts_with(b"GET") {
            return client.subscribe();
        }
        let body = head + 4;
        let length = content_length(&client.request[..head]).unwrap_or(0);
        if client.request.len() < body + length {
            return Ok(());
        }
        let request = std::mem::take(&mut client.request);
        let answer = self.publish(&request[body..body + length]);
        let client = self.clients[index].as_mut().ok_or(io::ErrorKind::NotConnected)?;
        write!(
            client.socket,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        )
    }

    fn publish(&mut self, body: &[u8]) -> String {
        let mut written = 0;
        let lines = body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        for line in lines {
            self.offset += 1;
            written += 1;
            self.deliver(line);
        }
        format!(r#"{{"id":"base0000-{}","written":{written},"failed":0}}"#, self.offset)
    }

    fn deliver(&mut self, line: &[u8]) {
        let start = memmem::find(line, br#""data":"#).map_or(0, |at| at + 7);
        let data = String::from_utf8_lossy(&line[start..line.len() - 1]);
        let id = format!("base0000-{}", self.offset);
        let sse = chunk(&format!("id: {id}\nevent: tick\ndata: {data}\n\n"));
        let time = "2026-01-01T00:00:00.000Z";
        let ndjson = chunk(&format!(
            "{{\"id\":\"{id}\",\"type\":\"tick\",\"time\":\"{time}\",\"data\":{data}}}\n"
        ));
        let mut ws = Vec::new();
        framing::write_text(
            &mut ws,
            format!(
                r#"{{"id":"{id}","type":"event","timestamp":"{time}","data":{{"topic":"ticks","type":"tick","data":{data}}}}}"#
            )
            .as_bytes(),
        );
        for index in 0..self.clients.len() {
            let Some(client) = &self.clients[index] else { continue };
            let sent = match client.protocol {
                None => continue,
                Some(Protocol::Sse) => send(&client.socket, &sse),
                Some(Protocol::Ndjson) => send(&client.socket, &ndjson),
                Some(Protocol::Ws | Protocol::Nats) => send(&client.socket, &ws),
            };
            if sent.is_err() {
                self.remove(index);
            }
        }
    }
}

impl Client {
    fn subscribe(&mut self) -> io::Result<()> {
        let request = std::mem::take(&mut self.request);
        let has = |text: &[u8]| memmem::find(&request, text).is_some();
        let opening = r#"{"connection":"c0","cursor":"base0000-0"}"#;
        let (protocol, head) = if has(b"Upgrade: websocket") {
            // The accept value of RFC 6455 §1.3, for the one key that
            // subscribers send.
            let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
            (Protocol::Ws, head.to_owned())
        } else if has(b"application/x-ndjson") {
            let first = chunk(&format!("{{\"type\":\"stream-open\",\"data\":{opening}}}\n"));
            let kind = "Content-Type: application/x-ndjson";
            let first = String::from_utf8_lossy(&first);
            (Protocol::Ndjson, format!("HTTP/1.1 200 OK\r\n{kind}\r\n{STREAM_FIELDS}{first}"))
        } else {
            let first = chunk(&format!("retry: 3000\nevent: stream-open\ndata: {opening}\n\n"));
            let kind = "Content-Type: text/event-stream";
            let first = String::from_utf8_lossy(&first);
            (Protocol::Sse, format!("HTTP/1.1 200 OK\r\n{kind}\r\n{STREAM_FIELDS}{first}"))
        };
        self.protocol = Some(protocol);
        self.socket.write_all(head.as_bytes())
    }
}

/// Writes a frame with one `write(2)`. If the socket's buffer is full, waits
/// until it has room.
fn send(socket: &TcpStream, mut frame: &[u8]) -> io::Result<()> {
    loop {
        match rustix::io::write(socket, frame) {
            Ok(written) if written == frame.len() => return Ok(()),
            Ok(written) => frame = &frame[written..],
            Err(rustix::io::Errno::AGAIN) => {
                let mut room = [PollFd::new(socket, PollFlags::OUT)];
                if poll(&mut room, Some(&STALL_TIMEOUT))? == 0 {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn chunk(payload: &str) -> Vec<u8> {
    format!("{:04x}\r\n{payload}\r\n", payload.len()).into_bytes()
}

fn content_length(head: &[u8]) -> Option<usize> {
    let head = std::str::from_utf8(head).ok()?;
    let value = |line: &str| line.strip_prefix("Content-Length: ").map(str::to_owned);
    head.lines().find_map(value)?.parse().ok()
}
