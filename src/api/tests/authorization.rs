//! Every route, every command and every line of a batch is authorized.

use std::collections::BTreeSet;

use hyper::Method;

use super::*;
use crate::api::authorize::{Action, CALLS};
use crate::api::route::{Route, route};

/// Every route: its path, and its target.
const ROUTES: [(&str, &str); 11] = [
    ("/orders", "orders"),
    ("/v1/orders", "orders"),
    ("/orders/stream", "orders"),
    ("/orders/events", "orders"),
    ("/orders/ws", "orders"),
    ("/orders/1", "orders/1"),
    ("/orders/1/events", "orders/1"),
    ("/orders/1/ws", "orders/1"),
    ("/events/news", "news"),
    ("/events/news/ws", "news"),
    ("/ws", "gateway"),
];

/// Returns a number for each kind of route. A new kind does not compile until
/// it has a number here; without a path in [`ROUTES`] the test then fails.
fn number(route: &Route) -> usize {
    match route {
        Route::Collection(_) => 0,
        Route::Snapshot(_) => 1,
        Route::CollectionEvents(_) => 2,
        Route::CollectionSocket(_) => 3,
        Route::Resource(..) => 4,
        Route::ResourceEvents(..) => 5,
        Route::ResourceSocket(..) => 6,
        Route::Topic(_) => 7,
        Route::TopicSocket(_) => 8,
        Route::Socket => 9,
    }
}

/// Returns the calls of `authorize` since the last call of this function.
fn calls() -> Vec<(Action, String)> {
    CALLS.take()
}

#[tokio::test]
async fn every_method_of_every_route_is_authorized() {
    let gateway = Gateway::start().await;
    let mut seen = BTreeSet::new();
    for (path, target) in ROUTES {
        let catalog = &gateway.api.catalog;
        seen.insert(number(&route(catalog, &Method::GET, false, path).ok().unwrap().route));
        let options = gateway.call(&format!("OPTIONS {path}"), "", "").await;
        assert_eq!(calls(), [], "OPTIONS {path}");
        let allow = options.field("allow").split(", ").filter(|&method| method != "OPTIONS");
        for method in allow {
            // A JSON answer ends; a stream would not.
            let fields = format!("{JSON}accept: application/json\r\n");
            gateway.call(&format!("{method} {path}"), &fields, "").await;
            let expected = match (method, path.rsplit('/').next().unwrap()) {
                (_, "ws") => Action::Session,
                ("GET" | "HEAD", _) => Action::Read,
                ("POST", "orders") => Action::Create,
                ("POST", _) => Action::Publish,
                ("PUT", _) => Action::Replace,
                ("PATCH", _) => Action::Patch,
                ("DELETE", _) => Action::Delete,
                other => panic!("{other:?} has no action"),
            };
            assert_eq!(calls(), [(expected, target.to_owned())], "{method} {path}");
        }
    }
    assert_eq!(seen, (0..=9).collect());
}

#[tokio::test]
async fn every_line_of_a_batch_is_authorized() {
    let gateway = Gateway::start().await;
    let create = |target: &str| (Action::Create, target.to_owned());
    let body = "{\"id\":\"1\"}\n{\"id\":\"2\"}\n";
    gateway.call("POST /orders", NDJSON, body).await;
    assert_eq!(calls(), [create("orders"), create("orders/1"), create("orders/2")]);
    let publish = |target: &str| (Action::Publish, target.to_owned());
    let body = "{\"type\":\"a\",\"data\":1,\"subject\":\"7\"}\n";
    gateway.call("POST /events/news", NDJSON, body).await;
    assert_eq!(calls(), [publish("news"), publish("news/7")]);
}

#[tokio::test]
async fn a_request_that_is_not_routed_is_not_authorized() {
    let gateway = Gateway::start().await;
    for line in ["GET /nowhere/1/2", "GET /nowhere", "POST /orders/stream", "OPTIONS *"] {
        gateway.call(line, "", "").await;
        assert_eq!(calls(), [], "{line}");
    }
}
