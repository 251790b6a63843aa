//! The current commit of all logs.

use std::collections::HashMap;
use std::time::Duration;

use super::clock::{ClockReading, later};
use crate::event::{LogId, ResourceId, Timestamp};
use crate::log::IdempotencyKey;
use crate::store::{self, Cursor, CursorName, IdempotentResponse, Resource, Store, Transaction};

/// The time for which the response to an idempotent write is stored.
const ANSWER_KEPT: Duration = Duration::from_hours(24);

/// A resource of a log.
type ResourceKey = (LogId, ResourceId);

/// The entry of a resource before a change.
enum Previous {
    /// No write of the commit had changed the resource.
    Unchanged,
    /// Earlier writes of the commit had left this, or had removed the resource.
    Changed(Option<Resource>),
}

/// The previous values of changed entries.
#[derive(Default)]
struct Undo {
    /// In the order of the changes.
    states: Vec<(ResourceKey, Previous)>,
    /// The keys of the added responses.
    answers: Vec<[u8; 32]>,
}

/// The current commit of all logs.
pub(in crate::log) struct CommitBatch {
    pub(in crate::log) changes: Transaction,
    now: ClockReading,
    /// The resources that the writes of this commit have changed.
    states: HashMap<ResourceKey, Option<Resource>>,
    answers: HashMap<[u8; 32], IdempotentResponse>,
    /// The cursors to set, or to remove if `None`.
    pub(in crate::log) cursors: HashMap<CursorName, Option<Cursor>>,
    /// The changes since [`CommitBatch::begin_atomic`], while an atomic batch is
    /// decided.
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

    /// Returns the resource as the writes of this commit leave it: `Some(None)`
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

    /// Adds the response to an idempotent write. The commit has no response for
    /// this key yet.
    pub(in crate::log) fn put_answer(&mut self, key: [u8; 32], answer: IdempotentResponse) {
        self.answers.insert(key, answer);
        if let Some(undo) = &mut self.undo {
            undo.answers.push(key);
        }
    }

    /// Records the previous value of each later change.
    pub(in crate::log) fn begin_atomic(&mut self) {
        self.undo = Some(Undo::default());
    }

    /// Keeps the changes since [`CommitBatch::begin_atomic`], or undoes them.
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

    /// Returns the number of responses that the commit adds.
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

/// Returns the expiry of a response that is stored now.
fn expiry(now: ClockReading) -> Timestamp {
    later(now.wall, ANSWER_KEPT)
}
