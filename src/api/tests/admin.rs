use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request};

use super::super::admin::{Admin, Readiness, handle};
use super::super::body::Body;

/// The status, the media type and the body.
fn ask(ready: bool, method: Method, path: &str) -> (u16, String, String) {
    let readiness = Readiness {
        ready,
        draining: !ready,
        log: "writable",
        engine: "running",
        listener: "running",
        hub: "running",
        memory: "enough",
        metrics: "running",
    };
    let admin = Admin {
        metrics: Box::new(|| "streamgate_up 1\n".to_owned()),
        readiness: Box::new(move || readiness),
    };
    let request = Request::builder().method(method).uri(path).body(()).unwrap();
    let (head, body) = handle(&admin, &request).into_parts();
    let text = match body {
        Body::Full(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        _ => String::new(),
    };
    let media_type = head.headers.get(CONTENT_TYPE).map_or("", |it| it.to_str().unwrap());
    (head.status.as_u16(), media_type.to_owned(), text)
}

#[test]
fn operators_see_metrics_and_health() {
    let text =
        |status, media_type: &str, text: &str| (status, media_type.to_owned(), text.to_owned());
    let exposition = "text/plain; version=0.0.4";
    assert_eq!(ask(true, Method::GET, "/metrics"), text(200, exposition, "streamgate_up 1\n"));
    let plain = "text/plain; charset=utf-8";
    assert_eq!(ask(false, Method::GET, "/livez"), text(200, plain, "ok\n"));
    assert_eq!(ask(true, Method::OPTIONS, "/livez"), text(204, "", ""));
    assert_eq!(ask(true, Method::POST, "/metrics").0, 405);
    assert_eq!(ask(true, Method::GET, "/orders").0, 404);
}

#[test]
fn readiness_is_json_and_its_status() {
    let rest = r#""log":"writable","engine":"running","listener":"running","hub":"running","memory":"enough","metrics":"running"}"#;
    for (ready, status) in [(true, 200), (false, 503)] {
        let draining = !ready;
        let body = format!("{{\"ready\":{ready},\"draining\":{draining},{rest}\n");
        let media_type = "application/json".to_owned();
        assert_eq!(ask(ready, Method::GET, "/readyz"), (status, media_type.clone(), body));
        assert_eq!(ask(ready, Method::HEAD, "/readyz"), (status, media_type, String::new()));
    }
}
