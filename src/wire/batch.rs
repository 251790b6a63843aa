//! A run of events and its wire forms, each made at most once.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;

use super::encode::{self, Form};
use super::origin::Origin;
use crate::event::{Event, Offset};

/// Size at which an encoded block is closed, in bytes. A subscriber that
/// stands still in the middle of a block keeps the whole of it in memory
/// (`docs/architecture.md#delivery`), so blocks stay small; one event larger
/// than this is a block of its own.
const BLOCK_BYTES: usize = 64 * 1024;

/// Consecutive events of one log, as they were committed together or read as
/// one page. Shared by all subscribers; rings hold references to it.
#[derive(Debug)]
pub struct Batch {
    origin: Arc<Origin>,
    events: Box<[Event]>,
    committed: Option<Instant>,
    forms: [OnceLock<Encoded>; Form::COUNT],
}

/// Which events of a batch a subscription wants, as positions in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// A run without holes.
    Run(Range<u32>),
    /// Single positions, ascending; shared by all subscribers of one filter.
    Picks(Arc<[u32]>),
}

/// One wire form of all events of a batch.
#[derive(Debug)]
pub struct Encoded {
    blocks: Box<[Block]>,
    /// Where each event ends, counted through all blocks.
    ends: Box<[u64]>,
}

#[derive(Debug)]
struct Block {
    /// Where the block starts, in the counting of `ends`.
    start: u64,
    bytes: Bytes,
}

impl Batch {
    /// A batch of `events`, ascending in offset, all of `origin`'s log.
    /// `committed` is the moment they became durable, where it is known.
    pub fn new(origin: Arc<Origin>, events: Vec<Event>, committed: Option<Instant>) -> Batch {
        Batch {
            origin,
            events: events.into(),
            committed,
            forms: [const { OnceLock::new() }; Form::COUNT],
        }
    }

    /// The log they belong to.
    pub fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    /// The events, ascending in offset.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The offset of the last event; zero when there is none.
    pub fn end(&self) -> Offset {
        self.events.last().map_or(Offset::ZERO, |event| event.offset)
    }

    /// When the events became durable; none for a page read back.
    pub fn committed(&self) -> Option<Instant> {
        self.committed
    }

    /// The position of the first event after `offset`; the number of events
    /// when there is none.
    pub fn position_after(&self, offset: Offset) -> u32 {
        self.events.partition_point(|event| event.offset <= offset) as u32
    }

    /// The batch in `form`, made now if nobody asked before. A second asker
    /// on another thread waits for the first.
    pub fn encoded(&self, form: Form) -> &Encoded {
        self.forms[form as usize].get_or_init(|| {
            self.origin.encoded(form, self.events.len() as u64);
            Encoded::new(&self.origin, &self.events, form)
        })
    }

    /// Appends one event as the JSON object of an NDJSON line, without the
    /// line's end: for pages.
    pub fn object(&self, position: u32, out: &mut Vec<u8>) {
        encode::object(out, &self.origin, &self.events[position as usize]);
    }
}

impl Encoded {
    fn new(origin: &Origin, events: &[Event], form: Form) -> Encoded {
        let mut blocks = Vec::new();
        let mut ends = Vec::with_capacity(events.len());
        let mut start = 0;
        let mut open = Vec::new();
        for event in events {
            encode::event(&mut open, form, origin, event);
            ends.push(start + open.len() as u64);
            if open.len() >= BLOCK_BYTES {
                let bytes = Bytes::from(std::mem::take(&mut open));
                let length = bytes.len() as u64;
                blocks.push(Block { start, bytes });
                start += length;
            }
        }
        if !open.is_empty() {
            open.shrink_to_fit();
            blocks.push(Block { start, bytes: open.into() });
        }
        Encoded { blocks: blocks.into(), ends: ends.into() }
    }

    fn range(&self, positions: &Range<u32>) -> Range<u64> {
        let at = |position: u32| match position {
            0 => 0,
            n => self.ends[n as usize - 1],
        };
        at(positions.start)..at(positions.end)
    }

    /// Bytes of the events at `positions`.
    pub fn bytes_of(&self, positions: &Range<u32>) -> u64 {
        let range = self.range(positions);
        range.end - range.start
    }

    /// Bytes of the selected events.
    pub fn selected_bytes(&self, selection: &Selection) -> u64 {
        match selection {
            Selection::Run(run) => self.bytes_of(run),
            Selection::Picks(picks) => picks.iter().map(|&p| self.bytes_of(&(p..p + 1))).sum(),
        }
    }

    /// A slice that starts with the event at `positions.start` and holds as
    /// many whole events of `positions` as lie in one block and in
    /// `bytes_max`, at least one; and how many these are. Copies nothing.
    ///
    /// # Panics
    /// When `positions` is empty or beyond the batch.
    pub fn slice(&self, positions: Range<u32>, bytes_max: usize) -> (Bytes, u32) {
        let first = self.range(&(positions.start..positions.start + 1));
        let block = &self.blocks[self.blocks.partition_point(|b| b.start <= first.start) - 1];
        let limit = (first.start + bytes_max as u64).min(block.start + block.bytes.len() as u64);
        let ends = &self.ends[positions.start as usize..positions.end as usize];
        let count = ends.partition_point(|&end| end <= limit).max(1);
        let from = (first.start - block.start) as usize;
        let to = (ends[count - 1] - block.start) as usize;
        (block.bytes.slice(from..to), count as u32)
    }
}

impl Selection {
    /// Of ascending positions.
    pub fn of(positions: Vec<u32>) -> Selection {
        let (Some(&first), Some(&last)) = (positions.first(), positions.last()) else {
            return Selection::Run(0..0);
        };
        if (last - first) as usize + 1 == positions.len() {
            Selection::Run(first..last + 1)
        } else {
            Selection::Picks(positions.into())
        }
    }

    /// How many events it has.
    pub fn len(&self) -> u32 {
        match self {
            Selection::Run(run) => run.end - run.start,
            Selection::Picks(picks) => picks.len() as u32,
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The position of its `n`-th event.
    pub fn position(&self, n: u32) -> u32 {
        match self {
            Selection::Run(run) => run.start + n,
            Selection::Picks(picks) => picks[n as usize],
        }
    }

    /// The run of neighbouring positions that starts with its `n`-th event.
    pub fn run_from(&self, n: u32) -> Range<u32> {
        match self {
            Selection::Run(run) => run.start + n..run.end,
            Selection::Picks(picks) => {
                let rest = &picks[n as usize..];
                let run = rest.windows(2).take_while(|w| w[1] == w[0] + 1).count() as u32;
                rest[0]..rest[0] + run + 1
            }
        }
    }
}
