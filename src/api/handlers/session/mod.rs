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

/// The WebSocket subprotocol that the gateway selects if the client offers it. A
/// browser that sends a token as a subprotocol can offer this one beside the token.
const SUBPROTOCOL: &str = "streamgate.v1";

/// Returns the response to a WebSocket handshake. After the response, a session uses
/// the connection. `target` is the topic, collection or resource in the path; `None`
/// for `/ws`.
///
/// # Errors
/// 426 for a request that is not a WebSocket handshake (RFC 6455 §4.2), 403 for a
/// request from a browser page of another identity, and the errors of
/// [`StreamTarget::resolve_start`].
///
/// # Cancel safety
/// Safe: if the future is dropped, no session starts.
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
    let stream = match target {
        Some(target) => {
            let start = target.resolve_start(false).await?;
            Some((target, start))
        }
        None => None,
    };
    let Some(slot) = connection.takeover else {
        return Err(Problem::new(
            Code::UpgradeRequired,
            "this connection cannot become a WebSocket; use HTTP/1.1 or an HTTP/2 extended CONNECT",
        ));
    };
    let admitted = api.admit(Protocol::WebSocket, caller.client)?;
    let (source, commands) = begin(api, admitted, caller, stream);
    let api = api.clone();
    let spawn: SpawnSession = Box::new(move |transport, source, early, open| {
        let session = Session::new(transport, source, commands, &api.deliver, early, Some(open));
        api.tasks.spawn(session);
    });
    slot.plan(Takeover::WebSocket { source, spawn });
    Ok(response)
}

/// Returns the response to a WebSocket handshake: 101 on HTTP/1.1, 200 on HTTP/2
/// (RFC 8441 §5).
fn accept(request: &Request<()>) -> Result<Response<Body>, Problem> {
    let reject = |why: &str| {
        Err(Problem::new(Code::UpgradeRequired, format!("this path is a WebSocket: {why}")))
    };
    if *request.method() == Method::CONNECT {
        let version = request.headers().get(SEC_WEBSOCKET_VERSION);
        return if version.is_some_and(|version| version == "13") {
            Ok(response::empty(200))
        } else {
            reject("Sec-WebSocket-Version must be 13")
        };
    }
    if request.version() == Version::HTTP_2 {
        return reject("on HTTP/2, send an extended CONNECT request (RFC 8441)");
    }
    match create_response(request) {
        Ok(response) => Ok(response.map(|()| Body::Empty)),
        Err(why) => reject(&why.to_string()),
    }
}

/// Checks that a handshake from a browser page comes from a page of the gateway's
/// own identity. Otherwise, a page of another site could control a gateway that trusts
/// all clients in its network. Browsers send the `Origin` of the page. A request
/// without `Origin` is not from a browser.
fn check_origin(request: &Request<()>) -> Result<(), Problem> {
    let Some(identity) = request.headers().get(ORIGIN) else { return Ok(()) };
    let authority = request.uri().authority().cloned().or_else(|| {
        request.headers().get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok())
    });
    let page = identity.to_str().ok().and_then(|identity| identity.parse::<Uri>().ok());
    let page = page.as_ref().and_then(Uri::authority);
    match (page, authority) {
        (Some(page), Some(authority)) if *page == authority => Ok(()),
        _ => Err(Problem::new(
            Code::Forbidden,
            "the Origin of the page is not this gateway; open the page from this gateway, or send no Origin",
        )),
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

/// Creates a session, and subscribes the session to the target of the path, if there
/// is one. If the client chose a start position, the first message to the client is
/// an open message. Otherwise it is an event or the response to a command
/// (`docs/protocol.md#websocket`).
fn begin(
    api: &Arc<Api>,
    admitted: Admitted,
    caller: Caller,
    stream: Option<(StreamTarget, ResolvedStart)>,
) -> (StreamSource, CommandDispatcher) {
    let Admitted { subscriber, share } = admitted;
    let (deliver, metrics) = (api.deliver.clone(), api.metrics.clone());
    let mut source =
        StreamSource::new(subscriber.clone(), deliver, metrics, WireFormat::Envelope, None);
    source.keep_guard(share);
    let path = stream.as_ref().map(|(target, _)| target.clone());
    let commands = CommandDispatcher::new(api.clone(), subscriber.clone(), caller, path);
    if let Some((target, start)) = stream {
        let (id, cursor) = target.subscribe(&subscriber, WireFormat::Envelope, None, &start);
        commands.add(&target, id);
        if target.params.from.is_some() {
            let frame = source.messages().open(cursor);
            source.queue_frame(frame);
        }
        if let (Some(gap), Some(request)) = (start.gap, subscriber.read_request(id)) {
            let frame = source.messages().gap_of(&gap, &request);
            source.queue_frame(frame);
        }
    }
    (source, commands)
}
