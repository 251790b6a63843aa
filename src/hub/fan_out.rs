//! The tasks of a shard: the fan-out, and the tick.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::fanout_pass::{self, COST_AT_ONCE};
use super::index::Cursor;
use super::log_fanout::LogFanout;
use super::push::Ticked;
use super::shard::{Counts, Shard};
use super::words::Settings;
use crate::metrics::Metrics;
use crate::supervisor::{Supervisor, Task};

/// Longest time between two ticks.
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

/// Fans out the logs of the shard's queue, for ever. The logs take turns: a log
/// that moves again during its turn is at the end of the queue, behind the logs
/// that moved first.
pub(super) async fn fan_out(shard: Arc<Shard>) {
    let (mut cost, mut moved) = (0, Vec::new());
    loop {
        shard.queue.take(&mut moved).await;
        for fanout in moved.drain(..) {
            // The last subscription may have ended the fan-out meanwhile.
            let Some(fanout) = fanout.upgrade() else { continue };
            fanout.dequeued();
            advance(&shard, &fanout, &mut cost).await;
        }
    }
}

/// Fans out what memory holds of a log beyond the fanout's place. Yields as its
/// passes' `cost` goes.
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

/// The fanout's place is gone from the tail: every subscription reads the log,
/// and the fanout goes on at its head.
///
/// Subscriptions come and go between two chunks, while the index is not
/// locked. One that comes was indexed after `begin`: it reads the log up to
/// `head` before it goes live, whether the walk meets it or not. One that
/// stays keeps its slot, so the walk meets it once.
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

/// Serves everything that is a matter of time, for all connections of a shard.
async fn tick(shard: Arc<Shard>) {
    loop {
        let settings = shard.settings.read().clone();
        let period = (settings.heartbeat / 4).min(TICK).max(Duration::from_millis(1));
        tokio::time::sleep(period).await;
        let now = shard.started.elapsed().as_millis() as u64;
        shard.now.store(now, Ordering::Relaxed);
        let members = shard.members.lock().all.clone();
        let (mut gone, mut lag, mut cost) = (false, 0, 0);
        for subscriber in &members {
            let ticked = subscriber.tick(now, &settings);
            gone |= ticked.is_none();
            let Ticked { lag: behind, cost: own } = ticked.unwrap_or_default();
            (lag, cost) = (lag.max(behind), cost + own);
            if cost >= COST_AT_ONCE {
                cost = 0;
                tokio::task::yield_now().await;
            }
        }
        shard.stats.lag.store(lag, Ordering::Relaxed);
        if gone {
            shard.members.lock().all.retain(|subscriber| !subscriber.has_left());
        }
    }
}
