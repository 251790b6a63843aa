//! Admission: decides whether a request, a stream or a connection is served, and
//! creates the response to a client that is refused.

use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use hyper::{Method, Request, Response, Version};

use crate::api::answer::{body::Body, media_type::MediaType, response};
use crate::api::limit::RateLimited;
use crate::api::request::{
    address::{Client, client_key},
    negotiate,
};
use crate::api::settings::SseOverload;
use crate::api::state::{Api, Services};
use crate::event::Timestamp;
use crate::hub::Subscriber;
use crate::metrics::Protocol;
use crate::wire::WireFormat;
use crate::wire::problem::{Code, Problem};

/// A stream that the gateway has admitted.
pub(super) struct Admitted {
    pub(super) subscriber: Arc<Subscriber>,
    /// The guard that counts the stream for a client behind a proxy. `None` for a
    /// client without a proxy.
    pub(super) share: Option<Box<dyn Send + Sync>>,
}

/// Counts one stream of a client behind a proxy until the guard is dropped.
struct ClientStreamGuard {
    services: Arc<Services>,
    address: IpAddr,
}

impl Drop for ClientStreamGuard {
    fn drop(&mut self) {
        let mut streams = self.services.streams.lock();
        if let Entry::Occupied(mut count) = streams.entry(self.address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// The reason why a connection is refused (`limits.max_connections` and
/// `limits.max_connections_per_address`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapacityError {
    /// The gateway already has the largest allowed number of connections.
    Connections,
    /// The IP address already has the largest allowed number of connections.
    Address,
}

impl CapacityError {
    /// Returns the value of the metrics label `reason` for a connection that is
    /// refused.
    pub fn reason(self) -> &'static str {
        match self {
            CapacityError::Connections => "connections",
            CapacityError::Address => "connections-per-address",
        }
    }

    fn problem(self) -> Problem {
        match self {
            CapacityError::Connections => Problem::new(
                Code::Overloaded,
                "the gateway has reached its limit of connections; connect again later",
            ),
            CapacityError::Address => Problem::new(
                Code::TooManyRequests,
                "your address has reached its limit of connections; close a connection first",
            ),
        }
    }
}

impl Api {
    /// Admits one more stream of `client` with the protocol `protocol`.
    ///
    /// # Errors
    /// 503 while the gateway drains, while the memory is near its limit, and if the
    /// protocol has its largest number of streams. 429 if the client has its largest
    /// number of streams. Each refusal is counted in the metrics.
    pub(super) fn admit(&self, protocol: Protocol, client: Client) -> Result<Admitted, Problem> {
        if self.is_draining() {
            self.metrics.refused("draining");
            return Err(Problem::new(
                Code::Draining,
                "the gateway is shutting down; connect again",
            ));
        }
        if self.is_crowded() {
            self.metrics.refused("memory");
            let detail = "the memory of the gateway is near its limit; connect again later";
            return Err(Problem::new(Code::Overloaded, detail));
        }
        let share = client.via_proxy.then(|| self.count_stream(client.address)).transpose()?;
        let most = self.settings.streams_max[protocol as usize];
        let Some(subscriber) = self.hub.join(protocol, &self.rings, most) else {
            self.metrics.refused(protocol.label());
            let detail = "the gateway has reached its limit of streams of this protocol; connect again later";
            return Err(Problem::new(Code::Overloaded, detail));
        };
        Ok(Admitted { subscriber, share })
    }

    /// Counts one more stream of the client at `address`, which is behind a proxy.
    /// Returns the guard that counts the stream.
    fn count_stream(&self, address: IpAddr) -> Result<Box<dyn Send + Sync>, Problem> {
        let most = self.settings.streams_per_client_max;
        let address = client_key(address);
        let mut streams = self.services.streams.lock();
        let count = streams.entry(address).or_insert(0);
        if most > 0 && *count >= most {
            self.metrics.refused(CapacityError::Address.reason());
            return Err(CapacityError::Address.problem());
        }
        *count += 1;
        Ok(Box::new(ClientStreamGuard { services: self.services.clone(), address }))
    }

    /// Returns the response to a request on a connection that is refused. The
    /// gateway answers one request on such a connection.
    pub fn refuse<B>(
        self: &Arc<Self>,
        request: &Request<B>,
        full: CapacityError,
    ) -> Response<Body> {
        let mut response = self.refuse_with(request, full.problem());
        if request.version() < Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Returns the response to a client that exceeds its request rate.
    pub(super) fn refuse_request<B>(
        self: &Arc<Self>,
        request: &Request<B>,
        limited: RateLimited,
    ) -> Response<Body> {
        self.metrics.refused(limited.policy.reason());
        self.refuse_with(request, limited.problem())
    }

    /// Takes one token from the bucket for published events of `client`.
    ///
    /// # Errors
    /// 429 if the client exceeds its publish rate. The refusal is counted in the
    /// metrics.
    pub(super) fn may_publish(&self, client: Client) -> Result<(), Problem> {
        let Some(buckets) = &self.publishing else { return Ok(()) };
        buckets.take(client.address).map_err(|limited| {
            self.metrics.refused(limited.policy.reason());
            limited.problem()
        })
    }

    /// Waits until the publish rate of `client` allows at least one event. Returns
    /// the number of events that the client may publish now, which is at most
    /// `count`. A batch is slowed down and not refused.
    ///
    /// # Cancel safety
    /// Safe: the function takes tokens only when it returns.
    pub(super) async fn publish_in_time(&self, client: Client, count: u32) -> u32 {
        let Some(buckets) = &self.publishing else { return count };
        loop {
            match buckets.take_some(client.address, count) {
                Ok(taken) => return taken,
                Err(limited) => tokio::time::sleep(limited.retry).await,
            }
        }
    }

    /// Returns the response that contains `problem`: an SSE response for an
    /// `EventSource`, and a problem response for all other clients.
    fn refuse_with<B>(self: &Arc<Self>, request: &Request<B>, problem: Problem) -> Response<Body> {
        let path = request.uri().path();
        let (method, headers) = (request.method(), request.headers());
        self.reject_stream(method, headers, request.version(), problem)
            .unwrap_or_else(|problem| response::problem(&problem, path))
    }

    /// Returns the response that makes an `EventSource` reconnect: 200 with the problem as
    /// an event. After another status, an `EventSource` never reconnects.
    ///
    /// # Errors
    /// `problem` itself, for a client that is not an `EventSource`, and if
    /// `streams.sse_overload` is `status`.
    pub(super) fn reject_stream(
        &self,
        method: &Method,
        headers: &HeaderMap,
        version: Version,
        problem: Problem,
    ) -> Result<Response<Body>, Problem> {
        let status = self.settings.sse_overload == SseOverload::Status;
        if status || !is_event_source(method, headers) {
            return Err(problem);
        }
        let retry: Duration = crate::random::within(&self.deliver.retry);
        let notice = crate::wire::ControlMessage {
            kind: "error",
            id: None,
            retry: Some(retry),
            collection: None,
            subject: None,
            data: &problem.to_json(None),
            time: Timestamp::now(),
            message: (0, 0),
        };
        let mut response =
            response::new(200, MediaType::Sse, Body::Full(notice.encode(WireFormat::Sse)));
        response::set_unbuffered(&mut response);
        if version < Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}

/// Returns whether the client is an `EventSource`. An `EventSource` lists the media
/// type `text/event-stream` in `Accept`. A client that accepts this media type only
/// through a wildcard can read a status.
fn is_event_source(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::GET
        && !headers.contains_key(UPGRADE)
        && negotiate::names(headers, MediaType::Sse)
}
