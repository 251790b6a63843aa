//! The context of a request: its connection, its caller and its head.

use std::sync::Arc;

use hyper::Method;
use hyper::http::request::Parts;

use crate::api::request::{
    address::{Client, Peer},
    query::Query,
};
use crate::deliver::{H2SendTracker, TakeoverSlot};

/// The connection of a request. The server creates this context for each request.
pub struct ConnectionContext {
    /// The client or proxy at the other end of the connection.
    pub peer: Peer,
    /// The slot for a takeover of the connection. A handler puts a stream or a
    /// WebSocket session into the slot. After the response head, the stream or
    /// session uses the connection, or the HTTP/2 stream of a CONNECT request.
    /// `None` if no takeover is possible.
    pub takeover: Option<Arc<TakeoverSlot>>,
    /// Tracks the unsent bytes of the HTTP/2 stream. `None` on HTTP/1.
    pub flow: Option<Arc<H2SendTracker>>,
}

/// The identity of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Principal {
    /// The caller has no credentials. There is no authentication yet.
    Anonymous,
}

impl Principal {
    /// Returns the text that identifies the caller in the scope of an idempotency
    /// key.
    pub fn scope(self) -> &'static str {
        match self {
            Principal::Anonymous => "",
        }
    }
}

/// The caller of a request, or of the commands of a WebSocket session. A session
/// keeps the caller that sent the handshake. The session drops the rest of the
/// handshake request, so that an idle session uses little memory.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The identity of the caller.
    pub principal: Principal,
    /// The client, identified by its IP address. Rates and streams are limited per
    /// client.
    pub client: Client,
}

impl Caller {
    /// Returns an anonymous caller.
    pub fn anonymous(client: Client) -> Caller {
        Caller { principal: Principal::Anonymous, client }
    }
}

/// A request without its body. The router creates the context once and passes it to
/// the handler of the request.
pub struct RequestContext {
    /// The caller that sent the request.
    pub caller: Caller,
    /// The connection on which the request arrived.
    pub connection: ConnectionContext,
    /// The head of the request.
    pub head: Parts,
    /// The version prefix of the path: `/v1`, or empty.
    pub prefix: &'static str,
    /// The query parameters that the handler has not read yet.
    pub query: Query,
}

impl RequestContext {
    /// Returns whether the method of the request is `HEAD`.
    pub fn is_head(&self) -> bool {
        self.head.method == Method::HEAD
    }
}
