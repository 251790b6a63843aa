use super::*;

#[tokio::test]
async fn an_invalid_line_fails_alone() {
    let gateway = Gateway::start().await;
    let epoch = gateway.api.engine.log("orders").unwrap().identity().epoch;
    let limit = gateway.api.settings.body_bytes_max;
    let long = format!("{{\"id\":\"{}\"}}", "x".repeat(limit));
    let lines = format!(
        "{{\"id\":\"a\"}}\n\n{{\"id\":\n{long}\r\n{{\"id\":\"a\"}}\r\n[]\n{{\"id\":\"b\"}}"
    );
    let reply = gateway.call("POST /v1/orders", NDJSON, &lines).await;
    assert_eq!((reply.status, reply.field("content-type")), (200, "application/x-ndjson"));
    let answers = reply.lines();
    let written = |id: &str, n: u64| serde_json::json!({"status": 201, "id": id, "event": format!("{epoch}-{n}")});
    assert_eq!((&answers[0], &answers[5]), (&written("a", 1), &written("b", 2)));
    let failed: Vec<_> = answers[1..5]
        .iter()
        .map(|answer| {
            let problem = &answer["problem"];
            assert_eq!(problem["status"], answer["status"]);
            assert_eq!(problem["instance"], "/v1/orders");
            (problem["line"].as_u64().unwrap(), problem["type"].as_str().unwrap())
        })
        .collect();
    let expected = [
        (3, "/problems/malformed-json"),
        (4, "/problems/body-too-large"),
        (5, "/problems/exists"),
        (6, "/problems/bad-body"),
    ];
    assert_eq!(failed, expected);
    assert_eq!(answers.len(), 6);
    assert_eq!(gateway.head("orders"), Offset(2), "a rejected line writes nothing");
}

#[tokio::test]
async fn a_minimal_answer_has_the_failed_lines_and_the_counts() {
    let gateway = Gateway::start().await;
    let fields = format!("{NDJSON}Prefer: respond-async, Return=\"minimal\"; x=1\r\n");
    let lines = "{\"type\":\"t\",\"data\":1}\n{\"type\":\"gap\",\"data\":1}\n";
    let reply = gateway.call("POST /events/news", &fields, lines).await;
    assert_eq!(reply.field("preference-applied"), "return=minimal");
    let answers = reply.lines();
    assert_eq!(answers.len(), 2);
    assert_eq!((&answers[0]["status"], &answers[0]["problem"]["line"]), (&400.into(), &2.into()));
    assert_eq!(answers[1], serde_json::json!({"status": 200, "written": 1, "failed": 1}));
}

#[tokio::test]
async fn answers_keep_the_order_of_the_lines() {
    let gateway = Gateway::start().await;
    let count = 20_000;
    // Each resource is created twice in a row. The second line must fail.
    let lines = lines(count, |n| format!("{{\"id\":\"o-{}\",\"n\":{n}}}", n / 2));
    let reply = gateway.call("POST /orders", NDJSON, &lines).await;
    let answers = reply.lines();
    assert_eq!(answers.len(), count);
    for (n, answer) in answers.iter().enumerate() {
        if n % 2 == 0 {
            assert_eq!(answer["id"], format!("o-{}", n / 2));
            let event = answer["event"].as_str().unwrap();
            assert!(event.ends_with(&format!("-{}", n / 2 + 1)), "{event}");
        } else {
            assert_eq!(answer["status"], 409);
            assert_eq!(answer["problem"]["line"], n + 1);
        }
    }
}

#[tokio::test]
async fn an_empty_batch_has_an_empty_answer() {
    let gateway = Gateway::start().await;
    let reply = gateway.call("POST /orders", NDJSON, "\n\n").await;
    assert_eq!((reply.status, reply.body.as_str(), reply.complete), (200, "", true));
    let expecting = format!("{NDJSON}expect: 100-continue\r\n");
    let reply = gateway.call("POST /orders", &expecting, "{\"id\":\"a\"}\n").await;
    assert_eq!(reply.lines().len(), 1);
}

#[tokio::test]
async fn a_line_is_answered_before_the_next_line_arrives() {
    let gateway = Gateway::start().await;
    let mut socket = gateway.connect().await;
    let head = format!(
        "POST /orders HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{NDJSON}\
         transfer-encoding: chunked\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    for n in 0..3 {
        let line = format!("{{\"id\":\"o-{n}\"}}\n");
        let chunk = format!("{:x}\r\n{line}\r\n", line.len());
        socket.write_all(chunk.as_bytes()).await.unwrap();
        let mut seen = String::new();
        while !seen.contains(&format!("\"id\":\"o-{n}\"")) {
            let mut buffer = [0; 1024];
            let read = tokio::time::timeout(ANSWER_TIMEOUT, socket.read(&mut buffer)).await;
            let read = read.expect("no answer to a line").unwrap();
            assert_ne!(read, 0);
            seen.push_str(str::from_utf8(&buffer[..read]).unwrap());
        }
    }
    socket.write_all(b"0\r\n\r\n").await.unwrap();
    let mut rest = String::new();
    socket.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "{rest:?}");
}

#[tokio::test]
async fn the_last_answer_names_the_line_at_which_the_body_breaks_off() {
    let mut settings = settings();
    settings.body_timeout = Duration::from_millis(50);
    let gateway = Gateway::with(settings).await;
    let reply = gateway
        .raw(format!(
            "POST /orders HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{NDJSON}\
             content-length: 1000\r\n\r\n{{\"id\":\"a\"}}\n{{\"id\":\"b\"}}"
        ))
        .await;
    let answers = reply.lines();
    assert_eq!(answers.len(), 2);
    assert_eq!((&answers[0]["status"], &answers[1]["status"]), (&201.into(), &408.into()));
    assert_eq!(answers[1]["problem"]["line"], 2);
    assert_eq!(gateway.head("orders"), Offset(1), "a part of a line is not written");
}

#[tokio::test]
async fn a_batch_stops_and_its_answer_is_aborted_if_the_client_does_not_read() {
    let mut settings = settings();
    settings.stall_timeout = Duration::from_millis(100);
    let gateway = Gateway::with(settings).await;
    let mut socket = gateway.connect().await;
    let head = format!(
        "POST /orders HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{NDJSON}\
         transfer-encoding: chunked\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    // The answer to an invalid line is many times larger than the line. The answers fill the
    // buffers of the gateway and the kernel long before all lines are sent.
    let chunk = format!("{:x}\r\n{}\r\n", 40_000, "x\n".repeat(20_000));
    let all = async {
        for _ in 0..2_000 {
            socket.write_all(chunk.as_bytes()).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    // The gateway has stopped to read, so the client cannot send, or it has closed the
    // connection.
    let sent = tokio::time::timeout(Duration::from_secs(2), all).await;
    assert!(!matches!(sent, Ok(Ok(()))), "the gateway buffered 80 MB of answers");
    let reply = finish(socket).await;
    assert!(!reply.complete, "an aborted batch must not look complete");
    assert_eq!(gateway.get("/orders").await.status, 200);
}
