//! Random interleavings of a publisher, the fan-out, a writer and its client. Every
//! event is written once and in order, and no frame is written inside another frame.

use proptest::prelude::*;

use super::*;
use crate::hub::EndReason;

/// The longest wait for a message that must come. A test that waits longer fails.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
enum Step {
    /// The publisher commits batches to a topic. Each event has a flag, whether the
    /// filter selects it, and a size.
    Publish(usize, Vec<Vec<(bool, usize)>>),
    /// The test yields to the fan-out.
    Yield,
    /// The writer is polled if it was woken.
    Poll,
    /// The writer answers a command of its client.
    Respond,
    /// The format changes to bare.
    Bare,
    /// The client reads this number of bytes.
    Read(usize),
    /// The client asks for more events of the windowed subscription.
    Request(u64),
    Unsubscribe(usize),
    /// The socket breaks.
    Cut,
    /// The task is dropped.
    Leave,
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    // The fan-out never writes an event that is larger than a slice.
    let size = prop_oneof![9 => 0..400usize, 1 => Just(17_000)];
    let commit = prop::collection::vec((any::<bool>(), size), 1..5);
    let commits = prop::collection::vec(commit, 1..3);
    let read = prop_oneof![1..200usize, 200..2000usize, Just(50_000)];
    prop_oneof![
        60 => (0..2usize, commits).prop_map(|(topic, commits)| Step::Publish(topic, commits)),
        40 => Just(Step::Yield),
        40 => Just(Step::Poll),
        20 => Just(Step::Respond),
        40 => read.prop_map(Step::Read),
        10 => (1..5u64).prop_map(Step::Request),
        4 => Just(Step::Bare),
        2 => (0..2usize).prop_map(Step::Unsubscribe),
        1 => Just(Step::Cut),
        1 => Just(Step::Leave),
        1 => Just(Step::Drain),
    ]
}

/// A subscription to one topic. The first subscription selects every event. The second
/// has a filter and a window.
struct Side {
    id: SubscriptionId,
    filtered: bool,
    /// The numbers of the events that the client must receive.
    due: Vec<u64>,
    is_over: bool,
}

/// One connection, and the messages that its client expects.
struct Case<'a> {
    bench: &'a Bench,
    writer: Option<ConnectionTask>,
    socket: Wire,
    sides: [Side; 2],
    /// The number of events that the client has requested of the second subscription.
    window: u64,
    published: u64,
    responses: u64,
    /// The number of bytes that were written when the task was dropped.
    left_at: Option<usize>,
    is_cut: bool,
}

impl<'a> Case<'a> {
    fn start(bench: &'a Bench, window: u64) -> Case<'a> {
        let mut writer = bench.connect();
        let wanted = Filter::shared(vec![EventType::new("wanted").unwrap()], Vec::new());
        let all = Filter::shared(Vec::new(), Vec::new());
        let side = |id, filtered| Side { id, filtered, due: Vec::new(), is_over: false };
        let sides = [
            side(writer.subscribe(&bench.log(0), &all, None), false),
            side(writer.subscribe(&bench.log(1), &wanted, Some(window)), true),
        ];
        writer.poll();
        let socket = writer.socket.clone();
        let writer = Some(writer);
        let (published, responses, left_at, is_cut) = (0, 0, None, false);
        Case { bench, writer, socket, sides, window, published, responses, left_at, is_cut }
    }

    async fn publish(&mut self, topic: usize, commits: Vec<Vec<(bool, usize)>>) {
        let log = self.bench.log(topic);
        let side = &mut self.sides[topic];
        let mut queued = Vec::new();
        for commit in commits {
            let mut writes = Vec::new();
            for (wanted, size) in commit {
                self.published += 1;
                if wanted || !side.filtered {
                    side.due.push(self.published);
                }
                let kind = if wanted { "wanted" } else { "other" };
                writes.push(tick(kind, self.published, size));
            }
            queued.push(self.bench.engine.queue(&log, writes).await.unwrap());
        }
        for queued in queued {
            queued.answered().await.unwrap();
        }
    }

    async fn step(&mut self, step: Step) {
        match (step, &mut self.writer) {
            (Step::Publish(topic, commits), _) => self.publish(topic, commits).await,
            (Step::Yield, _) => tokio::task::yield_now().await,
            (Step::Read(capacity), _) => self.socket.give(capacity),
            (Step::Cut, _) => {
                self.is_cut = true;
                self.socket.cut();
            }
            (_, None) => {}
            (Step::Poll, Some(writer)) => {
                writer.poll_if_woken();
            }
            (Step::Respond, Some(writer)) => {
                self.responses += 1;
                writer.queue_response(self.responses);
                writer.poll();
            }
            (Step::Bare, Some(writer)) => {
                // A session does the same: it queues the answer, and is polled.
                self.responses += 1;
                writer.queue_response(self.responses);
                writer.source.change_format(WireFormat::Bare);
                tokio::task::yield_now().await;
                writer.poll();
            }
            (Step::Request(n), Some(_)) => self.request(n),
            (Step::Unsubscribe(which), Some(writer)) => {
                let side = &mut self.sides[which];
                writer.source.subscriber().unsubscribe(side.id);
                side.is_over = true;
            }
            (Step::Drain, Some(writer)) => writer.source.subscriber().end(EndReason::Drained),
            (Step::Leave, writer) => {
                *writer = None;
                self.left_at = Some(self.socket.taken().len());
            }
        }
    }

    fn request(&mut self, n: u64) {
        let Some(writer) = &self.writer else { return };
        self.window = self.window.saturating_add(n);
        writer.source.subscriber().request(self.sides[1].id, n);
    }

    /// The client reads everything, and then requests the remaining events.
    async fn finish(&mut self) {
        self.socket.give(usize::MAX / 2);
        self.wait().await;
        self.request(u64::MAX);
        self.wait().await;
    }

    /// Polls the writer only when it is woken, until everything that is due has come.
    async fn wait(&mut self) {
        if self.writer.is_none() {
            return;
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.check() {
            assert!(tokio::time::Instant::now() < deadline, "an event that is due has not come");
            if !self.writer.as_mut().is_some_and(ConnectionTask::poll_if_woken) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Checks that the messages so far are in order. Returns whether nothing more is
    /// due.
    fn check(&self) -> bool {
        let (mut came, mut responses) = ([Vec::new(), Vec::new()], 0);
        let (mut is_bare, mut is_closed) = (false, false);
        for message in wire::messages(&self.socket.taken()) {
            let is_enveloped = message.get("timestamp").is_some();
            assert!(!(is_bare && is_enveloped), "no message has the previous format");
            is_bare |= !is_enveloped;
            let text = message.to_string();
            is_closed |= text.contains("stream-close");
            let data = [&message["data"]["data"], &message["data"]];
            if let Some(n) = data.iter().find_map(|data| data["n"].as_u64()) {
                assert!(!is_closed, "no event comes after the close message");
                let of = self.sides.iter().position(|side| side.due.contains(&n));
                came[of.unwrap_or_else(|| panic!("no subscription selects {n}"))].push(n);
            } else if let Some(n) = data.iter().find_map(|data| data["said"].as_u64()) {
                responses += 1;
                assert_eq!(n, responses, "responses come in order");
            }
        }
        let mut is_all = responses == self.responses;
        for (side, came) in self.sides.iter().zip(&came) {
            assert_eq!(came[..], side.due[..came.len()], "each once and in order");
            let due = if side.filtered { self.window } else { u64::MAX };
            is_all &= side.is_over || came.len() as u64 >= due.min(side.due.len() as u64);
        }
        assert!(came[1].len() as u64 <= self.window, "no more than the client asked for");
        is_all || is_closed || self.is_cut
    }

    async fn run(mut self, steps: Vec<Step>) {
        for step in steps {
            self.step(step).await;
        }
        self.check();
        self.finish().await;
        self.check();
        let taken = self.socket.taken().len();
        assert_eq!(
            taken,
            self.left_at.unwrap_or(taken),
            "no byte is written after the task was dropped"
        );
    }
}

#[test]
fn each_event_is_written_once_by_the_writer_or_the_fan_out() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let bench = runtime.block_on(async { Bench::start() });
    // Each failing case waits for the whole patience.
    let shrinking = PATIENCE.as_millis() as u32 * 6;
    let config = ProptestConfig {
        failure_persistence: None,
        max_shrink_time: shrinking,
        ..ProptestConfig::default()
    };
    proptest!(config, |(window in 0..5u64, steps in prop::collection::vec(step(), 1..80))| {
        runtime.block_on(async { Case::start(&bench, window).run(steps).await });
    });
}
