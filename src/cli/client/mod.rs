//! The HTTP/1.1 client of the verbs that talk to a running gateway: one
//! connection a request, no TLS.

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
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

pub(super) use backoff::Backoff;
pub(super) use lines::Lines;
pub(super) use silence::Silence;

use super::exit::{Exit, Failure};

/// For a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest problem that is read, in bytes.
const PROBLEM_BYTES_MAX: usize = 64 * 1024;

/// Longest wait that a `Retry-After` is obeyed for.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);

/// The arguments of every verb that talks to a running gateway.
#[derive(Args, Clone, Debug)]
pub(super) struct Connection {
    /// Where the gateway is.
    #[arg(
        long,
        value_name = "URL",
        env = "STREAMGATE_URL",
        default_value = "http://127.0.0.1:8080"
    )]
    url: String,
}

impl Connection {
    /// The gateway that the arguments name.
    pub(super) fn target(&self) -> Result<GatewayUrl, Failure> {
        GatewayUrl::parse(&self.url)
    }
}

/// A gateway's address.
#[derive(Clone, Debug)]
pub(super) struct GatewayUrl {
    host: String,
    port: u16,
    /// What `Host` says.
    authority: String,
    /// The path before the gateway's own, without a slash at the end.
    prefix: String,
}

impl GatewayUrl {
    /// Reads an `http://` URL.
    pub(super) fn parse(url: &str) -> Result<GatewayUrl, Failure> {
        let refuse = |why: &str| Failure::new(Exit::Usage, format!("{url}: {why}"));
        let uri: Uri = url.parse().map_err(|_| refuse("is no URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(refuse("https is not built yet; ask the gateway itself by http"));
            }
            _ => return Err(refuse("is no URL that begins with http://")),
        }
        let authority = uri.authority().ok_or_else(|| refuse("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(refuse("takes no user name"));
        }
        if uri.query().is_some() {
            return Err(refuse("takes no query"));
        }
        Ok(GatewayUrl {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(80),
            authority: authority.as_str().to_owned(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// A request to `path`, which begins with a slash.
    pub(super) fn request(&self, method: &str, path: &str) -> hyper::http::request::Builder {
        let agent = concat!("streamgate/", env!("CARGO_PKG_VERSION"));
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header(header::HOST, &self.authority)
            .header(header::USER_AGENT, agent)
    }

    /// Connects and sends the request; gives the answer's head once it is
    /// there, with the body to be read, while the request's body is still
    /// being sent.
    ///
    /// # Cancel safety
    /// Dropping the future, or the answer, ends the connection.
    pub(super) async fn send<B>(&self, request: Request<B>) -> Result<Answer, Error>
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(stream) => stream.map_err(Error::Connect)?,
            Err(_) => return Err(Error::Connect(std::io::ErrorKind::TimedOut.into())),
        };
        stream.set_nodelay(true).map_err(Error::Connect)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(Error::Http)?;
        // The answer tells how the connection ended; the task has no more to say.
        let task = Task(tokio::spawn(async move { drop(connection.await) }));
        let response = sender.send_request(request).await.map_err(Error::Http)?;
        Ok(Answer { response, _task: task })
    }

    /// The status of a GET of `path`.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn status(&self, path: &str) -> Result<StatusCode, Error> {
        let request = self.request("GET", path).body(Empty::new()).map_err(Error::Request)?;
        Ok(self.send(request).await?.response.status())
    }
}

/// The connection's task, which lives as long as its answer is read.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer whose body is still to be read.
pub(super) struct Answer {
    response: Response<Incoming>,
    _task: Task,
}

impl Answer {
    /// The answer's status.
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The next bytes of the body; none at its end.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost.
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

    /// Makes an error of an answer that is not the one hoped for.
    ///
    /// # Cancel safety
    /// Not safe: what was read of the body is lost.
    pub(super) async fn refusal(self) -> Error {
        let status = self.response.status();
        let after = retry_after(self.response.headers());
        let body = Limited::new(self.response.into_body(), PROBLEM_BYTES_MAX);
        let body = tokio::time::timeout(CONNECT_TIMEOUT, body.collect()).await;
        let problem = match body {
            Ok(Ok(body)) => serde_json::from_slice(&body.to_bytes()).unwrap_or_default(),
            _ => Problem::default(),
        };
        Error::Refused { status, problem, after }
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// The members of a problem object that a person reads.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Problem {
    title: String,
    detail: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = if self.detail.is_empty() { &self.title } else { &self.detail };
        // A line of a terminal: what comes from a server moves no cursor.
        text.chars().filter(|c| !c.is_control()).try_for_each(|c| write!(f, "{c}"))
    }
}

/// Why there is no answer, or not the one hoped for.
#[derive(Debug)]
pub(super) enum Error {
    /// No connection.
    Connect(std::io::Error),
    /// What was asked for cannot be said in a request.
    Request(hyper::http::Error),
    /// The connection ended, or said what is not HTTP.
    Http(hyper::Error),
    /// The answer ended before what it is for was done.
    Ended,
    /// No whole line came for this long.
    Silence(Duration),
    /// The gateway says no.
    Refused {
        /// How.
        status: StatusCode,
        /// Why.
        problem: Problem,
        /// When to come back.
        after: Option<Duration>,
    },
}

impl Error {
    /// Whether another try can end better.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Error::Connect(_) | Error::Http(_) | Error::Ended | Error::Silence(_) => true,
            Error::Request(_) => false,
            Error::Refused { status, .. } => is_transient(*status),
        }
    }

    /// How long the gateway asks to wait.
    pub(super) fn after(&self) -> Option<Duration> {
        match self {
            Error::Refused { after, .. } => *after,
            _ => None,
        }
    }
}

/// Whether a status tells of a state that passes by itself.
pub(super) fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502..=504)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Connect(error) => write!(f, "no connection: {error}"),
            Error::Request(error) => write!(f, "{error}"),
            Error::Http(error) => write!(f, "connection lost: {error}"),
            Error::Ended => write!(f, "the gateway ended the connection"),
            Error::Silence(time) => {
                write!(f, "the gateway sent no whole line for {} s", time.as_secs())
            }
            Error::Refused { status, problem, .. } => {
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

/// Appends `text` to a query or a path, with every byte escaped that would
/// mean something there.
pub(super) fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:,".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for nibble in [byte >> 4, byte & 15] {
                out.push(char::from(b"0123456789ABCDEF"[usize::from(nibble)]));
            }
        }
    }
}

/// Runs a client to its end on a small runtime. What then still blocks, as a
/// read of standard input may, is left behind.
pub(super) fn block_on(client: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because(Exit::Runtime, &error))?;
    let result = runtime.block_on(client);
    runtime.shutdown_background();
    result
}
