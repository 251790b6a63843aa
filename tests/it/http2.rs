//! Requests whose form differs between HTTP/2 and HTTP/1.1.

use bytes::Bytes;
use http_body_util::Empty;
use tokio::time::timeout;

use crate::support::client::PATIENCE;
use crate::support::{http2, start};

#[tokio::test]
async fn the_http2_websocket_handshake_follows_rfc_8441() {
    let (_data, gateway) = start(&[]).await;
    let (mut sender, connection) = http2::client(gateway.address).await;
    tokio::spawn(connection);
    let mut status = async |request: hyper::http::request::Builder| {
        let request = request.uri("http://g/ws").body(Empty::<Bytes>::new()).unwrap();
        timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap().status().as_u16()
    };
    let connect = || {
        let websocket = hyper::ext::Protocol::from_static("websocket");
        hyper::Request::builder().method("CONNECT").extension(websocket)
    };
    let version = "sec-websocket-version";
    // This request is first, because a client must not send an extended CONNECT
    // before it has received the SETTINGS frame.
    assert_eq!(status(hyper::Request::builder().header(version, "13")).await, 426);
    assert_eq!(status(connect().header(version, "13")).await, 200);
    assert_eq!(status(connect().header(version, "8")).await, 426);
    assert_eq!(status(connect()).await, 426);
    let other = hyper::ext::Protocol::from_static("connect-udp");
    assert_eq!(status(hyper::Request::builder().method("CONNECT").extension(other)).await, 501);
}

#[tokio::test]
async fn host_must_equal_authority() {
    let (_data, gateway) = start(&[]).await;
    let (mut sender, connection) = http2::client(gateway.address).await;
    tokio::spawn(connection);
    for (host, authority, status) in [
        ("g", "u@g", 400),
        ("g", "g", 200),
        ("G", "g", 200),
        ("g", "g:443", 200),
        ("h", "g", 400),
        ("g:80", "g:443", 400),
        ("g:99999", "g:443", 400),
    ] {
        let request =
            hyper::Request::get(format!("http://{authority}/orders")).header("host", host);
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap());
        assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap().status(), status, "{host}");
    }
}

#[tokio::test]
async fn a_head_with_too_many_fields_is_rejected() {
    let (_data, gateway) = start(&[]).await;
    let (mut sender, connection) = http2::client(gateway.address).await;
    tokio::spawn(connection);
    for (fields, status) in [(100, 200), (101, 431)] {
        let mut request = hyper::Request::get("http://g/orders");
        for n in 0..fields {
            request = request.header(format!("x-{n}"), "1");
        }
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap());
        assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap().status(), status);
    }
}
