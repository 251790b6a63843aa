//! The writer of a store: atomic, numbered commits.

use bytes::Bytes;
use fjall::{OwnedWriteBatch, PersistMode};

use super::cursor::{self, Cursor, CursorName};
use super::record::{self, IdempotentResponse, LogMetadata};
use super::view::Store;
use super::watermark::CommitWatermark;
use super::{Error, Resource, key};
use crate::event::{Event, LogId, Offset, ResourceId, Timestamp};

/// The only writer of a store.
pub struct Writer {
    store: Store,
    watermark: CommitWatermark,
    /// The number of the last commit.
    commit: u64,
    /// The number of the last commit that is on disk.
    synced: u64,
}

/// The durability of a commit when [`Writer::commit`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The commit is on disk.
    Synced,
    /// The commit is in the page cache of the operating system.
    Buffered,
}

/// Changes that are committed together or not at all.
pub struct Transaction {
    store: Store,
    batch: OwnedWriteBatch,
}

/// An event with its encoded record.
pub struct EncodedEvent {
    key: [u8; key::EVENT_BYTES],
    record: Bytes,
    /// The event. Its fields are slices of the record.
    pub event: Event,
}

impl EncodedEvent {
    /// Encodes an event of `log`. The events of a log have consecutive numbers.
    ///
    /// # Panics
    /// Never: the slices lie within the record that this function encodes.
    pub fn new(log: LogId, number: u64, event: Event) -> EncodedEvent {
        let key = key::event(log, event.offset);
        let record = record::encode_event(&key, number, &event);
        let event = record::slices_of(event, &record);
        EncodedEvent { key, record, event }
    }

    /// Returns the number of bytes that the event takes in the log.
    pub fn bytes(&self) -> u64 {
        EncodedEvent::bytes_of(&self.event)
    }

    /// Returns the number of bytes that `event` takes in a log.
    pub fn bytes_of(event: &Event) -> u64 {
        (key::EVENT_BYTES + record::event_bytes(event)) as u64
    }
}

impl Writer {
    pub(super) fn new(store: Store, watermark: CommitWatermark, commit: u64) -> Writer {
        Writer { store, watermark, commit, synced: commit }
    }

    /// Returns the store that this writer changes.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns an empty transaction.
    pub fn begin(&self) -> Transaction {
        Transaction { batch: self.store.files().database.batch(), store: self.store.clone() }
    }

    /// Commits the changes of one transaction.
    ///
    /// # Errors
    /// [`Error::Io`]. The changes may be on disk or not, and every later commit
    /// fails.
    pub fn commit(
        &mut self,
        mut changes: Transaction,
        durability: Durability,
    ) -> Result<(), Error> {
        let commit = self.commit + 1;
        let state = &self.store.files().state;
        changes.batch.insert(state, key::COMMIT, record::encode_commit(commit));
        let mode = match durability {
            Durability::Synced => PersistMode::SyncData,
            Durability::Buffered => PersistMode::Buffer,
        };
        changes.batch.durability(Some(mode)).commit()?;
        self.commit = commit;
        if durability == Durability::Synced {
            self.synced = commit;
            self.watermark.advance(commit)?;
        }
        Ok(())
    }

    /// Syncs every commit to the disk. Does not sync the file `mark`, the commit
    /// watermark.
    ///
    /// # Errors
    /// [`Error::Io`]. Every later commit then fails.
    pub fn sync(&mut self) -> Result<(), Error> {
        if self.synced < self.commit {
            self.store.files().database.persist(PersistMode::SyncData)?;
            self.synced = self.commit;
            self.watermark.advance(self.commit)?;
        }
        Ok(())
    }

    /// Checks whether the store accepts commits. fjall has threads that flush and
    /// merge tables. If a thread fails or panics, fjall reports the failure only
    /// at the next operation.
    ///
    /// # Errors
    /// [`Error::Io`] if a write or a thread has failed. Every later commit then
    /// fails.
    pub fn check(&self) -> Result<(), Error> {
        Ok(self.store.files().database.persist(PersistMode::Buffer)?)
    }

    /// Syncs the file `mark`, the commit watermark, to the disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync_mark(&mut self) -> Result<(), Error> {
        Ok(self.watermark.sync()?)
    }
}

impl Transaction {
    /// Returns whether the transaction has no changes.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Adds an event of `log`, and its entry in the index of events by resource.
    pub fn put_event(&mut self, log: LogId, stored: EncodedEvent) {
        let files = self.store.files();
        if let Some(subject) = &stored.event.subject {
            let entry = key::index(log, subject, stored.event.offset);
            self.batch.insert(&files.state, entry, Bytes::new());
        }
        self.batch.insert(&files.log, stored.key, stored.record);
    }

    /// Removes an event and its index entry. Each key is written only once, so
    /// fjall's weak removal suffices: the first compaction removes the entry
    /// together with its tombstone.
    pub fn trim_event(&mut self, log: LogId, offset: Offset, subject: Option<&ResourceId>) {
        let files = self.store.files();
        if let Some(subject) = subject {
            self.batch.remove_weak(&files.state, key::index(log, subject, offset));
        }
        self.batch.remove_weak(&files.log, key::event(log, offset));
    }

    /// Adds or replaces a resource.
    pub fn put_resource(&mut self, log: LogId, id: &ResourceId, state: &Resource) {
        let key = key::resource(log, id);
        let record = record::encode_state(&key, state);
        self.batch.insert(&self.store.files().state, key, record);
    }

    /// Removes a resource.
    pub fn remove_resource(&mut self, log: LogId, id: &ResourceId) {
        self.batch.remove(&self.store.files().state, key::resource(log, id));
    }

    /// Adds or replaces the metadata of a log.
    pub fn put_meta(&mut self, meta: &LogMetadata) {
        let key = key::meta(meta.id);
        self.batch.insert(&self.store.files().state, key, record::encode_meta(&key, meta));
    }

    /// Adds or replaces a cursor.
    pub fn put_cursor(&mut self, name: &CursorName, cursor: &Cursor) {
        let key = key::cursor(name.as_str());
        let record = cursor::encode(&key, cursor);
        self.batch.insert(&self.store.files().state, key, record);
    }

    /// Removes a cursor.
    pub fn remove_cursor(&mut self, name: &CursorName) {
        self.batch.remove(&self.store.files().state, key::cursor(name.as_str()));
    }

    /// Stores the response to an idempotent write until `expiry`.
    pub fn put_answer(&mut self, hash: &[u8; 32], answer: &IdempotentResponse, expiry: Timestamp) {
        let state = &self.store.files().state;
        let key = key::answer(hash);
        self.batch.insert(state, key, record::encode_answer(&key, answer));
        self.batch.insert(state, key::expiry(expiry, hash), Bytes::new());
    }

    /// Removes the response to an idempotent write. `expiry` is the expiry that it
    /// was stored with.
    pub fn remove_answer(&mut self, hash: &[u8; 32], expiry: Timestamp) {
        let state = &self.store.files().state;
        self.batch.remove(state, key::answer(hash));
        self.batch.remove(state, key::expiry(expiry, hash));
    }
}
