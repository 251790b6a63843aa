//! The lines of a response body.

use bytes::Bytes;

use super::Error;
use crate::wire::lines;

/// The longest line in bytes. A gateway sends far shorter lines.
const LINE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Splits the chunks of a response body into lines.
pub(in crate::cli) struct Lines(lines::Lines);

impl Default for Lines {
    fn default() -> Lines {
        Lines(lines::Lines::new(LINE_BYTES_MAX))
    }
}

impl Lines {
    /// Adds a chunk of the response body.
    pub(in crate::cli) fn push(&mut self, chunk: &[u8]) {
        self.0.feed(chunk);
    }

    /// Returns the next complete line that is not blank, without the line end.
    ///
    /// # Errors
    /// [`Error::Ended`] for a line that is too long: a gateway sends no such line.
    pub(in crate::cli) fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match self.0.next_line() {
            None if self.0.is_too_long() => Err(Error::Ended),
            None => Ok(None),
            Some(line) => {
                let bytes = line.bytes.ok_or(Error::Ended)?;
                Ok(Some(bytes.slice(..bytes.trim_ascii_end().len())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_complete_whatever_the_size_of_the_chunks() {
        let text = b"one\n\n \r\ntwo\r\nthree\nfour";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for chunk in text.chunks(size) {
                lines.push(chunk);
                while let Some(line) = lines.next().unwrap() {
                    found.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            assert_eq!(found, ["one", "two", "three"], "{size}");
        }
    }
}
