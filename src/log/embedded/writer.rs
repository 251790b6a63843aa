//! What the committer knows of one log: where it goes on, and what it keeps.

mod retention;
mod savepoint;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::clock::{ClockReading, Lead, Step};
use super::commit_batch::CommitBatch;
use crate::event::{Event, LogId, Offset, ResourceId, Timestamp};
use crate::log::contract::{Effect, ResourceChange, apply};
use crate::log::{
    AppendOutcome, AppendRejection, IdempotencyKey, Log, LogConfig, Mutation, StorageKind, Write,
};
use crate::store::{
    self, EncodedEvent, IdempotentResponse, LogMetadata, Resource, Retention, Transaction,
};
use crate::wire::{Batch, LogKind};
use retention::{Cutoff, NOW};

/// One log in the committer's hands.
pub(in crate::log) struct LogWriter {
    log: Arc<Log>,
    meta: LogMetadata,
    retention: Retention,
    /// The next event's offset.
    next: Offset,
    /// Events of the commit at work.
    pending: VecDeque<EncodedEvent>,
    /// Whether the meta has changed in the commit at work.
    dirty: bool,
    /// Whether more is to be trimmed than one commit may.
    trim_pending: bool,
    /// The age at which events are trimmed, in the commit at work.
    cutoff: Option<Box<Cutoff>>,
    /// The oldest event kept and its time, if it has been looked up.
    oldest: Option<(Offset, Timestamp)>,
    /// The monotonic time before which nothing is trimmed by age.
    waits_until: Option<Duration>,
    /// How long the log's time has been ahead of the clock.
    lead: Lead,
    /// A step back of the log's time in the commit at work.
    stepped: Option<Box<Step>>,
    /// Memory of the log's tail.
    pub(in crate::log) tail_bytes: usize,
    /// The time after which the log has to be looked at for events that are
    /// too old, at the earliest.
    age_check: Timestamp,
    /// Where the set of all writers has filed this one.
    pub(in crate::log) filed: Filed,
}

/// Under which keys a writer is in the sets of [`Writers`].
#[derive(Clone, Copy, Default)]
pub(in crate::log) struct Filed {
    pub(in crate::log) bytes: usize,
    pub(in crate::log) weight: Option<(bool, usize)>,
    pub(in crate::log) age: Option<Timestamp>,
}

impl LogWriter {
    pub(in crate::log) fn new(log: Arc<Log>, meta: LogMetadata, retention: Retention) -> LogWriter {
        let next = meta.position.head.max(meta.reserved).next();
        let mut course = LogWriter {
            log,
            meta,
            retention,
            next,
            pending: VecDeque::new(),
            dirty: false,
            trim_pending: false,
            cutoff: None,
            oldest: None,
            waits_until: None,
            lead: Lead::default(),
            stepped: None,
            tail_bytes: 0,
            age_check: NOW,
            filed: Filed::default(),
        };
        course.trim_pending = course.is_too_much();
        course
    }

    pub(in crate::log) fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Whether the log belongs to a topic. A collection and a topic of one name
    /// have two logs.
    pub(in crate::log) fn is_topic(&self) -> bool {
        self.meta.topic
    }

    pub(in crate::log) fn meta(&self) -> &LogMetadata {
        &self.meta
    }

    pub(in crate::log) fn into_meta(self) -> LogMetadata {
        self.meta
    }

    /// The time of the newest event.
    pub(in crate::log) fn newest(&self) -> Timestamp {
        self.meta.time
    }

    /// Compares the log's time with the wall clock. Returns whether the newest
    /// event is too far ahead.
    pub(in crate::log) fn observe(&mut self, now: ClockReading) -> bool {
        self.lead.observe(self.meta.time, now);
        self.lead.is_ahead()
    }

    /// Whether the newest event was too far ahead of the clock when they were
    /// compared.
    pub(in crate::log) fn is_ahead(&self) -> bool {
        self.lead.is_ahead()
    }

    /// Whether it is as `spec` asks but for its retention, which can be changed.
    pub(in crate::log) fn is_compatible(&self, spec: &LogConfig) -> bool {
        self.log.medium() == spec.medium() && self.log.origin().kind == spec.kind
    }

    /// Keeps so much from here on.
    pub(in crate::log) fn set_retention(&mut self, retention: Retention) {
        self.retention = retention;
        self.age_check = NOW;
        self.trim_pending = self.is_too_much();
    }

    pub(in crate::log) fn is_dirty(&self) -> bool {
        self.dirty
    }

    pub(in crate::log) fn is_trim_pending(&self) -> bool {
        self.trim_pending
    }

    /// Decides one write against the states that those before it leave.
    pub(in crate::log) fn decide(
        &mut self,
        work: &mut CommitBatch,
        write: &Write,
        bytes_max: usize,
    ) -> Result<Result<AppendOutcome, AppendRejection>, store::Error> {
        let log = self.log.clone();
        if let Some(key) = &write.idempotency {
            if log.medium() == StorageKind::Memory {
                return Ok(Err(AppendRejection::KeyNotKept));
            }
            if let Some(answer) = work.answered(log.store(), key)? {
                return Ok(replay(key, answer));
            }
        }
        let place = match (&write.subject, &write.change, &log.origin().kind) {
            (_, Mutation::Publish { .. }, _) | (_, _, LogKind::Topic) => None,
            (subject, _, LogKind::Collection { .. }) => subject.clone().map(|it| (log.id(), it)),
        };
        let current = match &place {
            Some(place) => match work.state(place) {
                Some(state) => state.clone(),
                None => log.store().resource(place.0, &place.1)?,
            },
            None => None,
        };
        let outcome = match apply(log.origin(), current.as_ref(), write, bytes_max) {
            Ok(outcome) => outcome,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let written = self.add(work.now(), write, &outcome);
        if let Some(place) = place {
            self.change(work, place, current, &outcome.next, written.offset);
        }
        if let Some(key) = &write.idempotency {
            work.put_answer(key.key, answer(key, &written));
        }
        Ok(Ok(written))
    }

    /// The time of the next event: the clock's, and never before the newest
    /// event's but for a step back.
    fn date(&mut self, now: ClockReading) -> Timestamp {
        let newest = self.meta.time;
        if !self.lead.observe(newest, now) {
            return now.wall.max(newest);
        }
        self.meta.step();
        let step = Step { after: self.meta.position.head, from: newest, to: now.wall };
        self.stepped = Some(Box::new(step));
        now.wall
    }

    /// Makes the event.
    fn add(&mut self, now: ClockReading, write: &Write, outcome: &Effect) -> AppendOutcome {
        let time = self.date(now);
        let meta = &mut self.meta;
        let event = Event {
            offset: self.next,
            time,
            event_type: outcome.kind.clone(),
            subject: write.subject.clone(),
            merge: outcome.merge,
            data: outcome.data.clone(),
        };
        meta.number += 1;
        meta.time = event.time;
        meta.position.head = event.offset;
        let stored = EncodedEvent::new(meta.id, meta.number, event);
        let event = &stored.event;
        meta.position.events += 1;
        meta.position.bytes += stored.bytes();
        self.next = event.offset.next();
        let document = match &outcome.next {
            ResourceChange::Set(document) => Some(document.clone()),
            ResourceChange::Keep | ResourceChange::Remove => None,
        };
        let written = AppendOutcome {
            offset: event.offset,
            time: event.time,
            subject: event.subject.clone(),
            created: outcome.created,
            document,
            replayed: false,
        };
        self.pending.push_back(stored);
        self.dirty = true;
        written
    }

    fn change(
        &mut self,
        work: &mut CommitBatch,
        place: (LogId, ResourceId),
        current: Option<Resource>,
        next: &ResourceChange,
        revision: Offset,
    ) {
        let (was, resources) = (current.is_some(), &mut self.meta.position.resources);
        let state = match next {
            ResourceChange::Keep => current.map(|state| Resource { revision, ..state }),
            ResourceChange::Set(document) => {
                Some(Resource { revision, document: document.clone() })
            }
            ResourceChange::Remove => None,
        };
        *resources = *resources + u64::from(state.is_some()) - u64::from(was);
        work.put_state(place, state);
    }

    /// Reserves offsets up to the head and `count` more if those reserved do
    /// not reach; tells whether it did, which has to be synced.
    pub(in crate::log) fn reserve(&mut self, count: u64) -> bool {
        let head = self.meta.position.head;
        let needed = self.meta.reserved < head;
        if needed {
            self.meta.reserved = Offset(head.0.saturating_add(count));
        }
        needed
    }

    /// Gives back what is reserved and was not issued; some may have been
    /// issued before an unclean stop.
    pub(in crate::log) fn release(&mut self, changes: &mut Transaction) {
        let issued = Offset(self.next.0 - 1);
        if self.meta.reserved > issued {
            self.meta.reserved = issued;
            changes.put_meta(&self.meta);
        }
    }

    /// Puts the log's part into the commit: its events but for those that
    /// retention takes at once, its trims, its meta. Gives the events to show.
    /// Of a log in memory nothing is put anywhere.
    pub(in crate::log) fn stage(
        &mut self,
        work: &mut CommitBatch,
    ) -> Result<Vec<Event>, store::Error> {
        let events = self.pending.iter().map(|stored| stored.event.clone()).collect();
        self.trim(&mut work.changes)?;
        match self.log.medium() {
            StorageKind::Disk => {
                for stored in self.pending.drain(..) {
                    work.changes.put_event(self.meta.id, stored);
                }
                work.changes.put_meta(&self.meta);
            }
            StorageKind::Memory => self.pending.clear(),
        }
        self.dirty = false;
        self.cutoff = None;
        // Before the commit: who reads after it and finds events gone must
        // find the floor above them. Where it trims events of its own too, the
        // rest of the way is for once they are committed.
        self.log.raise_floor(self.meta.position.floor.min(self.log.head()));
        Ok(events)
    }

    /// Shows the events of the commit, which is as durable as the log is to
    /// be, and then the floor that it left, which is never above the head.
    pub(in crate::log) fn publish(&mut self, events: Vec<Event>, committed: Instant) {
        if !events.is_empty() {
            let batch = Batch::new(self.log.origin().clone(), events, Some(committed));
            self.tail_bytes += self.log.publish(Arc::new(batch), self.meta.last_step());
        }
        if let Some(step) = self.stepped.take() {
            let Step { after, from, to } = *step;
            self.log.count_clock_step();
            tracing::warn!(
                log = self.meta.name,
                after = %self.log.origin().id(after),
                %from,
                %to,
                "the newest event was dated ahead of the clock for ten minutes; the log's time \
                 steps back"
            );
        }
        self.raise_floor();
    }

    fn raise_floor(&self) {
        self.log.raise_floor(self.meta.position.floor);
        self.log.set_place(self.meta.position);
    }

    /// What of the tails goes first: what nobody may read any more, then of
    /// the tail that takes most.
    pub(in crate::log) fn weight(&self) -> (bool, usize) {
        let trimmed = self.log.medium() == StorageKind::Memory && self.log.is_oldest_trimmed();
        (trimmed, self.tail_bytes)
    }

    /// Gives memory of its tail back, if it may; of a log in memory, what is
    /// in it is gone then.
    pub(in crate::log) fn evict(&mut self, shown: Duration) -> bool {
        let Some((batch, count)) = self.log.oldest(shown) else { return false };
        if self.log.medium() == StorageKind::Memory {
            let meta = &mut self.meta;
            let first = (batch.position_after(meta.position.floor) as usize).min(count);
            for event in &batch.events()[first..count] {
                meta.position.events -= 1;
                meta.position.bytes -= EncodedEvent::bytes_of(event);
                meta.raise_floor(event.offset, event.time);
            }
            self.oldest = None;
            self.age_check = NOW;
            // Before the events go, as everywhere.
            self.raise_floor();
        }
        self.tail_bytes -= self.log.evict(count);
        true
    }
}

fn replay(
    key: &IdempotencyKey,
    answer: IdempotentResponse,
) -> Result<AppendOutcome, AppendRejection> {
    if answer.body != key.body {
        return Err(AppendRejection::KeyReused);
    }
    let IdempotentResponse { offset, time, subject, created, document, .. } = answer;
    Ok(AppendOutcome { offset, time, subject, created, document, replayed: true })
}

fn answer(key: &IdempotencyKey, written: &AppendOutcome) -> IdempotentResponse {
    IdempotentResponse {
        body: key.body,
        offset: written.offset,
        time: written.time,
        subject: written.subject.clone(),
        created: written.created,
        document: written.document.clone(),
    }
}
