//! The changes of the commit that the committer prepares, for all logs.

use std::collections::HashMap;
use std::time::Duration;

use super::clock::{ClockReading, later};
use crate::event::{LogId, ResourceId, Timestamp};
use crate::log::IdempotencyKey;
use crate::store::{self, Cursor, CursorName, IdempotentResponse, Resource, Store, Transaction};

/// The time for which the response to an idempotent write is stored.
const ANSWER_KEPT: Duration = Duration::from_hours(24);

/// The key of a resource: its log and its id.
type ResourceKey = (LogId, ResourceId);

/// The entry of a resource in the commit before a write of an atomic batch changed
/// it.
enum Previous {
    /// No earlier write of the commit had changed the resource.
    Unchanged,
    /// An earlier write of the commit had set this state, or had removed the
    /// resource if this is `None`.
    Changed(Option<Resource>),
}

/// The previous values of the entries that an atomic batch has changed. They are
/// restored if a write of the batch is rejected.
#[derive(Default)]
struct Undo {
    /// The changed resources with their previous entries, in the order of the
    /// changes.
    states: Vec<(ResourceKey, Previous)>,
    /// The keys of the responses to idempotent writes that the batch has added.
    answers: Vec<[u8; 32]>,
}

/// The changes of the commit that the committer prepares, for all logs.
pub(in crate::log) struct CommitBatch {
    pub(in crate::log) changes: Transaction,
    now: ClockReading,
    /// The resources that the writes of this commit have changed. `None` stands for
    /// a removed resource.
    states: HashMap<ResourceKey, Option<Resource>>,
    answers: HashMap<[u8; 32], IdempotentResponse>,
    /// The cursors that the commit sets, or removes if the value is `None`.
    pub(in crate::log) cursors: HashMap<CursorName, Option<Cursor>>,
    /// The previous values of the entries that have changed since
    /// [`CommitBatch::begin_atomic`]. `None` if no atomic batch is being decided.
    undo: Option<Undo>,
}

impl CommitBatch {
    pub(in crate::log) fn new(changes: Transaction, now: ClockReading) -> CommitBatch {
        CommitBatch {
            changes,
            now,
            states: HashMap::new(),
            answers: HashMap::new(),
            cursors: HashMap::new(),
            undo: None,
        }
    }

    /// Returns the state of a resource after the writes of this commit: `Some(None)`
    /// if they removed the resource, `None` if they did not change it.
    pub(in crate::log) fn state(&self, key: &ResourceKey) -> Option<&Option<Resource>> {
        self.states.get(key)
    }

    /// Sets a resource, or removes the resource if `state` is `None`.
    pub(in crate::log) fn put_state(&mut self, key: ResourceKey, state: Option<Resource>) {
        match &mut self.undo {
            Some(undo) => {
                let previous = self.states.insert(key.clone(), state);
                let previous = previous.map_or(Previous::Unchanged, Previous::Changed);
                undo.states.push((key, previous));
            }
            None => drop(self.states.insert(key, state)),
        }
    }

    /// Adds the response to an idempotent write. The commit must not have a response
    /// for this key yet.
    pub(in crate::log) fn put_answer(&mut self, key: [u8; 32], answer: IdempotentResponse) {
        self.answers.insert(key, answer);
        if let Some(undo) = &mut self.undo {
            undo.answers.push(key);
        }
    }

    /// Starts an atomic batch. The previous value of each later change is recorded,
    /// so that [`CommitBatch::end_atomic`] can undo the change.
    pub(in crate::log) fn begin_atomic(&mut self) {
        self.undo = Some(Undo::default());
    }

    /// Ends an atomic batch. Keeps the changes since [`CommitBatch::begin_atomic`]
    /// if `keep` is true, and undoes them otherwise.
    pub(in crate::log) fn end_atomic(&mut self, keep: bool) {
        let Some(undo) = self.undo.take().filter(|_| !keep) else { return };
        for (key, previous) in undo.states.into_iter().rev() {
            match previous {
                Previous::Changed(state) => self.states.insert(key, state),
                Previous::Unchanged => self.states.remove(&key),
            };
        }
        for key in undo.answers {
            self.answers.remove(&key);
        }
    }

    pub(in crate::log) fn now(&self) -> ClockReading {
        self.now
    }

    /// Returns the number of responses to idempotent writes that the commit adds.
    pub(in crate::log) fn answers(&self) -> usize {
        self.answers.len()
    }

    pub(in crate::log) fn remove_answer(&mut self, hash: &[u8; 32], expiry: Timestamp) {
        self.changes.remove_answer(hash, expiry);
    }

    pub(in crate::log) fn into_changes(mut self) -> Transaction {
        for ((log, id), state) in &self.states {
            match state {
                Some(state) => self.changes.put_resource(*log, id, state),
                None => self.changes.remove_resource(*log, id),
            }
        }
        for (name, cursor) in &self.cursors {
            match cursor {
                Some(cursor) => self.changes.put_cursor(name, cursor),
                None => self.changes.remove_cursor(name),
            }
        }
        let expiry = expiry(self.now);
        for (hash, answer) in &self.answers {
            self.changes.put_answer(hash, answer, expiry);
        }
        self.changes
    }

    pub(in crate::log) fn answered(
        &self,
        store: &Store,
        key: &IdempotencyKey,
    ) -> Result<Option<IdempotentResponse>, store::Error> {
        match self.answers.get(&key.key) {
            Some(answer) => Ok(Some(answer.clone())),
            None => store.answer(&key.key),
        }
    }
}

/// Returns the expiry of a response to an idempotent write that is stored at the
/// time `now`.
fn expiry(now: ClockReading) -> Timestamp {
    later(now.wall, ANSWER_KEPT)
}
