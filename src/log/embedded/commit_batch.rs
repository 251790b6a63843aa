//! The commit at work, for all logs.

use std::collections::HashMap;
use std::time::Duration;

use super::clock::{ClockReading, later};
use crate::event::{LogId, ResourceId, Timestamp};
use crate::log::IdempotencyKey;
use crate::store::{self, IdempotentResponse, Resource, Store, Transaction};

/// How long an answer is kept for its idempotency key.
const ANSWER_KEPT: Duration = Duration::from_hours(24);
/// The commit at work, for all logs.
pub(in crate::log) struct CommitBatch {
    pub(in crate::log) changes: Transaction,
    now: ClockReading,
    /// Resources as the writes so far leave them.
    pub(in crate::log) states: HashMap<(LogId, ResourceId), Option<Resource>>,
    pub(in crate::log) answers: HashMap<[u8; 32], IdempotentResponse>,
}

impl CommitBatch {
    pub(in crate::log) fn new(changes: Transaction, now: ClockReading) -> CommitBatch {
        CommitBatch { changes, now, states: HashMap::new(), answers: HashMap::new() }
    }

    pub(in crate::log) fn now(&self) -> ClockReading {
        self.now
    }

    /// Answers to be remembered.
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

/// When an answer expires that is written now.
fn expiry(now: ClockReading) -> Timestamp {
    later(now.wall, ANSWER_KEPT)
}
