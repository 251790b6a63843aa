//! A keep-alive connection of HTTP/1.1, with one request at a time.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The timeout of a connect over loopback.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The timeout for the next bytes of a response.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// A shorter body is sent in one write with its head.
const JOINED_BYTES: usize = 16 * 1024;

/// Connects with `TCP_NODELAY` and with read and write timeouts.
///
/// # Errors
/// If the connection is refused or times out.
pub fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    socket.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(socket)
}

/// A keep-alive connection.
pub struct Connection {
    address: SocketAddr,
    socket: TcpStream,
    reader: BufReader<TcpStream>,
    has_begun: bool,
}

/// A response.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Whether the server closes the connection after this response.
    pub closes: bool,
    /// The body.
    pub body: String,
}

impl Response {
    /// Returns whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// If the connection is refused or times out.
    pub fn open(address: SocketAddr) -> io::Result<Connection> {
        let socket = dial(address)?;
        let reader = BufReader::new(socket.try_clone()?);
        Ok(Connection { address, socket, reader, has_begun: false })
    }

    /// Sends a `GET` and returns the response.
    ///
    /// # Errors
    /// If no complete response arrives.
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.write(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address).as_bytes())?;
        self.response()
    }

    /// Posts a body and returns the response. `fields` are header lines, each
    /// with its line break.
    ///
    /// # Errors
    /// If no complete response arrives.
    pub fn post(&mut self, path: &str, fields: &str, body: &[u8]) -> io::Result<Response> {
        let mut out = self.head(path, &format!("{fields}Content-Length: {}\r\n", body.len()));
        if body.len() < JOINED_BYTES {
            out.extend_from_slice(body);
            self.write(&out)?;
        } else {
            self.write(&out)?;
            self.write(body)?;
        }
        self.response()
    }

    /// Returns the head of a `POST` whose body is written piece by piece.
    pub fn head(&self, path: &str, fields: &str) -> Vec<u8> {
        format!("POST {path} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", self.address).into_bytes()
    }

    /// Writes a part of a request.
    ///
    /// # Errors
    /// If the connection is closed.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.has_begun = false;
        self.socket.write_all(bytes)
    }

    /// Returns whether the server has closed the connection. Check before you
    /// reuse a kept connection.
    pub fn is_closed(&self) -> bool {
        let mut byte = [0];
        let peeked = self.socket.set_nonblocking(true).and_then(|()| self.socket.peek(&mut byte));
        let is_open = matches!(&peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        !is_open || self.socket.set_nonblocking(false).is_err()
    }

    /// Returns whether a byte of the response to the last request arrived.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Reads a response.
    ///
    /// # Errors
    /// If the response does not arrive, or breaks off.
    pub fn response(&mut self) -> io::Result<Response> {
        let line = self.line()?;
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status = status.and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| {
            io::Error::other(format!("the response has no status line: {line:?}"))
        })?;
        let (mut length, mut is_chunked, mut closes) = (0, false, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            } else if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            } else if line.starts_with("transfer-encoding:") {
                is_chunked = line.ends_with("chunked");
            } else if line.starts_with("connection:") {
                closes = line.ends_with("close");
            }
        }
        let mut body = Vec::new();
        if is_chunked {
            self.chunks(&mut body)?;
        } else {
            self.take(length, &mut body)?;
        }
        Ok(Response { status, closes, body: String::from_utf8_lossy(&body).into_owned() })
    }

    fn chunks(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let size = usize::from_str_radix(&self.line()?, 16).map_err(io::Error::other)?;
            self.take(size, out)?;
            self.line()?;
            if size == 0 {
                return Ok(());
            }
        }
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
        self.has_begun = true;
        Ok(line.trim_end().to_owned())
    }
}
