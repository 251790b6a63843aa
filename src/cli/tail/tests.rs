//! Tests of `tail` against a server that closes connections.

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

/// Runs `tail` against a server with the script `steps`, and returns its output.
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
async fn tail_continues_after_the_last_event_of_a_lost_connection() {
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
        peer.send("0\r\n\r\n");
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
async fn tail_continues_from_the_position_of_the_opening_message() {
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
        peer.send("HTTP/1.0 200 OK\r\n\r\n");
        peer.send(&event(6));
        peer.send("{\"type\":\"gap\",\"id\":\"k3f9x2ab-8\",\"data\":{\"reason\":\"expired\"}}\n");
        peer.send(&event(9));
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
async fn tail_retries_a_temporary_error_and_ends_at_a_permanent_one() {
    let busy = |peer: &mut Peer| {
        peer.head();
        peer.reject("503 Service Unavailable", "retry-after: 0\r\n", "");
    };
    let missing = |peer: &mut Peer| {
        let head = peer.head();
        assert!(head.starts_with("get /events/a%2fb?from=now http"), "{head}");
        peer.reject("404 Not Found", "", "{\"detail\":\"no \\u001b topic\"}");
    };
    let end = |peer: &mut Peer| {
        peer.head();
        peer.send("HTTP/1.1 204 No Content\r\n\r\n");
    };
    let steps: Vec<Step> = vec![Box::new(busy), Box::new(missing)];
    let mut options = options("http://x", &["events/t"]);
    options.path = "/events/a%2Fb".to_owned();
    let script = Script::start(steps);
    let target = GatewayUrl::parse(&script.url).unwrap();
    let failure = follow(&options, &target, &mut Vec::new()).await.unwrap_err();
    script.finished().await;
    assert_eq!((failure.exit, failure.lines), (Exit::Runtime, vec!["404: no  topic".into()]));
    assert_eq!(tail(&["orders"], vec![Box::new(end)]).await, Ok(String::new()));
}

#[tokio::test]
async fn tail_ends_when_no_retries_are_left() {
    let steps: Vec<Step> = vec![Box::new(|_| {}), Box::new(|_| {})];
    let error = tail(&["orders", "--retries", "1"], steps).await.unwrap_err();
    assert!(error.ends_with("; no retries left"), "{error}");
}

#[tokio::test]
async fn tail_connects_again_after_the_silence_timeout() {
    let silent = |peer: &mut Peer| {
        peer.head();
        peer.accept();
        peer.chunk(OPEN);
        peer.gone();
    };
    let active = |peer: &mut Peer| {
        peer.head();
        peer.accept();
        peer.chunk(&event(6));
        peer.gone();
    };
    let arguments = ["orders", "--silence", "1", "--count", "1"];
    let printed = tail(&arguments, vec![Box::new(silent), Box::new(active)]).await;
    assert_eq!(printed, Ok(event(6)));
}

#[tokio::test]
async fn bytes_without_a_complete_line_do_not_end_the_silence() {
    for piece in ["x", "\n"] {
        let slow = move |peer: &mut Peer| {
            peer.head();
            peer.accept();
            peer.drip(piece);
        };
        let active = |peer: &mut Peer| {
            peer.head();
            peer.accept();
            peer.chunk(&event(6));
            peer.gone();
        };
        let arguments = ["orders", "--silence", "1", "--count", "1", "--retries", "2"];
        let printed = tail(&arguments, vec![Box::new(slow), Box::new(active)]).await;
        assert_eq!(printed, Ok(event(6)), "{piece:?}");
    }
}

/// Sends a line at five times the required rate, for twice the silence timeout.
#[tokio::test]
async fn a_long_line_can_take_longer_than_the_silence_timeout() {
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

/// A pipe that the reader has closed.
struct ClosedPipe;

impl Write for ClosedPipe {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn tail_ends_without_an_error_when_the_reader_closes_the_pipe() {
    let script = Script::start(vec![Box::new(|peer: &mut Peer| {
        peer.head();
        peer.accept();
        peer.chunk(&event(6));
        peer.gone();
    })]);
    let options = options(&script.url, &["orders"]);
    let target = options.connection.target().unwrap();
    follow(&options, &target, &mut ClosedPipe).await.unwrap();
    script.finished().await;
}

#[test]
fn the_argument_of_tail_becomes_a_request_path() {
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
