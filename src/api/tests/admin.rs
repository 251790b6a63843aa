use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use hyper::{Method, Request};

use super::super::TopicSettings;
use super::super::admin::{Admin, handle};
use super::super::body::Body;
use super::{Gateway, settings};
use crate::log::Medium;
use crate::store::Retention;

async fn ask(admin: &Admin, method: Method, path: &str) -> (u16, String) {
    let request = Request::builder().method(method).uri(path).body(()).unwrap();
    let (head, body) = handle(admin, request).await.into_parts();
    let text = match body {
        Body::Full(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        _ => String::new(),
    };
    (head.status.as_u16(), text)
}

#[tokio::test]
async fn operators_see_metrics_and_health() {
    let of = |ready| {
        let ready = move || if ready { Ok(()) } else { Err("draining".to_owned()) };
        Admin::new(|| "streamgate_up 1\n".to_owned(), ready)
    };
    let (ready, draining) = (&of(true), &of(false));
    let answer = |status, text: &str| (status, text.to_owned());
    assert_eq!(ask(ready, Method::GET, "/metrics").await, answer(200, "streamgate_up 1\n"));
    assert_eq!(ask(draining, Method::GET, "/livez").await, answer(200, "ok\n"));
    assert_eq!(ask(ready, Method::GET, "/readyz").await, answer(200, "ok\n"));
    assert_eq!(ask(draining, Method::GET, "/readyz").await, answer(503, "draining\n"));
    assert_eq!(ask(draining, Method::HEAD, "/readyz").await, answer(503, ""));
    assert_eq!(ask(ready, Method::OPTIONS, "/livez").await, answer(204, ""));
    assert_eq!(ask(ready, Method::POST, "/metrics").await.0, 405);
    assert_eq!(ask(ready, Method::GET, "/orders").await.0, 404);
}

/// The runtime has this thread alone.
#[tokio::test]
async fn a_rendering_blocks_no_worker_and_no_other_runs_beside_it() {
    let (release, released) = mpsc::channel();
    let (released, running) = (Mutex::new(released), AtomicUsize::new(0));
    let begun = Arc::new(AtomicUsize::new(0));
    let metrics = {
        let begun = begun.clone();
        move || {
            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
            begun.fetch_add(1, Ordering::SeqCst);
            released.lock().unwrap().recv().unwrap();
            running.fetch_sub(1, Ordering::SeqCst);
            "streamgate_up 1\n".to_owned()
        }
    };
    let admin = Arc::new(Admin::new(metrics, || Ok(())));
    let scrape = || {
        let admin = admin.clone();
        tokio::spawn(async move { ask(&admin, Method::GET, "/metrics").await })
    };
    let gone = scrape();
    while begun.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let scrapes = [scrape(), scrape()];
    assert_eq!(ask(&admin, Method::GET, "/livez").await.0, 200);
    // Its scraper goes, and it goes on.
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!(begun.load(Ordering::SeqCst), 1);
    (0..3).for_each(|_| release.send(()).unwrap());
    for scrape in scrapes {
        assert_eq!(scrape.await.unwrap(), (200, "streamgate_up 1\n".to_owned()));
    }
    assert_eq!(begun.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_rendering_that_panics_is_a_500_and_the_next_one_is_done() {
    let panics = AtomicUsize::new(1);
    let metrics = move || match panics.fetch_sub(1, Ordering::SeqCst) {
        1 => panic!("as the test wants"),
        _ => "streamgate_up 1\n".to_owned(),
    };
    let admin = Admin::new(metrics, || Ok(()));
    assert_eq!(ask(&admin, Method::GET, "/metrics").await.0, 500);
    assert_eq!(ask(&admin, Method::GET, "/metrics").await.0, 200);
}

/// The values of a metric by log.
fn series(text: &str, metric: &str) -> Vec<(String, u64)> {
    let prefix = format!("{metric}{{log=\"");
    let lines = text.lines().filter_map(|line| line.strip_prefix(&prefix)?.split_once("\"} "));
    lines.map(|(log, value)| (log.to_owned(), value.parse().unwrap())).collect()
}

#[tokio::test]
async fn the_thousand_most_active_logs_have_series_of_their_own() {
    const TOPICS: usize = 1100;
    let mut settings = settings();
    settings.topics.clear();
    settings.topics.extend((0..TOPICS).map(|n| TopicSettings {
        name: format!("t{n}"),
        collection: None,
        types: Vec::new(),
        retention: Retention::default(),
        overflow: settings.collections[0].overflow,
        durability: Medium::Memory,
    }));
    let gateway = Gateway::with(settings).await;
    let publish = async |topic: usize, count: usize| {
        let event = r#"{"type":"tick","data":1}"#;
        for _ in 0..count {
            let reply = gateway.post(&format!("/events/t{topic}"), event).await;
            assert_eq!(reply.status, 201, "{reply:?}");
        }
    };
    let appended = |text: &str| series(text, "streamgate_events_appended_total");
    let of = |text: &str, log: &str| {
        appended(text).into_iter().find_map(|(name, value)| (name == log).then_some(value))
    };
    publish(TOPICS - 1, 2).await;
    let text = gateway.api.render_metrics();
    assert_eq!(appended(&text).len(), 1001);
    assert_eq!(of(&text, "t1099"), Some(2));
    assert_eq!(of(&text, "other"), Some(0));
    for (metric, count) in [
        ("streamgate_log_events", 1001),
        ("streamgate_log_bytes", 1001),
        ("streamgate_log_resources", 1001),
        ("streamgate_log_earliest_offset", 1000),
        ("streamgate_log_head_offset", 1000),
    ] {
        assert_eq!(series(&text, metric).len(), count, "{metric}");
    }
    // One that is among the others becomes the busiest, and one that was not
    // has no series any more.
    let without = (0..TOPICS).find(|n| of(&text, &format!("t{n}")).is_none()).unwrap();
    publish(without, 3).await;
    let text = gateway.api.render_metrics();
    assert_eq!(appended(&text).len(), 1001);
    assert_eq!(of(&text, &format!("t{without}")), Some(3));
    assert_eq!(appended(&text).iter().map(|(_, value)| value).sum::<u64>(), 5);
    assert_eq!(series(&text, "streamgate_log_events").iter().map(|it| it.1).sum::<u64>(), 5);
}
