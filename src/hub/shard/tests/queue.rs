//! The work of a shard grows with the logs that move, and not with the logs
//! that have subscriptions.

use super::*;

/// Runs the fan-out until `subscriber` has this number of events in its ring.
async fn until_pushed(subscriber: &Subscriber, events: u64) {
    while subscriber.state.lock().ring.events() < events {
        tokio::task::yield_now().await;
    }
}

/// Returns the number of times that a shard was woken, and the number of logs
/// that it took from its queue.
fn work_of(shard: &Shard) -> (u64, u64) {
    let ProgressQueue { wakeups, visits, .. } = &*shard.queue;
    (wakeups.load(Ordering::Relaxed), visits.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_commit_to_one_of_many_subscribed_logs_makes_the_shard_visit_one_log() {
    let topics: Vec<String> = (0..10_000).map(|n| format!("topic{n}")).collect();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let bench = Bench::with(&topics, 1, 1 << 20);
    let subscriber = bench.hub.join(Protocol::Sse, &bench.settings, 0).unwrap();
    for topic in &topics {
        bench.follow(&subscriber, topic, everything());
    }
    for (commits, topic) in (1..).zip(["topic0", "topic5000", "topic5000", "topic9999"]) {
        bench.publish(topic, 1);
        until_pushed(&subscriber, commits).await;
        assert_eq!(work_of(&bench.hub.shards[0]), (commits, commits));
    }
}

#[tokio::test]
async fn a_log_that_moves_again_before_its_turn_is_visited_once() {
    let bench = Bench::start();
    let subscriber = bench.subscribe("new", everything());
    bench.follow(&subscriber, "busy", everything());
    bench.publish("busy", 1);
    until_pushed(&subscriber, 1).await;
    let logs = ["busy", "new"].map(|topic| bench.engine.log(topic).unwrap());
    for _ in 0..10 {
        for log in &logs {
            log.notify_observers();
        }
    }
    while work_of(&bench.hub.shards[0]).1 < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(work_of(&bench.hub.shards[0]), (2, 3));
}

#[tokio::test]
async fn a_shard_without_a_subscription_to_the_log_is_not_woken() {
    let bench = Bench::with(&["busy", "new"], 2, 1 << 20);
    // Connections go to the shards in turn.
    let concerned = bench.subscribe("busy", everything());
    let other = bench.subscribe("new", everything());
    bench.publish("busy", 1);
    until_pushed(&concerned, 1).await;
    // The committer notifies the observers of one commit before the next one.
    bench.publish("new", 1);
    until_pushed(&other, 1).await;
    let work = bench.hub.shards.iter().map(|shard| work_of(shard));
    assert_eq!(work.collect::<Vec<_>>(), [(1, 1), (1, 1)]);
}

#[tokio::test]
async fn a_shard_whose_last_subscription_to_the_log_has_ended_is_not_woken() {
    let bench = Bench::start();
    let (stays, leaves) =
        (bench.subscribe("new", everything()), bench.subscribe("busy", everything()));
    let unsubscribes = bench.hub.join(Protocol::Sse, &bench.settings, 0).unwrap();
    let id = bench.add(&unsubscribes, Overflow::Log, false);
    bench.publish("busy", 1);
    until_pushed(&leaves, 1).await;
    leaves.leave();
    assert!(unsubscribes.unsubscribe(id));
    bench.publish("busy", 1);
    bench.publish("new", 1);
    until_pushed(&stays, 1).await;
    assert_eq!(work_of(&bench.hub.shards[0]), (2, 2));
    // A subscription that comes later is served.
    let comes = bench.subscribe("busy", everything());
    bench.publish("busy", 1);
    until_pushed(&comes, 1).await;
    assert_eq!(work_of(&bench.hub.shards[0]), (3, 3));
}
