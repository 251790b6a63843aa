//! Encoding and decoding of records, each with a checksum.
//!
//! The checksum covers the key too, so a record that is stored under a wrong key
//! counts as damaged. The checksums of fjall do not suffice: fjall cuts off the
//! damaged end of a journal without an error.
//!
//! Each kind of record has a version. A record of version 1 begins with its
//! checksum. A record of a later version begins with the complement of its
//! checksum. The next byte is the version, which the checksum covers. Older
//! builds wrote records without a version; these records have version 1.

use bytes::{Buf as _, Bytes};

pub(super) const CHECKSUM_BYTES: usize = 4;

/// The version of a record without a version byte.
const UNMARKED: u8 = 1;

/// The reason why a record cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// The checksum or the content of the record is wrong.
    Damaged,
    /// The record has this version, which only a later build can decode.
    Newer(u8),
}

/// Encodes a record of version 1. `body` appends the fields, about `capacity` bytes.
pub(super) fn seal(key: &[u8], capacity: usize, body: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    seal_version(key, UNMARKED, capacity, body)
}

/// Encodes a record of `version`. `body` appends the fields, about `capacity` bytes.
pub(super) fn seal_version(
    key: &[u8],
    version: u8,
    capacity: usize,
    body: impl FnOnce(&mut Vec<u8>),
) -> Bytes {
    let is_marked = version > UNMARKED;
    // With the exact capacity, `Bytes` does not allocate again.
    let mut record = Vec::with_capacity(CHECKSUM_BYTES + usize::from(is_marked) + capacity);
    record.extend_from_slice(&[0; CHECKSUM_BYTES]);
    if is_marked {
        record.push(version);
    }
    body(&mut record);
    let checksum = checksum(key, &record[CHECKSUM_BYTES..]);
    let first = if is_marked { !checksum } else { checksum };
    record[..CHECKSUM_BYTES].copy_from_slice(&first.to_be_bytes());
    record.into()
}

/// Decodes a record. `newest` is the newest version of this kind of record. `fields`
/// gets the version of the record and decodes its fields.
///
/// # Errors
/// [`Unreadable::Damaged`] if the checksum is wrong or `fields` returns `None`,
/// [`Unreadable::Newer`] if the version is above `newest`.
pub(super) fn read<T>(
    key: &[u8],
    record: Bytes,
    newest: u8,
    fields: impl FnOnce(u8, Fields) -> Option<T>,
) -> Result<T, Unreadable> {
    let mut rest = Fields(record);
    let first = u32::from_be_bytes(rest.array().ok_or(Unreadable::Damaged)?);
    let checksum = checksum(key, &rest.0);
    let version = if first == checksum {
        UNMARKED
    } else if first == !checksum {
        rest.u8().ok_or(Unreadable::Damaged)?
    } else {
        return Err(Unreadable::Damaged);
    };
    if version > newest {
        return Err(Unreadable::Newer(version));
    }
    fields(version, rest).ok_or(Unreadable::Damaged)
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(body);
    hasher.finalize()
}

/// The part of a record that is not decoded yet. Each method returns `None` if this
/// part is too short.
pub(super) struct Fields(Bytes);

impl Fields {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = *self.0.first_chunk::<N>()?;
        self.0.advance(N);
        Some(array)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// Returns the next `length` bytes as a slice of the record.
    pub(super) fn bytes(&mut self, length: usize) -> Option<Bytes> {
        (self.0.len() >= length).then(|| self.0.split_to(length))
    }

    pub(super) fn rest(self) -> Bytes {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"key";

    fn read_up_to(newest: u8, record: &Bytes) -> Result<(u8, Bytes), Unreadable> {
        read(KEY, record.clone(), newest, |version, fields| Some((version, fields.rest())))
    }

    #[test]
    fn a_record_tells_its_version() {
        for version in 1..=u8::MAX {
            let record = seal_version(KEY, version, 4, |out| out.extend_from_slice(b"body"));
            let read = (version, Bytes::from_static(b"body"));
            assert_eq!(read_up_to(version, &record), Ok(read.clone()));
            assert_eq!(read_up_to(u8::MAX, &record), Ok(read));
            assert_eq!(read_up_to(version - 1, &record), Err(Unreadable::Newer(version)));
        }
    }

    #[test]
    fn a_flipped_bit_never_makes_another_version() {
        for version in [1, 2] {
            let record = seal_version(KEY, version, 4, |out| out.extend_from_slice(b"body"));
            for bit in 0..record.len() * 8 {
                let mut flipped = record.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(read_up_to(2, &flipped.into()), Err(Unreadable::Damaged), "{bit}");
            }
        }
    }
}
