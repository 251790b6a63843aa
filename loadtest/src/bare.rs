//! A server with hyper and nothing else: it sends the same response to every
//! request. The least that a service on hyper costs.

use std::convert::Infallible;
use std::fs;
use std::future::ready;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_LENGTH, DATE, HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// The time after which the server ends by itself.
const LIFETIME: Duration = Duration::from_mins(30);

/// The read timeout for the response to copy.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A response as it came from a server: head and body.
pub struct CannedResponse(Vec<u8>);

impl CannedResponse {
    /// Requests `path` and keeps the response.
    ///
    /// # Errors
    /// If the status is not 200, or the response has no body.
    pub fn of(address: SocketAddr, path: &str) -> io::Result<CannedResponse> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes)?;
        let response = CannedResponse(bytes);
        response.parts()?;
        Ok(response)
    }

    /// Writes the response to a file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, &self.0)
    }

    /// Returns the body, and the fields that hyper does not set itself and that
    /// do not describe the connection.
    ///
    /// # Errors
    /// If this is no HTTP/1.1 response with status 200 and a body.
    pub fn parts(&self) -> io::Result<(HeaderMap, Bytes)> {
        let wrong = || io::Error::other(format!("{:?}", String::from_utf8_lossy(&self.0)));
        let (mut reader, mut fields) = (BufReader::new(&self.0[..]), HeaderMap::new());
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if !line.starts_with("HTTP/1.1 200") {
            return Err(wrong());
        }
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(io::Error::other)?;
            let value = HeaderValue::from_str(value.trim()).map_err(io::Error::other)?;
            if ![DATE, CONTENT_LENGTH, hyper::header::CONNECTION].contains(&name) {
                fields.append(name, value);
            }
        }
        let mut body = Vec::new();
        reader.read_to_end(&mut body)?;
        if body.is_empty() { Err(wrong()) } else { Ok((fields, body.into())) }
    }
}

/// Serves the response in a file on `address` until the process is killed. Uses
/// as many threads as the machine has processors.
///
/// # Errors
/// If the file holds no response, or the address cannot be bound.
pub fn serve(address: SocketAddr, response: &Path) -> io::Result<()> {
    let parts = Arc::new(CannedResponse(fs::read(response)?).parts()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        println!(r#"{{"message":"serving","listen":"{}"}}"#, listener.local_addr()?);
        match tokio::time::timeout(LIFETIME, accept(&listener, &parts)).await {
            Ok(served) => served,
            Err(_) => Ok(()),
        }
    })
}

async fn accept(listener: &TcpListener, parts: &Arc<(HeaderMap, Bytes)>) -> io::Result<()> {
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let parts = parts.clone();
        tokio::spawn(async move {
            let service = service_fn(move |_: Request<Incoming>| {
                let mut response = Response::new(Full::new(parts.1.clone()));
                *response.headers_mut() = parts.0.clone();
                ready(Ok::<_, Infallible>(response))
            });
            // A client that disconnects is no error of the server.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        let text = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ndate: now\r\n\
            etag: \"a-1\"\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
        let (fields, body) = CannedResponse(text.into()).parts().unwrap();
        let names: Vec<&str> = fields.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["content-type", "etag"]);
        assert_eq!(&body[..], b"{}");
        assert!(CannedResponse(b"HTTP/1.1 404 Not Found\r\n\r\n{}".into()).parts().is_err());
    }
}
