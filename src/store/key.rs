//! The keys of the store. Numbers are big-endian, so that the order of the keys is
//! the order of the numbers.
//!
//! The keyspace `log` has only events. The key of an event is `log u32, offset u64`.
//! The offsets of a log only grow, so the tables (fjall's sorted files) of one log
//! never overlap.
//!
//! The keyspace `state` has all other records. The first byte of a key is the kind
//! of the record, as listed here. `key hash` is the hash of an idempotency key.
//! - 0: the number of the last commit
//! - 1: `log u32`: the metadata of a log
//! - 2: `log u32, resource id`: a resource
//! - 3: `log u32, resource id, 0, offset u64`: an index entry (an id has no byte 0)
//! - 4: `key hash [32]`: the response to an idempotent write
//! - 5: `expiry i64, key hash [32]`: the time at which the response expires
//! - 6: `name`: a cursor

use std::ops::Range;

use crate::event::{LogId, Offset, ResourceId, Timestamp};

pub(super) const COMMIT: [u8; 1] = [0];
pub(super) const METAS: Range<[u8; 1]> = [1]..[2];
pub(super) const EXPIRIES: Range<[u8; 1]> = [5]..[6];
pub(super) const CURSORS: Range<[u8; 1]> = [6]..[7];
pub(super) const RESOURCES: u8 = 2;
pub(super) const INDEX: u8 = 3;
pub(super) const EVENT_BYTES: usize = 12;

/// Returns the key of an event.
pub(super) fn event(log: LogId, offset: Offset) -> [u8; EVENT_BYTES] {
    let mut key = [0; EVENT_BYTES];
    key[..4].copy_from_slice(&log.0.to_be_bytes());
    key[4..].copy_from_slice(&offset.0.to_be_bytes());
    key
}

/// Returns the log and the offset in the key of an event.
pub(super) fn event_of(key: &[u8]) -> Option<(LogId, Offset)> {
    let (log, offset) = key.split_first_chunk()?;
    let offset = u64::from_be_bytes(offset.try_into().ok()?);
    Some((LogId(u32::from_be_bytes(*log)), Offset(offset)))
}

/// Returns the log in the key of a log's metadata.
pub(super) fn meta_of(key: &[u8]) -> Option<LogId> {
    Some(LogId(u32::from_be_bytes(key.get(1..)?.try_into().ok()?)))
}

pub(super) fn meta(log: LogId) -> [u8; 5] {
    log_prefix(*METAS.start.first().expect("it has one byte"), log)
}

pub(super) fn log_prefix(tag: u8, log: LogId) -> [u8; 5] {
    let mut key = [tag; 5];
    key[1..].copy_from_slice(&log.0.to_be_bytes());
    key
}

/// Returns the range of all keys of one log and one kind of record, whose first byte
/// is `tag`.
pub(super) fn log_range(tag: u8, log: LogId) -> Range<[u8; 5]> {
    log_prefix(tag, log)..log_prefix(tag, LogId(log.0 + 1))
}

pub(super) fn resource(log: LogId, id: &ResourceId) -> Vec<u8> {
    let mut key = Vec::with_capacity(5 + id.as_bytes().len());
    key.extend_from_slice(&log_prefix(RESOURCES, log));
    key.extend_from_slice(id.as_bytes());
    key
}

/// Returns the log and the bytes of the resource id in the key of a resource or
/// of an index entry.
pub(super) fn subject_of(key: &[u8]) -> Option<(LogId, &[u8])> {
    let (log, rest) = key.get(1..)?.split_first_chunk()?;
    let id = rest.split(|&byte| byte == 0).next().unwrap_or(rest);
    Some((LogId(u32::from_be_bytes(*log)), id))
}

pub(super) fn index(log: LogId, id: &ResourceId, offset: Offset) -> Vec<u8> {
    let mut key = Vec::with_capacity(14 + id.as_bytes().len());
    key.extend_from_slice(&log_prefix(INDEX, log));
    key.extend_from_slice(id.as_bytes());
    key.push(0);
    key.extend_from_slice(&offset.0.to_be_bytes());
    key
}

/// Returns the offset in the key of an index entry.
pub(super) fn indexed(key: &[u8]) -> Option<Offset> {
    key.last_chunk().map(|offset| Offset(u64::from_be_bytes(*offset)))
}

pub(super) fn answer(hash: &[u8; 32]) -> [u8; 33] {
    let mut key = [4; 33];
    key[1..].copy_from_slice(hash);
    key
}

pub(super) fn expiry(time: Timestamp, hash: &[u8; 32]) -> [u8; 41] {
    let mut key = [5; 41];
    key[1..9].copy_from_slice(&time.0.max(0).to_be_bytes());
    key[9..].copy_from_slice(hash);
    key
}

/// Returns the time and the hash in the key of an expiry.
pub(super) fn expiry_of(key: &[u8]) -> Option<(Timestamp, [u8; 32])> {
    let (time, hash) = key.get(1..)?.split_first_chunk()?;
    Some((Timestamp(i64::from_be_bytes(*time)), hash.try_into().ok()?))
}

pub(super) fn cursor(name: &str) -> Vec<u8> {
    [CURSORS.start.as_slice(), name.as_bytes()].concat()
}

/// Returns the name in the key of a cursor. The key may be damaged.
pub(super) fn cursor_name_of(key: &[u8]) -> String {
    String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_read_back(log: u32, offset: u64, id in "[A-Za-z0-9._~:-]{1,128}") {
            let (log, offset) = (LogId(log), Offset(offset));
            let id = ResourceId::from_stored(id.into()).unwrap();
            prop_assert_eq!(event_of(&event(log, offset)), Some((log, offset)));
            let entry = index(log, &id, offset);
            prop_assert_eq!(subject_of(&entry), Some((log, id.as_bytes())));
            prop_assert_eq!(indexed(&entry), Some(offset));
            let state = resource(log, &id);
            prop_assert_eq!(subject_of(&state), Some((log, id.as_bytes())));
        }

        #[test]
        fn byte_order_is_the_order_of_offsets(log: u32, a: u64, b: u64, id in "[a-z]{1,8}") {
            let id = ResourceId::from_stored(id.into()).unwrap();
            let (log, a, b) = (LogId(log), Offset(a), Offset(b));
            prop_assert_eq!(event(log, a).cmp(&event(log, b)), a.cmp(&b));
            prop_assert_eq!(index(log, &id, a).cmp(&index(log, &id, b)), a.cmp(&b));
        }

        #[test]
        fn expiries_read_back_in_order(a in 0..i64::MAX, b in 0..i64::MAX, hash: [u8; 32]) {
            let (a, b) = (Timestamp(a), Timestamp(b));
            prop_assert_eq!(expiry_of(&expiry(a, &hash)), Some((a, hash)));
            prop_assert_eq!(expiry(a, &hash).cmp(&expiry(b, &hash)), a.cmp(&b));
        }

        #[test]
        fn no_bytes_make_the_readers_panic(key: Vec<u8>) {
            let _ = (event_of(&key), subject_of(&key), indexed(&key), expiry_of(&key));
        }
    }
}
