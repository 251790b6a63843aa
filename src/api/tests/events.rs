use super::*;

const PAGE: &str = "accept: application/json\r\n";

async fn page(gateway: &Gateway, path: &str) -> serde_json::Value {
    let reply = gateway.call(&format!("GET {path}"), PAGE, "").await;
    assert_eq!((reply.status, reply.field("content-type")), (200, "application/json"), "{reply:?}");
    reply.json()
}

fn types(page: &serde_json::Value) -> Vec<&str> {
    page["data"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_posted_event_is_merged_unless_merge_is_false() {
    let gateway = Gateway::start().await;
    let epoch = gateway.api.engine.log("orders").unwrap().identity().epoch;
    gateway.post("/orders", r#"{"id":"a","n":1}"#).await;
    let body = r#"{"type":"order-shipped","data":{"carrier":"X"}}"#;
    let reply = gateway.post("/orders/a/events", body).await;
    assert_eq!((reply.status, reply.body), (201, format!("{{\"id\":\"{epoch}-2\"}}")));
    let merged = r#"{"id":"a","n":1,"carrier":"X"}"#;
    assert_eq!(gateway.get("/orders/a").await.body, merged);
    let body = r#"{"type":"order-seen","data":{"by":"Y"}}"#;
    assert_eq!(gateway.post("/orders/a/events?merge=false", body).await.status, 201);
    assert_eq!(gateway.get("/orders/a").await.body, merged);

    let page = page(&gateway, "/orders/a/events").await;
    assert_eq!(types(&page), ["order-created", "order-shipped", "order-seen"]);
    assert_eq!(page["data"][1]["data"], serde_json::json!({"orderId": "a", "carrier": "X"}));
    assert_eq!(page["data"][1].get("merge"), None);
    assert_eq!(page["data"][2]["merge"], false);
    assert_eq!(page["data"][2]["id"], format!("{epoch}-3"));
}

#[tokio::test]
async fn past_events_are_paged() {
    let gateway = Gateway::start().await;
    let epoch = gateway.api.engine.log("news").unwrap().identity().epoch;
    let lines = lines(25, |n| format!("{{\"type\":\"t{}\",\"data\":{{\"n\":{n}}}}}", n % 5));
    let reply = gateway.call("POST /events/news", NDJSON, &lines).await;
    let first = serde_json::json!({"status": 201, "event": format!("{epoch}-1")});
    assert_eq!((reply.lines().len(), &reply.lines()[0]), (25, &first));

    let all = page(&gateway, "/events/news").await;
    assert_eq!(all["data"].as_array().unwrap().len(), 25);
    let meta = |next: u64| {
        serde_json::json!({
            "next": format!("{epoch}-{next}"),
            "earliest": format!("{epoch}-0"),
            "head": format!("{epoch}-25"),
        })
    };
    assert_eq!(all["meta"], meta(25));
    let some = page(&gateway, "/events/news?limit=10").await;
    assert_eq!((some["data"].as_array().unwrap().len(), &some["meta"]), (10, &meta(10)));
    let rest = page(&gateway, &format!("/events/news?after={epoch}-20")).await;
    assert_eq!((rest["data"][0]["data"]["n"].clone(), &rest["meta"]), (20.into(), &meta(25)));
    let filtered = page(&gateway, "/events/news?types=t3,t4&limit=3").await;
    assert_eq!(types(&filtered), ["t3", "t4", "t3"]);
    assert_eq!(filtered["meta"], meta(9));
    let field = page(&gateway, "/events/news?n=24").await;
    assert_eq!((types(&field), &field["meta"]), (vec!["t4"], &meta(25)));
    let now = page(&gateway, "/events/news?from=now").await;
    assert_eq!((types(&now), &now["meta"]), (vec![], &meta(25)));
    let time = all["data"][0]["time"].as_str().unwrap();
    let since = page(&gateway, &format!("/events/news?from={time}")).await;
    assert_eq!(since["data"].as_array().unwrap().len(), 25);
}

#[tokio::test]
async fn a_view_shows_only_the_event_types_of_the_view() {
    let gateway = Gateway::start().await;
    gateway.post("/orders", r#"{"id":"a"}"#).await;
    gateway.call("PUT /orders/b", JSON, "{}").await;
    gateway.call("DELETE /orders/a", "", "").await;
    gateway.call("PATCH /orders/b", JSON, r#"{"n":1}"#).await;
    let all = page(&gateway, "/events/order-updates").await;
    assert_eq!(types(&all), ["order-created", "order-created", "order-updated"]);
    let some = page(&gateway, "/events/order-updates?types=order-updated").await;
    assert_eq!(types(&some), ["order-updated"]);
    let one = page(&gateway, "/v1/orders/a/events").await;
    assert_eq!(types(&one), ["order-created", "order-deleted"]);
    assert_eq!(types(&page(&gateway, "/orders/none/events").await), [""; 0]);
}

#[tokio::test]
async fn a_page_after_a_removed_position_is_410() {
    let mut settings = settings();
    settings.topics[0].retention = Retention { events: 5, ..Retention::default() };
    let gateway = Gateway::with(settings).await;
    let log = &gateway.api.engine.log("news").unwrap();
    let epoch = log.identity().epoch;
    // Retention removes events some time after the commits. Each post gives it time.
    while log.floor() == Offset::ZERO {
        gateway.post("/events/news", r#"{"type":"t","data":1}"#).await;
    }
    for (query, reason) in [
        (format!("after={epoch}-0"), "expired"),
        (format!("lastEventId={epoch}-0"), "expired"),
        (format!("from={epoch}-99999999"), "epoch"),
        ("after=zzzzzzzz-1".to_owned(), "epoch"),
    ] {
        let reply = gateway.call(&format!("GET /events/news?{query}"), PAGE, "").await;
        assert_eq!(reply.status, 410, "{query}");
        let problem = reply.json();
        assert_eq!(problem["type"], "/problems/history-gone");
        assert_eq!(problem["reason"], reason, "{query}");
        let earliest = problem["earliest"].as_str().unwrap();
        let page = page(&gateway, &format!("/events/news?after={earliest}")).await;
        assert!(!types(&page).is_empty());
    }
    assert!(!types(&page(&gateway, "/events/news").await).is_empty());
}

#[tokio::test]
async fn two_starts_are_rejected() {
    let gateway = Gateway::start().await;
    let epoch = gateway.api.engine.log("news").unwrap().identity().epoch;
    for query in [format!("after={epoch}-0&from=now"), "after=1".to_owned(), "limit=0".to_owned()] {
        let reply = gateway.call(&format!("GET /events/news?{query}"), PAGE, "").await;
        assert_eq!(reply.status, 400, "{query}");
    }
}
