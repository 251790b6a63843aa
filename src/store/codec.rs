//! Records under their own checksum, and the taking apart of them.
//!
//! The checksum covers the key too: a record that is found under another key
//! than it was written to is as wrong as one with a flipped bit. Why not leave
//! it to fjall: it cuts a damaged journal off without a word.

use bytes::{Buf as _, Bytes};

pub(super) const CHECKSUM_BYTES: usize = 4;

/// A record with its checksum in front. `body` appends about `capacity` bytes.
pub(super) fn seal(key: &[u8], capacity: usize, body: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut record = Vec::with_capacity(CHECKSUM_BYTES + capacity);
    record.extend_from_slice(&[0; CHECKSUM_BYTES]);
    body(&mut record);
    let checksum = checksum(key, &record[CHECKSUM_BYTES..]);
    record[..CHECKSUM_BYTES].copy_from_slice(&checksum.to_be_bytes());
    record.into()
}

/// The fields of a record; none when its checksum is wrong.
pub(super) fn unseal(key: &[u8], record: Bytes) -> Option<Fields> {
    let mut fields = Fields(record);
    let expected = u32::from_be_bytes(fields.array()?);
    (checksum(key, &fields.0) == expected).then_some(fields)
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(body);
    hasher.finalize()
}

/// What is still to be read of a record. Every step is none where too little
/// is left.
pub(super) struct Fields(Bytes);

impl Fields {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = *self.0.first_chunk::<N>()?;
        self.0.advance(N);
        Some(array)
    }

    /// The next byte, which stays to be read.
    pub(super) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
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

    /// A slice of the record, not a copy.
    pub(super) fn bytes(&mut self, length: usize) -> Option<Bytes> {
        (self.0.len() >= length).then(|| self.0.split_to(length))
    }

    pub(super) fn rest(self) -> Bytes {
        self.0
    }
}
