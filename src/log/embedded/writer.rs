//! The committer's state of one log: the next offset, the metadata, the
//! retention, and the events of the current commit.

mod retention;
mod savepoint;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::clock::{ClockReading, Lead, Step, is_ahead};
use super::commit_batch::CommitBatch;
use crate::event::{Event, LogId, Offset, ResourceId, Timestamp};
use crate::log::contract::{Effect, ResourceChange, apply};
use crate::log::{
    AppendOutcome, AppendRejection, IdempotencyKey, Log, LogConfig, Mutation, StorageKind, Write,
};
use crate::store::{
    self, EncodedEvent, IdempotentResponse, LogMetadata, Resource, Retention, Transaction,
};
use crate::wire::Batch;
use retention::{Cutoff, NOW};

/// The committer's state of one log.
pub(in crate::log) struct LogWriter {
    log: Arc<Log>,
    metadata: LogMetadata,
    retention: Retention,
    /// The offset of the next event.
    next: Offset,
    /// The part of the state that exists from the first write or age check of this
    /// process on. It has its own allocation, because a store can have 100,000 logs
    /// without events, and their writers must be small.
    active: Option<Box<Active>>,
}

/// The part of a [`LogWriter`] that is created at the first write or age check of
/// this process.
#[derive(Default)]
pub(in crate::log) struct Active {
    /// The events of the current commit.
    pending: VecDeque<EncodedEvent>,
    /// Whether the current commit changes the metadata.
    is_dirty: bool,
    /// Whether more events exceed the retention than one commit may trim.
    is_trim_pending: bool,
    /// The limits by which the current commit trims events by age. `None` if it
    /// trims no event by age.
    cutoff: Option<Cutoff>,
    /// The offset and time of the oldest event, if they are known.
    oldest: Option<(Offset, Timestamp)>,
    /// Before this monotonic time, no event is trimmed by age.
    waits_until: Option<Duration>,
    /// How long the newest event has been ahead of the wall clock.
    lead: Lead,
    /// The step back of the log's time in the current commit: an event with an
    /// earlier time than the event before it. `None` if there is no step.
    step: Option<Step>,
    /// The memory of the tail, which is the newest batches of the log, in bytes.
    tail_bytes: usize,
    /// The time of the next age check. Before this time, no event is older than the
    /// retention allows.
    age_check: Timestamp,
    /// The keys of this writer in the sets of `Writers`.
    filed: Filed,
}

/// The keys of a writer in the sets of [`Writers`](super::writers::Writers).
#[derive(Clone, Copy, Default, PartialEq)]
pub(in crate::log) struct Filed {
    /// The bytes of this log's tail that are counted in the total of all tails.
    pub(in crate::log) bytes: usize,
    /// The sort key of the log in the order of eviction, see [`LogWriter::weight`].
    /// `None` if the tail is empty.
    pub(in crate::log) weight: Option<(bool, usize)>,
    /// The time of the next age check. `None` if no event is trimmed by age.
    pub(in crate::log) age: Option<Timestamp>,
}

/// Returns the [`Active`] part of a writer, which is in `slot`. Creates the part if
/// `slot` is empty.
fn activate(slot: &mut Option<Box<Active>>) -> &mut Active {
    slot.get_or_insert_with(|| Box::new(Active { age_check: NOW, ..Active::default() }))
}

impl LogWriter {
    pub(in crate::log) fn new(
        log: Arc<Log>,
        metadata: LogMetadata,
        retention: Retention,
    ) -> LogWriter {
        let next = metadata.position.head.max(metadata.reserved).next();
        let mut writer = LogWriter { log, metadata, retention, next, active: None };
        writer.set_retention(retention);
        writer
    }

    pub(in crate::log) fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Returns whether the log belongs to a topic. A collection and a topic with
    /// the same name have separate logs.
    pub(in crate::log) fn is_topic(&self) -> bool {
        self.metadata.topic
    }

    pub(in crate::log) fn metadata(&self) -> &LogMetadata {
        &self.metadata
    }

    pub(in crate::log) fn into_metadata(self) -> LogMetadata {
        self.metadata
    }

    /// Returns whether the writer has an [`Active`] part.
    #[cfg(test)]
    pub(in crate::log) fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// Returns the time of the newest event.
    pub(in crate::log) fn newest(&self) -> Timestamp {
        self.metadata.time
    }

    /// Returns the memory that the tail takes, in bytes.
    pub(in crate::log) fn tail_bytes(&self) -> usize {
        self.active.as_ref().map_or(0, |active| active.tail_bytes)
    }

    /// Returns the keys of this writer in the sets of `Writers`.
    pub(in crate::log) fn filed(&self) -> Filed {
        self.active.as_ref().map_or_else(Filed::default, |active| active.filed)
    }

    /// Records the keys of this writer in the sets of `Writers`.
    pub(in crate::log) fn set_filed(&mut self, filed: Filed) {
        if filed != self.filed() {
            activate(&mut self.active).filed = filed;
        }
    }

    /// Compares the time of the newest event with the clocks. Returns whether this
    /// event is too far ahead of the wall clock: more than
    /// [`LEAD_MAX`](super::clock::LEAD_MAX).
    pub(in crate::log) fn observe(&mut self, now: ClockReading) -> bool {
        let newest = self.metadata.time;
        if self.active.is_some() || is_ahead(newest, now) {
            activate(&mut self.active).lead.observe(newest, now);
        }
        self.is_ahead()
    }

    /// Returns whether the newest event was too far ahead of the wall clock at
    /// the last comparison.
    pub(in crate::log) fn is_ahead(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.lead.is_ahead())
    }

    /// Returns whether the log has the storage kind and the event types of `config`.
    /// Only the retention of an open log can change.
    pub(in crate::log) fn is_compatible(&self, config: &LogConfig) -> bool {
        self.log.storage() == config.storage() && self.log.identity().kind == config.kind
    }

    /// Changes the retention of the log.
    pub(in crate::log) fn set_retention(&mut self, retention: Retention) {
        self.retention = retention;
        self.forget_age();
        let is_too_much = self.is_too_much();
        if is_too_much || self.active.is_some() {
            activate(&mut self.active).is_trim_pending = is_too_much;
        }
    }

    pub(in crate::log) fn is_dirty(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.is_dirty)
    }

    pub(in crate::log) fn is_trim_pending(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.is_trim_pending)
    }

    /// Decides whether one write is accepted, and adds an accepted write to the
    /// commit. The decision uses the state of the resource after the earlier writes
    /// of the same commit.
    pub(in crate::log) fn decide(
        &mut self,
        commit: &mut CommitBatch,
        write: &Write,
        bytes_max: usize,
    ) -> Result<Result<AppendOutcome, AppendRejection>, store::Error> {
        let log = self.log.clone();
        if let Some(key) = &write.idempotency {
            if log.storage() == StorageKind::Memory {
                return Ok(Err(AppendRejection::KeyNotKept));
            }
            if let Some(response) = commit.answered(log.store(), key)? {
                return Ok(replay(key, response));
            }
        }
        let has_resource = !self.is_topic() && !matches!(write.change, Mutation::Publish { .. });
        let resource = match &write.subject {
            Some(id) if has_resource => Some((log.id(), id.clone())),
            _ => None,
        };
        let current = match &resource {
            Some(resource) => match commit.state(resource) {
                Some(state) => state.clone(),
                None => log.store().resource(resource.0, &resource.1)?,
            },
            None => None,
        };
        let effect = match apply(log.identity(), current.as_ref(), write, bytes_max) {
            Ok(effect) => effect,
            Err(rejection) => return Ok(Err(rejection)),
        };
        let outcome = self.add(commit.now(), write, &effect);
        if let Some(resource) = resource {
            self.change(commit, resource, current, &effect.next, outcome.offset);
        }
        if let Some(key) = &write.idempotency {
            commit.put_answer(key.key, response(key, &outcome));
        }
        Ok(Ok(outcome))
    }

    /// Returns the time of the next event: the time of the wall clock, or the time
    /// of the newest event if that is later. If the newest event has been too far
    /// ahead of the wall clock for ten minutes, the log's time steps back: the next
    /// event gets the time of the wall clock.
    fn date(&mut self, now: ClockReading) -> Timestamp {
        let newest = self.metadata.time;
        let active = activate(&mut self.active);
        if !active.lead.observe(newest, now) {
            return now.wall.max(newest);
        }
        self.metadata.step();
        let after = self.metadata.position.head;
        active.step = Some(Step { after, from: newest, to: now.wall });
        now.wall
    }

    /// Adds the event of a write to the current commit.
    fn add(&mut self, now: ClockReading, write: &Write, effect: &Effect) -> AppendOutcome {
        let time = self.date(now);
        let metadata = &mut self.metadata;
        let event = Event {
            offset: self.next,
            time,
            event_type: effect.kind.clone(),
            subject: write.subject.clone(),
            merge: effect.merge,
            data: effect.data.clone(),
        };
        metadata.number += 1;
        metadata.time = event.time;
        metadata.position.head = event.offset;
        let encoded = EncodedEvent::new(metadata.id, metadata.number, event);
        let event = &encoded.event;
        metadata.position.events += 1;
        metadata.position.bytes += encoded.bytes();
        self.next = event.offset.next();
        let document = match &effect.next {
            ResourceChange::Set(document) => Some(document.clone()),
            ResourceChange::Keep | ResourceChange::Remove => None,
        };
        let outcome = AppendOutcome {
            offset: event.offset,
            time: event.time,
            subject: event.subject.clone(),
            created: effect.created,
            document,
            replayed: false,
        };
        let active = activate(&mut self.active);
        active.pending.push_back(encoded);
        active.is_dirty = true;
        outcome
    }

    /// Adds the change of a resource to the current commit.
    fn change(
        &mut self,
        commit: &mut CommitBatch,
        resource: (LogId, ResourceId),
        current: Option<Resource>,
        change: &ResourceChange,
        revision: Offset,
    ) {
        let existed = current.is_some();
        let state = match change {
            ResourceChange::Keep => current.map(|state| Resource { revision, ..state }),
            ResourceChange::Set(document) => {
                Some(Resource { revision, document: document.clone() })
            }
            ResourceChange::Remove => None,
        };
        let count = &mut self.metadata.position.resources;
        *count = *count + u64::from(state.is_some()) - u64::from(existed);
        commit.put_state(resource, state);
    }

    /// Reserves `count` offsets after the head if the head is beyond the last
    /// reserved offset. Returns whether it has reserved offsets. The caller must
    /// then sync the commit.
    pub(in crate::log) fn reserve(&mut self, count: u64) -> bool {
        let head = self.metadata.position.head;
        let is_needed = self.metadata.reserved < head;
        if is_needed {
            self.metadata.reserved = Offset(head.0.saturating_add(count));
        }
        is_needed
    }

    /// Ends the reservation of the offsets that were not issued. If an earlier run
    /// stopped uncleanly, it may have issued any offset that it had reserved. These
    /// offsets stay reserved.
    pub(in crate::log) fn release(&mut self, changes: &mut Transaction) {
        let issued = Offset(self.next.0 - 1);
        if self.metadata.reserved > issued {
            self.metadata.reserved = issued;
            changes.put_meta(&self.metadata);
        }
    }

    /// Adds the log's changes to the commit: the new events that retention keeps,
    /// the removal of trimmed events, and the metadata. Returns all new events, for
    /// [`LogWriter::publish`]. A log in memory adds nothing to the commit.
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    pub(in crate::log) fn stage(
        &mut self,
        commit: &mut CommitBatch,
    ) -> Result<Vec<Event>, store::Error> {
        let pending = &activate(&mut self.active).pending;
        let events = pending.iter().map(|encoded| encoded.event.clone()).collect();
        self.trim(&mut commit.changes)?;
        let active = activate(&mut self.active);
        match self.log.storage() {
            StorageKind::Disk => {
                for encoded in active.pending.drain(..) {
                    commit.changes.put_event(self.metadata.id, encoded);
                }
                commit.changes.put_meta(&self.metadata);
            }
            StorageKind::Memory => active.pending.clear(),
        }
        active.is_dirty = false;
        active.cutoff = None;
        // Raise the floor, the offset of the newest trimmed event, before the
        // commit. A reader that misses trimmed events must find a floor that is not
        // below them. If the commit also trims some of its own events, the floor
        // rises only to the head here. `publish` raises it again.
        self.log.raise_floor(self.metadata.position.floor.min(self.log.head()));
        Ok(events)
    }

    /// Makes the committed events visible to readers and then raises the floor. In
    /// this order, the floor is never above the head.
    pub(in crate::log) fn publish(&mut self, events: Vec<Event>, committed: Instant) {
        let active = activate(&mut self.active);
        if !events.is_empty() {
            let batch = Batch::new(self.log.identity().clone(), events, Some(committed));
            active.tail_bytes += self.log.publish(Arc::new(batch), self.metadata.last_step());
        }
        if let Some(Step { after, from, to }) = active.step.take() {
            self.log.count_clock_step();
            tracing::warn!(
                log = &*self.metadata.name,
                after = %self.log.identity().id(after),
                %from,
                %to,
                "for ten minutes, the time of the newest event was ahead of the clock; the next \
                 event takes the time of the clock, which is earlier"
            );
        }
        self.publish_bounds();
    }

    fn publish_bounds(&self) {
        self.log.raise_floor(self.metadata.position.floor);
        self.log.set_bounds(self.metadata.position);
    }

    /// Returns the sort key of the log for the order of eviction. The log with the
    /// highest key loses a batch first: a log whose oldest batch in the tail is
    /// trimmed already, then the log with the largest tail.
    pub(in crate::log) fn weight(&self) -> (bool, usize) {
        let is_trimmed = self.log.storage() == StorageKind::Memory && self.log.is_oldest_trimmed();
        (is_trimmed, self.tail_bytes())
    }

    /// Evicts the oldest batch of the tail, or a part of this batch, from memory.
    /// Returns whether it has evicted events. The evicted events of a log in memory
    /// are lost, so the floor rises to the last of them. The newest batch is not
    /// evicted for the duration `shown` after its commit.
    pub(in crate::log) fn evict(&mut self, shown: Duration) -> bool {
        let Some((batch, count)) = self.log.oldest(shown) else { return false };
        if self.log.storage() == StorageKind::Memory {
            let metadata = &mut self.metadata;
            let first = (batch.position_after(metadata.position.floor) as usize).min(count);
            for event in &batch.events()[first..count] {
                metadata.position.events -= 1;
                metadata.position.bytes -= EncodedEvent::bytes_of(event);
                metadata.raise_floor(event.offset, event.time);
            }
            let active = activate(&mut self.active);
            active.oldest = None;
            active.age_check = NOW;
            // As in `stage`, the floor rises before the events are removed.
            self.publish_bounds();
        }
        activate(&mut self.active).tail_bytes -= self.log.evict(count);
        true
    }
}

/// Returns the outcome of an earlier write with the same idempotency key.
fn replay(
    key: &IdempotencyKey,
    response: IdempotentResponse,
) -> Result<AppendOutcome, AppendRejection> {
    if response.body != key.body {
        return Err(AppendRejection::KeyReused);
    }
    let IdempotentResponse { offset, time, subject, created, document, .. } = response;
    Ok(AppendOutcome { offset, time, subject, created, document, replayed: true })
}

/// Returns the response that a later write with the same idempotency key gets.
fn response(key: &IdempotencyKey, outcome: &AppendOutcome) -> IdempotentResponse {
    IdempotentResponse {
        body: key.body,
        offset: outcome.offset,
        time: outcome.time,
        subject: outcome.subject.clone(),
        created: outcome.created,
        document: outcome.document.clone(),
    }
}
