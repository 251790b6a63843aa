//! Tests of `import` against a server that answers, rejects and closes connections.

use clap::Parser as _;
use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::cli::client::script::{Peer, Script, Step};
use crate::cli::{Arguments, Verb};

fn options(arguments: &[&str]) -> Options {
    let all = ["streamgate", "import"].iter().chain(arguments);
    match Arguments::try_parse_from(all).unwrap().verb {
        Some(Verb::Import(options)) => options,
        other => panic!("{other:?}"),
    }
}

async fn import_input(
    options: &Options,
    input: Input,
    steps: Vec<Step>,
) -> (Counts, Option<String>) {
    let script = Script::start(steps);
    let target = GatewayUrl::parse(&script.url).unwrap();
    let result = import(options, &target, input, &ProgressBar::hidden()).await;
    script.finished().await;
    result
}

async fn import_text(text: &'static str, steps: Vec<Step>) -> (Counts, Option<String>) {
    let options = options(&["orders", "-", "--retries", "3"]);
    import_input(&options, Input::new(text.as_bytes(), None), steps).await
}

const A: &str = "{\"id\":\"a\"}\n";
const B: &str = "{\"id\":\"b\"}\n";
const C: &str = "{\"id\":\"c\"}\n";
const ABC: &str = "{\"id\":\"a\"}\n{\"id\":\"b\"}\n{\"id\":\"c\"}\n";
const CREATED: &str = "{\"status\":201,\"id\":\"x\",\"event\":\"k3f9x2ab-1\"}\n";
const THERE: &str = "{\"status\":409,\"problem\":{\"title\":\"in use\"}}\n";
const BAD: &str = "{\"status\":400,\"problem\":{\"title\":\"t\",\"detail\":\"no object\"}}\n";
const LATER: &str = "{\"status\":503,\"problem\":{\"detail\":\"going down\"}}\n";

#[tokio::test]
async fn each_line_is_written_and_an_invalid_line_fails_alone() {
    let text = "\n{\"id\":\"a\"}\r\n  \nbad\n{\"id\":\"c\"}";
    let (counts, stopped) = import_text(
        text,
        vec![Box::new(|peer: &mut Peer| {
            let head = peer.head();
            assert!(head.starts_with("post /orders http/1.1\r\n"), "{head}");
            assert!(head.contains("\r\ncontent-type: application/x-ndjson\r\n"), "{head}");
            peer.until("{\"id\":\"a\"}\nbad\n{\"id\":\"c\"}\n");
            peer.until("\r\n0\r\n\r\n");
            peer.accept();
            peer.chunk(CREATED);
            peer.chunk(&format!("{BAD}{CREATED}"));
            peer.send("0\r\n\r\n");
        })],
    )
    .await;
    assert_eq!(stopped, None);
    assert_eq!(counts.to_string(), "2 created, 0 already there, 1 failed");
    assert_eq!(counts.problems, [(4, "400: no object".to_owned())]);
    let failure = report("f.ndjson", &counts, stopped).unwrap_err();
    assert_eq!(
        (failure.exit, failure.lines),
        (Exit::Runtime, vec!["f.ndjson:4: 400: no object".into()])
    );
}

#[tokio::test]
async fn answers_are_read_while_lines_are_sent() {
    let (mut pipe, reader) = tokio::io::duplex(1024);
    let (answered, mut wait) = tokio::sync::mpsc::channel(1);
    pipe.write_all(A.as_bytes()).await.unwrap();
    let step = move |peer: &mut Peer| {
        peer.head();
        peer.until(A);
        peer.accept();
        peer.chunk(CREATED);
        answered.blocking_send(()).unwrap();
        peer.until(B);
        peer.chunk(CREATED);
        peer.until("0\r\n\r\n");
        peer.send("0\r\n\r\n");
    };
    let writing = tokio::spawn(async move {
        wait.recv().await.unwrap();
        pipe.write_all(B.as_bytes()).await.unwrap();
    });
    let options = options(&["--topic", "alerts", "-"]);
    let (counts, stopped) =
        import_input(&options, Input::new(reader, None), vec![Box::new(step)]).await;
    writing.await.unwrap();
    assert_eq!((counts.created, stopped), (2, None));
}

#[tokio::test]
async fn an_import_continues_after_the_last_answer_of_a_lost_connection() {
    let lost = |peer: &mut Peer| {
        peer.head();
        peer.until(ABC);
        peer.until("0\r\n\r\n");
        peer.accept();
        peer.chunk(CREATED);
        peer.chunk(&CREATED[..10]);
    };
    let rest = |peer: &mut Peer| {
        peer.head();
        let sent = peer.until("0\r\n\r\n");
        assert_eq!(sent, format!("16\r\n{B}{C}\r\n0\r\n\r\n"));
        peer.accept();
        peer.chunk(&format!("{THERE}{CREATED}"));
        peer.send("0\r\n\r\n");
    };
    let (counts, stopped) = import_text(ABC, vec![Box::new(lost), Box::new(rest)]).await;
    assert_eq!(stopped, None);
    assert_eq!(counts.to_string(), "2 created, 1 already there, 0 failed");
    report("f", &counts, stopped).unwrap();
}

#[tokio::test]
async fn an_id_in_use_is_a_failure_if_the_line_was_sent_once() {
    let (counts, stopped) = import_text(
        A,
        vec![Box::new(|peer: &mut Peer| {
            peer.head();
            peer.until("0\r\n\r\n");
            peer.accept();
            peer.chunk(THERE);
            peer.send("0\r\n\r\n");
        })],
    )
    .await;
    assert_eq!((counts.failed, stopped), (1, None));
    assert_eq!(counts.problems, [(1, "409: in use".to_owned())]);
}

#[tokio::test]
async fn lines_with_a_transient_error_are_sent_again() {
    let draining = |peer: &mut Peer| {
        peer.head();
        peer.until("0\r\n\r\n");
        peer.accept();
        peer.chunk(&format!("{LATER}{CREATED}{LATER}"));
        peer.send("0\r\n\r\n");
    };
    let refusing = |peer: &mut Peer| {
        peer.head();
        peer.until("0\r\n\r\n");
        peer.reject("503 Service Unavailable", "retry-after: 0\r\n", "");
    };
    let back = |peer: &mut Peer| {
        peer.head();
        assert_eq!(peer.until("0\r\n\r\n"), format!("16\r\n{A}{C}\r\n0\r\n\r\n"));
        peer.accept();
        peer.chunk(&CREATED.repeat(2));
        peer.send("0\r\n\r\n");
    };
    let steps: Vec<Step> = vec![Box::new(draining), Box::new(refusing), Box::new(back)];
    let (counts, stopped) = import_text(ABC, steps).await;
    assert_eq!(stopped, None);
    assert_eq!(counts.to_string(), "3 created, 0 already there, 0 failed");
}

#[tokio::test]
async fn an_import_connects_again_if_the_gateway_closes_an_idle_connection() {
    let (mut pipe, reader) = tokio::io::duplex(1024);
    let (ended, mut wait) = tokio::sync::mpsc::channel(1);
    pipe.write_all(A.as_bytes()).await.unwrap();
    let first = move |peer: &mut Peer| {
        peer.head();
        peer.until(A);
        peer.accept();
        peer.chunk(CREATED);
        peer.send("0\r\n\r\n");
        peer.gone();
        ended.blocking_send(()).unwrap();
    };
    let second = |peer: &mut Peer| {
        peer.head();
        peer.until(B);
        peer.accept();
        peer.chunk(CREATED);
        peer.send("0\r\n\r\n");
    };
    let writing = tokio::spawn(async move {
        wait.recv().await.unwrap();
        pipe.write_all(B.as_bytes()).await.unwrap();
    });
    let options = options(&["orders", "-", "--retries", "0"]);
    let steps: Vec<Step> = vec![Box::new(first), Box::new(second)];
    let (counts, stopped) = import_input(&options, Input::new(reader, None), steps).await;
    writing.await.unwrap();
    assert_eq!((counts.created, stopped), (2, None));
}

#[tokio::test]
async fn an_import_stops_if_the_gateway_rejects_the_batch() {
    let (counts, stopped) = import_text(
        ABC,
        vec![Box::new(|peer: &mut Peer| {
            peer.head();
            peer.reject("404 Not Found", "", "{\"detail\":\"there is no carts\"}");
            peer.gone();
        })],
    )
    .await;
    assert_eq!((counts.answered(), stopped.as_deref()), (0, Some("404: there is no carts")));
    let failure = report("f", &counts, stopped).unwrap_err();
    assert_eq!(failure.lines, ["f: stopped after 0 answered lines: 404: there is no carts"]);
}

#[tokio::test]
async fn an_import_stops_after_too_many_lost_connections_in_a_row() {
    let lost = || -> Step { Box::new(|peer: &mut Peer| drop(peer.head())) };
    let (counts, stopped) = import_text(ABC, vec![lost(), lost(), lost(), lost()]).await;
    assert_eq!(counts.answered(), 0);
    assert!(stopped.unwrap().starts_with("connection lost: "));
}

/// Blank lines and the bytes of an incomplete answer are not an answer.
#[tokio::test]
async fn bytes_without_a_complete_answer_do_not_extend_the_deadline() {
    for piece in ["\n", " "] {
        let dripping = move |peer: &mut Peer| {
            peer.head();
            peer.until(ABC);
            peer.accept();
            peer.chunk(CREATED);
            peer.drip(piece);
        };
        let rest = |peer: &mut Peer| {
            peer.head();
            assert_eq!(peer.until("0\r\n\r\n"), format!("16\r\n{B}{C}\r\n0\r\n\r\n"));
            peer.accept();
            peer.chunk(&CREATED.repeat(2));
            peer.send("0\r\n\r\n");
        };
        let mut options = options(&["orders", "-", "--retries", "3"]);
        options.answer_timeout = Duration::from_secs(1);
        let steps: Vec<Step> = vec![Box::new(dripping), Box::new(rest)];
        let (counts, stopped) =
            import_input(&options, Input::new(ABC.as_bytes(), None), steps).await;
        assert_eq!((counts.created, stopped), (3, None), "{piece:?}");
    }
}

#[tokio::test]
async fn further_lines_of_the_input_do_not_extend_the_deadline() {
    let (mut pipe, reader) = tokio::io::duplex(1024);
    let silent = |peer: &mut Peer| {
        peer.head();
        peer.until(A);
        peer.gone();
    };
    let writing = tokio::spawn(async move {
        while pipe.write_all(A.as_bytes()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut options = options(&["orders", "-", "--retries", "0"]);
    options.answer_timeout = Duration::from_secs(1);
    let importing = import_input(&options, Input::new(reader, None), vec![Box::new(silent)]);
    let (_, stopped) = tokio::time::timeout(Duration::from_secs(20), importing).await.unwrap();
    writing.await.unwrap();
    assert_eq!(stopped.as_deref(), Some("the gateway sent no complete line for 1 s"));
}

#[tokio::test]
async fn an_import_completes_if_the_response_does_not_end_after_the_last_answer() {
    let dripping = |peer: &mut Peer| {
        peer.head();
        peer.until("0\r\n\r\n");
        peer.accept();
        peer.chunk(CREATED);
        peer.drip("\n");
    };
    let (counts, stopped) = import_text(A, vec![Box::new(dripping)]).await;
    assert_eq!((counts.created, stopped), (1, None));
}

#[tokio::test]
async fn an_empty_file_needs_no_connection() {
    let (counts, stopped) = import_text(" \n\n", Vec::new()).await;
    assert_eq!((counts.answered(), stopped), (0, None));
}

#[tokio::test]
async fn an_import_larger_than_the_window_completes() {
    let line = format!("{{\"text\":\"{}\"}}\n", "x".repeat(100_000));
    // 1.5 times the window.
    let count = 63;
    let text: &'static str = line.repeat(count).leak();
    let step = move |peer: &mut Peer| {
        peer.head();
        peer.accept();
        for _ in 0..count {
            peer.until("{\"text\"");
            peer.chunk(CREATED);
        }
        peer.until("0\r\n\r\n");
        peer.send("0\r\n\r\n");
    };
    let (counts, stopped) = import_text(text, vec![Box::new(step)]).await;
    assert_eq!((counts.created, stopped), (count as u64, None));
}
