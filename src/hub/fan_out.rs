//! The tasks of a shard: the fan-out task and the tick task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::fanout_pass::{self, COST_AT_ONCE};
use super::index::Cursor;
use super::log_fanout::LogFanout;
use super::shard::{Counts, Shard};
use super::words::Settings;
use crate::metrics::Metrics;
use crate::supervisor::{Supervisor, Task};

/// The maximum time between two ticks of a shard. At a tick, the shard checks the
/// heartbeats and the timeouts of its connections.
const TICK: Duration = Duration::from_millis(250);

/// Starts a shard with its fan-out task and its tick task. `supervisor` owns the
/// tasks.
pub(super) fn start(
    settings: Arc<Settings>,
    memory_pressure: Arc<AtomicBool>,
    open: Arc<Counts>,
    metrics: Arc<Metrics>,
    supervisor: &Supervisor,
) -> Arc<Shard> {
    let shard = Arc::new(Shard::new(settings, memory_pressure, open, metrics));
    supervisor.spawn(Task::FanOut, fan_out(shard.clone()));
    supervisor.spawn(Task::Tick, tick(shard.clone()));
    shard
}

/// Pushes the new batches of the logs in the shard's queue to their subscribers.
/// Never returns. The logs take turns: a log that has a new commit during its turn
/// goes to the end of the queue.
pub(super) async fn fan_out(shard: Arc<Shard>) {
    let (mut cost, mut moved) = (0, Vec::new());
    loop {
        shard.queue.take(&mut moved).await;
        for fanout in moved.drain(..) {
            // The fan-out no longer exists if the last subscription to its log has
            // ended.
            let Some(fanout) = fanout.upgrade() else { continue };
            fanout.dequeued();
            advance(&shard, &fanout, &mut cost).await;
        }
    }
}

/// Pushes the new batches of one log to its subscribers: the batches after the
/// fan-out's offset `fanned_to`. `cost` is the cost of all pushes since the task
/// last yielded to the runtime.
async fn advance(shard: &Shard, fanout: &LogFanout, cost: &mut usize) {
    match fanout.progress.log.tail(fanout.progress.fanned_to()) {
        Some(batches) => {
            for batch in batches {
                fanout_pass::fan_out_batch(shard, fanout, &batch, cost).await;
            }
        }
        None => fall_behind_all(fanout).await,
    }
}

/// Makes all subscriptions of a shard to one log catch up, and moves the progress of
/// the fan-out to the head of the log. The fan-out calls this if the tail of the log
/// in memory no longer contains the next batch.
///
/// The function handles the subscriptions in chunks and unlocks the index between
/// two chunks. Other tasks can add and remove subscriptions meanwhile. A new
/// subscription enters the index after `tail` was set to `head`. It reads the log up
/// to `head` before it goes live, whether this function finds it in the index or
/// not. A subscription that is not removed keeps its slot, so the function handles
/// it exactly once.
async fn fall_behind_all(fanout: &LogFanout) {
    let head = fanout.progress.log.head();
    fanout.progress.set_tail(head);
    let (mut cursor, mut chunk) = (Cursor::default(), Vec::new());
    loop {
        let more = fanout.index.lock().walk(&mut cursor, COST_AT_ONCE, |entry| {
            chunk.push((entry.subscriber.clone(), entry.subscription));
        });
        for (subscriber, subscription) in chunk.drain(..) {
            if let Some(waker) = subscriber.fall_behind(subscription) {
                waker.wake();
            }
        }
        if !more {
            break;
        }
        tokio::task::yield_now().await;
    }
    fanout.progress.set_fanned_to(head);
}

/// Checks all connections of a shard at each tick, and never returns. Sets the end
/// reason of a connection that has timed out, or whose scheduled end (from a drain
/// or the maximum lifetime) has come. Wakes the writer of a connection if a
/// heartbeat or the end is due.
async fn tick(shard: Arc<Shard>) {
    loop {
        let settings = shard.settings.read().clone();
        let period = (settings.heartbeat / 4).min(TICK).max(Duration::from_millis(1));
        tokio::time::sleep(period).await;
        let now = shard.started.elapsed().as_millis() as u64;
        shard.now.store(now, Ordering::Relaxed);
        let members = shard.members.lock().all.clone();
        let (mut any_left, mut lag, mut cost) = (false, 0, 0);
        for subscriber in &members {
            let ticked = subscriber.tick(now, &settings);
            any_left |= ticked.is_none();
            let ticked = ticked.unwrap_or_default();
            (lag, cost) = (lag.max(ticked.lag), cost + ticked.cost);
            if cost >= COST_AT_ONCE {
                cost = 0;
                tokio::task::yield_now().await;
            }
        }
        shard.stats.lag.store(lag, Ordering::Relaxed);
        if any_left {
            shard.members.lock().all.retain(|subscriber| !subscriber.has_left());
        }
    }
}
