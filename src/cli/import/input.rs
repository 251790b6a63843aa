//! The input of an import. A separate task reads the lines ahead, so that a wait for the disk
//! or a pipe does not delay the answers.

use std::io;
use std::path::Path;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::sync::mpsc;

/// The longest line that is sent, in bytes. This is far above every useful value of
/// `limits.body_bytes`. Because of this limit, a file without line ends does not
/// fill the memory.
const LINE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The size in bytes at which a chunk of lines is complete. Then the reading task
/// sends the chunk to the import.
const CHUNK_BYTES: usize = 64 * 1024;

/// The largest number of chunks that the reading task has sent and the import has
/// not yet received.
const CHUNKS_AHEAD: usize = 2;

/// A line of the input that is not blank.
#[derive(Debug)]
pub(super) struct Line {
    /// The number of the line in the file, from 1.
    pub(super) number: u64,
    /// The text of the line, with a line feed at its end.
    pub(super) text: Bytes,
    /// Whether the line was sent on an earlier connection that was lost.
    pub(super) sent_before: bool,
}

/// The lines of a file or of standard input.
pub(super) struct Input {
    chunks: mpsc::Receiver<io::Result<Vec<Line>>>,
    bytes: Option<u64>,
}

impl Input {
    /// Opens the file, or standard input for `-`, and starts to read.
    ///
    /// # Errors
    /// The file cannot be opened, or is a directory.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn open(path: &Path) -> io::Result<Input> {
        if path.as_os_str() == "-" {
            return Ok(Input::new(tokio::io::stdin(), None));
        }
        let file = tokio::fs::File::open(path).await?;
        let about = file.metadata().await?;
        if about.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(Input::new(file, about.is_file().then_some(about.len())))
    }

    /// Starts to read from `reader`. `bytes` is the size of the input in bytes, if
    /// known.
    pub(super) fn new(reader: impl AsyncRead + Send + Unpin + 'static, bytes: Option<u64>) -> Self {
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        tokio::spawn(read(reader, sender));
        Input { chunks, bytes }
    }

    /// Returns the number of bytes of the input, if known.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// Returns the next lines, or `None` at the end of the input.
    ///
    /// # Errors
    /// The file cannot be read, or a line is too long.
    ///
    /// # Cancel safety
    /// Safe: no line is lost.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<Line>>> {
        self.chunks.recv().await.transpose()
    }
}

async fn read(reader: impl AsyncRead + Unpin, sender: mpsc::Sender<io::Result<Vec<Line>>>) {
    let mut reader = BufReader::with_capacity(CHUNK_BYTES, reader);
    let mut lines = Vec::new();
    let mut bytes = 0;
    let mut number = 0;
    loop {
        let mut text = Vec::new();
        let read = (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut text).await;
        let ended = match read {
            Ok(read) if read as u64 == LINE_BYTES_MAX => Err(io::Error::other(format!(
                "line {} is longer than {LINE_BYTES_MAX} bytes; write one JSON object on each line",
                number + 1
            ))),
            Ok(read) => Ok(read == 0),
            Err(error) => Err(error),
        };
        number += 1;
        let end = text.trim_ascii_end().len();
        if end > 0 {
            text.truncate(end);
            text.push(b'\n');
            bytes += text.len();
            lines.push(Line { number, text: text.into(), sent_before: false });
        }
        // If no more bytes are ready, as with a slow pipe, the lines are sent at
        // once. They do not wait until the chunk is full.
        let full = bytes >= CHUNK_BYTES || reader.buffer().is_empty();
        if !lines.is_empty() && (full || !matches!(ended, Ok(false))) {
            bytes = 0;
            if sender.send(Ok(std::mem::take(&mut lines))).await.is_err() {
                return;
            }
        }
        match ended {
            Ok(false) => {}
            Ok(true) => return,
            Err(error) => {
                // If the receiver is gone, ignore the error.
                let _ = sender.send(Err(error)).await;
                return;
            }
        }
    }
}
