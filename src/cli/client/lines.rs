//! Lines out of a body's chunks.

use bytes::{Bytes, BytesMut};

/// Longest line that is kept, in bytes: far above what a gateway sends.
const LINE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Puts chunks together and takes lines out.
#[derive(Default)]
pub(in crate::cli) struct Lines {
    buffer: BytesMut,
    /// How much of the buffer is known to have no line's end.
    searched: usize,
}

impl Lines {
    /// Takes in a chunk; false when a line has become too long to be one.
    pub(in crate::cli) fn push(&mut self, chunk: &[u8]) -> bool {
        self.buffer.extend_from_slice(chunk);
        self.buffer.len() <= LINE_BYTES_MAX
    }

    /// The next whole line that is not blank, without its end.
    pub(in crate::cli) fn next(&mut self) -> Option<Bytes> {
        loop {
            let found = self.buffer[self.searched..].iter().position(|&b| b == b'\n');
            let Some(length) = found else {
                self.searched = self.buffer.len();
                return None;
            };
            let line = self.buffer.split_to(self.searched + length + 1).freeze();
            self.searched = 0;
            let end = line.trim_ascii_end().len();
            if end > 0 {
                return Some(line.slice(..end));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_they_came_in() {
        let text = b"one\n\n \r\ntwo\r\nthree\nfour";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for chunk in text.chunks(size) {
                assert!(lines.push(chunk));
                while let Some(line) = lines.next() {
                    found.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            assert_eq!(found, ["one", "two", "three"], "{size}");
        }
    }
}
