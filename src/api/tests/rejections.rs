use super::*;

/// The request line, the header fields, the body, the expected status and problem code.
type Case<'a> = (&'a str, &'a str, &'a str, u16, &'a str);

async fn check(gateway: &Gateway, cases: &[Case<'_>]) {
    let heads = ["orders", "news"].map(|log| gateway.head(log));
    for &(line, fields, body, status, code) in cases {
        let reply = gateway.call(line, fields, body).await;
        assert_eq!(reply.status, status, "{line} {fields} {body}: {reply:?}");
        assert_eq!(reply.field("content-type"), "application/problem+json", "{line}");
        let problem = reply.json();
        assert_eq!(problem["type"], format!("/problems/{code}"), "{line} {fields} {body}");
        assert_eq!(problem["status"], status);
        let target = line.split(' ').nth(1).unwrap();
        assert_eq!(problem["instance"], target.split('?').next().unwrap());
    }
    let now = ["orders", "news"].map(|log| gateway.head(log));
    assert_eq!(now, heads, "a rejected write writes nothing");
}

#[tokio::test]
async fn unknown_and_invalid_paths_are_rejected() {
    let gateway = Gateway::start().await;
    let long = format!("GET /orders/{}", "x".repeat(129));
    check(
        &gateway,
        &[
            ("GET /", "", "", 404, "unknown-collection"),
            ("GET /v1", "", "", 404, "unknown-collection"),
            ("GET /nothing", "", "", 404, "unknown-collection"),
            ("POST /nothing", JSON, "{}", 404, "unknown-collection"),
            ("GET /v1/v1/orders", "", "", 404, "unknown-collection"),
            ("GET /events", "", "", 404, "unknown-collection"),
            ("GET /events/orders", "", "", 404, "unknown-collection"),
            ("GET /operations", "", "", 404, "not-found"),
            ("GET /operations/op-1", "", "", 404, "not-found"),
            ("POST /v1/operations/claim", JSON, "{}", 404, "not-found"),
            ("GET /orders/a/b", "", "", 404, "not-found"),
            ("GET /orders/a/events/1", "", "", 404, "not-found"),
            ("GET /orders/a/b/c/d", "", "", 404, "not-found"),
            ("GET /orders/none", "", "", 404, "not-found"),
            ("PATCH /orders/none", JSON, "{}", 404, "not-found"),
            ("DELETE /orders/none", "", "", 404, "not-found"),
            ("POST /orders/none/events", JSON, r#"{"type":"t","data":{}}"#, 404, "not-found"),
            ("GET /orders/a%2Fb", "", "", 400, "bad-name"),
            ("PUT /orders/..", JSON, "{}", 400, "bad-name"),
            ("PUT /orders/%2e%2E", JSON, "{}", 400, "bad-name"),
            ("PUT /orders/a%0Ab", JSON, "{}", 400, "bad-name"),
            ("PUT /orders/a%00b", JSON, "{}", 400, "bad-name"),
            ("PUT /orders/a%252Fb", JSON, "{}", 400, "bad-name"),
            ("PUT /orders/caf%C3%A9", JSON, "{}", 400, "bad-name"),
            ("PUT /orders/", JSON, "{}", 400, "bad-name"),
            ("GET /orders//events", "", "", 400, "bad-name"),
            ("PUT /orders/%zz", JSON, "{}", 400, "malformed-request"),
            ("PUT /orders/%", JSON, "{}", 400, "malformed-request"),
            ("PUT /orders/%ff", JSON, "{}", 400, "malformed-request"),
            (&long, "", "", 400, "bad-name"),
        ],
    )
    .await;
    let encoded = gateway.call("PUT /%6Frders/order%2D1", JSON, "{}").await;
    assert_eq!((encoded.status, encoded.field("location")), (201, "/orders/order-1"));
}

#[tokio::test]
async fn an_unknown_name_is_answered_with_the_nearest_known_name() {
    let gateway = Gateway::start().await;
    for (line, detail) in [
        ("GET /orderz", r#"no collection named "orderz"; did you mean "orders"?"#),
        ("GET /invoices", r#"no collection named "invoices""#),
        ("GET /events/new", r#"no topic named "new"; did you mean "news"?"#),
        ("GET /events/orders", r#"no topic named "orders""#),
    ] {
        let reply = gateway.call(line, "", "").await;
        assert_eq!(reply.json()["detail"], detail, "{line}");
    }
}

#[tokio::test]
async fn a_method_that_a_path_does_not_allow_is_405() {
    let gateway = Gateway::start().await;
    for (line, allow) in [
        ("DELETE /orders", "GET, HEAD, POST, OPTIONS"),
        ("PUT /orders/stream", "GET, HEAD, OPTIONS"),
        ("POST /orders/events", "GET, HEAD, OPTIONS"),
        ("POST /orders/a", "GET, HEAD, PUT, PATCH, DELETE, OPTIONS"),
        ("PUT /orders/a/events", "GET, HEAD, POST, OPTIONS"),
        ("POST /events/order-updates", "GET, HEAD, OPTIONS"),
        ("DELETE /events/news", "GET, HEAD, POST, OPTIONS"),
        ("POST /orders/ws", "GET, OPTIONS"),
        ("POST /ws", "GET, OPTIONS"),
        ("BREW /orders", "GET, HEAD, POST, OPTIONS"),
    ] {
        let reply = gateway.call(line, JSON, "{}").await;
        assert_eq!((reply.status, reply.field("allow")), (405, allow), "{line}");
        assert_eq!(reply.json()["type"], "/problems/method-not-allowed");
        let path = line.split(' ').nth(1).unwrap();
        let reply = gateway.call(&format!("OPTIONS {path}"), "", "").await;
        assert_eq!((reply.status, reply.field("allow")), (204, allow), "{path}");
    }
    let all = gateway.call("OPTIONS *", "", "").await;
    assert_eq!((all.status, all.body.as_str()), (204, ""));
}

#[tokio::test]
async fn parameters_that_do_not_apply_are_rejected() {
    const PAGE: &str = "accept: application/json\r\n";
    let gateway = Gateway::start().await;
    let cases: Vec<Case<'_>> = [
        ("GET /orders/events?batchSize=10", PAGE),
        ("GET /events/news?onGap=event", PAGE),
        ("GET /orders/ws?batchSize=10", ""),
        ("GET /orders/stream?follow=true&from=earliest", ""),
        ("GET /orders/stream?follow=true&from=now", ""),
        ("GET /orders/stream?follow=true&from=2024-07-15T00:00:00Z", ""),
    ]
    .map(|(line, headers)| (line, headers, "", 400, "bad-parameter"))
    .into();
    check(&gateway, &cases).await;
}

#[tokio::test]
async fn invalid_queries_are_rejected() {
    let gateway = Gateway::start().await;
    let mut cases = Vec::new();
    for query in [
        "page=0&page=1",
        "page=-1",
        "page=x",
        "page=",
        "size=0",
        "size=1001",
        "status=A&status=B",
        "status=A&field.status=B",
        "follow=maybe",
        "batchSize=10",
        "types=order-created",
        "limit=3",
    ] {
        cases.push((format!("GET /orders?{query}"), "bad-parameter"));
    }
    for query in ["status", "=x", "a=%", "a=%ff"] {
        cases.push((format!("GET /orders?{query}"), "malformed-request"));
    }
    for query in ["batchSize=0", "follow=1", "page=0", "from=now", "onGap=error", "types=a"] {
        cases.push((format!("GET /orders/stream?{query}"), "bad-parameter"));
    }
    cases.push(("GET /orders/stream?follow=true&status=A".to_owned(), "malformed-request"));
    for query in ["from=x", "from=2024-07-15", "onGap=never", "batchSize=ten", "limit=5", "size=1"]
    {
        cases.push((format!("GET /orders/events?{query}"), "bad-parameter"));
    }
    for query in ["lastEventId=1", "last_event_id=k3f9x2ab-01", "lastEventId="] {
        cases.push((format!("GET /events/news?{query}"), "malformed-id"));
    }
    cases.push(("GET /orders/events?types=gap".to_owned(), "bad-name"));
    cases.push(("GET /events/order-updates?types=order-deleted".to_owned(), "bad-parameter"));
    cases.push(("GET /orders/a?x=1".to_owned(), "bad-parameter"));
    cases.push(("DELETE /orders/a?x=1".to_owned(), "bad-parameter"));
    cases.push(("GET /orders/ws?from=x".to_owned(), "bad-parameter"));
    let cases: Vec<Case<'_>> =
        cases.iter().map(|(line, code)| (line.as_str(), "", "", 400, *code)).collect();
    check(&gateway, &cases).await;
    check(
        &gateway,
        &[
            ("GET /orders/events", "last-event-id: 42\r\n", "", 400, "malformed-id"),
            (
                "GET /orders/events",
                "last-event-id: k3f9x2ab-1\r\nlast-event-id: k3f9x2ab-1\r\n",
                "",
                400,
                "bad-parameter",
            ),
            ("POST /orders?x=1", JSON, "{}", 400, "bad-parameter"),
            ("POST /orders/a/events?merge=no", JSON, "{}", 400, "bad-parameter"),
        ],
    )
    .await;
}

#[tokio::test]
async fn bodies_that_are_not_a_valid_write_are_rejected() {
    let gateway = Gateway::start().await;
    gateway.call("PUT /orders/a", JSON, "{}").await;
    let deep = "[".repeat(65) + &"]".repeat(65);
    let event = "POST /orders/a/events";
    let news = "POST /events/news";
    check(
        &gateway,
        &[
            ("POST /orders", JSON, "", 400, "malformed-json"),
            ("POST /orders", JSON, "{\"a\":", 400, "malformed-json"),
            ("POST /orders", JSON, r#"{"a":1,"a":2}"#, 400, "malformed-json"),
            ("POST /orders", JSON, &deep, 400, "malformed-json"),
            ("POST /orders", JSON, "[]", 400, "bad-body"),
            ("POST /orders", JSON, r#"{"id":7}"#, 400, "bad-body"),
            ("POST /orders", JSON, r#"{"id":""}"#, 400, "bad-name"),
            ("POST /orders", JSON, r#"{"id":"a/b"}"#, 400, "bad-name"),
            ("POST /orders", JSON, r#"{"id":"stream"}"#, 400, "bad-name"),
            ("POST /orders", JSON, r#"{"id":"a"}"#, 409, "exists"),
            ("PUT /orders/a", JSON, r#"{"id":"b"}"#, 400, "bad-body"),
            ("PATCH /orders/a", JSON, r#"{"id":"b"}"#, 400, "bad-body"),
            ("PATCH /orders/a", JSON, r#"{"id":null}"#, 400, "bad-body"),
            ("PATCH /orders/a", JSON, "7", 400, "bad-body"),
            (event, JSON, "[]", 400, "bad-body"),
            (event, JSON, r#"{"data":{}}"#, 400, "bad-body"),
            (event, JSON, r#"{"type":"t"}"#, 400, "bad-body"),
            (event, JSON, r#"{"type":7,"data":{}}"#, 400, "bad-body"),
            (event, JSON, r#"{"type":"gap","data":{}}"#, 400, "bad-name"),
            (event, JSON, r#"{"type":"a\nb","data":{}}"#, 400, "bad-name"),
            (event, JSON, r#"{"type":"order-deleted","data":{}}"#, 400, "bad-body"),
            (event, JSON, r#"{"type":"t","data":[]}"#, 400, "bad-body"),
            (event, JSON, r#"{"type":"t","data":{},"extra":1}"#, 400, "bad-body"),
            (event, JSON, r#"{"type":"t","data":{},"subject":"a"}"#, 400, "bad-body"),
            (event, JSON, r#"{"type":"t","data":{"orderId":"b"}}"#, 400, "bad-body"),
            (event, JSON, r#"{"type":"t","data":{"id":"b"}}"#, 400, "bad-body"),
            (news, JSON, r#"{"type":"t","data":1,"subject":".."}"#, 400, "bad-name"),
            (news, JSON, r#"{"type":"snapshot-end","data":1}"#, 400, "bad-name"),
        ],
    )
    .await;
    let reply = gateway.post("/orders", r#"{"a":1,}"#).await;
    assert_eq!(reply.json()["position"], 7);
}

#[tokio::test]
async fn invalid_header_fields_are_rejected() {
    let gateway = Gateway::start().await;
    let key = |key: &str| format!("{JSON}idempotency-key: {key}\r\n");
    let (twice, long) = (key("a\r\nidempotency-key: b"), key(&"k".repeat(256)));
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    let latin = "content-type: application/json; charset=latin1\r\n";
    let zipped = format!("{JSON}content-encoding: gzip\r\n");
    let both = format!("{JSON}if-match: *\r\nif-none-match: *\r\n");
    let bare = format!("{JSON}if-match: abc\r\n");
    let keyed_batch = format!("{NDJSON}idempotency-key: k\r\n");
    let tagged_batch = format!("{NDJSON}if-match: *\r\n");
    let topic = r#"{"type":"t","data":1}"#;
    let tagged = format!("{JSON}if-none-match: *\r\n");
    check(
        &gateway,
        &[
            ("GET /orders", "accept: text/html\r\n", "", 406, "not-acceptable"),
            ("GET /orders/stream", "accept: application/json\r\n", "", 406, "not-acceptable"),
            ("GET /orders/a", "accept: text/event-stream\r\n", "", 406, "not-acceptable"),
            ("GET /orders/events", "accept: image/*\r\n", "", 406, "not-acceptable"),
            ("POST /orders", "", "{}", 415, "unsupported-media-type"),
            ("POST /orders", form, "{}", 415, "unsupported-media-type"),
            ("POST /orders", latin, "{}", 415, "unsupported-media-type"),
            ("POST /orders", &zipped, "{}", 415, "unsupported-media-type"),
            ("PUT /orders/a", NDJSON, "{}", 415, "unsupported-media-type"),
            ("POST /orders/a/events", NDJSON, "{}", 415, "unsupported-media-type"),
            ("POST /orders", &key(""), "{}", 400, "bad-parameter"),
            ("POST /orders", &key("a b"), "{}", 400, "bad-parameter"),
            ("POST /orders", &long, "{}", 400, "bad-parameter"),
            ("POST /orders", &twice, "{}", 400, "bad-parameter"),
            ("POST /orders", &keyed_batch, "{}", 400, "bad-parameter"),
            ("POST /orders", &tagged_batch, "{}", 400, "bad-parameter"),
            ("POST /events/news", &keyed_batch, topic, 400, "bad-parameter"),
            ("POST /events/news", &tagged, topic, 400, "bad-parameter"),
            ("PUT /orders/a", &both, "{}", 400, "bad-parameter"),
            ("PUT /orders/a", &bare, "{}", 400, "bad-parameter"),
            ("GET /orders", "expect: 200-ok\r\n", "", 417, "expectation-failed"),
        ],
    )
    .await;
    let reply = gateway.call("GET /orders/events", "accept: image/*\r\n", "").await;
    assert_eq!(reply.field("vary"), "Accept");
    assert_eq!(reply.json()["available"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn an_invalid_host_and_a_long_target_are_rejected() {
    let gateway = Gateway::start().await;
    for (fields, status) in [
        ("", 400),
        ("host: a\r\nhost: a\r\n", 400),
        ("host:\r\n", 400),
        ("host: a b\r\n", 400),
        ("host: me@a\r\n", 400),
        ("host: a/b\r\n", 400),
        ("host: a:8080\r\n", 200),
        ("host: [::1]:80\r\n", 200),
    ] {
        let request = format!("GET /orders HTTP/1.1\r\nconnection: close\r\n{fields}\r\n");
        assert_eq!(gateway.raw(request).await.status, status, "{fields}");
    }
    let reply = gateway.get(&format!("/orders?a={}", "x".repeat(8 * 1024))).await;
    assert_eq!((reply.status, &reply.json()["type"]), (414, &"/problems/uri-too-long".into()));
}

#[tokio::test]
async fn the_body_of_a_get_or_delete_is_ignored() {
    let gateway = Gateway::start().await;
    assert_eq!(gateway.call("PUT /orders/a", JSON, "{}").await.status, 201);
    for (line, status) in [("GET /orders/a", 200), ("DELETE /orders/a", 204)] {
        let reply = gateway.call(line, "content-type: text/plain\r\n", "no JSON").await;
        assert_eq!(reply.status, status, "{line}: {reply:?}");
    }
}

#[tokio::test]
async fn every_transfer_coding_except_chunked_is_rejected_before_the_body_is_read() {
    let gateway = Gateway::start().await;
    let head = format!("POST /orders HTTP/1.1\r\nhost: a\r\n{JSON}connection: close\r\n");
    for fields in [
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked, chunked\r\n",
        "transfer-encoding: identity, chunked\r\n",
    ] {
        let reply = gateway.raw(format!("{head}{fields}\r\n")).await;
        assert_eq!(reply.status, 501, "{fields}: {reply:?}");
        assert_eq!(reply.json()["type"], "/problems/not-implemented", "{fields}");
    }
    assert_eq!(gateway.head("orders"), Offset::ZERO);
    for fields in ["transfer-encoding: chunked\r\n", "Transfer-Encoding:  CHUNKED \r\n"] {
        let reply = gateway.raw(format!("{head}{fields}\r\n2\r\n{{}}\r\n0\r\n\r\n")).await;
        assert_eq!(reply.status, 201, "{fields}: {reply:?}");
    }
}

#[tokio::test]
async fn a_resource_that_would_be_too_large_is_rejected_with_the_limit() {
    let gateway = Gateway::start().await;
    let limit = gateway.api.settings.body_bytes_max;
    let text = "x".repeat(limit / 2);
    let reply = gateway.call("PUT /orders/a", JSON, &format!(r#"{{"a":"{text}"}}"#)).await;
    assert_eq!(reply.status, 201);
    let patch = format!(r#"{{"b":"{text}"}}"#);
    let event = format!(r#"{{"type":"t","data":{patch}}}"#);
    for (line, body) in [("PATCH /orders/a", &patch), ("POST /orders/a/events", &event)] {
        let reply = gateway.call(line, JSON, body).await;
        assert_eq!(reply.status, 413, "{line}: {reply:?}");
        assert_eq!(reply.json()["limit"], limit, "{line}");
    }
}

#[tokio::test]
async fn the_error_for_an_unknown_member_of_an_event_names_the_allowed_members() {
    let gateway = Gateway::start().await;
    let reply = gateway.post("/orders/a/events", r#"{"type":"t","data":{},"foo":1}"#).await;
    let detail = reply.json()["detail"].clone();
    assert_eq!(
        detail,
        "\"foo\" is not a member of an event; an event can have the members type and data"
    );
    let reply = gateway.post("/events/news", r#"{"type":"t","data":{},"foo":1}"#).await;
    let detail = reply.json()["detail"].clone();
    assert_eq!(
        detail,
        "\"foo\" is not a member of an event; an event can have the members type, data and subject"
    );
}

#[tokio::test]
async fn bodies_that_are_too_large_or_too_slow_are_rejected() {
    let mut settings = settings();
    settings.body_timeout = Duration::from_millis(50);
    let limit = settings.body_bytes_max;
    let gateway = Gateway::with(settings).await;

    let head = format!("POST /orders HTTP/1.1\r\nhost: a\r\n{JSON}connection: close\r\n");
    let declared = gateway.raw(format!("{head}content-length: {}\r\n\r\n", limit + 1)).await;
    assert_eq!(declared.status, 413, "before the body is read");
    assert_eq!(declared.json()["limit"], limit);
    let chunk = format!("{:x}\r\n{}\r\n0\r\n\r\n", limit + 1, "x".repeat(limit + 1));
    let chunked = gateway.raw(format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}")).await;
    assert_eq!(chunked.status, 413);
    let slow = gateway.raw(format!("{head}content-length: 9\r\n\r\n{{")).await;
    assert_eq!((slow.status, &slow.json()["type"]), (408, &"/problems/request-timeout".into()));
    assert_eq!(gateway.head("orders"), Offset::ZERO);

    let fits = format!(r#"{{"a":"{}"}}"#, "x".repeat(limit - 8));
    assert_eq!(fits.len(), limit);
    assert_eq!(gateway.post("/orders", &fits).await.status, 201);
}
