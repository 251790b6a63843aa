//! Batches of events. A batch is encoded at most once in each wire format.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;

use super::encode::{self, WireFormat};
use super::identity::LogIdentity;
use crate::event::{Event, Offset};

/// The size in bytes at which an encoded block is complete. After that, the next
/// event starts a new block. A subscriber that stalls in the middle of a block keeps
/// the whole block in memory (`docs/delivery.md#socket-writes`), so blocks stay
/// small. A single event can make a block larger than this size.
const BLOCK_BYTES: usize = 64 * 1024;

/// Consecutive events of one log that were committed together or read as one
/// page. All subscribers share the batch, and their rings hold references to it.
#[derive(Debug)]
pub struct Batch {
    identity: Arc<LogIdentity>,
    events: Box<[Event]>,
    committed: Option<Instant>,
    encoded: [OnceLock<Encoded>; WireFormat::COUNT],
}

/// The events of a batch that match a subscription. They are stored as positions in
/// the batch, counted from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Consecutive positions.
    Run(Range<u32>),
    /// A list of single positions in ascending order. All subscribers with the same
    /// filter share the list.
    Sparse(Arc<[u32]>),
}

/// All events of a batch, encoded in one wire format.
#[derive(Debug)]
pub struct Encoded {
    blocks: Box<[Block]>,
    /// The position after the last byte of each event, in bytes from the start of
    /// the first block.
    ends: Box<[u64]>,
}

#[derive(Debug)]
struct Block {
    /// The position of the block, in bytes from the start of the first block.
    start: u64,
    bytes: Bytes,
}

impl Batch {
    /// Returns a batch of `events`, which all belong to the log `identity` and have
    /// ascending offsets. `committed` is the time at which the events became
    /// durable, if known.
    pub fn new(
        identity: Arc<LogIdentity>,
        events: Vec<Event>,
        committed: Option<Instant>,
    ) -> Batch {
        Batch {
            identity,
            events: events.into(),
            committed,
            encoded: [const { OnceLock::new() }; WireFormat::COUNT],
        }
    }

    /// Returns the identity of the log that the events belong to.
    pub fn identity(&self) -> &Arc<LogIdentity> {
        &self.identity
    }

    /// Returns the events, with ascending offsets.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Returns the offset of the last event, or zero if the batch is empty.
    pub fn end(&self) -> Offset {
        self.events.last().map_or(Offset::ZERO, |event| event.offset)
    }

    /// Returns the time at which the events became durable. Returns `None` for a
    /// page that was read from the store.
    pub fn committed(&self) -> Option<Instant> {
        self.committed
    }

    /// Returns the position in the batch of the first event whose offset is greater
    /// than `offset`. If there is no such event, returns the number of events.
    pub fn position_after(&self, offset: Offset) -> u32 {
        self.events.partition_point(|event| event.offset <= offset) as u32
    }

    /// Returns the batch in the wire format `format`. The first call for a wire
    /// format encodes the batch. A call on another thread waits until the encoding
    /// is complete.
    pub fn encoded(&self, format: WireFormat) -> &Encoded {
        self.encoded[format as usize].get_or_init(|| {
            self.identity.encoded(format, self.events.len() as u64);
            Encoded::new(&self.identity, &self.events, format)
        })
    }

    /// Appends one event as the JSON object of an NDJSON line, without the line
    /// feed. JSON pages consist of these objects.
    pub fn object(&self, position: u32, out: &mut Vec<u8>) {
        encode::object(out, &self.identity, &self.events[position as usize]);
    }
}

impl Encoded {
    fn new(identity: &LogIdentity, events: &[Event], format: WireFormat) -> Encoded {
        let mut blocks = Vec::new();
        let mut ends = Vec::with_capacity(events.len());
        let mut start = 0;
        let mut growing = Vec::new();
        for event in events {
            encode::event(&mut growing, format, identity, event);
            ends.push(start + growing.len() as u64);
            if growing.len() >= BLOCK_BYTES {
                let bytes = Bytes::from(std::mem::take(&mut growing));
                let length = bytes.len() as u64;
                blocks.push(Block { start, bytes });
                start += length;
            }
        }
        if !growing.is_empty() {
            growing.shrink_to_fit();
            blocks.push(Block { start, bytes: growing.into() });
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

    /// Returns the encoded size of the events at `positions`, in bytes.
    pub fn bytes_of(&self, positions: &Range<u32>) -> u64 {
        let range = self.range(positions);
        range.end - range.start
    }

    /// Returns the encoded size of the selected events, in bytes.
    pub fn selected_bytes(&self, selection: &Selection) -> u64 {
        match selection {
            Selection::Run(run) => self.bytes_of(run),
            Selection::Sparse(picks) => picks.iter().map(|&p| self.bytes_of(&(p..p + 1))).sum(),
        }
    }

    /// Returns a slice that starts with the event at `positions.start`, and the
    /// number of events in it. The slice has as many complete events of `positions`
    /// as fit into one block and into `bytes_max` bytes. It has at least one event,
    /// even if this event is longer than `bytes_max`. The bytes are not copied.
    ///
    /// # Panics
    /// If `positions` is empty or exceeds the batch.
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
    /// Returns the selection of `positions`, which must be ascending.
    pub fn of(positions: Vec<u32>) -> Selection {
        let (Some(&first), Some(&last)) = (positions.first(), positions.last()) else {
            return Selection::Run(0..0);
        };
        if (last - first) as usize + 1 == positions.len() {
            Selection::Run(first..last + 1)
        } else {
            Selection::Sparse(positions.into())
        }
    }

    /// Returns the number of selected events.
    pub fn len(&self) -> u32 {
        match self {
            Selection::Run(run) => run.end - run.start,
            Selection::Sparse(picks) => picks.len() as u32,
        }
    }

    /// Returns whether no event is selected.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the position of the `n`-th selected event, counted from 0.
    pub fn position(&self, n: u32) -> u32 {
        match self {
            Selection::Run(run) => run.start + n,
            Selection::Sparse(picks) => picks[n as usize],
        }
    }

    /// Returns the range of consecutive positions that begins with the `n`-th
    /// selected event, counted from 0. The range ends before the first position that
    /// is not selected.
    pub fn run_from(&self, n: u32) -> Range<u32> {
        match self {
            Selection::Run(run) => run.start + n..run.end,
            Selection::Sparse(picks) => {
                let rest = &picks[n as usize..];
                let run = rest.windows(2).take_while(|w| w[1] == w[0] + 1).count() as u32;
                rest[0]..rest[0] + run + 1
            }
        }
    }
}
