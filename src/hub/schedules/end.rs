//! The end of the thread that runs the fan-out task.

use super::*;

/// Wakes the thread that polls the fan-out task, without a permit of the queue. A
/// permit would hide that the queue did not notify the task.
#[derive(Default)]
pub(super) struct End(Cell<Option<Waker>>);

impl End {
    /// Polls the fan-out task of `shard` until `is_done`. `is_done` is checked after
    /// each poll and after each [`End::wake`].
    pub(super) fn run(&self, shard: &Arc<Shard>, is_done: impl Fn() -> bool) {
        let mut task = pin!(fan_out(shard.clone()));
        shuttle::future::block_on(std::future::poll_fn(|cx| {
            *self.0.lock().unwrap() = Some(cx.waker().clone());
            assert!(task.as_mut().poll(cx).is_pending());
            if is_done() { Poll::Ready(()) } else { Poll::Pending }
        }));
    }

    pub(super) fn wake(&self) {
        let waker = self.0.lock().unwrap().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
