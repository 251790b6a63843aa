//! Retention of one log: which of its events go, by count, bytes and age.

use std::time::Duration;

use super::LogWriter;
use crate::event::{Event, Offset, Timestamp};
use crate::log::StorageKind;
use crate::log::embedded::clock::{ClockReading, START_WAIT, earlier, later};
use crate::store::{self, EncodedEvent, Transaction};

/// An age check that is due at the next tick.
pub(super) const NOW: Timestamp = Timestamp(i64::MIN);
/// Events trimmed in a commit beside twice those it adds.
const TRIMMED_EVENTS: usize = 1024;

/// The age at which events are trimmed.
#[derive(Clone, Copy)]
pub(super) struct Cutoff {
    /// The clock. An event with a later time is ahead of it.
    now: Timestamp,
    /// Events with an earlier time are trimmed.
    before: Timestamp,
}

/// A run of events that are ahead of the clock: how far it reaches, and the
/// time of the first event behind it that is not ahead, if there is one.
type Run = (Offset, Option<Timestamp>);

impl LogWriter {
    /// Looks at the clocks for the first time. Where all events are too old by
    /// them, the clock may be ahead, and nothing is trimmed for a while.
    pub(in crate::log) fn begin(&mut self, now: ClockReading) {
        self.lead.observe(self.meta.time, now);
        let age = self.retention.age;
        let newest = self.meta.time;
        if age.is_zero() || self.meta.position.events == 0 || newest >= earlier(now.expiry, age) {
            return;
        }
        self.waits_until = Some(now.elapsed + START_WAIT);
        tracing::warn!(
            log = &*self.meta.name,
            %newest,
            clock = %now.expiry,
            "every event is older than retention.age; the log waits ten minutes before it trims \
             by age"
        );
    }

    /// The monotonic time before which nothing is trimmed by age, if
    /// [`LogWriter::begin`] has set one.
    pub(in crate::log) fn waits_until(&self) -> Option<Duration> {
        self.waits_until
    }

    /// Trims by age from here on.
    pub(in crate::log) fn end_wait(&mut self) {
        self.waits_until = None;
    }

    /// Goes on trimming what the last commit could not.
    pub(in crate::log) fn trim_more(&mut self) {
        self.dirty |= self.trim_pending;
    }

    /// The clock after which [`LogWriter::age`] may find events that are too
    /// old. `None` if no event is trimmed by age.
    pub(in crate::log) fn age_due(&self) -> Option<Timestamp> {
        let ages = !self.retention.age.is_zero() && self.meta.position.events > 0;
        (ages && self.waits_until.is_none()).then_some(self.age_check)
    }

    /// Lets the next tick look for events that are too old.
    pub(in crate::log) fn forget_age(&mut self) {
        self.age_check = NOW;
    }

    /// Looks for events that are too old.
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    pub(in crate::log) fn age(&mut self, now: ClockReading) -> Result<(), store::Error> {
        self.age_check = NOW;
        if self.oldest.is_none() {
            let oldest = self.kept(self.meta.position.floor, 1).next().transpose()?;
            self.oldest = oldest.map(|(_, event)| (event.offset, event.time));
        }
        let before = earlier(now.expiry, self.retention.age);
        let cutoff = Cutoff { now: now.expiry, before };
        if let Some((offset, time)) = self.oldest
            && self.is_old(offset, time, cutoff, &mut None)?
        {
            self.cutoff = Some(Box::new(cutoff));
            self.dirty = true;
        } else if let Some((_, time)) = self.oldest
            && time <= cutoff.now
        {
            self.age_check = later(time, self.retention.age);
        }
        Ok(())
    }

    /// Whether the event at `offset` with this time is old: an event that is
    /// ahead of the clock is as old as the next one that is not, and not old
    /// without one. `run` is the last run that was looked up.
    fn is_old(
        &self,
        offset: Offset,
        time: Timestamp,
        cutoff: Cutoff,
        run: &mut Option<Run>,
    ) -> Result<bool, store::Error> {
        if time <= cutoff.now {
            return Ok(time < cutoff.before);
        }
        let behind = match *run {
            Some((end, behind)) if offset <= end => behind,
            _ => {
                let found = self.run(offset, cutoff.now)?;
                run.insert(found).1
            }
        };
        Ok(behind.is_some_and(|time| time < cutoff.before))
    }

    /// The run of the event at `offset`, which is ahead of `now`. Since time
    /// decreases at steps alone, the run reaches to the next step, and what is
    /// behind it begins at that step or at a later one.
    fn run(&self, offset: Offset, now: Timestamp) -> Result<Run, store::Error> {
        let steps = self.meta.steps.iter().copied().filter(|&step| step >= offset);
        let end = steps.clone().next().unwrap_or(Offset(u64::MAX));
        for step in steps {
            let first = self.kept(step, 1).next().transpose()?;
            if let Some((_, event)) = first.filter(|(_, event)| event.time <= now) {
                return Ok((end, Some(event.time)));
            }
        }
        Ok((end, None))
    }

    /// What it keeps after `after`, oldest first, with the bytes of each; of
    /// what is only in memory, no more than `most` have to come.
    fn kept(
        &self,
        after: Offset,
        most: u64,
    ) -> Box<dyn Iterator<Item = Result<(u64, Event), store::Error>>> {
        if self.log.medium() == StorageKind::Disk {
            return Box::new(self.log.store().view().sized(self.meta.id, after));
        }
        let (_, batches) = self.log.read_tail(after, most);
        let events = batches.into_iter().flat_map(|batch| batch.events().to_vec());
        let events = events.filter(move |event| event.offset > after);
        Box::new(events.map(|event| Ok((EncodedEvent::bytes_of(&event), event))))
    }

    pub(super) fn trim(&mut self, changes: &mut Transaction) -> Result<(), store::Error> {
        let id = self.meta.id;
        let mut most = 2 * self.pending.len() + TRIMMED_EVENTS;
        let mut stored = self.meta.position.events - self.pending.len() as u64;
        let (floor, mut kept, mut run) = (self.meta.position.floor, None, None);
        self.trim_pending = false;
        while self.is_over() {
            if most == 0 {
                self.trim_pending = true;
                break;
            }
            most -= 1;
            let (offset, time, bytes) = if stored > 0 {
                stored -= 1;
                let kept = kept.get_or_insert_with(|| self.kept(floor, self.over(most as u64 + 1)));
                let (bytes, event) = kept.next().unwrap_or_else(|| Err(self.short()))?;
                if let Some(cutoff) = self.cutoff.as_deref().copied()
                    && !self.is_too_much()
                    && !self.is_old(event.offset, event.time, cutoff, &mut run)?
                {
                    self.oldest = Some((event.offset, event.time));
                    self.age_check = NOW;
                    break;
                }
                if self.log.medium() == StorageKind::Disk {
                    changes.trim_event(id, event.offset, event.subject.as_ref());
                }
                (event.offset, event.time, bytes)
            } else {
                self.cutoff = None;
                if !self.is_too_much() {
                    break;
                }
                let Some(stored) = self.pending.pop_front() else { break };
                (stored.event.offset, stored.event.time, stored.bytes())
            };
            let position = &mut self.meta.position;
            position.events -= 1;
            position.bytes -= bytes;
            self.meta.raise_floor(offset, time);
            self.oldest = None;
            self.age_check = NOW;
        }
        Ok(())
    }

    /// How many events may go at most: of a log that is bounded by its count
    /// alone no more are looked at than there are too many.
    fn over(&self, most: u64) -> u64 {
        if self.retention.events == 0 || self.retention.bytes > 0 || self.cutoff.is_some() {
            return most;
        }
        most.min(self.meta.position.events.saturating_sub(self.retention.events).max(1))
    }

    fn short(&self) -> store::Error {
        let (name, stored) = (&self.meta.name, self.meta.position.events);
        store::Error::Damaged(format!(
            "{name} has fewer than the {stored} events it counts; run `streamgate verify`"
        ))
    }

    fn is_over(&self) -> bool {
        self.is_too_much() || (self.cutoff.is_some() && self.meta.position.events > 0)
    }

    /// By count or bytes; the newest event is kept, however large.
    pub(super) fn is_too_much(&self) -> bool {
        let (bounds, at) = (&self.retention, &self.meta.position);
        let events = bounds.events > 0 && at.events > bounds.events;
        let bytes = bounds.bytes > 0 && at.bytes > bounds.bytes;
        at.events > 1 && (events || bytes)
    }
}
