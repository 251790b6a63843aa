//! The context of a request.

use std::sync::Arc;

use hyper::Method;
use hyper::http::request::Parts;

use crate::api::request::{
    address::{Client, Peer},
    query::Query,
};
use crate::deliver::{ConnectionState, H2SendTracker};

/// What a request comes over.
pub struct ConnectionContext {
    /// Who is at the other end.
    pub peer: Peer,
    /// Where a stream leaves itself for the connection's task, or what keeps
    /// the connection open for as long as a session lasts.
    pub handover: Option<Arc<ConnectionState>>,
    /// An HTTP/2 stream's.
    pub flow: Option<Arc<H2SendTracker>>,
}

/// A request without its body.
pub struct RequestContext {
    /// Its head.
    pub head: Parts,
    /// `/v1` where its path begins with it.
    pub prefix: &'static str,
    /// The parameters that nobody has taken yet.
    pub query: Query,
    /// Whose request it is, as far as addresses tell.
    pub client: Client,
    /// The HTTP/2 stream that it came on.
    pub flow: Option<Arc<H2SendTracker>>,
}

impl RequestContext {
    /// Whether it is for the head of an answer alone.
    pub fn is_head(&self) -> bool {
        self.head.method == Method::HEAD
    }

    /// Who asks; all are one until they can say who they are.
    #[expect(clippy::unused_self, reason = "a request will carry its principal")]
    pub(super) fn principal(&self) -> &'static str {
        ""
    }
}
