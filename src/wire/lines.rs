//! Splits a stream of bytes into lines.

use bytes::{Bytes, BytesMut};

/// A splitter of a stream of bytes into lines. The caller adds the bytes in chunks.
/// Between two chunks, the splitter stores at most one incomplete line.
pub struct Lines {
    buffer: BytesMut,
    /// The number of bytes at the start of the buffer that were searched and have no
    /// line end.
    scanned: usize,
    /// Whether the current line is too long.
    skipping: bool,
    number: u64,
    bytes_max: usize,
}

/// A line that is not blank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The number of the line, from 1. Blank lines are counted too.
    pub number: u64,
    /// The bytes of the line without the line end. The value is `None` if the line
    /// is too long.
    pub bytes: Option<Bytes>,
}

impl Lines {
    /// Creates a splitter for lines of at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Lines {
        Lines { buffer: BytesMut::new(), scanned: 0, skipping: false, number: 0, bytes_max }
    }

    /// Adds a chunk of bytes. Before this call, the caller must call
    /// [`Lines::next_line`] until it returns `None`.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next complete line, if there is one.
    pub fn next_line(&mut self) -> Option<Line> {
        loop {
            let end = self.buffer[self.scanned..].iter().position(|&b| b == b'\n');
            let Some(end) = end.map(|end| end + self.scanned) else {
                self.scanned = self.buffer.len();
                if self.buffer.len() > self.bytes_max {
                    self.skipping = true;
                }
                if self.skipping {
                    self.buffer.clear();
                    self.scanned = 0;
                }
                return None;
            };
            let line = self.buffer.split_to(end + 1).freeze();
            self.scanned = 0;
            if let Some(line) = self.take(line.slice(..end)) {
                return Some(line);
            }
        }
    }

    /// Returns the last line of the input if no line end follows this line. Returns
    /// `None` if there is no such line or the line is blank.
    pub fn finish(&mut self) -> Option<Line> {
        let rest = self.buffer.split().freeze();
        self.scanned = 0;
        self.take(rest)
    }

    /// Returns whether the current, incomplete line is already too long.
    pub fn is_too_long(&self) -> bool {
        self.skipping
    }

    /// Returns the number of the current, incomplete line, from 1.
    pub fn current(&self) -> u64 {
        self.number + 1
    }

    fn take(&mut self, line: Bytes) -> Option<Line> {
        let skipped = std::mem::take(&mut self.skipping);
        self.number += 1;
        if skipped || line.len() > self.bytes_max {
            return Some(Line { number: self.number, bytes: None });
        }
        let blank = line.iter().all(u8::is_ascii_whitespace);
        (!blank).then_some(Line { number: self.number, bytes: Some(line) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(input: &[u8], step: usize) -> Vec<(u64, Option<String>)> {
        let mut lines = Lines::new(8);
        let mut out = Vec::new();
        for piece in input.chunks(step) {
            lines.feed(piece);
            while let Some(line) = lines.next_line() {
                out.push(line);
            }
        }
        out.extend(lines.finish());
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        out.into_iter().map(|line| (line.number, line.bytes.map(text))).collect()
    }

    #[test]
    fn lines_are_numbered_and_blank_lines_are_omitted() {
        let line = |n, text: &str| (n, Some(text.to_owned()));
        assert_eq!(split(b"", 1), []);
        assert_eq!(split(b"a\n\n \r\nb", 64), [line(1, "a"), line(4, "b")]);
        assert_eq!(split(b"12345678\n", 3), [line(1, "12345678")]);
    }

    #[test]
    fn only_the_line_that_is_too_long_is_skipped() {
        for step in 1..30 {
            assert_eq!(
                split(b"a\n123456789012345678\nb\n123456789", step),
                [(1, Some("a".to_owned())), (2, None), (3, Some("b".to_owned())), (4, None)],
                "in steps of {step}"
            );
        }
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_the_chunks(input in "[ab\n]{0,60}", step in 1usize..20) {
            prop_assert_eq!(split(input.as_bytes(), step), split(input.as_bytes(), 1000));
        }
    }
}
