use hyper::{Method, Request};

use super::super::admin::{Admin, handle};
use super::super::body::Body;

fn ask(ready: bool, method: Method, path: &str) -> (u16, String) {
    let admin = Admin {
        metrics: Box::new(|| "streamgate_up 1\n".to_owned()),
        ready: Box::new(move || if ready { Ok(()) } else { Err("draining".to_owned()) }),
    };
    let request = Request::builder().method(method).uri(path).body(()).unwrap();
    let (head, body) = handle(&admin, &request).into_parts();
    let text = match body {
        Body::Full(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        _ => String::new(),
    };
    (head.status.as_u16(), text)
}

#[test]
fn operators_see_metrics_and_health() {
    let answer = |status, text: &str| (status, text.to_owned());
    assert_eq!(ask(true, Method::GET, "/metrics"), answer(200, "streamgate_up 1\n"));
    assert_eq!(ask(false, Method::GET, "/livez"), answer(200, "ok\n"));
    assert_eq!(ask(true, Method::GET, "/readyz"), answer(200, "ok\n"));
    assert_eq!(ask(false, Method::GET, "/readyz"), answer(503, "draining\n"));
    assert_eq!(ask(false, Method::HEAD, "/readyz"), answer(503, ""));
    assert_eq!(ask(true, Method::OPTIONS, "/livez"), answer(204, ""));
    assert_eq!(ask(true, Method::POST, "/metrics").0, 405);
    assert_eq!(ask(true, Method::GET, "/orders").0, 404);
}
