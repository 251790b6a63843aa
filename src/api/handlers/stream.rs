//! Live streams: turns a request into a subscription.

use std::sync::Arc;

use hyper::header::{CONNECTION, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, Version};

use crate::api::admission::Admitted;
use crate::api::answer::{body::Body, media_type::MediaType, problem, response};
use crate::api::authorize::Permit;
use crate::api::context::RequestContext;
use crate::api::request::start::{StartPosition, StreamParams};
use crate::api::state::Api;
use crate::deliver::{Gap, Reason, StreamBody, StreamSource, Takeover};
use crate::event::{EventId, Offset, ResourceId};
use crate::hub::{OnGap, Overflow, Scope, Subscriber, SubscriptionId, SubscriptionSpec};
use crate::log::Log;
use crate::metrics::Protocol;
use crate::wire::problem::Problem;
use crate::wire::{Filter, LogKind, WireFormat};

/// The format of a stream over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFormat {
    /// Server-Sent Events.
    Sse,
    /// NDJSON with one event per line.
    Ndjson,
    /// NDJSON with one `CloudEvents` 1.0 object per line.
    CloudEvents,
}

impl StreamFormat {
    /// Returns the stream format of a media type. Returns `None` for JSON, which is
    /// not a format of streams.
    pub fn of(media_type: MediaType) -> Option<StreamFormat> {
        match media_type {
            MediaType::Json => None,
            MediaType::Ndjson => Some(StreamFormat::Ndjson),
            MediaType::Sse => Some(StreamFormat::Sse),
            MediaType::CloudEvents => Some(StreamFormat::CloudEvents),
        }
    }

    /// Returns the media type of a stream in this format.
    pub fn media_type(self) -> MediaType {
        match self {
            StreamFormat::Sse => MediaType::Sse,
            StreamFormat::Ndjson => MediaType::Ndjson,
            StreamFormat::CloudEvents => MediaType::CloudEvents,
        }
    }

    fn wire_format(self) -> WireFormat {
        match self {
            StreamFormat::Sse => WireFormat::Sse,
            StreamFormat::Ndjson => WireFormat::Ndjson,
            StreamFormat::CloudEvents => WireFormat::CloudEvents,
        }
    }

    fn protocol(self) -> Protocol {
        match self {
            StreamFormat::Sse => Protocol::Sse,
            StreamFormat::Ndjson | StreamFormat::CloudEvents => Protocol::Ndjson,
        }
    }
}

/// The events that a client asks for, and how the gateway delivers them.
#[derive(Clone)]
pub struct StreamTarget {
    /// The log that contains the events.
    pub log: Arc<Log>,
    /// The name of the topic or view. `None` on the paths of a collection.
    pub topic: Option<String>,
    /// The resource whose events are delivered. `None` for the events of the whole log.
    pub scope: Option<ResourceId>,
    /// The filter on event types (of the view or of `?types=`) and on fields of the
    /// events.
    pub filter: Arc<Filter>,
    /// The overflow policy, which applies if the client does not keep up.
    pub overflow: Overflow,
    /// The other parameters of the stream.
    pub params: StreamParams,
}

/// The start of a stream, after all checks of the start position.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResolvedStart {
    /// The offset after which the stream starts. `None` if the stream starts at the
    /// head of the log (after the newest event) at the time of the subscription.
    pub position: Option<Offset>,
    /// The gap that the stream reports before its first event.
    pub gap: Option<Gap>,
    /// Whether the stream starts with a snapshot of the resources.
    pub snapshot: bool,
    /// The event id that the client sent to resume.
    pub resumed_from: Option<EventId>,
}

impl ResolvedStart {
    /// Returns the start of a stream after the offset `position`, without a gap.
    fn at(position: Offset) -> ResolvedStart {
        ResolvedStart { position: Some(position), ..ResolvedStart::default() }
    }
}

impl StreamTarget {
    /// Subscribes `subscriber` to the events of this target from `start` on.
    /// `credit` is the number of events that the client accepts; `None` for no
    /// limit. Returns the id of the subscription, and the cursor: the event id after
    /// which the events start. For a stream that starts with a snapshot, the cursor
    /// is `None`: a client that resumed after a cursor would skip the snapshot.
    pub fn subscribe(
        &self,
        subscriber: &Arc<Subscriber>,
        format: WireFormat,
        credit: Option<u64>,
        start: &ResolvedStart,
    ) -> (SubscriptionId, Option<EventId>) {
        let spec = SubscriptionSpec {
            scope: self.scope.clone().map_or(Scope::Whole, Scope::Subject),
            filter: self.filter.clone(),
            format,
            credit,
            snapshot: start.snapshot,
            on_gap: self.params.on_gap,
            overflow: self.overflow,
        };
        let (id, position) = subscriber.subscribe(&self.log, spec, start.position);
        let cursor = start.resumed_from.unwrap_or_else(|| self.log.identity().id(position));
        (id, (!start.snapshot).then_some(cursor))
    }

    /// Returns the start of the stream (`docs/protocol.md#streams`, Start and Gap).
    /// If `snapshot` is true, the stream starts with a snapshot, except if the
    /// client resumes after an event id.
    ///
    /// # Errors
    /// 410 if events are missing and the client chose `onGap=error`; 400 for
    /// `onGap=snapshot` on a topic, which has no resources.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn resolve_start(&self, snapshot: bool) -> Result<ResolvedStart, Problem> {
        let log = &self.log;
        if snapshot && !matches!(self.params.from, Some(StartPosition::After(_))) {
            return Ok(ResolvedStart { snapshot, ..ResolvedStart::default() });
        }
        let topic = matches!(log.identity().kind, LogKind::Topic);
        if self.params.on_gap == OnGap::Snapshot && topic {
            return Err(problem::parameter(
                "onGap",
                "a topic has no resources for a snapshot; use event or error",
            ));
        }
        match self.params.from {
            None | Some(StartPosition::Now) => Ok(ResolvedStart::default()),
            Some(StartPosition::Earliest) => Ok(ResolvedStart::at(log.floor())),
            Some(StartPosition::After(id)) => self.resume_after(id).await,
            Some(StartPosition::At(time)) => {
                let found = log.find_before(time).await;
                let (position, is_complete) =
                    found.map_err(|error| problem::unavailable(&error))?;
                if is_complete {
                    return Ok(ResolvedStart::at(position));
                }
                self.gap(log.identity().id(Offset::ZERO), Reason::Expired)
            }
        }
    }

    async fn resume_after(&self, id: EventId) -> Result<ResolvedStart, Problem> {
        let log = &self.log;
        let floor = log.floor();
        if id.epoch != log.identity().epoch || id.offset > log.head() {
            return self.gap(id, Reason::Epoch);
        }
        if id.offset < floor && !self.is_unchanged_since(id.offset).await? {
            return self.gap(id, Reason::Expired);
        }
        let position = id.offset.max(floor);
        Ok(ResolvedStart { resumed_from: Some(id), ..ResolvedStart::at(position) })
    }

    /// Returns whether the target is one resource whose newest event is at or before
    /// `offset`. If so, the client misses no event, although retention removed
    /// events after `offset`.
    async fn is_unchanged_since(&self, offset: Offset) -> Result<bool, Problem> {
        let Some(id) = &self.scope else { return Ok(false) };
        let resource = self.log.resource(id).await.map_err(|error| problem::unavailable(&error))?;
        Ok(resource.is_some_and(|resource| resource.revision <= offset))
    }

    fn gap(&self, from: EventId, reason: Reason) -> Result<ResolvedStart, Problem> {
        let (identity, floor) = (self.log.identity(), self.log.floor());
        let earliest = identity.id(floor);
        let gap = Some(Gap { from, to: earliest, earliest, reason, count: None });
        match self.params.on_gap {
            // The open message must contain the event id that the client sent. If it
            // contained an event id after the gap, a client that disconnects between
            // the open message and the gap event would resume after the gap and
            // would never learn of the gap.
            OnGap::Event => {
                Ok(ResolvedStart { gap, resumed_from: Some(from), ..ResolvedStart::at(floor) })
            }
            OnGap::Snapshot => {
                Ok(ResolvedStart { gap, snapshot: true, ..ResolvedStart::default() })
            }
            OnGap::Error => Err(problem::gone(identity, reason.as_str(), floor)),
        }
    }
}

/// Returns the response whose body is the stream of `target` from `start` on.
///
/// # Errors
/// 429 or 503 if the gateway accepts no further stream from the client.
pub fn open(
    api: &Arc<Api>,
    context: &RequestContext,
    _permit: Permit,
    target: &StreamTarget,
    format: StreamFormat,
    start: &ResolvedStart,
) -> Result<Response<Body>, Problem> {
    let head = &context.head;
    if head.method == Method::HEAD {
        return Ok(respond(head, target, format, Body::Empty));
    }
    let admitted = match api.admit(format.protocol(), context.caller.client) {
        Ok(admitted) => admitted,
        Err(problem) => {
            return api.reject_stream(&head.method, &head.headers, head.version, problem);
        }
    };
    let Admitted { subscriber, share } = admitted;
    let takeover = context.connection.takeover.as_ref();
    // HTTP/1.0 has no chunked transfer coding: the body ends when the connection
    // closes.
    let chunked = takeover.is_some() && head.version == Version::HTTP_11;
    let format_on_wire =
        if chunked { format.wire_format().chunked() } else { format.wire_format() };
    let batch_size = target.params.batch_size.map(std::num::NonZeroU32::get);
    let (deliver, metrics) = (api.deliver.clone(), api.metrics.clone());
    let mut source =
        StreamSource::new(subscriber.clone(), deliver, metrics, format_on_wire, batch_size);
    source.keep_guard(share);
    let (_, cursor) = target.subscribe(&subscriber, format_on_wire, None, start);
    let opening = source.messages().open(cursor);
    source.queue_frame(opening);
    if let Some(gap) = start.gap {
        let frame = source.messages().gap(&gap, start.snapshot);
        source.queue_frame(frame);
    }
    let body = match takeover {
        Some(takeover) => Body::Taken(takeover.plan(Takeover::Stream { source, chunked })),
        None => Body::Live(Box::new(StreamBody::new(source))),
    };
    Ok(respond(head, target, format, body))
}

fn respond(
    head: &Parts,
    target: &StreamTarget,
    format: StreamFormat,
    body: Body,
) -> Response<Body> {
    let mut response = response::new(200, format.media_type(), body);
    response::set_unbuffered(&mut response);
    response::set_batch_size(&mut response, target.params.batch_size);
    let headers = response.headers_mut();
    let wants_close = head
        .headers
        .get_all(CONNECTION)
        .iter()
        .any(|value| value.as_bytes().to_ascii_lowercase().windows(5).any(|w| w == b"close"));
    // RFC 9113 §8.2.2 forbids `Connection` on HTTP/2. On HTTP/1.0, the body ends
    // when the connection closes.
    match head.version {
        Version::HTTP_11 if !wants_close => {
            headers.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
        }
        Version::HTTP_10 | Version::HTTP_11 => {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        _ => {}
    }
    response
}
