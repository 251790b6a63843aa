//! The encoded frames that a connection writes before its events: control messages,
//! and answers to commands.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::event::Offset;
use crate::hub::{Slice, SubscriptionId, WriteBudget};

/// The queue of the encoded frames of one connection. Its producers limit its
/// length: a WebSocket session reads no command while too many answers wait in the
/// queue, and the hub returns a heartbeat or a gap only when the connection's task
/// asks for more bytes.
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

    /// Adds `frame` to the end of the queue.
    pub(super) fn push(&mut self, frame: Bytes) {
        self.0.push_back(frame);
    }

    /// Adds the unwritten rest of a frame to the front of the queue, so that the
    /// rest is written first.
    pub(super) fn push_front(&mut self, rest: Bytes) {
        self.0.push_front(rest);
    }

    /// Adds the first frames of the queue to `out`, as many as `budget` permits in
    /// one write. The frames stay in the queue until
    /// [`note_written`](Self::note_written) removes them.
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

    /// Removes from the queue the frames that are in `written`. The other slices in
    /// `written` contain events.
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
