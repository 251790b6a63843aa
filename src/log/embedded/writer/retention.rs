//! The retention of one log: the events that are trimmed by count, bytes and age.

use std::time::Duration;

use super::{Active, LogWriter, activate};
use crate::event::{Event, Offset, Timestamp};
use crate::log::StorageKind;
use crate::log::embedded::clock::{ClockReading, START_WAIT, earlier, later};
use crate::store::{self, EncodedEvent, Transaction};

/// The value of `age_check` that makes an age check due at the next tick.
pub(super) const NOW: Timestamp = Timestamp(i64::MIN);
/// One commit trims at most this number of events of a log, plus two for each event
/// that it adds to the log.
const TRIMMED_EVENTS: usize = 1024;

/// The limits by which events are trimmed by age.
#[derive(Clone, Copy)]
pub(super) struct Cutoff {
    /// The time of the expiry clock. An event with a later time is ahead of this
    /// clock.
    now: Timestamp,
    /// Events with an earlier time are trimmed.
    before: Timestamp,
}

/// A run of consecutive events that are ahead of the clock.
#[derive(Clone, Copy)]
struct Run {
    /// The run ends at this offset, inclusive.
    end: Offset,
    /// The time of the first event after the run that is not ahead of the clock.
    /// `None` if there is no such event.
    behind: Option<Timestamp>,
}

impl LogWriter {
    /// Compares the newest event of a newly opened log with the clocks. If every
    /// event is older than the retention allows, the clock may be ahead. The log
    /// then trims nothing by age for [`START_WAIT`].
    pub(in crate::log) fn begin(&mut self, now: ClockReading) {
        self.observe(now);
        let age = self.retention.age;
        let newest = self.metadata.time;
        let has_events = self.metadata.position.events > 0;
        if age.is_zero() || !has_events || newest >= earlier(now.expiry, age) {
            return;
        }
        activate(&mut self.active).waits_until = Some(now.elapsed + START_WAIT);
        tracing::warn!(
            log = &*self.metadata.name,
            %newest,
            clock = %now.expiry,
            "every event is older than retention.age; the log waits ten minutes before it trims \
             by age"
        );
    }

    /// Returns the monotonic time until which the log trims nothing by age. `None`
    /// if [`LogWriter::begin`] has set no such wait.
    pub(in crate::log) fn waits_until(&self) -> Option<Duration> {
        self.active.as_ref()?.waits_until
    }

    /// Ends the wait that [`LogWriter::begin`] has set. The log then trims events by
    /// age.
    pub(in crate::log) fn end_wait(&mut self) {
        if let Some(active) = &mut self.active {
            active.waits_until = None;
        }
    }

    /// Lets the next commit trim more events of the log if the last commit did not
    /// trim all events that exceed the retention.
    pub(in crate::log) fn trim_more(&mut self) {
        if let Some(active) = &mut self.active {
            active.is_dirty |= active.is_trim_pending;
        }
    }

    /// Returns the time of the next age check, or `None` if no event is trimmed by
    /// age. Before this time, [`LogWriter::age`] finds no event that is older than
    /// the retention allows.
    pub(in crate::log) fn age_due(&self) -> Option<Timestamp> {
        if self.retention.age.is_zero() || self.metadata.position.events == 0 {
            return None;
        }
        match &self.active {
            Some(active) => active.waits_until.is_none().then_some(active.age_check),
            None => Some(NOW),
        }
    }

    /// Makes an age check of the log due at the next tick.
    pub(in crate::log) fn forget_age(&mut self) {
        if let Some(active) = &mut self.active {
            active.age_check = NOW;
        }
    }

    /// Checks whether the log has events that are older than its retention allows.
    /// If it has, the next commit trims them.
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    pub(in crate::log) fn age(&mut self, now: ClockReading) -> Result<(), store::Error> {
        let mut oldest = self.active.as_ref().and_then(|active| active.oldest);
        if oldest.is_none() {
            let first = self.kept(self.metadata.position.floor, 1).next().transpose()?;
            oldest = first.map(|(_, event)| (event.offset, event.time));
        }
        let before = earlier(now.expiry, self.retention.age);
        let cutoff = Cutoff { now: now.expiry, before };
        let is_old = match oldest {
            Some((offset, time)) => self.is_old(offset, time, cutoff, &mut None)?,
            None => false,
        };
        let active = activate(&mut self.active);
        active.oldest = oldest;
        active.age_check = match oldest {
            Some((_, time)) if !is_old && time <= cutoff.now => later(time, self.retention.age),
            _ => NOW,
        };
        if is_old {
            active.cutoff = Some(cutoff);
            active.is_dirty = true;
        }
        Ok(())
    }

    /// Returns whether the event at `offset`, which has the time `time`, is too old:
    /// its time is before [`Cutoff::before`]. An event that is ahead of the clock
    /// counts as old as the next event that is not ahead. If there is no such event,
    /// it is not too old. `run` caches the last run of events ahead of the clock
    /// that was found.
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
        let run = match *run {
            Some(found) if offset <= found.end => found,
            _ => *run.insert(self.run(offset, cutoff.now)?),
        };
        Ok(run.behind.is_some_and(|time| time < cutoff.before))
    }

    /// Returns the run of events ahead of the clock that contains the event at
    /// `offset`. `now` is the time of the clock. Time decreases only at a step of
    /// the log's time, so the run ends at the next step. The first event after the
    /// run that is not ahead directly follows this step or a later one.
    fn run(&self, offset: Offset, now: Timestamp) -> Result<Run, store::Error> {
        let steps = self.metadata.steps.iter().copied().filter(|&step| step >= offset);
        let end = steps.clone().next().unwrap_or(Offset(u64::MAX));
        for step in steps {
            let first = self.kept(step, 1).next().transpose()?;
            if let Some((_, event)) = first.filter(|(_, event)| event.time <= now) {
                return Ok(Run { end, behind: Some(event.time) });
            }
        }
        Ok(Run { end, behind: None })
    }

    /// Returns the events of the log after the offset `after`, oldest first, each
    /// with its size in bytes. A log in memory may return only the first `most`
    /// events.
    fn kept(
        &self,
        after: Offset,
        most: u64,
    ) -> Box<dyn Iterator<Item = Result<(u64, Event), store::Error>>> {
        if self.log.storage() == StorageKind::Disk {
            return Box::new(self.log.store().view().sized(self.metadata.id, after));
        }
        let (_, batches) = self.log.read_tail(after, most);
        let events = batches.into_iter().flat_map(|batch| batch.events().to_vec());
        let events = events.filter(move |event| event.offset > after);
        Box::new(events.map(|event| Ok((EncodedEvent::bytes_of(&event), event))))
    }

    /// Trims the events that exceed the retention. If there are more of them than
    /// one commit may trim, sets `is_trim_pending`.
    pub(super) fn trim(&mut self, changes: &mut Transaction) -> Result<(), store::Error> {
        let Some(mut active) = self.active.take() else { return Ok(()) };
        let result = self.trim_with(&mut active, changes);
        self.active = Some(active);
        result
    }

    fn trim_with(
        &mut self,
        active: &mut Active,
        changes: &mut Transaction,
    ) -> Result<(), store::Error> {
        let id = self.metadata.id;
        let mut most = 2 * active.pending.len() + TRIMMED_EVENTS;
        let mut stored = self.metadata.position.events - active.pending.len() as u64;
        let (floor, mut kept, mut run) = (self.metadata.position.floor, None, None);
        active.is_trim_pending = false;
        while self.is_too_much() || active.cutoff.is_some() && self.metadata.position.events > 0 {
            if most == 0 {
                active.is_trim_pending = true;
                break;
            }
            most -= 1;
            let (offset, time, bytes) = if stored > 0 {
                stored -= 1;
                let kept = kept.get_or_insert_with(|| {
                    self.kept(floor, self.trimmed_max(active.cutoff, most as u64 + 1))
                });
                let (bytes, event) = kept.next().unwrap_or_else(|| Err(self.too_few_events()))?;
                if let Some(cutoff) = active.cutoff
                    && !self.is_too_much()
                    && !self.is_old(event.offset, event.time, cutoff, &mut run)?
                {
                    active.oldest = Some((event.offset, event.time));
                    active.age_check = NOW;
                    break;
                }
                if self.log.storage() == StorageKind::Disk {
                    changes.trim_event(id, event.offset, event.subject.as_ref());
                }
                (event.offset, event.time, bytes)
            } else {
                active.cutoff = None;
                if !self.is_too_much() {
                    break;
                }
                let Some(encoded) = active.pending.pop_front() else { break };
                (encoded.event.offset, encoded.event.time, encoded.bytes())
            };
            let position = &mut self.metadata.position;
            position.events -= 1;
            position.bytes -= bytes;
            self.metadata.raise_floor(offset, time);
            active.oldest = None;
            active.age_check = NOW;
        }
        Ok(())
    }

    /// Returns how many events must be read to trim at most `most` events. If the
    /// retention limits only the number of events, exactly the events to trim are
    /// read.
    fn trimmed_max(&self, cutoff: Option<Cutoff>, most: u64) -> u64 {
        if self.retention.events == 0 || self.retention.bytes > 0 || cutoff.is_some() {
            return most;
        }
        most.min(self.metadata.position.events.saturating_sub(self.retention.events).max(1))
    }

    fn too_few_events(&self) -> store::Error {
        let (name, stored) = (&self.metadata.name, self.metadata.position.events);
        store::Error::Damaged(format!(
            "{name} should have {stored} events, but has fewer; run `streamgate verify`"
        ))
    }

    /// Returns whether the log has more events or bytes than its retention allows.
    /// The newest event is always kept, also if it alone is too large.
    pub(super) fn is_too_much(&self) -> bool {
        let (bounds, at) = (&self.retention, &self.metadata.position);
        let events = bounds.events > 0 && at.events > bounds.events;
        let bytes = bounds.bytes > 0 && at.bytes > bounds.bytes;
        at.events > 1 && (events || bytes)
    }
}
