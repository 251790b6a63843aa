//! Reads from the store.

use std::fmt;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fjall::{Database, Guard, Keyspace, Readable as _, Snapshot};

use super::codec::Unreadable;
use super::cursor::{self, Cursor, CursorName};
use super::record::{self, IdempotentResponse, LogMetadata, Numbered};
use super::{Error, LogBounds, Resource, key, meta_text, unreadable};
use crate::event::{Event, LogId, Offset, ResourceId, Timestamp};

/// A handle on the open store. A clone is cheap. Each read blocks on the disk.
#[derive(Clone)]
pub struct Store(Arc<Files>);

pub(super) struct Files {
    pub(super) path: PathBuf,
    pub(super) database: Database,
    pub(super) log: Keyspace,
    pub(super) state: Keyspace,
}

/// A snapshot of the store, for several reads that must see the same state. Hold a
/// snapshot only briefly: retention cannot free the records that the snapshot can
/// read.
pub struct ReadSnapshot {
    files: Arc<Files>,
    snapshot: Snapshot,
}

/// A resource that a scan has found.
pub struct ResourceEntry {
    log: LogId,
    key: fjall::Slice,
    /// The latest state of the resource in the snapshot.
    pub state: Resource,
}

impl Files {
    /// Returns the error for a record of `log` that cannot be read. `what` is the
    /// description of the record. The error names the collection or topic if the
    /// metadata of the log can be read.
    fn unreadable(&self, why: Unreadable, what: impl fmt::Display, log: LogId) -> Error {
        let key = key::meta(log);
        let meta = self.state.get(key).ok().flatten();
        let owner = match meta.map(|value| record::decode_meta(&key, value.into())) {
            Some(Ok(LogMetadata { topic: true, name, .. })) => format!("the topic {name}"),
            Some(Ok(LogMetadata { name, .. })) => format!("the collection {name}"),
            _ => format!("the log with number {}", log.0),
        };
        unreadable(why, format_args!("{what} of {owner}"))
    }

    fn damaged(&self, what: impl fmt::Display, log: LogId) -> Error {
        self.unreadable(Unreadable::Damaged, what, log)
    }

    fn decode_state(
        &self,
        log: LogId,
        id: &ResourceId,
        key: &[u8],
        value: fjall::Slice,
    ) -> Result<Resource, Error> {
        record::decode_state(key, value.into())
            .map_err(|why| self.unreadable(why, format_args!("the resource {id}"), log))
    }

    fn decode_event(&self, log: LogId, guard: Guard) -> Result<(u64, Numbered), Error> {
        let (key, value) = guard.into_inner()?;
        let bytes = (key.len() + value.len()) as u64;
        let numbered = record::decode_event(&key, value.into()).map_err(|why| {
            let offset = key::event_of(&key).map(|(_, offset)| offset).unwrap_or_default();
            self.unreadable(why, format_args!("the event at offset {offset}"), log)
        })?;
        Ok((bytes, numbered))
    }
}

impl Store {
    pub(super) fn new(files: Files) -> Store {
        Store(Arc::new(files))
    }

    pub(super) fn files(&self) -> &Files {
        &self.0
    }

    /// Returns the folder of the store.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Returns a snapshot of the store.
    pub fn view(&self) -> ReadSnapshot {
        ReadSnapshot { files: Arc::clone(&self.0), snapshot: self.0.database.snapshot() }
    }

    /// Returns the latest state of a resource, or `None` if it does not exist.
    ///
    /// # Errors
    /// [`Error`] if the disk cannot be read or the record is damaged.
    pub fn resource(&self, log: LogId, id: &ResourceId) -> Result<Option<Resource>, Error> {
        let key = key::resource(log, id);
        let Some(value) = self.0.state.get(&key)? else { return Ok(None) };
        self.0.decode_state(log, id, &key, value).map(Some)
    }

    /// Returns the stored response to an idempotent write, or `None` if there is
    /// none. `hash` is the hash of its idempotency key.
    ///
    /// # Errors
    /// [`Error`] if the disk cannot be read or the record is damaged.
    pub fn answer(&self, hash: &[u8; 32]) -> Result<Option<IdempotentResponse>, Error> {
        let key = key::answer(hash);
        let Some(value) = self.0.state.get(key)? else { return Ok(None) };
        let answer = record::decode_answer(&key, value.into());
        answer.map(Some).map_err(|why| unreadable(why, "the answer to an idempotent write"))
    }

    /// Returns the cursor with this name, or `None` if there is none. Blocks on
    /// the disk.
    ///
    /// # Errors
    /// [`Error`] if the disk cannot be read or the record is damaged.
    pub fn cursor(&self, name: &CursorName) -> Result<Option<Cursor>, Error> {
        let key = key::cursor(name.as_str());
        let Some(value) = self.0.state.get(&key)? else { return Ok(None) };
        let cursor = cursor::decode(&key, value.into());
        cursor
            .map(Some)
            .map_err(|why| unreadable(why, format_args!("the cursor {}", name.as_str())))
    }

    /// Returns the latest expiry of all stored responses to idempotent writes, or
    /// `None` if there is no response.
    ///
    /// # Errors
    /// [`Error`] if the disk cannot be read.
    pub fn newest_expiry(&self) -> Result<Option<Timestamp>, Error> {
        let newest = self.0.database.snapshot().range(&self.0.state, key::EXPIRIES).next_back();
        let Some(guard) = newest else { return Ok(None) };
        Ok(key::expiry_of(&guard.key()?).map(|(expiry, _)| expiry))
    }

    /// Returns the expiry and the key hash of at most `count` responses to
    /// idempotent writes. Their expiry is at least `from` and before `now`. They are
    /// in the order of their expiries.
    ///
    /// # Errors
    /// [`Error`] if the disk cannot be read.
    pub fn expired(
        &self,
        from: Timestamp,
        now: Timestamp,
        count: usize,
    ) -> Result<Vec<(Timestamp, [u8; 32])>, Error> {
        let range = key::expiry(from, &[0; 32])..key::expiry(now, &[0; 32]);
        let keys = self.0.database.snapshot().range(&self.0.state, range).take(count);
        let mut found = Vec::new();
        for guard in keys {
            found.extend(key::expiry_of(&guard.key()?));
        }
        Ok(found)
    }
}

impl ReadSnapshot {
    /// Returns the bounds of a log in this snapshot.
    ///
    /// # Errors
    /// [`Error`] if the disk cannot be read or the record is damaged.
    pub fn position(&self, log: LogId) -> Result<LogBounds, Error> {
        Ok(self.meta(log)?.position)
    }

    fn meta(&self, log: LogId) -> Result<LogMetadata, Error> {
        let key = key::meta(log);
        let Some(value) = self.snapshot.get(&self.files.state, key)? else {
            return Err(unreadable(Unreadable::Damaged, meta_text(&key)));
        };
        record::decode_meta(&key, value.into()).map_err(|why| unreadable(why, meta_text(&key)))
    }

    /// Returns the metadata of all logs, in the order of their numbers.
    pub(super) fn metas(&self) -> Result<Vec<LogMetadata>, Error> {
        let mut metas = Vec::new();
        for guard in self.snapshot.range(&self.files.state, key::METAS) {
            let (key, value) = guard.into_inner()?;
            let meta = record::decode_meta(&key, value.into());
            metas.push(meta.map_err(|why| unreadable(why, meta_text(&key)))?);
        }
        Ok(metas)
    }

    /// Returns the number of the last commit, or 0 for a new store.
    pub(super) fn commit(&self) -> Result<u64, Error> {
        let Some(value) = self.snapshot.get(&self.files.state, key::COMMIT)? else {
            return Ok(0);
        };
        let commit = record::decode_commit(value.into());
        commit.map_err(|why| unreadable(why, "the number of the last commit"))
    }

    /// Returns the state of a resource in this snapshot, or `None` if it does not
    /// exist.
    ///
    /// # Errors
    /// [`Error`] if the disk cannot be read or the record is damaged.
    pub fn resource(&self, log: LogId, id: &ResourceId) -> Result<Option<Resource>, Error> {
        let key = key::resource(log, id);
        let Some(value) = self.snapshot.get(&self.files.state, &key)? else { return Ok(None) };
        self.files.decode_state(log, id, &key, value).map(Some)
    }

    /// Returns the id of a resource that a scan has found. The scan itself does not
    /// decode the ids, because decoding checks every character and few callers need
    /// all ids.
    ///
    /// # Errors
    /// [`Error`] if the key is damaged.
    pub fn id_of(&self, found: &ResourceEntry) -> Result<ResourceId, Error> {
        key::subject_of(&found.key)
            .and_then(|(_, id)| ResourceId::from_stored(id.to_vec().into()).ok())
            .ok_or_else(|| self.files.damaged("the key of a resource", found.log))
    }

    /// Returns all resources of a log after the id `after`, in the order of their
    /// ids.
    pub fn resources(
        &self,
        log: LogId,
        after: Option<&ResourceId>,
    ) -> impl Iterator<Item = Result<ResourceEntry, Error>> + use<> {
        let range = key::log_range(key::RESOURCES, log);
        let start = match after {
            Some(id) => Bound::Excluded(key::resource(log, id)),
            None => Bound::Included(range.start.to_vec()),
        };
        let end = Bound::Excluded(range.end.to_vec());
        let files = Arc::clone(&self.files);
        self.range(KeyspaceName::State, (start, end)).map(move |guard| {
            let (key, value) = guard.into_inner()?;
            let what = || format!("the resource {}", key_text(&key));
            let state = record::decode_state(&key, value.into())
                .map_err(|why| files.unreadable(why, what(), log))?;
            Ok(ResourceEntry { log, key, state })
        })
    }

    /// Returns all events of a log after the offset `after`, in order.
    pub fn events(
        &self,
        log: LogId,
        after: Offset,
    ) -> impl Iterator<Item = Result<Event, Error>> + use<> {
        self.numbered(log, after).map(|found| found.map(|(_, numbered)| numbered.event))
    }

    /// Returns all events of a log after the offset `after`, in order, each with
    /// the number of its stored bytes.
    pub fn sized(
        &self,
        log: LogId,
        after: Offset,
    ) -> impl DoubleEndedIterator<Item = Result<(u64, Event), Error>> + use<> {
        let sized = |(bytes, numbered): (u64, Numbered)| (bytes, numbered.event);
        self.numbered(log, after).map(move |found| found.map(sized))
    }

    /// Returns all events of a log after the offset `after`, in order, each with
    /// its number and the number of its stored bytes.
    pub(super) fn numbered(
        &self,
        log: LogId,
        after: Offset,
    ) -> impl DoubleEndedIterator<Item = Result<(u64, Numbered), Error>> + use<> {
        let start = Bound::Excluded(key::event(log, after));
        let end = Bound::Included(key::event(log, Offset(u64::MAX)));
        let files = Arc::clone(&self.files);
        self.range(KeyspaceName::Log, (start, end)).map(move |guard| files.decode_event(log, guard))
    }

    /// Returns all events of one resource after the offset `after`, in order.
    /// The index finds the events.
    pub fn events_of(
        &self,
        log: LogId,
        subject: &ResourceId,
        after: Offset,
    ) -> impl Iterator<Item = Result<Event, Error>> + use<> {
        let start = Bound::Excluded(key::index(log, subject, after));
        let end = Bound::Included(key::index(log, subject, Offset(u64::MAX)));
        let view = ReadSnapshot { files: Arc::clone(&self.files), snapshot: self.snapshot.clone() };
        self.range(KeyspaceName::State, (start, end)).map(move |guard| {
            let offset = key::indexed(&guard.key()?).unwrap_or_default();
            let what = format_args!("the event at offset {offset}");
            view.event(log, offset)?.ok_or_else(|| view.files.damaged(what, log))
        })
    }

    /// Returns the offset before the first event whose time is `time` or later, and
    /// whether the log still has every such event. If the time of the log stepped
    /// back (an event has an earlier time than the event before it), the events up
    /// to the last step are ignored.
    ///
    /// # Errors
    /// [`Error`] if the disk cannot be read or a record is damaged.
    pub fn before(&self, log: LogId, time: Timestamp) -> Result<(Offset, bool), Error> {
        let meta = self.meta(log)?;
        let (position, step) = (&meta.position, meta.last_step());
        // For the events after the step: all events up to `low` are earlier than
        // `time`. The first event after `high`, if there is one, is not earlier.
        let (mut low, mut high) = (position.floor.max(step), position.head);
        while low < high {
            let middle = Offset(low.0 + (high.0 - low.0) / 2);
            match self.events(log, middle).next().transpose()? {
                Some(event) if event.time < time => low = event.offset,
                _ => high = middle,
            }
        }
        Ok((low, position.keeps_since(step, time)))
    }

    /// Returns the event at `offset`, or `None` if there is none.
    pub(super) fn event(&self, log: LogId, offset: Offset) -> Result<Option<Event>, Error> {
        let key = key::event(log, offset);
        let Some(value) = self.snapshot.get(&self.files.log, key)? else { return Ok(None) };
        let numbered = record::decode_event(&key, value.into());
        let what = format_args!("the event at offset {offset}");
        numbered.map(|it| Some(it.event)).map_err(|why| self.files.unreadable(why, what, log))
    }

    pub(super) fn is_indexed(
        &self,
        log: LogId,
        subject: &ResourceId,
        offset: Offset,
    ) -> Result<bool, Error> {
        Ok(self.snapshot.contains_key(&self.files.state, key::index(log, subject, offset))?)
    }

    /// Returns whether the stored resource agrees with `event`, the newest event of
    /// this resource.
    pub(super) fn matches_latest(&self, meta: &LogMetadata, event: &Event) -> Result<bool, Error> {
        let Some(subject) = event.subject.as_ref().filter(|_| !meta.topic) else {
            return Ok(true);
        };
        Ok(match self.resource(meta.id, subject)? {
            Some(state) => state.revision == event.offset,
            // A type that a user chose can also end in `-deleted`. Such an event
            // does not remove the resource.
            None => event.event_type.as_str().ends_with("-deleted"),
        })
    }

    pub(super) fn range<K: AsRef<[u8]>>(
        &self,
        space: KeyspaceName,
        range: (Bound<K>, Bound<K>),
    ) -> impl DoubleEndedIterator<Item = Guard> + use<K> {
        let keyspace = match space {
            KeyspaceName::Log => &self.files.log,
            KeyspaceName::State => &self.files.state,
        };
        self.snapshot.range(keyspace, range)
    }
}

/// The name of a keyspace of the store.
#[derive(Clone, Copy)]
pub(super) enum KeyspaceName {
    Log,
    State,
}

/// Returns the id in the key of a resource, for an error. The key may be damaged.
fn key_text(key: &[u8]) -> String {
    let id = key::subject_of(key).map_or(key, |(_, id)| id);
    String::from_utf8_lossy(id).into_owned()
}

#[cfg(test)]
mod tests;
