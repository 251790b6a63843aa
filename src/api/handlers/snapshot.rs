//! The handler of a snapshot. It sends all resources of a collection as a stream,
//! and uses constant memory.

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use hyper::Response;
use hyper::header::HeaderValue;

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

/// The extra capacity, in bytes, of the buffer for one step of a snapshot. The last
/// resource of a step can exceed [`STEP_BYTES`]. Without the extra capacity, the
/// buffer would then grow, which copies all its bytes. Most resources are smaller
/// than this capacity.
const SLACK_BYTES: usize = 4 * 1024;
/// The largest number of resources that one step of a snapshot reads. Reading this
/// number of resources from memory takes a third of a millisecond. Without the
/// limit, a filter that matches nothing would make one step read the whole
/// collection. This step would keep a snapshot of the store open for a long time,
/// and would delay other tasks.
const SCANNED_MAX: usize = 512;
/// The largest number of bytes that one step of a snapshot reads. This limit takes
/// effect if the resources are large.
const SCANNED_BYTES_MAX: usize = 4 * STEP_BYTES;

/// Handles `GET /{c}/stream`, and `GET /{c}` if the client prefers a media type
/// other than JSON.
///
/// # Errors
/// 400 for a wrong parameter, and the errors of [`stream::open`].
///
/// # Cancel safety
/// Safe.
pub async fn snapshot(
    api: &Arc<Api>,
    context: &mut RequestContext,
    permit: Permit,
    collection: &Collection,
    media_type: MediaType,
) -> Result<Response<Body>, Problem> {
    let follow = context.query.take_flag("follow")?.unwrap_or(false);
    let params =
        StreamParams::take(&context.head.headers, &mut context.query, api.settings.batch_size_max)?;
    if follow {
        return followed(api, context, permit, collection, media_type, params).await;
    }
    let fields = std::mem::take(&mut context.query).into_fields()?;
    if params.from.is_some() && !params.resumed {
        return Err(problem::parameter(
            "from",
            "does not apply to a snapshot without `follow=true`; add `follow=true`, or omit `from`",
        ));
    }
    if params.on_gap != crate::hub::OnGap::Event {
        return Err(problem::parameter(
            "onGap",
            "a snapshot has no gap; add follow=true, or omit onGap",
        ));
    }
    // An EventSource reconnects after each end of a stream until it receives 204. A
    // snapshot has an event id only at its end, so a client that sends an event id
    // has received the whole snapshot.
    if media_type == MediaType::Sse && params.resumed {
        return Ok(response::empty(204));
    }
    let cursor = collection.log.identity().id(collection.log.head());
    let mut response = response::new(200, media_type, Body::Empty);
    let value = HeaderValue::try_from(cursor.to_string()).expect("an event id is ASCII");
    response.headers_mut().insert(CURSOR, value);
    response::set_batch_size(&mut response, params.batch_size);
    response::set_unbuffered(&mut response);
    if context.is_head() {
        return Ok(response);
    }
    let mut reader = Reader {
        store: api.engine.store().clone(),
        log: collection.log.id(),
        fields,
        media_type,
        cursor,
        records_max: params.batch_size,
        after: None,
        ended: false,
    };
    let source: Source = Box::new(move || reader.step());
    *response.body_mut() = Body::Pull(StreamedBody::inline(source, api.steps.clone()));
    Ok(response)
}

async fn followed(
    api: &Arc<Api>,
    context: &mut RequestContext,
    permit: Permit,
    collection: &Collection,
    media_type: MediaType,
    params: StreamParams,
) -> Result<Response<Body>, Problem> {
    if !matches!(params.from, None | Some(StartPosition::After(_))) {
        return Err(problem::parameter(
            "from",
            "with `follow=true`, a stream starts with a snapshot; omit `from`, or set it to an event \
             id to resume after that event",
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
    let format = StreamFormat::of(media_type).expect("SNAPSHOT offers no JSON");
    let target = StreamTarget {
        log: Arc::clone(&collection.log),
        topic: None,
        scope: None,
        filter: Filter::shared(types, Vec::new()),
        overflow,
        params,
    };
    let start = target.resolve_start(true).await?;
    stream::open(api, context, permit, &target, format, &start)
}

/// Reads the collection in the order of resource ids, with a new snapshot of the
/// store for each step. If a resource changes during the read, the client may
/// receive the later state of the resource. The events after the cursor then repeat
/// this change.
struct Reader {
    store: Store,
    log: LogId,
    fields: Vec<FieldEquals>,
    media_type: MediaType,
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
            frames.current.reserve(STEP_BYTES + SLACK_BYTES);
        }
        let (mut scanned, mut scanned_bytes) = (0, 0);
        let snapshot = self.store.view();
        for entry in snapshot.resources(self.log, self.after.as_ref()) {
            let found = entry.map_err(|error| BodyAborted(error.to_string()))?;
            let document = &found.state.document;
            if self.fields.iter().all(|field| field.matches(document)) {
                frames.push(self.media_type, document);
            }
            scanned += 1;
            scanned_bytes += document.len();
            let is_limit = scanned == SCANNED_MAX || scanned_bytes >= SCANNED_BYTES_MAX;
            if frames.bytes >= STEP_BYTES || is_limit {
                let id = snapshot.id_of(&found).map_err(|error| BodyAborted(error.to_string()))?;
                self.after = Some(id);
                return Ok(Some(frames.finish()));
            }
        }
        self.ended = true;
        if self.media_type == MediaType::Sse {
            let cursor = self.cursor;
            frames.end_frame();
            frames.current.extend_from_slice(
                format!("id: {cursor}\nevent: snapshot-end\ndata: {{\"cursor\":\"{cursor}\"}}\n\n")
                    .as_bytes(),
            );
        }
        Ok(Some(frames.finish()))
    }
}

/// Encodes the resources of one step as data frames of up to `records_max`
/// resources.
struct Frames {
    records_max: Option<NonZeroU32>,
    done: Vec<Bytes>,
    current: Vec<u8>,
    records: u32,
    bytes: usize,
}

impl Frames {
    fn new(records_max: Option<NonZeroU32>) -> Frames {
        Frames { records_max, done: Vec::new(), current: Vec::new(), records: 0, bytes: 0 }
    }

    fn push(&mut self, media_type: MediaType, document: &[u8]) {
        let before = self.current.len();
        if media_type == MediaType::Sse {
            self.current.extend_from_slice(b"event: snapshot\ndata: ");
            self.current.extend_from_slice(document);
            self.current.extend_from_slice(b"\n\n");
        } else {
            self.current.extend_from_slice(document);
            self.current.push(b'\n');
        }
        self.bytes += self.current.len() - before;
        self.records += 1;
        if self.records_max.is_some_and(|max| self.records == max.get()) {
            self.end_frame();
        }
    }

    fn end_frame(&mut self) {
        if !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current).into());
            self.records = 0;
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.end_frame();
        self.done
    }
}
