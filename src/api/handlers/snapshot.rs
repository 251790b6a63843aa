//! The handler of a snapshot: a whole collection as a stream, in constant memory.

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use hyper::Response;
use hyper::header::{CACHE_CONTROL, HeaderName, HeaderValue};

use crate::api::answer::{
    body::Body,
    media_type::MediaType,
    problem, response,
    step::BodyAborted,
    streamed_body::{STEP_BYTES, Source, StreamedBody},
};
use crate::api::authorize::Permit;
use crate::api::catalog::Collection;
use crate::api::context::RequestContext;
use crate::api::handlers::{
    page::CURSOR,
    stream::{self, StreamFormat, StreamTarget},
};
use crate::api::request::start::{StartPosition, StreamParams, take_overflow, take_types};
use crate::api::state::Api;
use crate::event::{EventId, LogId, ResourceId};
use crate::store::Store;
use crate::wire::problem::Problem;
use crate::wire::{FieldEquals, Filter};

/// The extra capacity of a step for its last resource, in bytes: a buffer that grows is
/// copied. Most resources are smaller, and an idle body holds little memory.
const SLACK_BYTES: usize = 4 * 1024;
/// The largest number of resources that one step reads: a third of a millisecond in
/// memory. Without the limit, a filter without matches would hold a snapshot of the store
/// for the whole collection, and would delay other tasks.
const LOOKED_AT_MAX: usize = 512;
/// The largest number of bytes that one step reads, for large resources.
const LOOKED_AT_BYTES_MAX: usize = 4 * STEP_BYTES;

/// The header with the number of records of a data frame.
pub const BATCH_SIZE: HeaderName = HeaderName::from_static("x-batch-size");

/// Handles `GET /{c}/stream`, and `GET /{c}` in a media type other than JSON.
///
/// # Errors
/// 400 for a wrong parameter, and the errors of [`stream::follow`].
///
/// # Cancel safety
/// Safe.
pub async fn snapshot(
    api: &Arc<Api>,
    context: &mut RequestContext,
    permit: Permit,
    collection: &Collection,
    form: MediaType,
) -> Result<Response<Body>, Problem> {
    let follow = context.query.take_flag("follow")?.unwrap_or(false);
    let asked =
        StreamParams::take(&context.head.headers, &mut context.query, api.settings.batch_size_max)?;
    if follow {
        return followed(api, context, permit, collection, form, asked).await;
    }
    let fields = std::mem::take(&mut context.query).into_fields()?;
    if asked.from.is_some() && !asked.resumed {
        return Err(problem::parameter("from", "it needs follow=true; a snapshot has no start"));
    }
    if asked.on_gap != crate::hub::OnGap::Event {
        return Err(problem::parameter("onGap", "it needs follow=true; a snapshot has no gap"));
    }
    // An EventSource reconnects after every end of a stream; only 204 stops it. The
    // only id in a snapshot is at its end, so a client with an id has all of it.
    if form == MediaType::Sse && asked.resumed {
        return Ok(response::empty(204));
    }
    let cursor = collection.log.origin().id(collection.log.head());
    let mut response = response::form(200, form, Body::Empty);
    let headers = response.headers_mut();
    headers.insert(CURSOR, value(&cursor.to_string()));
    if let Some(size) = asked.batch_size {
        headers.insert(BATCH_SIZE, size.get().into());
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    if context.is_head() {
        return Ok(response);
    }
    let mut reader = Reader {
        store: api.engine.store().clone(),
        log: collection.log.id(),
        fields,
        form,
        cursor,
        records_max: asked.batch_size,
        after: None,
        ended: false,
    };
    let source: Source = Box::new(move || reader.step());
    *response.body_mut() = Body::Pull(StreamedBody::in_turns(source, api.steps.clone()));
    Ok(response)
}

async fn followed(
    api: &Arc<Api>,
    context: &mut RequestContext,
    permit: Permit,
    collection: &Collection,
    form: MediaType,
    asked: StreamParams,
) -> Result<Response<Body>, Problem> {
    if !matches!(asked.from, None | Some(StartPosition::After(_))) {
        return Err(problem::parameter(
            "from",
            "with follow=true the stream starts with a snapshot; omit from, or send an event id \
             to resume after it",
        ));
    }
    let types = take_types(&mut context.query, &[])?;
    let choices = &api.settings.overflow_choices;
    let overflow = take_overflow(&mut context.query, collection.overflow, choices)?;
    if !std::mem::take(&mut context.query).into_fields()?.is_empty() {
        return Err(problem::malformed(
            "with follow=true field filters are not supported, because a resource that no longer \
             matches would stay stale; filter with types",
        ));
    }
    let form = StreamFormat::of(form).expect("SNAPSHOT offers no JSON");
    let target = StreamTarget {
        log: Arc::clone(&collection.log),
        topic: None,
        scope: None,
        filter: Filter::shared(types, Vec::new()),
        overflow,
        asked,
    };
    stream::follow(api, context, permit, target, form).await
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("an event id is ASCII")
}

/// Reads the collection in the order of ids, with one snapshot of the store per step. A
/// resource that changes during the read may appear in its later state; the events
/// after the cursor then repeat the change.
struct Reader {
    store: Store,
    log: LogId,
    fields: Vec<FieldEquals>,
    form: MediaType,
    cursor: EventId,
    records_max: Option<NonZeroU32>,
    after: Option<ResourceId>,
    ended: bool,
}

impl Reader {
    fn step(&mut self) -> Result<Option<Vec<Bytes>>, BodyAborted> {
        if self.ended {
            return Ok(None);
        }
        let mut frames = Frames::new(self.records_max);
        if self.records_max.is_none() {
            frames.open.reserve(STEP_BYTES + SLACK_BYTES);
        }
        let (mut looked_at, mut looked_at_bytes) = (0, 0);
        let view = self.store.view();
        for entry in view.resources(self.log, self.after.as_ref()) {
            let found = entry.map_err(|error| BodyAborted(error.to_string()))?;
            let document = &found.state.document;
            if self.fields.iter().all(|field| field.matches(document)) {
                frames.push(self.form, document);
            }
            looked_at += 1;
            looked_at_bytes += document.len();
            let enough = looked_at == LOOKED_AT_MAX || looked_at_bytes >= LOOKED_AT_BYTES_MAX;
            if frames.bytes >= STEP_BYTES || enough {
                let id = view.id_of(&found).map_err(|error| BodyAborted(error.to_string()))?;
                self.after = Some(id);
                return Ok(Some(frames.finish()));
            }
        }
        self.ended = true;
        if self.form == MediaType::Sse {
            let cursor = self.cursor;
            frames.cut();
            frames.open.extend_from_slice(
                format!("id: {cursor}\nevent: snapshot-end\ndata: {{\"cursor\":\"{cursor}\"}}\n\n")
                    .as_bytes(),
            );
        }
        Ok(Some(frames.finish()))
    }
}

/// Collects data frames.
struct Frames {
    records_max: Option<NonZeroU32>,
    done: Vec<Bytes>,
    open: Vec<u8>,
    records: u32,
    bytes: usize,
}

impl Frames {
    fn new(records_max: Option<NonZeroU32>) -> Frames {
        Frames { records_max, done: Vec::new(), open: Vec::new(), records: 0, bytes: 0 }
    }

    fn push(&mut self, form: MediaType, document: &[u8]) {
        let before = self.open.len();
        if form == MediaType::Sse {
            self.open.extend_from_slice(b"event: snapshot\ndata: ");
            self.open.extend_from_slice(document);
            self.open.extend_from_slice(b"\n\n");
        } else {
            self.open.extend_from_slice(document);
            self.open.push(b'\n');
        }
        self.bytes += self.open.len() - before;
        self.records += 1;
        if self.records_max.is_some_and(|max| self.records == max.get()) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if !self.open.is_empty() {
            self.done.push(std::mem::take(&mut self.open).into());
            self.records = 0;
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.cut();
        self.done
    }
}
