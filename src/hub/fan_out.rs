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

/// The maximum time between two ticks.
const TICK: Duration = Duration::from_millis(250);

/// Starts a shard and its tasks, which `supervisor` owns.
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

/// Fans out the logs in the shard's queue, and never returns. The logs take
/// turns: a log that moves again during its turn goes to the end of the queue.
pub(super) async fn fan_out(shard: Arc<Shard>) {
    let (mut cost, mut moved) = (0, Vec::new());
    loop {
        shard.queue.take(&mut moved).await;
        for fanout in moved.drain(..) {
            // The last subscription to the log may have ended meanwhile.
            let Some(fanout) = fanout.upgrade() else { continue };
            fanout.dequeued();
            advance(&shard, &fanout, &mut cost).await;
        }
    }
}

/// Fans out the batches of a log that follow the fan-out's progress. `cost` is
/// the cost of all passes since the task last yielded to the runtime.
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

/// Makes all subscriptions to a log catch up, and moves the fan-out to the head
/// of the log. This is necessary if the tail in memory no longer contains the
/// next batch of the fan-out.
///
/// The index is not locked between two chunks, so subscriptions join and leave.
/// A subscription that joins enters the index after `tail` was set to `head`. It
/// reads the log up to `head` before it goes live, whether the walk visits it or
/// not. A subscription that stays keeps its slot, so the walk visits it once.
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

/// Ends or wakes the connections of a shard whose heartbeat, timeout or end is
/// due, and never returns.
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
