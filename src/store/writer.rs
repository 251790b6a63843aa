//! The write access to a store: atomic commits with consecutive numbers.

use bytes::Bytes;
use fjall::{OwnedWriteBatch, PersistMode};

use super::record::{self, IdempotentResponse, LogMetadata};
use super::view::Store;
use super::watermark::CommitWatermark;
use super::{Error, Resource, key};
use crate::event::{Event, LogId, Offset, ResourceId, Timestamp};

/// The write access to a store. A store has one writer.
pub struct Writer {
    store: Store,
    watermark: CommitWatermark,
    /// The number of the last commit.
    commit: u64,
    /// The number of the last commit that is known to be on disk.
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

/// A set of changes that one commit applies atomically.
pub struct Transaction {
    store: Store,
    batch: OwnedWriteBatch,
}

/// An event with its encoded record.
pub struct EncodedEvent {
    key: [u8; key::EVENT_BYTES],
    record: Bytes,
    /// The event. Its parts are slices of the record.
    pub event: Event,
}

impl EncodedEvent {
    /// Encodes an event. `number` is the number of the event in its log.
    ///
    /// # Panics
    /// Never, because the slices are in the record that was just made.
    pub fn new(log: LogId, number: u64, event: Event) -> EncodedEvent {
        let key = key::event(log, event.offset);
        let record = record::encode_event(&key, number, &event);
        let event = record::slices_of(event, &record);
        EncodedEvent { key, record, event }
    }

    /// Returns the number of bytes that the event takes in its log, key included.
    pub fn bytes(&self) -> u64 {
        EncodedEvent::bytes_of(&self.event)
    }

    /// Returns the number of bytes that `event` takes in a log, key included.
    pub fn bytes_of(event: &Event) -> u64 {
        (key::EVENT_BYTES + record::event_bytes(event)) as u64
    }
}

impl Writer {
    pub(super) fn new(store: Store, watermark: CommitWatermark, commit: u64) -> Writer {
        Writer { store, watermark, commit, synced: commit }
    }

    /// Returns the read access to the same store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns an empty set of changes.
    pub fn begin(&self) -> Transaction {
        Transaction { batch: self.store.files().database.batch(), store: self.store.clone() }
    }

    /// Commits the changes. After an error, the changes may or may not be on disk,
    /// and every later commit fails.
    ///
    /// # Errors
    /// [`Error::Io`].
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

    /// Syncs every commit to the disk, and advances the watermark without a sync.
    ///
    /// # Errors
    /// [`Error::Io`]. After an error, every later commit fails.
    pub fn sync(&mut self) -> Result<(), Error> {
        if self.synced < self.commit {
            self.store.files().database.persist(PersistMode::SyncData)?;
            self.synced = self.commit;
            self.watermark.advance(self.commit)?;
        }
        Ok(())
    }

    /// Returns an error if the store accepts no more commits. The cause is a failed
    /// write, or a worker thread of fjall that failed or panicked. Without this
    /// check, the failure of a worker is first seen at the next commit.
    ///
    /// # Errors
    /// [`Error::Io`]. After an error, every later commit fails.
    pub fn check(&self) -> Result<(), Error> {
        Ok(self.store.files().database.persist(PersistMode::Buffer)?)
    }

    /// Syncs the watermark to the disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync_mark(&mut self) -> Result<(), Error> {
        Ok(self.watermark.sync()?)
    }
}

impl Transaction {
    /// Returns whether the set has no changes.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Adds an event to `log`, and its index entry.
    pub fn put_event(&mut self, log: LogId, stored: EncodedEvent) {
        let files = self.store.files();
        if let Some(subject) = &stored.event.subject {
            let entry = key::index(log, subject, stored.event.offset);
            self.batch.insert(&files.state, entry, Bytes::new());
        }
        self.batch.insert(&files.log, stored.key, stored.record);
    }

    /// Removes an event and its index entry. The removal is a weak tombstone,
    /// because the key of an event is written only once. The event and its
    /// tombstone both disappear at the first compaction.
    pub fn trim_event(&mut self, log: LogId, offset: Offset, subject: Option<&ResourceId>) {
        let files = self.store.files();
        if let Some(subject) = subject {
            self.batch.remove_weak(&files.state, key::index(log, subject, offset));
        }
        self.batch.remove_weak(&files.log, key::event(log, offset));
    }

    /// Creates or replaces a resource.
    pub fn put_resource(&mut self, log: LogId, id: &ResourceId, state: &Resource) {
        let key = key::resource(log, id);
        let record = record::encode_state(&key, state);
        self.batch.insert(&self.store.files().state, key, record);
    }

    /// Removes a resource.
    pub fn remove_resource(&mut self, log: LogId, id: &ResourceId) {
        self.batch.remove(&self.store.files().state, key::resource(log, id));
    }

    /// Writes the metadata of a log.
    pub fn put_meta(&mut self, meta: &LogMetadata) {
        let key = key::meta(meta.id);
        self.batch.insert(&self.store.files().state, key, record::encode_meta(&key, meta));
    }

    /// Stores the response to an idempotent write until `expiry`.
    pub fn put_answer(&mut self, hash: &[u8; 32], answer: &IdempotentResponse, expiry: Timestamp) {
        let state = &self.store.files().state;
        let key = key::answer(hash);
        self.batch.insert(state, key, record::encode_answer(&key, answer));
        self.batch.insert(state, key::expiry(expiry, hash), Bytes::new());
    }

    /// Removes the response that was stored with this `expiry`.
    pub fn remove_answer(&mut self, hash: &[u8; 32], expiry: Timestamp) {
        let state = &self.store.files().state;
        self.batch.remove(state, key::answer(hash));
        self.batch.remove(state, key::expiry(expiry, hash));
    }
}
