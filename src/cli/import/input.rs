//! The lines of a file, read ahead by a task of their own, so that waiting
//! for the disk or a pipe never holds up an answer.

use std::io;
use std::path::Path;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::sync::mpsc;

/// Longest line that is sent, in bytes: far above any `limits.body_bytes`,
/// and an end for a file that has no lines.
const LINE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// How many bytes of lines are read before they are handed over.
const CHUNK_BYTES: usize = 64 * 1024;

/// Chunks that wait to be taken.
const CHUNKS_AHEAD: usize = 2;

/// A line that is not blank.
#[derive(Debug)]
pub(super) struct Line {
    /// Its number in the file, from 1.
    pub(super) number: u64,
    /// What it says, with a line feed at its end.
    pub(super) text: Bytes,
    /// Whether it was sent on a connection that was cut since.
    pub(super) sent_before: bool,
}

/// A file being read.
pub(super) struct Input {
    chunks: mpsc::Receiver<io::Result<Vec<Line>>>,
    bytes: Option<u64>,
}

impl Input {
    /// Opens the file, or standard input for `-`, and starts to read.
    ///
    /// # Errors
    /// When it cannot be opened.
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

    /// Starts to read from `reader`, of which `bytes` are to come if that is
    /// known.
    pub(super) fn new(reader: impl AsyncRead + Send + Unpin + 'static, bytes: Option<u64>) -> Self {
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        tokio::spawn(read(reader, sender));
        Input { chunks, bytes }
    }

    /// How large the whole is, if that is known.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// The next lines; none at the end.
    ///
    /// # Errors
    /// When the file cannot be read further.
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
                "line {} is longer than {LINE_BYTES_MAX} bytes",
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
        // A line of a slow pipe goes on at once: nothing is waited for while
        // there is something to send.
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
                // A receiver that has gone needs no error.
                let _ = sender.send(Err(error)).await;
                return;
            }
        }
    }
}
