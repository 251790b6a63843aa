//! The HTTP/1.1 client of the commands `tail`, `import` and `healthcheck`: one connection per
//! request, without TLS.

mod backoff;
mod lines;
mod silence;
#[cfg(test)]
pub(super) mod script;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

pub(super) use backoff::Backoff;
pub(super) use lines::Lines;
pub(super) use silence::Silence;

use super::exit::{Exit, Failure};

/// The timeout for a connection attempt, and for the read of the body of an error
/// response.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest error body (a problem object of RFC 9457) that the client reads, in
/// bytes.
const PROBLEM_BYTES_MAX: usize = 64 * 1024;

/// The longest wait that the header `Retry-After` of a response can cause.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);

/// The bytes that are percent-encoded in a path or a query.
const ESCAPED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':').remove(b',');

/// The arguments of the commands that send requests to a gateway.
#[derive(Args, Clone, Debug)]
pub(super) struct Connection {
    /// The URL of the gateway.
    #[arg(
        long,
        value_name = "URL",
        env = "STREAMGATE_URL",
        default_value = "http://127.0.0.1:8080"
    )]
    url: String,
}

impl Connection {
    /// Returns the URL of the gateway.
    ///
    /// # Errors
    /// If the URL is invalid: a failure with the exit code 2.
    pub(super) fn target(&self) -> Result<GatewayUrl, Failure> {
        GatewayUrl::parse(&self.url)
    }
}

/// The URL of a gateway.
#[derive(Clone, Debug)]
pub(super) struct GatewayUrl {
    host: String,
    port: u16,
    /// The value of the header `Host`.
    authority: String,
    /// The path of the URL, without a slash at the end. The path of every request
    /// begins with this text.
    prefix: String,
}

impl GatewayUrl {
    /// Parses an `http://` URL.
    ///
    /// # Errors
    /// If `url` is not an `http://` URL, or has a user name, an invalid port or a
    /// query: a failure with the exit code 2.
    pub(super) fn parse(url: &str) -> Result<GatewayUrl, Failure> {
        let invalid = |why: &str| Failure::new(Exit::Usage, format!("{url}: {why}"));
        let uri: Uri = url.parse().map_err(|_| invalid("not a URL; write http://HOST:PORT"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(invalid(
                    "https is not supported yet; use the http:// address of the gateway",
                ));
            }
            _ => return Err(invalid("not an http:// URL; write http://HOST:PORT")),
        }
        let authority = uri
            .authority()
            .ok_or_else(|| invalid("the host is missing; write http://HOST:PORT"))?;
        if authority.as_str().contains('@') {
            return Err(invalid("a user name is not supported; remove it from the URL"));
        }
        if uri.query().is_some() {
            return Err(invalid("a query is not supported; remove it from the URL"));
        }
        // RFC 3986 allows an empty port, which means the default port.
        let port = match authority.as_str().strip_prefix(authority.host()).unwrap_or_default() {
            "" | ":" => 80,
            text => authority.port_u16().filter(|port| *port != 0).ok_or_else(|| {
                let text = text.trim_start_matches(':');
                invalid(&format!("the port {text:?} is invalid; write a port from 1 to 65535"))
            })?,
        };
        Ok(GatewayUrl {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port,
            authority: authority.as_str().to_owned(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// Returns a builder for a request with this `method` and `path`. `path` must
    /// begin with a slash.
    pub(super) fn request(&self, method: &str, path: &str) -> hyper::http::request::Builder {
        let agent = concat!("streamgate/", env!("CARGO_PKG_VERSION"));
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header(header::HOST, &self.authority)
            .header(header::USER_AGENT, agent)
    }

    /// Connects and sends the request. Returns the answer as soon as the head of the
    /// response has arrived. At this time, the client may still be sending the body
    /// of the request.
    ///
    /// # Errors
    /// [`Error::Connect`] if the client cannot connect, and [`Error::Http`] if the
    /// connection is lost.
    ///
    /// # Cancel safety
    /// Safe: a drop of the future ends the connection. A drop of the answer also
    /// ends the connection.
    pub(super) async fn send<B>(&self, request: Request<B>) -> Result<Answer, Error>
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let failed = |error| Error::Connect(self.authority.clone(), error);
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(stream) => stream.map_err(failed)?,
            Err(_) => return Err(failed(std::io::ErrorKind::TimedOut.into())),
        };
        stream.set_nodelay(true).map_err(failed)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(Error::Http)?;
        // The answer reports an error of the connection; ignore the result of the task.
        let task = Task(tokio::spawn(async move { drop(connection.await) }));
        let response = sender.send_request(request).await.map_err(Error::Http)?;
        Ok(Answer { response, _task: task })
    }

    /// Sends a `GET` request for `path`, and returns the status of the response.
    ///
    /// # Errors
    /// The errors of [`GatewayUrl::send`].
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn status(&self, path: &str) -> Result<StatusCode, Error> {
        let request = self.request("GET", path).body(Empty::new()).map_err(Error::Request)?;
        Ok(self.send(request).await?.response.status())
    }
}

/// The task that drives a connection. A drop of this value aborts the task.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A response of the gateway. The head of the response has arrived, and the body can
/// be read in chunks.
pub(super) struct Answer {
    response: Response<Incoming>,
    _task: Task,
}

impl Answer {
    /// Returns the status of the response.
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Returns the next bytes of the body, or `None` at the end of the body.
    ///
    /// # Cancel safety
    /// Safe: no bytes are lost.
    pub(super) async fn chunk(&mut self) -> Option<Result<Bytes, Error>> {
        loop {
            match self.response.body_mut().frame().await? {
                Err(error) => return Some(Err(Error::Http(error))),
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
            }
        }
    }

    /// Reads the problem from the body of a response with an unexpected status.
    /// Returns the error [`Error::Rejected`] with this problem.
    ///
    /// # Cancel safety
    /// Not safe: the bytes that were read are lost.
    pub(super) async fn into_error(self) -> Error {
        let status = self.response.status();
        let retry_after = retry_after(self.response.headers());
        let body = Limited::new(self.response.into_body(), PROBLEM_BYTES_MAX);
        let body = tokio::time::timeout(CONNECT_TIMEOUT, body.collect()).await;
        let problem = match body {
            Ok(Ok(body)) => serde_json::from_slice(&body.to_bytes()).unwrap_or_default(),
            _ => Problem::default(),
        };
        Error::Rejected { status, problem, retry_after }
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// The members of a problem object (RFC 9457) that the command shows to the user.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Problem {
    title: String,
    detail: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = if self.detail.is_empty() { &self.title } else { &self.detail };
        // Control characters are removed, because a server could move the cursor of
        // the terminal with them.
        text.chars().filter(|c| !c.is_control()).try_for_each(|c| write!(f, "{c}"))
    }
}

/// The error of a request.
#[derive(Debug)]
pub(super) enum Error {
    /// The client cannot connect to this host and port.
    Connect(String, std::io::Error),
    /// The arguments of the command do not form a valid HTTP request.
    Request(hyper::http::Error),
    /// The connection was lost, or the gateway sent invalid HTTP.
    Http(hyper::Error),
    /// The response ended before it was complete.
    Ended,
    /// No complete line arrived for this time.
    Silence(Duration),
    /// The gateway rejected the request.
    Rejected {
        /// The status of the response.
        status: StatusCode,
        /// The problem in the body of the response.
        problem: Problem,
        /// The value of the header `Retry-After`, if the response has one.
        retry_after: Option<Duration>,
    },
}

impl Error {
    /// Returns whether a retry can succeed after this error.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Error::Connect(..) | Error::Http(_) | Error::Ended | Error::Silence(_) => true,
            Error::Request(_) => false,
            Error::Rejected { status, .. } => is_transient(*status),
        }
    }

    /// Returns the time to wait that the gateway requested with `Retry-After`.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Rejected { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Returns whether a retry can succeed after a response with this `status`.
pub(super) fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502..=504)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Connect(authority, error) => {
                write!(f, "cannot connect to {authority} (see --url): {error}")
            }
            Error::Request(error) => write!(f, "{error}"),
            Error::Http(error) => write!(f, "connection lost: {error}"),
            Error::Ended => write!(f, "the gateway closed the connection"),
            Error::Silence(time) => {
                write!(f, "the gateway sent no complete line for {} s", time.as_secs())
            }
            Error::Rejected { status, problem, .. } => {
                let problem = problem.to_string();
                if problem.is_empty() {
                    write!(f, "{status}")
                } else {
                    write!(f, "{}: {problem}", status.as_u16())
                }
            }
        }
    }
}

/// Appends `text` to a path or a query. Percent-encodes the bytes that have a
/// meaning in a path or a query.
pub(super) fn escape(text: &str, out: &mut String) {
    out.extend(utf8_percent_encode(text, ESCAPED));
}

/// Runs `client` on a runtime with one thread, and returns its result. Does not wait
/// for a blocking operation that is still in progress, for example a read of
/// standard input.
pub(super) fn block_on(client: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because(Exit::Runtime, &error))?;
    let result = runtime.block_on(client);
    runtime.shutdown_background();
    result
}
