//! The context of a request.

use std::sync::Arc;

use hyper::Method;
use hyper::http::request::Parts;

use crate::api::request::{
    address::{Client, Peer},
    query::Query,
};
use crate::deliver::{H2SendTracker, TakeoverSlot};

/// The connection that a request came on. The server makes it.
pub struct ConnectionContext {
    /// The other end of the connection.
    pub peer: Peer,
    /// The slot in which a handler leaves a stream or a session that takes the
    /// connection, or the stream of an HTTP/2 CONNECT, over. None where nothing
    /// can be taken over.
    pub takeover: Option<Arc<TakeoverSlot>>,
    /// The send tracker of the HTTP/2 stream; none on HTTP/1.
    pub flow: Option<Arc<H2SendTracker>>,
}

/// The identity of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Principal {
    /// The caller has no credentials. There is no authentication yet.
    Anonymous,
}

impl Principal {
    /// Returns the part of an idempotency key's scope that belongs to the caller.
    pub fn scope(self) -> &'static str {
        match self {
            Principal::Anonymous => "",
        }
    }
}

/// The caller of a request, or of the commands of a session. A session keeps
/// the caller of its handshake and nothing else of the request, so that an
/// idle session stays small.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The identity.
    pub principal: Principal,
    /// The client by its address: rates and streams are counted per client.
    pub client: Client,
}

impl Caller {
    /// Returns an anonymous caller.
    pub fn anonymous(client: Client) -> Caller {
        Caller { principal: Principal::Anonymous, client }
    }
}

/// A request without its body. The router builds it once and passes it to the
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
    /// The query parameters that the handler has not taken yet.
    pub query: Query,
}

impl RequestContext {
    /// Returns whether the method is `HEAD`.
    pub fn is_head(&self) -> bool {
        self.head.method == Method::HEAD
    }
}
