use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request};

use super::super::admin::{Admin, Readiness, handle};
use super::super::body::Body;
use super::super::{Peer, TopicSettings};
use super::{Gateway, settings};
use crate::api::authorize::{Action, CALLS};
use crate::log::StorageKind;
use crate::store::Retention;

const PEER: Peer = Peer { address: IpAddr::V4(Ipv4Addr::LOCALHOST), believed: false };

fn readiness(ready: bool) -> Readiness {
    Readiness {
        ready,
        draining: !ready,
        log: "writable",
        engine: "running",
        listener: "running",
        hub: "running",
        memory: "enough",
        metrics: "running",
    }
}

fn admin(ready: bool) -> Admin {
    Admin::new(|| "streamgate_up 1\n".to_owned(), move || readiness(ready))
}

/// Returns the status, the media type and the body.
async fn ask(admin: &Admin, method: Method, path: &str) -> (u16, String, String) {
    let request = Request::builder().method(method).uri(path).body(()).unwrap();
    let (head, body) = handle(admin, PEER, request).await.into_parts();
    let text = match body {
        Body::Full(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        _ => String::new(),
    };
    let media_type = head.headers.get(CONTENT_TYPE).map_or("", |it| it.to_str().unwrap());
    (head.status.as_u16(), media_type.to_owned(), text)
}

#[tokio::test]
async fn the_admin_listener_serves_metrics_and_health() {
    let (ready, draining) = (&admin(true), &admin(false));
    let answer =
        |status, media_type: &str, text: &str| (status, media_type.to_owned(), text.to_owned());
    let metrics = answer(200, "text/plain; version=0.0.4", "streamgate_up 1\n");
    assert_eq!(ask(ready, Method::GET, "/metrics").await, metrics);
    let live = answer(200, "text/plain; charset=utf-8", "ok\n");
    assert_eq!(ask(draining, Method::GET, "/livez").await, live);
    assert_eq!(ask(ready, Method::OPTIONS, "/livez").await, answer(204, "", ""));
    assert_eq!(ask(ready, Method::POST, "/metrics").await.0, 405);
    assert_eq!(ask(ready, Method::GET, "/orders").await.0, 404);
}

/// The runtime has only the thread of the test.
#[tokio::test]
async fn one_rendering_runs_at_a_time_and_blocks_no_worker() {
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
    let admin = Arc::new(Admin::new(metrics, || readiness(true)));
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
    // The scraper disconnects, and the rendering continues.
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!(begun.load(Ordering::SeqCst), 1);
    (0..3).for_each(|_| release.send(()).unwrap());
    for scrape in scrapes {
        assert_eq!(
            scrape.await.unwrap(),
            (200, "text/plain; version=0.0.4".to_owned(), "streamgate_up 1\n".to_owned())
        );
    }
    assert_eq!(begun.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_panic_of_a_rendering_is_a_500_and_the_next_scrape_is_answered() {
    let panics = AtomicUsize::new(1);
    let metrics = move || match panics.fetch_sub(1, Ordering::SeqCst) {
        1 => panic!("the test requested this panic"),
        _ => "streamgate_up 1\n".to_owned(),
    };
    let admin = Admin::new(metrics, || readiness(true));
    assert_eq!(ask(&admin, Method::GET, "/metrics").await.0, 500);
    assert_eq!(ask(&admin, Method::GET, "/metrics").await.0, 200);
}

/// Returns the values of a metric by log.
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
        durability: StorageKind::Memory,
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
    // A log without a series becomes the most active log, and gets a series. Another log
    // loses its series.
    let without = (0..TOPICS).find(|n| of(&text, &format!("t{n}")).is_none()).unwrap();
    publish(without, 3).await;
    let text = gateway.api.render_metrics();
    assert_eq!(appended(&text).len(), 1001);
    assert_eq!(of(&text, &format!("t{without}")), Some(3));
    assert_eq!(appended(&text).iter().map(|(_, value)| value).sum::<u64>(), 5);
    assert_eq!(series(&text, "streamgate_log_events").iter().map(|it| it.1).sum::<u64>(), 5);
}

#[tokio::test]
async fn readiness_is_json_with_its_status() {
    let rest = r#""log":"writable","engine":"running","listener":"running","hub":"running","memory":"enough","metrics":"running"}"#;
    for (ready, status) in [(true, 200), (false, 503)] {
        let draining = !ready;
        let body = format!("{{\"ready\":{ready},\"draining\":{draining},{rest}\n");
        let media_type = "application/json".to_owned();
        let admin = &admin(ready);
        assert_eq!(ask(admin, Method::GET, "/readyz").await, (status, media_type.clone(), body));
        let head = (status, media_type, String::new());
        assert_eq!(ask(admin, Method::HEAD, "/readyz").await, head);
    }
}

#[tokio::test]
async fn every_path_of_the_admin_listener_is_authorized() {
    let admin = admin(true);
    for path in ["/metrics", "/livez", "/readyz"] {
        ask(&admin, Method::GET, path).await;
        assert_eq!(CALLS.take(), [(Action::Operate, "gateway".to_owned())], "{path}");
    }
}
