//! The NATS protocol: one line for each operation, some followed by a payload
//! (<https://docs.nats.io/reference/reference-protocols/nats-protocol>).
//! Publishers use TCP, subscribers use WebSocket frames.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};

use memchr::memmem;

use crate::http;

/// The first operation of a client. Without `verbose`, the server does not
/// acknowledge operations.
const CONNECT: &str = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";

/// The subject of all messages.
const SUBJECT: &str = "ticks";

/// The connection of a publisher.
pub struct Connection {
    socket: TcpStream,
    reader: BufReader<TcpStream>,
}

/// A message from the server.
#[derive(Debug, PartialEq, Eq)]
pub enum ServerMessage<'t> {
    /// The payload of a message to a subscriber.
    Message(&'t [u8]),
    /// The server checks that the client is alive.
    Ping,
    /// The server has processed every operation before the client's ping.
    Pong,
    /// An error, after which the server mostly closes the connection.
    Error(&'t [u8]),
    /// Any other operation.
    Other,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// If the connection or an operation is refused.
    pub fn open(address: SocketAddr) -> io::Result<Connection> {
        let socket = http::dial(address)?;
        let mut connection = Connection { reader: BufReader::new(socket.try_clone()?), socket };
        connection.publish(CONNECT.as_bytes())?;
        connection.flush()?;
        Ok(connection)
    }

    /// Sends operations, which the server does not acknowledge.
    ///
    /// # Errors
    /// If the connection is closed.
    pub fn publish(&mut self, operations: &[u8]) -> io::Result<()> {
        self.socket.write_all(operations)
    }

    /// Waits until the server has processed all operations.
    ///
    /// # Errors
    /// If the server refuses one, or does not answer.
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

/// Appends an operation that publishes the payload that `write` appends.
pub fn write(out: &mut Vec<u8>, write: impl Fn(&mut Vec<u8>)) {
    let mut payload = Vec::new();
    write(&mut payload);
    out.extend_from_slice(format!("PUB {SUBJECT} {}\r\n", payload.len()).as_bytes());
    out.extend_from_slice(&payload);
    out.extend_from_slice(b"\r\n");
}

/// Returns the operations that subscribe, and a ping that the server answers
/// once they are processed.
pub fn subscribe() -> Vec<u8> {
    format!("{CONNECT}SUB {SUBJECT} 1\r\nPING\r\n").into_bytes()
}

/// Parses the message at the start of `text` and returns it with its length.
/// `None` if it is not complete.
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
    let received = match line {
        b"PING" => ServerMessage::Ping,
        b"PONG" => ServerMessage::Pong,
        _ if line.starts_with(b"-ERR") => ServerMessage::Error(line),
        _ => ServerMessage::Other,
    };
    Some((received, start))
}

/// Returns an error of the server as an I/O error.
pub fn server_error(error: &[u8]) -> io::Error {
    io::Error::other(format!("the server sent {}", String::from_utf8_lossy(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_complete_or_not_parsed() {
        let text = b"INFO {}\r\nPONG\r\nMSG ticks 1 5\r\na\r\nbc\r\nPING\r\n-ERR 'no'\r\n";
        for cut in 0..=text.len() {
            let (mut at, mut received) = (0, Vec::new());
            while let Some((what, length)) = parse(&text[at..cut]) {
                received.push(what);
                at += length;
            }
            while let Some((what, length)) = parse(&text[at..]) {
                received.push(what);
                at += length;
            }
            let (message, error) =
                (ServerMessage::Message(b"a\r\nbc"), ServerMessage::Error(b"-ERR 'no'"));
            assert_eq!(
                received,
                [ServerMessage::Other, ServerMessage::Pong, message, ServerMessage::Ping, error],
                "cut at {cut}"
            );
        }
    }
}
