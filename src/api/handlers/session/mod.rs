//! WebSocket sessions: the handshake, and the task that serves the socket.

mod commands;
mod message;

use std::sync::Arc;

use hyper::header::{HOST, HeaderValue, ORIGIN, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION};
use hyper::http::uri::Authority;
use hyper::{Method, Request, Response, Uri, Version};
use tokio_tungstenite::tungstenite::handshake::server::create_response;

use crate::api::admission::Admitted;
use crate::api::answer::{body::Body, response};
use crate::api::authorize::Permit;
use crate::api::context::{Caller, RequestContext};
use crate::api::handlers::stream::{ResolvedStart, StreamTarget};
use crate::api::state::Api;
use crate::deliver::{Session, SpawnSession, StreamSource, Takeover};
use crate::metrics::Protocol;
use crate::wire::WireFormat;
use crate::wire::problem::{Code, Problem};
use commands::CommandDispatcher;

/// The subprotocol that a browser may name beside its token.
const SUBPROTOCOL: &str = "streamgate.v1";

/// Takes the caller's connection over for a session; `target` is what its path
/// names, none on `/ws`.
///
/// # Errors
/// When the request is no WebSocket handshake (RFC 6455 §4.2), comes from
/// another site's page, or cannot begin where it asks to.
///
/// # Cancel safety
/// Safe until the answer is given.
pub async fn upgrade(
    api: &Arc<Api>,
    context: RequestContext,
    _permit: Permit,
    target: Option<StreamTarget>,
) -> Result<Response<Body>, Problem> {
    let RequestContext { caller, connection, head, .. } = context;
    let request = Request::from_parts(head, ());
    check_origin(&request)?;
    let mut response = accept(&request)?;
    if offers_subprotocol(&request) {
        response
            .headers_mut()
            .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    let beginning = match &target {
        Some(target) => Some(target.beginning().await?),
        None => None,
    };
    let Some(slot) = connection.takeover else {
        return Err(Problem::new(Code::UpgradeRequired, "this connection takes no WebSocket"));
    };
    let admitted = api.admit(Protocol::WebSocket, caller.client)?;
    let (source, commands) = begin(api, admitted, caller, target, beginning);
    let api = api.clone();
    let spawn: SpawnSession = Box::new(move |transport, source, early, open| {
        let session = Session::new(transport, source, commands, &api.deliver, early, Some(open));
        api.tasks.spawn(session);
    });
    slot.plan(Takeover::WebSocket { source, spawn });
    Ok(response)
}

/// The answer to a handshake: 101, or 200 on HTTP/2 (RFC 8441 §5).
fn accept(request: &Request<()>) -> Result<Response<Body>, Problem> {
    let refused =
        |why: &str| Problem::new(Code::UpgradeRequired, format!("this path is a WebSocket: {why}"));
    if *request.method() == Method::CONNECT {
        let version = request.headers().get(SEC_WEBSOCKET_VERSION);
        let is_known = version.is_some_and(|version| version == "13");
        let why = "Sec-WebSocket-Version must be 13";
        return if is_known { Ok(response::empty(200)) } else { Err(refused(why)) };
    }
    if request.version() == Version::HTTP_2 {
        return Err(refused("on HTTP/2 it is asked for by an extended CONNECT (RFC 8441)"));
    }
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    let accepted = create_response(&copy).map_err(|why| refused(&why.to_string()))?;
    Ok(accepted.map(|()| Body::Empty))
}

/// A page of another site must not speak to a gateway that trusts its
/// network: browsers send such a page's `Origin`, and no other client does.
fn check_origin(request: &Request<()>) -> Result<(), Problem> {
    let Some(origin) = request.headers().get(ORIGIN) else { return Ok(()) };
    let asked = request.uri().authority().cloned().or_else(|| {
        request.headers().get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok())
    });
    let page = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let page = page.as_ref().and_then(Uri::authority);
    match (page, asked) {
        (Some(page), Some(asked)) if *page == asked => Ok(()),
        _ => Err(Problem::new(Code::Forbidden, "the page's origin is not this gateway")),
    }
}

fn offers_subprotocol(request: &Request<()>) -> bool {
    request
        .headers()
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim() == SUBPROTOCOL)
}

/// Subscribes to what the path names. A start that was asked for is answered
/// with an opening; otherwise nothing is said before the client speaks or an
/// event comes (`docs/protocol.md#websocket`).
fn begin(
    api: &Arc<Api>,
    admitted: Admitted,
    caller: Caller,
    target: Option<StreamTarget>,
    beginning: Option<ResolvedStart>,
) -> (StreamSource, CommandDispatcher) {
    let Admitted { subscriber, share } = admitted;
    let (deliver, metrics) = (api.deliver.clone(), api.metrics.clone());
    let mut source =
        StreamSource::new(subscriber.clone(), deliver, metrics, WireFormat::Envelope, None);
    source.keep_guard(share);
    let core = CommandDispatcher::new(api.clone(), subscriber.clone(), caller, target.clone());
    if let (Some(target), Some(beginning)) = (target, beginning) {
        let interest = target.interest(WireFormat::Envelope, None, &beginning);
        let (id, start) = subscriber.subscribe(&target.log, interest, beginning.start);
        core.hold(&target, id);
        if target.asked.from.is_some() {
            let cursor = beginning.returned.unwrap_or_else(|| target.log.origin().id(start));
            let frame = source.messages().open((!beginning.snapshot).then_some(cursor));
            source.queue_frame(frame);
        }
        if let (Some(gap), Some(reading)) = (beginning.gap, subscriber.read_request(id)) {
            let frame = source.messages().gap_of(&gap, &reading);
            source.queue_frame(frame);
        }
    }
    (source, core)
}
