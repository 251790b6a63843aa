//! Writing: one writer, numbered atomic commits.

use bytes::Bytes;
use fjall::{OwnedWriteBatch, PersistMode};

use super::cursor::{self, Cursor, CursorName};
use super::record::{self, IdempotentResponse, LogMetadata};
use super::view::Store;
use super::watermark::CommitWatermark;
use super::{Error, Resource, key};
use crate::event::{Event, LogId, Offset, ResourceId, Timestamp};

/// The one who may change the store.
pub struct Writer {
    store: Store,
    mark: CommitWatermark,
    /// The last commit, and the last that is known to be on disk.
    commit: u64,
    synced: u64,
}

/// Where a commit is when [`Writer::commit`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On disk.
    Synced,
    /// With the operating system.
    Buffered,
}

/// Changes that become visible together or not at all.
pub struct Transaction {
    store: Store,
    batch: OwnedWriteBatch,
}

/// An event ready to be stored.
pub struct EncodedEvent {
    key: [u8; key::EVENT_BYTES],
    record: Bytes,
    /// The same event, as slices of the record.
    pub event: Event,
}

impl EncodedEvent {
    /// Encodes an event under its number.
    ///
    /// # Panics
    /// Never: the slices are of the record that it has just made.
    pub fn new(log: LogId, number: u64, event: Event) -> EncodedEvent {
        let key = key::event(log, event.offset);
        let record = record::encode_event(&key, number, &event);
        let event = record::slices_of(event, &record);
        EncodedEvent { key, record, event }
    }

    /// Bytes it takes in the log.
    pub fn bytes(&self) -> u64 {
        EncodedEvent::bytes_of(&self.event)
    }

    /// Bytes that `event` takes in a log, or would.
    pub fn bytes_of(event: &Event) -> u64 {
        (key::EVENT_BYTES + record::event_bytes(event)) as u64
    }
}

impl Writer {
    pub(super) fn new(store: Store, mark: CommitWatermark, commit: u64) -> Writer {
        Writer { store, mark, commit, synced: commit }
    }

    /// Where the changes are read.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// An empty set of changes.
    pub fn begin(&self) -> Transaction {
        Transaction { batch: self.store.files().database.batch(), store: self.store.clone() }
    }

    /// Writes the changes. After an error nothing is certain about them and
    /// every later commit fails.
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
            self.mark.advance(commit)?;
        }
        Ok(())
    }

    /// Brings every commit to the disk, the mark not.
    ///
    /// # Errors
    /// [`Error::Io`]; then every later commit fails.
    pub fn sync(&mut self) -> Result<(), Error> {
        if self.synced < self.commit {
            self.store.files().database.persist(PersistMode::SyncData)?;
            self.synced = self.commit;
            self.mark.advance(self.commit)?;
        }
        Ok(())
    }

    /// Returns an error if the store takes no more commits: if a write failed,
    /// or a thread of fjall's, which flush and merge tables, has failed or
    /// panicked. Such a thread tells nobody else before the next commit.
    ///
    /// # Errors
    /// [`Error::Io`]; then every later commit fails.
    pub fn check(&self) -> Result<(), Error> {
        Ok(self.store.files().database.persist(PersistMode::Buffer)?)
    }

    /// Brings the mark to the disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync_mark(&mut self) -> Result<(), Error> {
        Ok(self.mark.sync()?)
    }
}

impl Transaction {
    /// Whether nothing has been changed.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Adds an event of `log` and its index entry.
    pub fn put_event(&mut self, log: LogId, stored: EncodedEvent) {
        let files = self.store.files();
        if let Some(subject) = &stored.event.subject {
            let entry = key::index(log, subject, stored.event.offset);
            self.batch.insert(&files.state, entry, Bytes::new());
        }
        self.batch.insert(&files.log, stored.key, stored.record);
    }

    /// Removes an event and its index entry. Weakly, since an event's key is
    /// only ever written once: the two cancel out at the first compaction.
    pub fn trim_event(&mut self, log: LogId, offset: Offset, subject: Option<&ResourceId>) {
        let files = self.store.files();
        if let Some(subject) = subject {
            self.batch.remove_weak(&files.state, key::index(log, subject, offset));
        }
        self.batch.remove_weak(&files.log, key::event(log, offset));
    }

    /// Makes or replaces a resource.
    pub fn put_resource(&mut self, log: LogId, id: &ResourceId, state: &Resource) {
        let key = key::resource(log, id);
        let record = record::encode_state(&key, state);
        self.batch.insert(&self.store.files().state, key, record);
    }

    /// Removes a resource.
    pub fn remove_resource(&mut self, log: LogId, id: &ResourceId) {
        self.batch.remove(&self.store.files().state, key::resource(log, id));
    }

    /// Writes a log's meta.
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

    /// Remembers an answer until `expiry`.
    pub fn put_answer(&mut self, hash: &[u8; 32], answer: &IdempotentResponse, expiry: Timestamp) {
        let state = &self.store.files().state;
        let key = key::answer(hash);
        self.batch.insert(state, key, record::encode_answer(&key, answer));
        self.batch.insert(state, key::expiry(expiry, hash), Bytes::new());
    }

    /// Forgets an answer that was to be kept until `expiry`.
    pub fn remove_answer(&mut self, hash: &[u8; 32], expiry: Timestamp) {
        let state = &self.store.files().state;
        self.batch.remove(state, key::answer(hash));
        self.batch.remove(state, key::expiry(expiry, hash));
    }
}
