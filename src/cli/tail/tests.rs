//! Following, against a server that cuts.

use clap::Parser as _;

use super::*;
use crate::cli::client::script::{Peer, Script, Step};
use crate::cli::{Arguments, Verb};

fn options(url: &str, arguments: &[&str]) -> Options {
    let all = ["streamgate", "tail", "--url", url].into_iter().chain(arguments.iter().copied());
    match Arguments::try_parse_from(all).unwrap().verb {
        Some(Verb::Tail(options)) => options,
        other => panic!("{other:?}"),
    }
}

/// Follows what the steps say and gives what was printed.
async fn tail(arguments: &[&str], steps: Vec<Step>) -> Result<String, String> {
    let script = Script::start(steps);
    let options = options(&script.url, arguments);
    let target = options.connection.target().unwrap();
    let mut out = Vec::new();
    let result = follow(&options, &target, &mut out).await;
    script.finished().await;
    match result {
        Ok(()) => Ok(String::from_utf8(out).unwrap()),
        Err(failure) => Err(failure.lines.join("\n")),
    }
}

const OPEN: &str =
    "{\"type\":\"stream-open\",\"id\":\"k3f9x2ab-5\",\"data\":{\"cursor\":\"k3f9x2ab-5\"}}\n";

fn event(offset: u32) -> String {
    format!(
        "{{\"id\":\"k3f9x2ab-{offset}\",\"type\":\"order-updated\",\"data\":{{ \"n\": {offset}}}}}\n"
    )
}

#[tokio::test]
async fn a_cut_stream_goes_on_after_the_last_event() {
    let first = |peer: &mut Peer| {
        let head = peer.head();
        assert!(head.starts_with("get /orders/events?from=now http/1.1\r\n"), "{head}");
        assert!(head.contains("\r\naccept: application/x-ndjson\r\n"), "{head}");
        assert!(!head.contains("last-event-id"), "{head}");
        peer.accept();
        peer.chunk(OPEN);
        let (start, end) = (event(6)[..20].to_owned(), event(6)[20..].to_owned());
        peer.chunk(&start);
        peer.chunk(&end);
        peer.chunk(&event(7)[..30]);
    };
    let second = |peer: &mut Peer| {
        let head = peer.head();
        assert!(head.starts_with("get /orders/events http/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nlast-event-id: k3f9x2ab-6\r\n"), "{head}");
        peer.accept();
        peer.chunk(&event(7));
        peer.chunk("{\"type\":\"heartbeat\",\"id\":\"k3f9x2ab-90\",\"data\":{}}\n");
        peer.say("0\r\n\r\n");
    };
    let third = |peer: &mut Peer| {
        let head = peer.head();
        assert!(head.contains("\r\nlast-event-id: k3f9x2ab-90\r\n"), "{head}");
        peer.accept();
        peer.chunk(&format!("{}{}", event(91), event(92)));
        peer.gone();
    };
    let steps: Vec<Step> = vec![Box::new(first), Box::new(second), Box::new(third)];
    let printed = tail(&["orders", "--count", "3"], steps).await.unwrap();
    assert_eq!(printed, event(6) + &event(7) + &event(91));
}

#[tokio::test]
async fn the_opening_is_a_place_to_come_back_to() {
    let first = |peer: &mut Peer| {
        let head = peer.head();
        assert!(
            head.starts_with(
                "get /gate/orders/order-1/events?from=2026-01-01t00:00:00%2b01:00&types=a,b:c http"
            ),
            "{head}"
        );
        peer.accept();
        peer.chunk(OPEN);
    };
    let second = |peer: &mut Peer| {
        let head = peer.head();
        assert!(head.starts_with("get /gate/orders/order-1/events?types=a,b:c http"), "{head}");
        assert!(head.contains("\r\nlast-event-id: k3f9x2ab-5\r\n"), "{head}");
        peer.say("HTTP/1.0 200 OK\r\n\r\n");
        peer.say(&event(6));
        peer.say("{\"type\":\"gap\",\"id\":\"k3f9x2ab-8\",\"data\":{\"reason\":\"expired\"}}\n");
        peer.say(&event(9));
    };
    let script = Script::start(vec![Box::new(first), Box::new(second)]);
    let url = format!("{}/gate/", script.url);
    let options = options(
        &url,
        &[
            "orders/order-1",
            "--from",
            "2026-01-01T00:00:00+01:00",
            "--types",
            "a,b:c",
            "--format",
            "data",
            "--count",
            "2",
        ],
    );
    let mut out = Vec::new();
    follow(&options, &options.connection.target().unwrap(), &mut out).await.unwrap();
    script.finished().await;
    assert_eq!(String::from_utf8(out).unwrap(), "{ \"n\": 6}\n{ \"n\": 9}\n");
}

#[tokio::test]
async fn a_refusal_for_good_ends_and_a_passing_one_does_not() {
    let busy = |peer: &mut Peer| {
        peer.head();
        peer.refuse("503 Service Unavailable", "retry-after: 0\r\n", "");
    };
    let missing = |peer: &mut Peer| {
        let head = peer.head();
        assert!(head.starts_with("get /events/a%2fb?from=now http"), "{head}");
        peer.refuse("404 Not Found", "", "{\"detail\":\"there is no \\u001b topic\"}");
    };
    let end = |peer: &mut Peer| {
        peer.head();
        peer.say("HTTP/1.1 204 No Content\r\n\r\n");
    };
    let steps: Vec<Step> = vec![Box::new(busy), Box::new(missing)];
    let mut options = options("http://x", &["events/t"]);
    options.path = "/events/a%2Fb".to_owned();
    let script = Script::start(steps);
    let target = Target::parse(&script.url).unwrap();
    let failure = follow(&options, &target, &mut Vec::new()).await.unwrap_err();
    script.finished().await;
    assert_eq!(
        (failure.exit, failure.lines),
        (Exit::Runtime, vec!["404: there is no  topic".into()])
    );
    assert_eq!(tail(&["orders"], vec![Box::new(end)]).await, Ok(String::new()));
}

#[tokio::test]
async fn failures_in_a_row_end_it_where_asked() {
    let steps: Vec<Step> = vec![Box::new(|_| {}), Box::new(|_| {})];
    let error = tail(&["orders", "--retries", "1"], steps).await.unwrap_err();
    assert!(error.starts_with("connection lost: ") && error.ends_with("; given up"), "{error}");
}

#[tokio::test]
async fn a_silent_connection_is_made_again() {
    let silent = |peer: &mut Peer| {
        peer.head();
        peer.accept();
        peer.chunk(OPEN);
        peer.gone();
    };
    let lively = |peer: &mut Peer| {
        peer.head();
        peer.accept();
        peer.chunk(&event(6));
        peer.gone();
    };
    let arguments = ["orders", "--silence", "1", "--count", "1"];
    let printed = tail(&arguments, vec![Box::new(silent), Box::new(lively)]).await;
    assert_eq!(printed, Ok(event(6)));
}

#[tokio::test]
async fn bytes_without_a_whole_line_are_silence() {
    for piece in ["x", "\n"] {
        let dripping = move |peer: &mut Peer| {
            peer.head();
            peer.accept();
            peer.drip(piece);
        };
        let lively = |peer: &mut Peer| {
            peer.head();
            peer.accept();
            peer.chunk(&event(6));
            peer.gone();
        };
        let arguments = ["orders", "--silence", "1", "--count", "1", "--retries", "2"];
        let printed = tail(&arguments, vec![Box::new(dripping), Box::new(lively)]).await;
        assert_eq!(printed, Ok(event(6)), "{piece:?}");
    }
}

/// At five times the rate that is asked for, for twice the silence.
#[tokio::test]
async fn a_long_line_may_take_longer_than_the_silence() {
    let long = "x".repeat(10_000);
    let line = format!("{{\"id\":\"k3f9x2ab-6\",\"type\":\"a\",\"data\":\"{long}\"}}\n");
    let slow = {
        let line = line.clone();
        move |peer: &mut Peer| {
            peer.head();
            peer.accept();
            for piece in line.as_bytes().chunks(100) {
                peer.chunk(str::from_utf8(piece).unwrap());
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            peer.gone();
        }
    };
    let arguments = ["orders", "--silence", "1", "--count", "1"];
    assert_eq!(tail(&arguments, vec![Box::new(slow)]).await, Ok(line));
}

/// A reader that has gone.
struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_reader_that_has_gone_ends_it_quietly() {
    let script = Script::start(vec![Box::new(|peer: &mut Peer| {
        peer.head();
        peer.accept();
        peer.chunk(&event(6));
        peer.gone();
    })]);
    let options = options(&script.url, &["orders"]);
    let target = options.connection.target().unwrap();
    follow(&options, &target, &mut Gone).await.unwrap();
    script.finished().await;
}

#[test]
fn a_stream_is_named_by_its_path() {
    for (stream, expected) in [
        ("orders", "/orders/events"),
        ("/orders/a:b", "/orders/a:b/events"),
        ("events/t", "/events/t"),
        ("orders/a b?", "/orders/a%20b%3F/events"),
    ] {
        assert_eq!(path(stream).as_deref(), Ok(expected), "{stream}");
    }
    for stream in ["", "/", "events", "events/", "a/b/c"] {
        assert!(path(stream).is_err(), "{stream}");
    }
}
