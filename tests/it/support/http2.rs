//! A client that writes and reads HTTP/2 frames without a library (RFC 9113).
//! Each read has a deadline.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::PATIENCE;

/// Opens a connection of the hyper client with prior knowledge.
pub async fn client(
    address: SocketAddr,
) -> (SendRequest<Empty<Bytes>>, impl Future<Output = hyper::Result<()>>) {
    let socket = TcpStream::connect(address).await.unwrap();
    handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap()
}

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0x0;
pub const HEADERS: u8 = 0x1;
pub const PRIORITY: u8 = 0x2;
pub const RST_STREAM: u8 = 0x3;
pub const SETTINGS: u8 = 0x4;
pub const PING: u8 = 0x6;
pub const GOAWAY: u8 = 0x7;
pub const WINDOW_UPDATE: u8 = 0x8;
pub const CONTINUATION: u8 = 0x9;

/// The flags of DATA and HEADERS.
pub const END_STREAM: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
/// The flag of SETTINGS and PING.
pub const ACK: u8 = 0x1;

/// Settings (RFC 9113 §6.5.2).
pub const INITIAL_WINDOW_SIZE: u16 = 0x4;

/// A received frame.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Returns the error code of a `RST_STREAM` or the increment of a
    /// `WINDOW_UPDATE`.
    pub fn number(&self) -> u32 {
        u32::from_be_bytes(self.payload[..4].try_into().unwrap())
    }
}

/// Returns the bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Returns the header block of a request. It consists of literals without
/// indexing (RFC 7541 §6.2.2).
pub fn head(method: &str, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let pseudo =
        [(":method", method), (":scheme", "http"), (":path", path), (":authority", "gateway")];
    let mut block = Vec::new();
    for (name, value) in pseudo.iter().chain(fields) {
        assert!(name.len() < 127 && value.len() < 127, "the length fits into one byte");
        block.extend([&[0, name.len() as u8], name.as_bytes()].concat());
        block.extend([&[value.len() as u8], value.as_bytes()].concat());
    }
    block
}

/// A connection whose client sends only what the test sends. It does not even
/// acknowledge SETTINGS or answer pings.
pub struct Connection {
    pub socket: TcpStream,
    bytes: Vec<u8>,
}

impl Connection {
    /// Connects and sends the preface and SETTINGS.
    pub async fn open(address: SocketAddr, settings: &[(u16, u32)]) -> Connection {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        socket.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat()).await.unwrap();
        Connection { socket, bytes: Vec::new() }
    }

    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.socket.write_all(&frame(kind, flags, stream, payload)).await.unwrap();
    }

    /// Sends a `GET` of `path` with the media type `accept`.
    pub async fn get(&mut self, stream: u32, path: &str, accept: &str) {
        let block = head("GET", path, &[("accept", accept)]);
        self.send(HEADERS, END_STREAM | END_HEADERS, stream, &block).await;
    }

    /// Opens the window of `stream` by `bytes`.
    pub async fn allow(&mut self, stream: u32, bytes: u32) {
        self.send(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes()).await;
    }

    /// Returns the next frame, or `None` at the end.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.parse() {
                return Some(frame);
            }
            let read = timeout(PATIENCE, self.socket.read_buf(&mut self.bytes)).await;
            // A reset also ends the connection.
            if read.expect("a frame or the end in time").unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Returns the next frame of a type on a stream. Other frames are skipped.
    pub async fn find(&mut self, kind: u8, stream: u32) -> Frame {
        loop {
            let frame = self.next().await.expect("the connection is open");
            if frame.kind == kind && frame.stream == stream {
                return frame;
            }
            let fault = frame.kind == GOAWAY && !frame.payload[4..].starts_with(&[0; 4]);
            assert!(!fault, "{frame:?}");
            let reset = frame.kind == RST_STREAM && frame.stream == stream;
            assert!(!reset, "the stream was reset: {frame:?}");
        }
    }

    fn parse(&mut self) -> Option<Frame> {
        let header: [u8; 9] = *self.bytes.first_chunk()?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let payload = self.bytes.get(9..9 + length)?.to_vec();
        self.bytes.drain(..9 + length);
        let stream = u32::from_be_bytes(*header[5..].first_chunk().unwrap());
        Some(Frame { kind: header[3], flags: header[4], stream, payload })
    }
}
