use super::*;

#[tokio::test]
async fn a_resource_is_created_read_changed_and_deleted() {
    let gateway = Gateway::start().await;
    let epoch = gateway.api.engine.log("orders").unwrap().identity().epoch;

    let reply = gateway.post("/v1/orders", r#"{"id":"order-1", "total":1.50}"#).await;
    assert_eq!(reply.status, 201);
    assert_eq!(reply.body, r#"{"id":"order-1","total":1.50}"#);
    assert_eq!(reply.field("content-type"), "application/json");
    assert_eq!(reply.field("location"), "/v1/orders/order-1");
    assert_eq!(reply.field("etag"), format!("\"{epoch}-1\""));

    let reply = gateway.get("/orders/order-1").await;
    assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"id":"order-1","total":1.50}"#));
    assert_eq!(reply.field("etag"), format!("\"{epoch}-1\""));
    assert_eq!(reply.field("vary"), "Accept");

    let reply = gateway.call("PUT /orders/order-1", JSON, r#"{"status":"NEW"}"#).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"id":"order-1","status":"NEW"}"#));
    assert_eq!(reply.field("location"), "");

    let patch = "content-type: application/merge-patch+json\r\n";
    let reply = gateway.call("PATCH /orders/order-1", patch, r#"{"a":{"b":1}}"#).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.body, r#"{"id":"order-1","status":"NEW","a":{"b":1}}"#);
    assert_eq!(reply.field("etag"), format!("\"{epoch}-3\""));

    let reply = gateway.call("DELETE /orders/order-1", "", "").await;
    assert_eq!((reply.status, reply.body.as_str()), (204, ""));
    assert_eq!(reply.field("content-length"), "", "RFC 9110 §8.6 forbids it on 204");
    assert_eq!(gateway.get("/orders/order-1").await.status, 404);
    let reply = gateway.call("PUT /v1/orders/order-1", JSON, "{}").await;
    assert_eq!((reply.status, reply.field("location")), (201, "/v1/orders/order-1"));
}

#[tokio::test]
async fn a_post_without_an_id_gets_a_uuid() {
    let gateway = Gateway::start().await;
    let reply = gateway.post("/orders", r#"{"n":1}"#).await;
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(uuid::Uuid::parse_str(&id).unwrap().get_version_num(), 7);
    assert_eq!(reply.field("location"), format!("/orders/{id}"));
    assert_eq!(gateway.get(reply.field("location")).await.body, reply.body);
}

#[tokio::test]
async fn head_has_the_header_fields_of_get() {
    let gateway = Gateway::start().await;
    let created = gateway.post("/orders", r#"{"id":"a"}"#).await;
    for path in ["/orders/a", "/orders"] {
        let get = gateway.get(path).await;
        let head = gateway.call(&format!("HEAD {path}"), "", "").await;
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        for name in ["content-type", "content-length", "etag", "link", "streamgate-cursor"] {
            assert_eq!(head.field(name), get.field(name), "{name} of {path}");
        }
    }
    let head = gateway.call("HEAD /orders/a", "", "").await;
    assert_eq!(head.field("content-length"), created.body.len().to_string());
    let head = gateway.call("HEAD /orders/events", "", "").await;
    assert_eq!((head.status, head.field("content-type")), (200, "text/event-stream"));
    assert_eq!(head.field("content-length"), "", "a stream has no length");
    assert_eq!(gateway.call("HEAD /orders/none", "", "").await.status, 404);
}

#[tokio::test]
async fn a_write_with_a_false_precondition_is_412() {
    let gateway = Gateway::start().await;
    let first = gateway.post("/orders", r#"{"id":"a"}"#).await;
    let second = gateway.call("PUT /orders/a", JSON, r#"{"n":2}"#).await;
    let (old, new) = (first.field("etag"), second.field("etag"));
    let head = gateway.head("orders");
    for (line, condition) in [
        ("PUT /orders/a", format!("if-match: {old}")),
        ("PUT /orders/a", format!("if-match: W/{new}")),
        ("PUT /orders/a", format!("if-match: \"{}\"", "x".repeat(20))),
        ("PUT /orders/a", "if-none-match: *".to_owned()),
        ("PUT /orders/a", format!("if-none-match: W/{new}")),
        ("PUT /orders/b", "if-match: *".to_owned()),
        ("PATCH /orders/a", format!("if-match: {old}")),
        ("DELETE /orders/a", format!("if-match: {old}")),
        ("POST /orders/a/events", format!("if-match: {old}")),
    ] {
        let fields = format!("{JSON}{condition}\r\n");
        let body = if line.starts_with("POST") { r#"{"type":"t","data":{}}"# } else { "{}" };
        let reply = gateway.call(line, &fields, body).await;
        assert_eq!(reply.status, 412, "{line} {condition}");
        assert_eq!(reply.json()["type"], "/problems/precondition-failed");
    }
    assert_eq!(gateway.head("orders"), head, "a rejected write writes nothing");

    let fields = format!("{JSON}if-match: {old}, {new}\r\n");
    assert_eq!(gateway.call("PATCH /orders/a", &fields, r#"{"n":3}"#).await.status, 200);
    let fields = format!("{JSON}if-none-match: *\r\n");
    assert_eq!(gateway.call("PUT /orders/b", &fields, "{}").await.status, 201);
}

#[tokio::test]
async fn conditional_reads_follow_the_etag() {
    let gateway = Gateway::start().await;
    let created = gateway.post("/orders", r#"{"id":"a"}"#).await;
    let etag = created.field("etag");
    for (fields, status) in [
        (format!("if-none-match: {etag}\r\n"), 304),
        (format!("if-none-match: \"other\", W/{etag}\r\n"), 304),
        ("if-none-match: *\r\n".to_owned(), 304),
        ("if-none-match: \"other\"\r\n".to_owned(), 200),
        ("if-match: \"other\"\r\n".to_owned(), 412),
        ("if-match: nothing\r\n".to_owned(), 400),
    ] {
        let reply = gateway.call("GET /orders/a", &fields, "").await;
        assert_eq!(reply.status, status, "{fields}");
        if status == 304 {
            assert_eq!((reply.body.as_str(), reply.field("etag")), ("", etag));
            assert_eq!(
                reply.field("content-length"),
                "",
                "a client would take it for the length of the resource"
            );
        }
        if status == 412 {
            assert_eq!(reply.json()["etag"], etag);
        }
    }
}

#[tokio::test]
async fn a_repeated_idempotency_key_does_not_write_again() {
    let gateway = Gateway::start().await;
    let keyed = |key: &str| format!("{JSON}idempotency-key: {key}\r\n");
    let first = gateway.call("POST /orders", &keyed("\"k1\""), r#"{"n":1}"#).await;
    assert_eq!((first.status, first.field("idempotency-replayed")), (201, ""));
    let head = gateway.head("orders");

    let again = gateway.call("POST /orders", &keyed("k1"), r#"{"n":1}"#).await;
    assert_eq!((again.status, again.field("idempotency-replayed")), (201, "true"));
    for name in ["location", "etag"] {
        assert_eq!(again.field(name), first.field(name), "{name}");
    }
    assert_eq!(again.body, first.body);
    let under_prefix = gateway.call("POST /v1/orders", &keyed("k1"), r#"{"n":1}"#).await;
    assert_eq!(under_prefix.field("location"), format!("/v1{}", first.field("location")));

    let other = gateway.call("POST /orders", &keyed("k1"), r#"{"n":2}"#).await;
    assert_eq!(other.status, 422);
    assert_eq!(other.json()["type"], "/problems/key-reused");
    assert_eq!(
        gateway.head("orders"),
        head,
        "a repeated request and a rejected request write nothing"
    );

    let path = first.field("location").to_owned();
    let other = gateway.call(&format!("PATCH {path}"), &keyed("k1"), r#"{"n":1}"#).await;
    assert_eq!((other.status, other.field("idempotency-replayed")), (200, ""));
    let topic = gateway.call("POST /events/news", &keyed("k1"), r#"{"type":"t","data":1}"#).await;
    let again = gateway.call("POST /events/news", &keyed("k1"), r#"{"type":"t","data":1}"#).await;
    assert_eq!((again.status, &again.body), (201, &topic.body));
    assert_eq!(again.field("idempotency-replayed"), "true");
}

#[tokio::test]
async fn an_idempotency_key_belongs_to_one_value_of_merge() {
    let gateway = Gateway::start().await;
    gateway.post("/orders", r#"{"id":"a"}"#).await;
    let fields = format!("{JSON}idempotency-key: k\r\n");
    let body = r#"{"type":"order-shipped","data":{}}"#;
    let merged = gateway.call("POST /orders/a/events", &fields, body).await;
    assert_eq!(merged.status, 201);
    let kept = gateway.call("POST /orders/a/events?merge=false", &fields, body).await;
    assert_eq!(kept.status, 422);
}

#[tokio::test]
async fn an_idempotency_key_in_progress_is_409() {
    let gateway = Gateway::start().await;
    let scope = ["", "POST", "/orders"];
    let key = crate::api::request::idempotency::digest(scope, "k", "", b"{}");
    let guard = gateway.api.keys.hold(&key).ok().unwrap();
    let fields = format!("{JSON}idempotency-key: k\r\n");
    let reply = gateway.call("POST /orders", &fields, "{}").await;
    assert_eq!((reply.status, &reply.json()["type"]), (409, &"/problems/in-progress".into()));
    assert_eq!(gateway.head("orders"), Offset::ZERO);
    drop(guard);
    assert_eq!(gateway.call("POST /orders", &fields, "{}").await.status, 201);
}
