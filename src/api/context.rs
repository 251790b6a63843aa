//! The context of a request.

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
    /// The slot in which a handler leaves a stream or a session that takes over the
    /// connection, or the stream of an HTTP/2 CONNECT. `None` if no takeover is
    /// possible.
    pub takeover: Option<Arc<TakeoverSlot>>,
    /// The send tracker of the HTTP/2 stream; `None` for HTTP/1.
    pub flow: Option<Arc<H2SendTracker>>,
}

/// The identity of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Principal {
    /// The caller has no credentials. There is no authentication yet.
    Anonymous,
}

impl Principal {
    /// Returns the part of the scope of an idempotency key that identifies the caller.
    pub fn scope(self) -> &'static str {
        match self {
            Principal::Anonymous => "",
        }
    }
}

/// The caller of a request, or of the commands of a session. A session keeps the caller
/// of its handshake. The session drops the rest of the request, so that an idle session
/// uses little memory.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The identity of the caller.
    pub principal: Principal,
    /// The client with its address. Rates and streams are limited per client.
    pub client: Client,
}

impl Caller {
    /// Returns an anonymous caller.
    pub fn anonymous(client: Client) -> Caller {
        Caller { principal: Principal::Anonymous, client }
    }
}

/// A request without its body. The router creates the context once and passes it to the
/// handler.
pub struct RequestContext {
    /// The caller.
    pub caller: Caller,
    /// The connection.
    pub connection: ConnectionContext,
    /// The head of the request.
    pub head: Parts,
    /// The prefix of the path: `/v1` or nothing.
    pub prefix: &'static str,
    /// The query parameters that the handler has not read yet.
    pub query: Query,
}

impl RequestContext {
    /// Returns whether the method is `HEAD`.
    pub fn is_head(&self) -> bool {
        self.head.method == Method::HEAD
    }
}
