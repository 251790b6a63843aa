//! The valid and invalid commands of a WebSocket session and their responses
//! (`docs/protocol.md#websocket`).

use serde_json::json;

use crate::support::client::{Protocol, Stream};
use crate::support::start;
use crate::websocket::{command, create, message, open, send_command};

#[tokio::test]
async fn malformed_input_is_answered_with_an_error_and_the_connection_stays_open() {
    let (_data, gateway) = start(&[]).await;
    create(gateway.address, "order-1").await;
    let mut socket = open(gateway.address, "/orders/order-1/ws").await;
    let long = "x".repeat(200);
    let resource =
        command("1", &json!({"command": "subscribe", "collection": "orders", "resource": long}));
    for (text, problem) in [
        ("{", "/problems/malformed-json"),
        ("[]", "/problems/bad-body"),
        ("{}", "/problems/missing-field"),
        (r#"{"type":"command"}"#, "/problems/missing-field"),
        (r#"{"type":"command","data":{}}"#, "/problems/missing-field"),
        (r#"{"type":"command","data":{"command":7}}"#, "/problems/bad-body"),
        (r#"{"type":"command","data":[]}"#, "/problems/bad-body"),
        (r#"{"command":5}"#, "/problems/bad-body"),
        (r#"{"type":"command","data":{"command":"dance"}}"#, "/problems/unknown-command"),
        (r#"{"type":"command","data":{"command":"auth"}}"#, "/problems/unknown-command"),
        (r#"{"type":"command","data":{"command":"request"}}"#, "/problems/missing-field"),
        (r#"{"type":"command","data":{"command":"publish","data":{}}}"#, "/problems/missing-field"),
        (
            r#"{"type":"command","data":{"command":"publish","type":"a\nb","data":{}}}"#,
            "/problems/bad-name",
        ),
        (
            r#"{"type":"command","data":{"command":"publish","type":"gap","data":{}}}"#,
            "/problems/bad-name",
        ),
        (
            r#"{"type":"command","data":{"command":"publish","type":"order-created","data":{}}}"#,
            "/problems/bad-body",
        ),
        (
            r#"{"type":"command","data":{"command":"publish","type":"a","data":[]}}"#,
            "/problems/bad-body",
        ),
        (
            r#"{"type":"command","data":{"command":"subscribe","topic":"nothing"}}"#,
            "/problems/unknown-collection",
        ),
        (
            r#"{"type":"command","data":{"command":"subscribe","topic":"audit","from":"yesterday"}}"#,
            "/problems/bad-parameter",
        ),
        (
            r#"{"type":"command","data":{"command":"subscribe","topic":"audit","window":0}}"#,
            "/problems/bad-body",
        ),
        (
            r#"{"type":"command","data":{"command":"get-status","resource":"order-9"}}"#,
            "/problems/not-found",
        ),
        (resource.as_str(), "/problems/bad-name"),
    ] {
        socket.send_text(text).await;
        let answer = message(&mut socket).await;
        assert_eq!(answer["type"], "error", "{text}: {answer}");
        assert_eq!(answer["data"]["type"], problem, "{text}: {answer}");
    }
    assert_eq!(send_command(&mut socket, "9", json!({"command": "ping"})).await["command"], "ping");
}

#[tokio::test]
async fn the_error_for_an_unknown_command_field_names_the_field() {
    let (_data, gateway) = start(&[]).await;
    let mut socket = open(gateway.address, "/ws").await;
    for (field, data) in [
        ("lastEventId", json!({"command": "subscribe", "topic": "audit", "lastEventId": "a-1"})),
        ("status", json!({"command": "subscribe", "collection": "orders", "status": "NEW"})),
        (
            "from",
            json!({"command": "subscribe", "collection": "orders", "snapshot": true, "from": "now"}),
        ),
        ("from", json!({"command": "unsubscribe", "topic": "audit", "from": "now"})),
        ("subject", json!({"command": "publish", "topic": "audit", "subject": "a", "data": 1})),
        (
            "merge",
            json!({"command": "publish", "topic": "audit", "type": "a", "data": 1, "merge": true}),
        ),
        ("n", json!({"command": "ping", "n": 1})),
    ] {
        let answer = send_command(&mut socket, "1", data).await;
        assert_eq!(answer["type"], "/problems/bad-body", "{answer}");
        assert_eq!(answer["field"], field, "{answer}");
    }
    socket.send_text(r#"{"type":"event","data":{"command":"ping"}}"#).await;
    let answer = message(&mut socket).await;
    assert_eq!(
        answer["data"]["type"], "/problems/bad-body",
        "the type is present but wrong: {answer}"
    );
    // In a bare message, the command has the fields of the envelope.
    socket.send_text(r#"{"id":"2","timestamp":"","command":"ping","n":1}"#).await;
    assert_eq!(message(&mut socket).await["data"]["field"], "n");
    socket.send_text(r#"{"id":"3","type":"command","timestamp":"","command":"ping"}"#).await;
    assert_eq!(message(&mut socket).await["type"], "response");
}

#[tokio::test]
async fn the_error_for_an_unknown_member_of_the_message_names_the_member() {
    let (_data, gateway) = start(&[]).await;
    for (field, text) in [
        ("foo", r#"{"id":"1","type":"command","data":{"command":"ping"},"foo":1}"#),
        (
            "from",
            r#"{"id":"1","type":"command","from":"earliest","data":{"command":"subscribe","topic":"audit"}}"#,
        ),
        ("type", r#"{"id":"1","command":"subscribe","topic":"audit","type":"zz"}"#),
        ("type", r#"{"id":"1","command":"subscribe","topic":"audit","type":["zz"]}"#),
        ("data", r#"{"id":"1","command":"ping","data":{}}"#),
    ] {
        let mut socket = open(gateway.address, "/ws").await;
        socket.send_text(text).await;
        let answer = message(&mut socket).await;
        assert_eq!(answer["type"], "error", "{text}: {answer}");
        assert_eq!(answer["data"]["type"], "/problems/bad-body", "{text}: {answer}");
        assert_eq!(answer["data"]["field"], field, "{text}: {answer}");
    }
}

#[tokio::test]
async fn a_view_names_the_collection_of_a_command() {
    let (_data, gateway) = start(&[]).await;
    create(gateway.address, "order-1").await;
    let mut socket = open(gateway.address, "/ws").await;
    let view = json!({"command": "get-status", "topic": "order-updates", "resource": "order-1"});
    let answer = send_command(&mut socket, "1", view).await;
    assert_eq!(answer["data"]["orderId"], "order-1", "{answer}");
    let types = json!({"command": "subscribe", "collection": "orders", "types": ["order-noted"]});
    let answer = send_command(&mut socket, "2", types).await;
    assert_eq!(answer["command"], "subscribe", "{answer}");
    let view = json!({"command": "subscribe", "topic": "order-updates"});
    let answer = send_command(&mut socket, "3", view).await;
    assert_eq!(answer["type"], "/problems/overlapping-subscription", "other types: {answer}");
}

#[tokio::test]
async fn the_path_ws_accepts_no_query_parameters() {
    let (_data, gateway) = start(&[]).await;
    for target in ["/ws?from=earliest", "/ws?types=a", "/ws?x=1"] {
        let stream = Stream::open(gateway.address, target, Protocol::WebSocket, "").await;
        assert_eq!(stream.status, 400, "{target}");
    }
}
