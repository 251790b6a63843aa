//! A real gateway and real clients. Starts `streamgate serve` on a new store
//! and subscribes over Server-Sent Events, NDJSON and WebSocket. Imports a
//! collection, replays changes to it, and checks that all three subscribers
//! received the same events in the same order, and no others.
//!
//! `make demo`, or with other data: `make demo DATA=orders.ndjson.gz
//! EVENTS=order-events.ndjson.gz`.

mod client;
mod gateway;
mod script;
mod subscriber;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use client::ApiConnection;
use gateway::Gateway;
use script::Script;
use subscriber::{DeliveryCounters, Protocol, ReceivedEvents};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// An error that ends the demo. The text is for a person.
type DemoError = Box<dyn std::error::Error + Send + Sync>;

/// The number of connections that post at the same time. Each one waits for its
/// response before it posts again, so a commit has at most this number of
/// writes.
const CONNECTIONS: usize = 32;

/// The timeout for every subscriber to receive everything.
const DELIVERY_TIMEOUT: Duration = Duration::from_mins(1);

/// The id of an event, and the time at which its write was sent.
type Sent = (String, Instant);

#[tokio::main]
async fn main() -> Result<(), DemoError> {
    let script = Script::from_environment()?;
    println!("streamgate demo: {}", script.title);
    let gateway = Gateway::start(&script)?;
    println!("  gateway     http://{} on a fresh store", gateway.address);

    let counters = DeliveryCounters::new(Protocol::ALL.len());
    let mut following = JoinSet::new();
    for (at, protocol) in Protocol::ALL.into_iter().enumerate() {
        let opened =
            subscriber::follow(protocol, gateway.address, &script, counters.counter(at)).await?;
        following.spawn(opened);
    }
    println!("  subscribed  SSE, NDJSON and WebSocket, each to the collection and the topic");

    let mut sent = [import(&gateway, &script).await?, publish(&gateway, &script).await?];
    sent[0].extend(replay(&gateway, &script).await?);
    let expected = sent[0].len() + sent[1].len();
    let waiting = Instant::now();
    timeout(DELIVERY_TIMEOUT, counters.reach(expected)).await.map_err(|_| {
        format!("only {:?} of {expected} events arrived in {DELIVERY_TIMEOUT:?}", counters.counts())
    })?;
    println!("  delivered   all, {:.0?} after the last answer", waiting.elapsed());
    compare_state(&gateway, &script).await?;

    let (middle, last) = landmarks(&sent[0]);
    let resuming = subscriber::resume(gateway.address, &script, &middle, &last);
    let resumed = timeout(DELIVERY_TIMEOUT, resuming).await??;
    gateway.stop()?;
    let subscribers = join(following).await?;
    check(&subscribers, &sent)?;
    check_resumed(&subscribers[0], &middle, &resumed)?;
    println!("  resumed     SSE after {middle}: the {} events that follow, again", resumed.len());
    println!("  stopped     by SIGTERM: every stream was closed with a reason, exit code 0");
    for subscriber in &subscribers {
        report(subscriber, &sent, script.resources.len());
    }
    println!("demo: ok, all three received the same {expected} events and no others");
    Ok(())
}

/// Writes all resources as one batch.
async fn import(gateway: &Gateway, script: &Script) -> Result<Vec<Sent>, DemoError> {
    let begun = Instant::now();
    let path = format!("/{}", script.collection);
    let ids = ApiConnection::open(gateway.address).await?.batch(&path, &script.resources).await?;
    let (count, took) = (ids.len(), begun.elapsed());
    println!("  imported    {count} {} in {took:.2?}, {}", script.collection, rate(count, took));
    Ok(ids.into_iter().map(|id| (id, begun)).collect())
}

/// Publishes all events of the topic as one batch.
async fn publish(gateway: &Gateway, script: &Script) -> Result<Vec<Sent>, DemoError> {
    let begun = Instant::now();
    let path = format!("/events/{}", script.topic);
    let ids =
        ApiConnection::open(gateway.address).await?.batch(&path, &script.publications).await?;
    let (count, took) = (ids.len(), begun.elapsed());
    println!("  published   {count} {} in {took:.2?}, {}", script.topic, rate(count, took));
    Ok(ids.into_iter().map(|id| (id, begun)).collect())
}

/// Replays the changes to the resources, one request each, over keep-alive
/// connections. All changes of one resource use the same connection, in order.
async fn replay(gateway: &Gateway, script: &Script) -> Result<Vec<Sent>, DemoError> {
    let begun = Instant::now();
    let mut lanes: Vec<Vec<script::Change>> = vec![Vec::new(); CONNECTIONS];
    for change in &script.changes {
        lanes[change.lane(CONNECTIONS)].push(change.clone());
    }
    let mut posting = JoinSet::new();
    for lane in lanes {
        let mut connection = ApiConnection::open(gateway.address).await?;
        posting.spawn(async move {
            let mut sent = Vec::with_capacity(lane.len());
            for change in lane {
                let at = Instant::now();
                sent.push((connection.write(change).await?, at));
            }
            Ok::<_, DemoError>(sent)
        });
    }
    let mut sent = Vec::with_capacity(script.changes.len());
    while let Some(lane) = posting.join_next().await {
        sent.extend(lane??);
    }
    let (count, took) = (sent.len(), begun.elapsed());
    println!(
        "  replayed    {count} changes in {took:.2?}, {}, a request each, {CONNECTIONS} at a time",
        rate(count, took)
    );
    Ok(sent)
}

/// Checks that the collection has as many resources as were imported.
async fn compare_state(gateway: &Gateway, script: &Script) -> Result<(), DemoError> {
    let total = ApiConnection::open(gateway.address).await?.total(&script.collection).await?;
    let expected = script.resources.len() as u64;
    if total == expected {
        Ok(())
    } else {
        Err(format!("the collection has {total} resources; {expected} were imported").into())
    }
}

/// Returns the middle id and the last id of the written events, by offset.
fn landmarks(sent: &[Sent]) -> (String, String) {
    let mut ids: Vec<&String> = sent.iter().map(|(id, _)| id).collect();
    ids.sort_by_key(|id| offset(id));
    (ids[ids.len() / 2].clone(), ids[ids.len() - 1].clone())
}

/// Returns the offset in an event id, `<epoch>-<offset>`.
fn offset(id: &str) -> u64 {
    id.rsplit('-').next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

async fn join(
    mut following: JoinSet<Result<ReceivedEvents, DemoError>>,
) -> Result<Vec<ReceivedEvents>, DemoError> {
    let mut subscribers = Vec::new();
    while let Some(subscriber) = following.join_next().await {
        subscribers.push(subscriber??);
    }
    subscribers.sort_by_key(|subscriber| subscriber.protocol);
    Ok(subscribers)
}

/// Checks that each subscriber received exactly the written events, in the order
/// of the logs.
fn check(subscribers: &[ReceivedEvents], sent: &[Vec<Sent>; 2]) -> Result<(), DemoError> {
    for (log, sent) in sent.iter().enumerate() {
        let mut expected: Vec<&str> = sent.iter().map(|(id, _)| id.as_str()).collect();
        expected.sort_by_key(|id| offset(id));
        for subscriber in subscribers {
            let seen: Vec<&str> = subscriber.logs[log].iter().map(|(id, _)| id.as_str()).collect();
            if let Some(at) =
                (0..seen.len().max(expected.len())).find(|&at| seen.get(at) != expected.get(at))
            {
                return Err(format!(
                    "{}: event {at} of log {log} is {:?}, but must be {:?}",
                    subscriber.protocol.name(),
                    seen.get(at),
                    expected.get(at)
                )
                .into());
            }
        }
    }
    Ok(())
}

/// Checks that a client that resumed after an id received the events after it,
/// and no others.
fn check_resumed(
    subscriber: &ReceivedEvents,
    after: &str,
    resumed: &[String],
) -> Result<(), DemoError> {
    let whole: Vec<&String> = subscriber.logs[0]
        .iter()
        .map(|(id, _)| id)
        .filter(|id| offset(id) > offset(after))
        .collect();
    let same = whole.iter().copied().eq(resumed.iter());
    if same {
        Ok(())
    } else {
        Err(format!("resumed after {after}: the events differ from those received before").into())
    }
}

/// Prints the rate and the latency of the events of one subscriber. The latency
/// excludes the first `imported` writes, which were all sent at the start of
/// their batch.
fn report(subscriber: &ReceivedEvents, sent: &[Vec<Sent>; 2], imported: usize) {
    let seen: Vec<_> = subscriber.logs.iter().flatten().collect();
    let (first, last) = (seen.iter().map(|s| s.1).min(), seen.iter().map(|s| s.1).max());
    let took = last.zip(first).map_or(Duration::ZERO, |(last, first)| last - first);
    let came: HashMap<&str, Instant> = seen.iter().map(|(id, at)| (id.as_str(), *at)).collect();
    let single = sent[0].iter().skip(imported);
    let mut waits: Vec<Duration> = single.map(|(id, at)| came[id.as_str()] - *at).collect();
    waits.sort_unstable();
    let percentile = |p: usize| waits.get(waits.len() * p / 100).copied().unwrap_or_default();
    println!(
        "  {:<11} {} events, {}; from a change's request to its event p50 {:.2?}, p99 {:.2?}",
        subscriber.protocol.name(),
        seen.len(),
        rate(seen.len(), took),
        percentile(50),
        percentile(99),
    );
}

fn rate(count: usize, took: Duration) -> String {
    format!("{:.0}/s", count as f64 / took.as_secs_f64().max(1e-9))
}
