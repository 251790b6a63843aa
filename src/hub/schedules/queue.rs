//! The queue of a shard, in every order of threads that shuttle finds.
//!
//! A committer commits to several logs while their fan-outs start. If the queue
//! misses a log, or does not notify the fan-out task, then the task waits forever,
//! and shuttle reports a deadlock.

use super::*;
use crate::hub::log_fanout::LogFanout;

const LOGS: u32 = 3;
const COMMITS: usize = 2;

struct QueueModel {
    fixture: Arc<Fixture>,
    shard: Arc<Shard>,
    logs: Vec<Arc<Log>>,
    fanouts: Cell<Vec<Arc<LogFanout>>>,
    /// The number of threads that still commit or start fan-outs.
    running: Counter,
    end: End,
}

impl QueueModel {
    fn new(fixture: Arc<Fixture>) -> QueueModel {
        let (settings, metrics) = (Settings::of_rings(1, 1), fixture.metrics.clone());
        let shard = Shard::new(Arc::new(settings), Arc::default(), Arc::default(), metrics);
        let log = |id| {
            let meta = LogMetadata { id: LogId(id), ..fixture.meta.clone() };
            Log::scheduled(&meta, fixture.identity.clone(), fixture.store.clone())
        };
        let logs = (1..=LOGS).map(log).collect();
        let (fanouts, running, end) = (Cell::default(), Counter::new(2), End::default());
        QueueModel { fixture, shard: Arc::new(shard), logs, fanouts, running, end }
    }

    /// Commits to all logs at once, and then notifies their observers.
    fn commit(&self) {
        for event in events().into_iter().take(COMMITS) {
            for log in &self.logs {
                let batch = Batch::new(self.fixture.identity.clone(), vec![event.clone()], None);
                log.show(Arc::new(batch));
            }
            for log in &self.logs {
                log.notify_observers();
            }
        }
        self.end();
    }

    fn start_fanouts(&self) {
        for log in &self.logs {
            let fanout = LogFanout::start(log, self.shard.stats.clone(), self.shard.queue.clone());
            self.fanouts.lock().unwrap().push(fanout);
        }
        self.end();
    }

    /// Ends a thread. The thread of the fan-out task ends after the last one.
    fn end(&self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.end.wake();
    }

    /// Runs the fan-out task until all commits are fanned out.
    fn fan_out(&self) {
        self.end.run(&self.shard, || {
            let fanouts = self.fanouts.lock().unwrap().clone();
            self.running.load(Ordering::SeqCst) == 0
                && !fanouts.iter().any(|fanout| fanout.progress.is_behind())
        });
    }
}

fn run_model(scheduler: impl Scheduler + 'static) {
    let fixture = Fixture::new();
    explore(scheduler, move || {
        let model = Arc::new(QueueModel::new(fixture.clone()));
        let works = [QueueModel::commit, QueueModel::start_fanouts, QueueModel::fan_out];
        let spawn = |work: fn(&QueueModel)| {
            let model = model.clone();
            shuttle::thread::spawn(move || work(&model))
        };
        for thread in works.map(spawn) {
            thread.join().unwrap();
        }
    });
}

#[test]
fn every_log_that_moves_is_fanned_out_in_random_schedules() {
    run_model(RandomScheduler::new(2000));
}

#[test]
fn every_log_that_moves_is_fanned_out_with_few_preemptions() {
    run_model(PctScheduler::new(3, 2000));
}

/// The last subscription ends the fan-out of the log while another connection may
/// subscribe.
#[test]
fn subscribers_leave_and_join_beside_two_commits() {
    for start in [None, Some(0)] {
        let follow = Follow { start, leaves_after: Some(1), ..EVERYTHING };
        let plan = Plan { subscribers: vec![follow.clone(), follow.clone()], ..pair(follow) };
        run_plan(RandomScheduler::new(1000), plan.clone());
        run_plan(PctScheduler::new(3, 1000), plan);
    }
}
