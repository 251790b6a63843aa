//! Retention of one log: which of its events go, by count, bytes and age.

use super::Course;
use crate::event::Event;
use crate::log::Medium;
use crate::log::clock::{ClockReading, earlier};
use crate::store::{self, Stored, Transaction};

/// Events trimmed in a commit beside twice those it adds.
const TRIMMED_EVENTS: usize = 1024;

impl Course {
    /// Looks at the clocks for the first time.
    pub(in crate::log) fn begin(&mut self, now: ClockReading) {
        self.lead.observe(self.meta.time, now);
    }

    /// Looks at the clocks: at how far the log's time is ahead of them, and for
    /// events that are too old.
    pub(in crate::log) fn age(&mut self, now: ClockReading) -> Result<(), store::Error> {
        self.lead.observe(self.meta.time, now);
        if self.behind {
            self.touched = true;
        }
        if self.retention.age.is_zero() || self.meta.position.events == 0 {
            return Ok(());
        }
        if self.oldest.is_none() {
            self.oldest = self.kept(1).next().transpose()?.map(|(_, event)| event.time);
        }
        let cutoff = earlier(now.wall, self.retention.age);
        if self.oldest.is_some_and(|oldest| oldest < cutoff) {
            self.cutoff = Some(cutoff);
            self.touched = true;
        }
        Ok(())
    }

    /// What it keeps, oldest first, with the bytes of each; of what is only in
    /// memory, no more than `most` have to come.
    fn kept(&self, most: u64) -> Box<dyn Iterator<Item = Result<(u64, Event), store::Error>>> {
        let floor = self.meta.position.floor;
        if self.log.medium() == Medium::Disk {
            return Box::new(self.log.store().view().sized(self.meta.id, floor));
        }
        let (_, batches) = self.log.recall(floor, most);
        let events = batches.into_iter().flat_map(|batch| batch.events().to_vec());
        let events = events.filter(move |event| event.offset > floor);
        Box::new(events.map(|event| Ok((Stored::bytes_of(&event), event))))
    }

    pub(super) fn trim(&mut self, changes: &mut Transaction) -> Result<(), store::Error> {
        let id = self.meta.id;
        let mut most = 2 * self.pending.len() + TRIMMED_EVENTS;
        let mut stored = self.meta.position.events - self.pending.len() as u64;
        let mut kept = None;
        self.behind = false;
        while self.is_over() {
            if most == 0 {
                self.behind = true;
                break;
            }
            most -= 1;
            let (offset, time, bytes) = if stored > 0 {
                stored -= 1;
                let kept = kept.get_or_insert_with(|| self.kept(self.over(most as u64 + 1)));
                let (bytes, event) = kept.next().unwrap_or_else(|| Err(self.short()))?;
                if self.cutoff.is_some_and(|cutoff| event.time >= cutoff) && !self.is_too_much() {
                    self.oldest = Some(event.time);
                    break;
                }
                if self.log.medium() == Medium::Disk {
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
