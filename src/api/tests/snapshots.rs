use super::*;

async fn fill(gateway: &Gateway, count: usize) {
    let lines = lines(count, |n| format!("{{\"id\":\"o-{n:06}\",\"even\":{}}}", n % 2 == 0));
    let fields = format!("{NDJSON}prefer: return=minimal\r\n");
    let reply = gateway.call("POST /orders", &fields, &lines).await;
    assert_eq!(reply.lines(), [serde_json::json!({"status": 200, "written": count, "failed": 0})]);
}

#[tokio::test]
async fn a_snapshot_has_each_resource_once_in_the_order_of_ids() {
    let gateway = Gateway::start().await;
    fill(&gateway, 20_000).await;
    let expected: Vec<String> = (0..20_000).map(|n| format!("o-{n:06}")).collect();
    for (path, fields) in
        [("/v1/orders/stream", ""), ("/orders", "accept: application/x-ndjson\r\n")]
    {
        let reply = gateway.call(&format!("GET {path}"), fields, "").await;
        assert_eq!(reply.field("content-type"), "application/x-ndjson");
        assert_eq!(reply.field("transfer-encoding"), "chunked");
        assert!(reply.complete);
        let ids: Vec<_> =
            reply.lines().iter().map(|r| r["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ids, expected, "{path}");
    }
    let reply = gateway.get("/orders/stream?even=false").await;
    assert_eq!(reply.lines().len(), 10_000);
    let reply = gateway.get("/orders/stream?even=none").await;
    assert_eq!((reply.status, reply.body.as_str(), reply.complete), (200, "", true));
}

#[tokio::test]
async fn a_batch_size_limits_the_records_of_a_data_frame() {
    let gateway = Gateway::start().await;
    fill(&gateway, 25).await;
    let mut socket = gateway.connect().await;
    let request = request("GET /orders/stream?batchSize=10", "", "");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(parse(&bytes).field("x-batch-size"), "10");
    assert_eq!(parse(&bytes).lines().len(), 25);
    let text = String::from_utf8(bytes).unwrap();
    let chunks = text.split("\r\n\r\n").nth(1).unwrap().split("\r\n").skip(1).step_by(2);
    let counts: Vec<_> = chunks.map(|chunk| chunk.lines().count()).collect();
    assert_eq!(counts, [10, 10, 5, 0][..counts.len()]);
    let capped = gateway.get("/orders/stream?batchSize=5000").await;
    assert_eq!(capped.field("x-batch-size"), "100");
}

#[tokio::test]
async fn an_sse_snapshot_ends_with_its_cursor_and_204_follows() {
    let gateway = Gateway::start().await;
    fill(&gateway, 2).await;
    let cursor = format!("{}-2", gateway.api.engine.log("orders").unwrap().identity().epoch);
    for path in ["/orders", "/orders/stream"] {
        let accept = "accept: text/event-stream\r\n";
        let reply = gateway.call(&format!("GET {path}"), accept, "").await;
        assert_eq!(reply.field("content-type"), "text/event-stream");
        assert_eq!(reply.field("cache-control"), "no-cache, no-transform");
        assert_eq!(
            reply.body,
            format!(
                "event: snapshot\ndata: {{\"id\":\"o-000000\",\"even\":true}}\n\n\
                 event: snapshot\ndata: {{\"id\":\"o-000001\",\"even\":false}}\n\n\
                 id: {cursor}\nevent: snapshot-end\ndata: {{\"cursor\":\"{cursor}\"}}\n\n"
            )
        );
        let fields = format!("{accept}last-event-id: {cursor}\r\n");
        let again = gateway.call(&format!("GET {path}"), &fields, "").await;
        assert_eq!((again.status, again.body.as_str()), (204, ""));
    }
}

#[tokio::test]
async fn a_client_can_disconnect_in_the_middle_of_a_snapshot() {
    let gateway = Gateway::start().await;
    fill(&gateway, 20_000).await;
    let mut socket = gateway.connect().await;
    let request = request("GET /orders/stream", "", "");
    socket.write_all(request.as_bytes()).await.unwrap();
    socket.readable().await.unwrap();
    drop(socket);
    // The gateway still serves other clients.
    assert_eq!(gateway.get("/orders?size=1").await.status, 200);
}
