//! The frames of a connection that are ready to be written before its events:
//! control messages, and answers to commands.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::event::Offset;
use crate::hub::{Slice, SubscriptionId, WriteBudget};

/// The queue of ready frames. It is bounded by its producers: a WebSocket reads no
/// command while its answers wait, and the hub reports a heartbeat or a gap only to
/// a writer that asks for more.
#[derive(Default)]
pub(super) struct FrameQueue(VecDeque<Bytes>);

impl FrameQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of bytes in the queue.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Adds a frame at the end.
    pub(super) fn push(&mut self, frame: Bytes) {
        self.0.push_back(frame);
    }

    /// Adds the rest of a frame that is partly written. It must be written first.
    pub(super) fn push_front(&mut self, rest: Bytes) {
        self.0.push_front(rest);
    }

    /// Adds the first frames to `out`, as much as one write takes. The frames stay
    /// in the queue until [`note_written`](Self::note_written).
    pub(super) fn fill(&self, out: &mut Vec<Slice>, budget: WriteBudget) {
        let WriteBudget { slices, mut bytes, .. } = budget;
        for frame in self.0.iter().take(slices as usize) {
            out.push(Slice {
                bytes: frame.clone(),
                subscription: SubscriptionId::NONE,
                through: Offset::ZERO,
                events: 0,
                committed: None,
            });
            bytes = bytes.saturating_sub(frame.len());
            if bytes == 0 {
                break;
            }
        }
    }

    /// Removes the frames among the `written` slices.
    pub(super) fn note_written(&mut self, written: &[Slice]) {
        let is_frame = |slice: &&Slice| slice.subscription == SubscriptionId::NONE;
        let frames = written.iter().filter(is_frame).count();
        if frames > 0 {
            self.0.drain(..frames);
            if self.0.is_empty() {
                // An idle connection must hold no buffer.
                self.0 = VecDeque::new();
            }
        }
    }
}
