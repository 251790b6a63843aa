//! An NDJSON body, read line by line.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::time::Duration;

use memchr::memmem;

use crate::framing::ChunkDecoder;

/// The most bytes of a read.
const READ_BYTES: usize = 256 * 1024;

/// After this time without a byte, the body is cut.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Requests `path` and calls `each` with every line, until it breaks or the
/// body ends. Returns the bytes of the lines.
///
/// # Errors
/// If the response is no chunked 200, is cut, or stops.
pub fn read_lines(
    address: SocketAddr,
    path: &str,
    mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> io::Result<u64> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(SILENCE_MAX))?;
    let fields = "Accept: application/x-ndjson\r\n";
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\n{fields}\r\n")?;
    let (mut bytes, mut text) = (vec![0; READ_BYTES], Vec::new());
    let mut chunks = head(&mut socket, &mut bytes, &mut text)?;
    let mut total = 0;
    loop {
        let mut start = 0;
        while let Some(length) = memchr::memchr(b'\n', &text[start..]) {
            let line = &text[start..start + length];
            start += length + 1;
            total += length as u64 + 1;
            if each(line).is_break() {
                return Ok(total);
            }
        }
        text.drain(..start);
        if chunks == ChunkDecoder::End && text.is_empty() {
            return Ok(total);
        }
        let read = socket.read(&mut bytes)?;
        if read == 0 {
            return Err(io::Error::other(format!(
                "the response to {path} ended early, after {total} bytes"
            )));
        }
        chunks.decode(&bytes[..read], &mut text);
    }
}

/// Reads the head, and the part of the body that arrived with it.
fn head(socket: &mut TcpStream, bytes: &mut [u8], text: &mut Vec<u8>) -> io::Result<ChunkDecoder> {
    let mut head = Vec::new();
    loop {
        let read = socket.read(bytes)?;
        head.extend_from_slice(&bytes[..read]);
        if let Some(end) = memmem::find(&head, b"\r\n\r\n") {
            let is_taken = head.starts_with(b"HTTP/1.1 200")
                && memmem::find(&head[..end], b"ransfer-")
                    .or(memmem::find(&head[..end], b"RANSFER-"))
                    .is_some();
            if !is_taken {
                let received = String::from_utf8_lossy(&head).into_owned();
                return Err(io::Error::other(format!("the server answered {received:?}")));
            }
            let mut chunks = ChunkDecoder::START;
            chunks.decode(&head[end + 4..], text);
            return Ok(chunks);
        }
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
