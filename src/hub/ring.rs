//! What waits for one connection's writer: runs of shared batches.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::subscription::SubscriptionId;
use crate::event::Offset;
use crate::wire::{Batch, Form, Selection};

/// Events of one batch for one subscription.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) subscription: SubscriptionId,
    pub(super) batch: Arc<Batch>,
    pub(super) selection: Selection,
    pub(super) form: Form,
    /// How many of the selection are done.
    next: u32,
    /// Bytes of those that are not.
    bytes: u64,
}

impl Run {
    pub(super) fn new(
        subscription: SubscriptionId,
        batch: Arc<Batch>,
        selection: Selection,
        form: Form,
    ) -> Run {
        let bytes = batch.encoded(form).selected_bytes(&selection);
        Run { subscription, batch, selection, form, next: 0, bytes }
    }

    fn events(&self) -> u64 {
        u64::from(self.selection.len() - self.next)
    }

    /// Drops the events up to `through`.
    fn pass(&mut self, through: Offset) {
        let encoded = self.batch.encoded(self.form);
        match &self.selection {
            Selection::Run(run) => {
                let from = run.start + self.next;
                let to = self.batch.position_after(through).clamp(from, run.end);
                self.bytes -= encoded.bytes_of(&(from..to));
                self.next = to - run.start;
            }
            Selection::Picks(picks) => {
                let events = self.batch.events();
                for &position in &picks[self.next as usize..] {
                    if events[position as usize].offset > through {
                        break;
                    }
                    self.bytes -= encoded.bytes_of(&(position..position + 1));
                    self.next += 1;
                }
            }
        }
    }
}

/// A slice of shared bytes for the writer, and what writing it amounts to.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Whole frames, as they go onto the wire.
    pub bytes: Bytes,
    /// Whose they are.
    pub subscription: SubscriptionId,
    /// The offset of the last event in it.
    pub through: Offset,
    /// How many events it holds.
    pub events: u32,
    /// When they were committed, where that is known.
    pub committed: Option<std::time::Instant>,
}

/// Cuts slices off a selection of a batch, from its `next`-th event on, while
/// `room` lasts; at least one.
pub fn slices(
    out: &mut Vec<Slice>,
    room: &mut Room,
    subscription: SubscriptionId,
    batch: &Batch,
    selection: &Selection,
    form: Form,
    mut next: u32,
) {
    let encoded = batch.encoded(form);
    while next < selection.len() && !room.is_full() {
        let mut run = selection.run_from(next);
        run.end = run.end.min(run.start.saturating_add(room.events));
        let (bytes, events) = encoded.slice(run.clone(), room.slice_bytes());
        room.take(&bytes, events);
        let last = run.start + events - 1;
        out.push(Slice {
            bytes,
            subscription,
            through: batch.events()[last as usize].offset,
            events,
            committed: batch.committed(),
        });
        next += events;
    }
}

/// How much one write may take.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Slices: the length of one vectored write.
    pub slices: u32,
    /// Events, for `batchSize` and windows.
    pub events: u32,
    /// Bytes.
    pub bytes: usize,
}

/// Largest slice that is cut from a block, in bytes: a reader that stands
/// still keeps at most the rest of one slice in hand.
const SLICE_BYTES: usize = 16 * 1024;

impl Room {
    /// A write's worth: 64 KiB in at most 64 slices, well under the 1,024 that
    /// `writev(2)` takes, and `events` events.
    pub fn for_write(events: u32) -> Room {
        Room { slices: 64, events, bytes: 64 * 1024 }
    }

    fn is_full(&self) -> bool {
        self.slices == 0 || self.events == 0 || self.bytes == 0
    }

    fn slice_bytes(&self) -> usize {
        self.bytes.min(SLICE_BYTES)
    }

    fn take(&mut self, bytes: &Bytes, events: u32) {
        self.slices -= 1;
        self.events = self.events.saturating_sub(events);
        self.bytes = self.bytes.saturating_sub(bytes.len());
    }
}

/// The queue of one connection. Allocated only while it holds more than one
/// run; bounded by its owner, which asks [`Ring::fits`] before it pushes.
#[derive(Debug, Default)]
pub(super) struct Ring {
    first: Option<Run>,
    rest: VecDeque<Run>,
    events: u64,
    bytes: u64,
}

impl Ring {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Whether `run` fits beside what is there. An empty ring takes any one
    /// event, or one larger than the ring would park its subscription each time.
    pub(super) fn fits(&self, run: &Run, events_max: u64, bytes_max: u64) -> bool {
        (self.is_empty() && run.events() == 1)
            || (self.events + run.events() <= events_max && self.bytes + run.bytes <= bytes_max)
    }

    /// Whose the oldest run is, and where its batch ends.
    pub(super) fn front(&self) -> Option<(SubscriptionId, Offset)> {
        self.first.as_ref().map(|run| (run.subscription, run.batch.end()))
    }

    pub(super) fn push(&mut self, run: Run) {
        self.events += run.events();
        self.bytes += run.bytes;
        if self.first.is_none() {
            self.first = Some(run);
        } else {
            self.rest.push_back(run);
        }
    }

    /// Frees what waits for `subscription`.
    pub(super) fn forget(&mut self, subscription: SubscriptionId) {
        let runs = self.first.take().into_iter().chain(std::mem::take(&mut self.rest));
        let kept: Vec<Run> = runs.filter(|run| run.subscription != subscription).collect();
        (self.events, self.bytes) = (0, 0);
        for run in kept {
            self.push(run);
        }
    }

    /// Shows in `form` what waits in another: for a socket that turns bare.
    pub(super) fn reform(&mut self, form: Form) {
        let runs = self.first.take().into_iter().chain(std::mem::take(&mut self.rest));
        let runs: Vec<Run> = runs.collect();
        (self.events, self.bytes) = (0, 0);
        for run in runs {
            let encoded = run.batch.encoded(form);
            let bytes = (run.next..run.selection.len())
                .map(|n| run.selection.position(n))
                .map(|position| encoded.bytes_of(&(position..position + 1)))
                .sum();
            self.push(Run { form, bytes, ..run });
        }
    }

    /// Shows the writer what comes next; it stays here until it is written.
    pub(super) fn peek(&self, out: &mut Vec<Slice>, room: &mut Room) {
        for run in self.runs() {
            if room.is_full() {
                break;
            }
            let Run { subscription, batch, selection, form, next, .. } = run;
            slices(out, room, *subscription, batch, selection, *form, *next);
        }
    }

    /// Drops from the front what of `subscription` was written, up to
    /// `through`, and says how many events these were. What was freed
    /// meanwhile is simply not there any more.
    pub(super) fn pass(&mut self, subscription: SubscriptionId, through: Offset) -> u64 {
        let before = self.events;
        while let Some(first) = &mut self.first {
            if first.subscription != subscription {
                break;
            }
            let (events, bytes) = (first.events(), first.bytes);
            first.pass(through);
            self.events -= events - first.events();
            self.bytes -= bytes - first.bytes;
            if first.events() > 0 {
                break;
            }
            self.first = self.rest.pop_front();
        }
        if self.rest.is_empty() && self.rest.capacity() > 0 {
            self.rest = VecDeque::new();
        }
        before - self.events
    }

    fn runs(&self) -> impl Iterator<Item = &Run> {
        self.first.iter().chain(&self.rest)
    }
}
