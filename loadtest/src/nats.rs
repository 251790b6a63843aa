//! NATS's protocol: a line for each operation, a payload behind some
//! (<https://docs.nats.io/reference/reference-protocols/nats-protocol>). Over
//! TCP to publish, in WebSocket frames to subscribe.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};

use memchr::memmem;

use crate::http;

/// What a client says first: no answer to each operation.
const CONNECT: &str = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";

/// What everybody publishes and subscribes to.
const SUBJECT: &str = "ticks";

/// A publisher's connection.
pub struct Connection {
    socket: TcpStream,
    reader: BufReader<TcpStream>,
}

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub enum ServerMessage<'t> {
    /// A message's payload.
    Message(&'t [u8]),
    /// It wants to be told that somebody is there.
    Ping,
    /// All that was sent before a ping was taken.
    Pong,
    /// It refuses something, and mostly ends.
    Error(&'t [u8]),
    /// Anything else.
    Other,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// What the kernel says, or the server.
    pub fn open(address: SocketAddr) -> io::Result<Connection> {
        let socket = http::dial(address)?;
        let mut connection = Connection { reader: BufReader::new(socket.try_clone()?), socket };
        connection.publish(CONNECT.as_bytes())?;
        connection.flush()?;
        Ok(connection)
    }

    /// Sends operations, which nobody answers.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn publish(&mut self, operations: &[u8]) -> io::Result<()> {
        self.socket.write_all(operations)
    }

    /// Waits until the server has taken all operations.
    ///
    /// # Errors
    /// If it refused one, or says nothing.
    pub fn flush(&mut self) -> io::Result<()> {
        self.socket.write_all(b"PING\r\n")?;
        let mut line = Vec::new();
        loop {
            line.clear();
            if self.reader.read_until(b'\n', &mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match parse(&line) {
                Some((ServerMessage::Pong, _)) => return Ok(()),
                Some((ServerMessage::Ping, _)) => self.socket.write_all(b"PONG\r\n")?,
                Some((ServerMessage::Error(error), _)) => return Err(server_error(error)),
                _ => {}
            }
        }
    }
}

/// Appends a message whose payload `write` appends.
pub fn write(out: &mut Vec<u8>, write: impl Fn(&mut Vec<u8>)) {
    let mut payload = Vec::new();
    write(&mut payload);
    out.extend_from_slice(format!("PUB {SUBJECT} {}\r\n", payload.len()).as_bytes());
    out.extend_from_slice(&payload);
    out.extend_from_slice(b"\r\n");
}

/// What subscribes, and asks to be told when that is done.
pub fn subscribe() -> Vec<u8> {
    format!("{CONNECT}SUB {SUBJECT} 1\r\nPING\r\n").into_bytes()
}

/// What the text begins with, and its length, if all of it is there.
pub fn parse(text: &[u8]) -> Option<(ServerMessage<'_>, usize)> {
    let end = memmem::find(text, b"\r\n")?;
    let (line, start) = (&text[..end], end + 2);
    if line.starts_with(b"MSG ") {
        let length = line.rsplit(|&byte| byte == b' ').next()?;
        let length: usize = std::str::from_utf8(length).ok()?.parse().ok()?;
        let payload = text.get(start..start + length)?;
        let end = start + length + 2;
        return (end <= text.len()).then_some((ServerMessage::Message(payload), end));
    }
    let said = match line {
        b"PING" => ServerMessage::Ping,
        b"PONG" => ServerMessage::Pong,
        _ if line.starts_with(b"-ERR") => ServerMessage::Error(line),
        _ => ServerMessage::Other,
    };
    Some((said, start))
}

/// The error that a server said.
pub fn server_error(error: &[u8]) -> io::Error {
    io::Error::other(format!("the server said {}", String::from_utf8_lossy(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_whole_or_not_there() {
        let text = b"INFO {}\r\nPONG\r\nMSG ticks 1 5\r\na\r\nbc\r\nPING\r\n-ERR 'no'\r\n";
        for cut in 0..=text.len() {
            let (mut at, mut said) = (0, Vec::new());
            while let Some((what, length)) = parse(&text[at..cut]) {
                said.push(what);
                at += length;
            }
            while let Some((what, length)) = parse(&text[at..]) {
                said.push(what);
                at += length;
            }
            let (message, error) =
                (ServerMessage::Message(b"a\r\nbc"), ServerMessage::Error(b"-ERR 'no'"));
            assert_eq!(
                said,
                [ServerMessage::Other, ServerMessage::Pong, message, ServerMessage::Ping, error],
                "cut at {cut}"
            );
        }
    }
}
