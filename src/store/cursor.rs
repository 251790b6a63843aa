//! Cursors: durable positions in logs, each under a name.
//!
//! The record of a cursor has version 1 and these fields: `log u32, epoch [8],
//! offset u64`.

use std::fmt;

use bytes::Bytes;

use super::codec::{Unreadable, read, seal};
use crate::event::{Epoch, LogId, Offset};

/// The newest version of a cursor's record that this build reads.
const VERSION: u8 = 1;
const NAME_BYTES_MAX: usize = 128;

/// The name of a cursor: 1 to 128 characters of `A-Z a-z 0-9 . _ ~ : / -`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CursorName(String);

/// The error for a text that is not the name of a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidCursorName;

/// A durable position in a log. The reader of the cursor continues with the event
/// after the offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The number of the log.
    pub log: LogId,
    /// The epoch of the log.
    pub epoch: Epoch,
    /// The offset of the last event that the reader has processed.
    pub offset: Offset,
}

impl CursorName {
    /// Checks `name` and returns it as the name of a cursor.
    ///
    /// # Errors
    /// [`InvalidCursorName`] if `name` is empty, is longer than 128 bytes, or has a
    /// character that is not allowed.
    pub fn new(name: &str) -> Result<CursorName, InvalidCursorName> {
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._~:/-".contains(&byte);
        if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_valid) {
            Ok(CursorName(name.to_owned()))
        } else {
            Err(InvalidCursorName)
        }
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InvalidCursorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the name of a cursor has 1 to 128 characters of A-Z, a-z, 0-9 and . _ ~ : / -")
    }
}

impl std::error::Error for InvalidCursorName {}

pub(super) fn encode(key: &[u8], cursor: &Cursor) -> Bytes {
    seal(key, 20, |out| {
        out.extend_from_slice(&cursor.log.0.to_be_bytes());
        out.extend_from_slice(cursor.epoch.as_str().as_bytes());
        out.extend_from_slice(&cursor.offset.0.to_be_bytes());
    })
}

pub(super) fn decode(key: &[u8], record: Bytes) -> Result<Cursor, Unreadable> {
    read(key, record, VERSION, |_, mut fields| {
        let log = LogId(u32::from_be_bytes(fields.array()?));
        let epoch = str::from_utf8(&fields.array::<8>()?).ok()?.parse().ok()?;
        Some(Cursor { log, epoch, offset: Offset(fields.u64()?) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Durability, Store, codec::seal_version, key};
    use proptest::prelude::*;

    #[test]
    fn a_name_has_a_bounded_length_and_few_characters() {
        for name in ["a", "hooks/orders:1._~-", &"x".repeat(128)] {
            assert_eq!(CursorName::new(name).unwrap().as_str(), name);
        }
        for name in ["", "a b", "ä", "a\0", &"x".repeat(129)] {
            assert_eq!(CursorName::new(name), Err(InvalidCursorName), "{name:?}");
        }
    }

    /// If this fails, cursors are written in another format: raise the version
    /// and `format::FORMAT`, and go on reading the old version.
    #[test]
    fn a_cursor_has_the_bytes_of_format_3() {
        let cursor = Cursor { log: LogId(3), epoch: Epoch::from_bits(7), offset: Offset(9) };
        let record = encode(&key::cursor("hook"), &cursor);
        assert_eq!(&record[4..], b"\0\0\0\x0300000007\0\0\0\0\0\0\0\x09");
        assert_eq!(
            record[..4],
            crc32fast::hash(&[b"\x06hook", &record[4..]].concat()).to_be_bytes()
        );
    }

    #[test]
    fn a_cursor_is_read_replaced_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let mut opened = Store::open(folder.path()).unwrap();
        let name = CursorName::new("hook").unwrap();
        assert_eq!(opened.store.cursor(&name).unwrap(), None);
        for offset in [5, 2] {
            let cursor =
                Cursor { log: LogId(3), epoch: Epoch::from_bits(7), offset: Offset(offset) };
            let mut changes = opened.writer.begin();
            changes.put_cursor(&name, &cursor);
            opened.writer.commit(changes, Durability::Synced).unwrap();
            assert_eq!(opened.store.cursor(&name).unwrap(), Some(cursor));
        }
        let files = opened.store.files();
        let key = key::cursor("hook");
        files.state.insert(&key, seal_version(&key, 2, 0, |_| ())).unwrap();
        let newer = opened.store.cursor(&name).unwrap_err().to_string();
        assert!(newer.contains("the cursor hook has version 2"), "{newer}");
        let mut changes = opened.writer.begin();
        changes.remove_cursor(&name);
        opened.writer.commit(changes, Durability::Synced).unwrap();
        assert_eq!(opened.store.cursor(&name).unwrap(), None);
    }

    proptest! {
        #[test]
        fn a_cursor_reads_back(log: u32, bits: u64, offset: u64, name in "[a-z/]{1,128}") {
            let cursor =
                Cursor { log: LogId(log), epoch: Epoch::from_bits(bits), offset: Offset(offset) };
            let key = key::cursor(&name);
            prop_assert_eq!(decode(&key, encode(&key, &cursor)), Ok(cursor));
            prop_assert_eq!(key::cursor_name_of(&key), name);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(key: Vec<u8>, value: Vec<u8>) {
            let sealed = seal(&key, 0, |out| out.extend_from_slice(&value));
            let _ = (decode(&key, value.into()), decode(&key, sealed));
        }
    }
}
