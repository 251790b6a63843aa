//! Live streams: from a request to a subscription.

use std::sync::Arc;

use hyper::header::{CONNECTION, HeaderName, HeaderValue};
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
use crate::hub::{OnGap, Overflow, Scope, SubscriptionSpec};
use crate::log::Log;
use crate::metrics::Protocol;
use crate::wire::problem::Problem;
use crate::wire::{Filter, LogKind, WireFormat as WireForm};

/// The form of a stream of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFormat {
    /// Server-Sent Events.
    Sse,
    /// One event a line.
    Ndjson,
    /// `CloudEvents` 1.0, one a line.
    CloudEvents,
}

impl StreamFormat {
    /// The stream's form of that media type; none for JSON, which is no stream.
    pub fn of(form: MediaType) -> Option<StreamFormat> {
        match form {
            MediaType::Json => None,
            MediaType::Ndjson => Some(StreamFormat::Ndjson),
            MediaType::Sse => Some(StreamFormat::Sse),
            MediaType::CloudEvents => Some(StreamFormat::CloudEvents),
        }
    }

    /// The form with its media type.
    pub fn form(self) -> MediaType {
        match self {
            StreamFormat::Sse => MediaType::Sse,
            StreamFormat::Ndjson => MediaType::Ndjson,
            StreamFormat::CloudEvents => MediaType::CloudEvents,
        }
    }

    fn wire(self) -> WireForm {
        match self {
            StreamFormat::Sse => WireForm::Sse,
            StreamFormat::Ndjson => WireForm::Ndjson,
            StreamFormat::CloudEvents => WireForm::CloudEvents,
        }
    }

    fn protocol(self) -> Protocol {
        match self {
            StreamFormat::Sse => Protocol::Sse,
            StreamFormat::Ndjson | StreamFormat::CloudEvents => Protocol::Ndjson,
        }
    }
}

/// What a stream is of, checked.
#[derive(Clone)]
pub struct StreamTarget {
    /// The log that it follows.
    pub log: Arc<Log>,
    /// The topic's name, its own or a view's; none on a collection's paths.
    pub topic: Option<String>,
    /// One resource, or all.
    pub scope: Option<ResourceId>,
    /// Which events: a view's types, `?types=` and field filters.
    pub filter: Arc<Filter>,
    /// What happens where its client does not keep up.
    pub overflow: Overflow,
    /// Where it begins and how it is sent.
    pub asked: StreamParams,
}

/// Where a stream begins, decided.
#[derive(Clone, Copy, Debug)]
pub struct ResolvedStart {
    /// The position it starts after; none for the log's end at that moment.
    pub start: Option<Offset>,
    /// What the client is told is missing before.
    pub gap: Option<Gap>,
    /// Whether the resources come first.
    pub snapshot: bool,
    /// The client's own id, where it returned with one.
    pub returned: Option<EventId>,
}

impl StreamTarget {
    /// What its subscription is interested in, in `form`.
    pub fn interest(
        &self,
        form: WireForm,
        credit: Option<u64>,
        beginning: &ResolvedStart,
    ) -> SubscriptionSpec {
        SubscriptionSpec {
            scope: self.scope.clone().map_or(Scope::Whole, Scope::Subject),
            filter: self.filter.clone(),
            format: form,
            credit,
            snapshot: beginning.snapshot,
            on_gap: self.asked.on_gap,
            overflow: self.overflow,
        }
    }

    /// Decides where its stream begins (`docs/protocol.md#streams`, Start and Gap).
    ///
    /// # Errors
    /// 410 where events are missing and the client asked for an error then;
    /// 400 where it asked for a snapshot of what has no resources.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn beginning(&self) -> Result<ResolvedStart, Problem> {
        let log = &self.log;
        let topic = matches!(log.origin().kind, LogKind::Topic);
        if self.asked.on_gap == OnGap::Snapshot && topic {
            return Err(problem::parameter("onGap", "a topic has no resources to snapshot"));
        }
        let at = |start| ResolvedStart {
            start: Some(start),
            gap: None,
            snapshot: false,
            returned: None,
        };
        match self.asked.from {
            None | Some(StartPosition::Now) => {
                Ok(ResolvedStart { start: None, gap: None, snapshot: false, returned: None })
            }
            Some(StartPosition::Earliest) => Ok(at(log.floor())),
            Some(StartPosition::After(id)) => self.after(id).await,
            Some(StartPosition::At(time)) => {
                let found = log.find_before(time).await;
                let (start, whole) = found.map_err(|error| problem::unavailable(&error))?;
                if whole {
                    return Ok(at(start));
                }
                self.gap(self.log.origin().id(Offset::ZERO), Reason::Expired)
            }
        }
    }

    async fn after(&self, id: EventId) -> Result<ResolvedStart, Problem> {
        let log = &self.log;
        let floor = log.floor();
        if id.epoch != log.origin().epoch || id.offset > log.head() {
            return self.gap(id, Reason::Epoch);
        }
        if id.offset < floor && !self.is_unchanged_since(id.offset).await? {
            return self.gap(id, Reason::Expired);
        }
        let start = id.offset.max(floor);
        Ok(ResolvedStart { start: Some(start), gap: None, snapshot: false, returned: Some(id) })
    }

    /// A resource that was not touched since has lost no event to retention,
    /// however much of the log has gone.
    async fn is_unchanged_since(&self, offset: Offset) -> Result<bool, Problem> {
        let Some(id) = &self.scope else { return Ok(false) };
        let state = self.log.resource(id).await.map_err(|error| problem::unavailable(&error))?;
        Ok(state.is_some_and(|state| state.revision <= offset))
    }

    fn gap(&self, from: EventId, reason: Reason) -> Result<ResolvedStart, Problem> {
        let (origin, floor) = (self.log.origin(), self.log.floor());
        let earliest = origin.id(floor);
        let gap = Gap { from, to: earliest, earliest, reason, count: None };
        // The opening must not carry an id behind the gap: a client that is
        // cut between the two would come back without ever being told.
        let returned = Some(from);
        match self.asked.on_gap {
            OnGap::Event => {
                Ok(ResolvedStart { start: Some(floor), gap: Some(gap), snapshot: false, returned })
            }
            OnGap::Snapshot => {
                Ok(ResolvedStart { start: None, gap: Some(gap), snapshot: true, returned: None })
            }
            OnGap::Error => Err(problem::gone(origin, reason.as_str(), floor)),
        }
    }
}

/// A stream of `target`'s events.
///
/// # Errors
/// Before the head, a failure is a status.
///
/// # Cancel safety
/// Safe: a subscription without its stream is forgotten.
pub async fn events(
    api: &Arc<Api>,
    context: &RequestContext,
    permit: Permit,
    target: StreamTarget,
    form: StreamFormat,
) -> Result<Response<Body>, Problem> {
    let beginning = target.beginning().await?;
    open(api, context, permit, &target, form, beginning)
}

/// A snapshot of `target`'s collection and then its events; with an id, where
/// a client returns, only what it has missed.
///
/// # Errors
/// Before the head, a failure is a status.
///
/// # Cancel safety
/// Safe: a subscription without its stream is forgotten.
pub async fn follow(
    api: &Arc<Api>,
    context: &RequestContext,
    permit: Permit,
    target: StreamTarget,
    form: StreamFormat,
) -> Result<Response<Body>, Problem> {
    let beginning = match target.asked.from {
        Some(StartPosition::After(_)) => target.beginning().await?,
        _ => ResolvedStart { start: None, gap: None, snapshot: true, returned: None },
    };
    open(api, context, permit, &target, form, beginning)
}

fn open(
    api: &Arc<Api>,
    context: &RequestContext,
    _permit: Permit,
    target: &StreamTarget,
    form: StreamFormat,
    beginning: ResolvedStart,
) -> Result<Response<Body>, Problem> {
    let head = &context.head;
    if head.method == Method::HEAD {
        return Ok(with_headers(head, target, form, Body::Empty));
    }
    let protocol = form.protocol();
    let Admitted { subscriber, share } = match api.admit(protocol, context.caller.client) {
        Ok(admitted) => admitted,
        Err(problem) => {
            return api.reject_stream(&head.method, &head.headers, head.version, problem);
        }
    };
    let takeover = context.connection.takeover.as_ref();
    // HTTP/1.0 knows no chunks: the end of the connection ends the body.
    let chunked = takeover.is_some() && head.version == Version::HTTP_11;
    let wire = if chunked { form.wire().chunked() } else { form.wire() };
    let batch_size = target.asked.batch_size.map(std::num::NonZeroU32::get);
    let mut source = StreamSource::new(
        subscriber.clone(),
        api.deliver.clone(),
        api.metrics.clone(),
        wire,
        batch_size,
    );
    source.keep_guard(share);
    let interest = target.interest(wire, None, &beginning);
    let (_, start) = subscriber.subscribe(&target.log, interest, beginning.start);
    let origin = target.log.origin();
    let cursor = beginning.returned.unwrap_or_else(|| origin.id(start));
    let opening = source.messages().open((!beginning.snapshot).then_some(cursor));
    source.queue_frame(opening);
    if let Some(gap) = beginning.gap {
        let frame = source.messages().gap(&gap, beginning.snapshot);
        source.queue_frame(frame);
    }
    let body = match takeover {
        Some(takeover) => Body::Taken(takeover.plan(Takeover::Stream { source, chunked })),
        None => Body::Live(Box::new(StreamBody::new(source))),
    };
    Ok(with_headers(head, target, form, body))
}

fn with_headers(
    head: &Parts,
    target: &StreamTarget,
    form: StreamFormat,
    body: Body,
) -> Response<Body> {
    const BATCH_SIZE: HeaderName = HeaderName::from_static("x-batch-size");
    let mut response = response::form(200, form.form(), body);
    response::set_unbuffered(&mut response);
    let headers = response.headers_mut();
    if let Some(size) = target.asked.batch_size {
        headers.insert(BATCH_SIZE, HeaderValue::from(size.get()));
    }
    let wants_close = head
        .headers
        .get_all(CONNECTION)
        .iter()
        .any(|value| value.as_bytes().to_ascii_lowercase().windows(5).any(|w| w == b"close"));
    // RFC 9113 §8.2.2 forbids the field on HTTP/2; on HTTP/1.0 the body ends
    // with the connection.
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
