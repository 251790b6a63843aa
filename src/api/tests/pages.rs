use super::*;

async fn fill(gateway: &Gateway, count: usize, pad: usize) {
    let pad = "x".repeat(pad);
    let lines = lines(count, |n| {
        let status = if n % 2 == 0 { "EVEN" } else { "ODD" };
        format!("{{\"id\":\"o-{n:04}\",\"status\":\"{status}\",\"n\":{n},\"pad\":\"{pad}\"}}")
    });
    let reply = gateway.call("POST /orders", NDJSON, &lines).await;
    assert_eq!(reply.lines().len(), count);
    assert!(reply.lines().iter().all(|line| line["status"] == 201));
}

#[tokio::test]
async fn a_page_has_the_exact_bytes_of_the_protocol() {
    let gateway = Gateway::start().await;
    let epoch = gateway.api.engine.log("orders").unwrap().identity().epoch;
    let empty = gateway.get("/orders").await;
    assert_eq!(
        empty.body,
        r#"{"data":[],"meta":{"pagination":{"page":0,"size":20,"totalElements":0}}}"#
    );
    assert_eq!(empty.field("streamgate-cursor"), format!("{epoch}-0"));

    gateway.post("/orders", r#"{"id":"b"}"#).await;
    gateway.post("/orders", r#"{"id":"a","n":1}"#).await;
    gateway.post("/orders", r#"{"id":"c"}"#).await;
    let page = gateway.get("/v1/orders?page=0&size=2").await;
    assert_eq!(
        page.body,
        concat!(
            r#"{"data":[{"id":"a","n":1},{"id":"b"}],"#,
            r#""meta":{"pagination":{"page":0,"size":2,"totalElements":3}}}"#
        )
    );
    assert_eq!(page.field("content-type"), "application/json");
    assert_eq!(page.field("vary"), "Accept");
    assert_eq!(page.field("streamgate-cursor"), format!("{epoch}-3"));
    assert_eq!(
        page.field("link"),
        "</v1/orders?page=0&size=2>; rel=\"first\", </v1/orders?page=1&size=2>; rel=\"next\", \
         </v1/orders?page=1&size=2>; rel=\"last\""
    );
    let last = gateway.get("/orders?page=1&size=2").await.json();
    assert_eq!(last["data"], serde_json::json!([{"id": "c"}]));
    let beyond = gateway.get("/orders?page=4294967295&size=1000").await.json();
    assert_eq!(beyond["data"], serde_json::json!([]));
    assert_eq!(beyond["meta"]["pagination"]["totalElements"], 3);
}

#[tokio::test]
async fn a_filtered_page_counts_the_matching_resources() {
    let gateway = Gateway::start().await;
    fill(&gateway, 50, 0).await;
    let page = gateway.get("/orders?status=ODD&page=1&size=10").await;
    let json = page.json();
    let ids: Vec<_> = json["data"].as_array().unwrap().iter().map(|o| o["n"].clone()).collect();
    assert_eq!(ids, (0..10).map(|n| 2 * n + 21).collect::<Vec<u64>>());
    assert_eq!(json["meta"]["pagination"]["totalElements"], 25);
    assert!(page.field("link").contains("</orders?page=2&size=10&status=ODD>; rel=\"next\""));
    for (query, total) in
        [("n=7", 1), ("n=7.0", 0), ("status=ODD&n=7", 1), ("status=ODD&n=8", 0), ("none=", 0)]
    {
        let json = gateway.get(&format!("/orders?{query}")).await.json();
        assert_eq!(json["meta"]["pagination"]["totalElements"], total, "{query}");
        assert_eq!(json["data"].as_array().unwrap().len(), total, "{query}");
    }
}

#[tokio::test]
async fn a_page_larger_than_the_buffer_is_streamed() {
    let gateway = Gateway::start().await;
    fill(&gateway, 100, 60_000).await;
    for query in ["size=100", "size=100&page=0&field.pad=x", "status=EVEN&size=1000"] {
        let page = gateway.get(&format!("/orders?{query}")).await;
        let json = page.json();
        let total = json["meta"]["pagination"]["totalElements"].as_u64().unwrap() as usize;
        assert!(page.complete);
        assert_eq!(json["data"].as_array().unwrap().len(), total, "{query}");
        assert_eq!(page.field("content-length").is_empty(), total == 100, "{query}");
    }
}

#[tokio::test]
async fn the_events_after_the_cursor_of_a_page_are_the_later_events() {
    let gateway = Gateway::start().await;
    fill(&gateway, 3, 0).await;
    let cursor = gateway.get("/orders").await.field("streamgate-cursor").to_owned();
    gateway.post("/orders", r#"{"id":"later"}"#).await;
    let accept = "accept: application/json\r\n";
    let page = gateway.call(&format!("GET /orders/events?after={cursor}"), accept, "").await.json();
    assert_eq!(page["data"].as_array().unwrap().len(), 1);
    assert_eq!(page["data"][0]["subject"], "later");
}
