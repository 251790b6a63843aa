//! A keep-alive connection of HTTP/1.1.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, CONTENT_TYPE, ETAG, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::DemoError;
use crate::script::Change;

/// One connection. It has one request at a time.
pub struct ApiConnection {
    address: SocketAddr,
    requests: SendRequest<Full<Bytes>>,
}

/// One line of the response to a batch.
#[derive(Deserialize)]
struct LineResult {
    status: u16,
    event: Option<String>,
    problem: Option<Value>,
}

impl ApiConnection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Result<ApiConnection, DemoError> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let (requests, connection) = http1::handshake(TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        Ok(ApiConnection { address, requests })
    }

    /// Opens a stream of events in the media type `accept`.
    pub async fn stream(
        &mut self,
        path: &str,
        accept: &str,
        last_event_id: Option<&str>,
    ) -> Result<Response<Incoming>, DemoError> {
        let mut request = Request::get(path).header(ACCEPT, accept);
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        self.send(request.header(HOST, self.address.to_string()).body(Full::default())?).await
    }

    /// Posts lines as one batch and returns the event id of each.
    pub async fn batch(&mut self, path: &str, lines: &[String]) -> Result<Vec<String>, DemoError> {
        let body = Bytes::from(lines.join("\n"));
        let answer = self.request(Method::POST, path, "application/x-ndjson", body).await?;
        let answers = answer.into_body().collect().await?.to_bytes();
        let mut ids = Vec::with_capacity(lines.len());
        for line in answers.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line)? {
                LineResult { event: Some(id), .. } => ids.push(id),
                LineResult { status, problem, .. } => {
                    return Err(format!("{path}: {status} {}", problem.unwrap_or_default()).into());
                }
            }
        }
        if ids.len() == lines.len() {
            Ok(ids)
        } else {
            Err(format!("{path}: {} results for {} lines", ids.len(), lines.len()).into())
        }
    }

    /// Writes one change and returns its event's id: from the body of the
    /// response to a posted event, from the `ETag` of the response to a
    /// resource.
    pub async fn write(&mut self, change: Change) -> Result<String, DemoError> {
        let Change { method, path, body, .. } = change;
        let answer = self.request(method, &path, "application/json", body.into()).await?;
        let etag = answer.headers().get(ETAG).and_then(|etag| etag.to_str().ok());
        let etag = etag.map(|etag| etag.trim_matches('"').to_owned());
        let body = answer.into_body().collect().await?.to_bytes();
        if let Some(id) = etag {
            return Ok(id);
        }
        let posted: Value = serde_json::from_slice(&body)?;
        let id = posted.get("id").and_then(Value::as_str).ok_or("the response has no event id")?;
        Ok(id.to_owned())
    }

    /// Returns the number of resources in a collection.
    pub async fn total(&mut self, collection: &str) -> Result<u64, DemoError> {
        let path = format!("/{collection}?size=1");
        let answer = self.request(Method::GET, &path, "application/json", Bytes::new()).await?;
        let page: Value = serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?;
        let total = page.pointer("/meta/pagination/totalElements").and_then(Value::as_u64);
        total.ok_or_else(|| "the page has no total".into())
    }

    async fn request(
        &mut self,
        method: Method,
        path: &str,
        media_type: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, DemoError> {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(HOST, self.address.to_string());
        self.send(request.header(CONTENT_TYPE, media_type).body(Full::new(body))?).await
    }

    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, DemoError> {
        let what = format!("{} {}", request.method(), request.uri());
        self.requests.ready().await?;
        let answer = self.requests.send_request(request).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        Err(format!("{what}: {status} {}", String::from_utf8_lossy(&body)).into())
    }
}
