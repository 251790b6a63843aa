//! The handler of a page of a collection.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use hyper::header::{HeaderName, HeaderValue, LINK};
use tokio::time::timeout;

use crate::api::answer::{
    body::Body,
    problem, response,
    step::BodyAborted,
    streamed_body::{STEP_BYTES, Source, StreamedBody},
};
use crate::api::authorize::Permit;
use crate::api::catalog::Collection;
use crate::api::context::RequestContext;
use crate::api::request::query::append_fields;
use crate::api::state::Api;
use crate::event::{Offset, ResourceId};
use crate::store::{self, ReadSnapshot};
use crate::wire::FieldEquals;
use crate::wire::problem::Problem;

/// The number of resources of a page without `?size=` (`docs/protocol.md#paths`).
const SIZE_DEFAULT: u32 = 20;
/// The largest number of resources of a page (`docs/protocol.md#paths`).
const SIZE_MAX: u32 = 1000;
/// A page of up to this many bytes is sent whole, with its length: 1,000 resources of
/// 4 KiB. The rest of a longer page is read as fast as the client reads it.
const WHOLE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The longest wait for the reads of other pages.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);

/// The header with the position in the log at which a page was read.
pub const CURSOR: HeaderName = HeaderName::from_static("streamgate-cursor");

/// Handles `GET /{c}` as JSON.
///
/// # Errors
/// 400 for a wrong parameter, 503 if too many pages are being read, 500 if the store
/// cannot be read.
///
/// # Cancel safety
/// Safe: a read that has begun is finished, and its result is dropped.
pub async fn page(
    api: &Arc<Api>,
    context: &mut RequestContext,
    _permit: Permit,
    collection: &Collection,
) -> Result<Response<Body>, Problem> {
    let page = context.query.take_number("page", 0, u32::MAX)?.unwrap_or(0);
    let size = context.query.take_number("size", 1, SIZE_MAX)?.unwrap_or(SIZE_DEFAULT);
    let fields = std::mem::take(&mut context.query).into_fields()?;
    let name = collection.log.origin().name.clone();
    let place = Place { page, size };

    let turn = timeout(TURN_TIMEOUT, Arc::clone(&api.scans).acquire_owned());
    let turn = turn.await.map_err(|_| problem::busy())?;
    let (store, log) = (api.engine.store().clone(), collection.log.id());
    let filter = fields.clone();
    let read = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let view = store.view();
        let position = view.position(log)?;
        let mut reader = Reader::new(&view, log, position.resources, place, filter)?;
        let first = reader.step(WHOLE_BYTES_MAX)?;
        Ok((position.head, reader, first))
    });
    let (head, mut reader, first): (Offset, Reader, Vec<u8>) =
        problem::joined(read.await)?.map_err(problem::store)?;

    let links = place.links(&format!("{}/{name}", context.prefix), &fields, reader.total);
    let cursor = collection.log.origin().id(head).to_string();
    let body = if reader.ended {
        Body::Full(first.into())
    } else {
        let source: Source = Box::new(move || {
            if reader.ended {
                return Ok(None);
            }
            let bytes = reader.step(STEP_BYTES).map_err(|error| BodyAborted(error.to_string()))?;
            Ok(Some(vec![bytes.into()]))
        });
        Body::Pull(StreamedBody::new(vec![first.into()], source, api.steps.clone()))
    };
    let mut response = response::json(200, body);
    let headers = response.headers_mut();
    headers.insert(LINK, links.parse().expect("a link is ASCII: it is percent-encoded"));
    headers.insert(CURSOR, HeaderValue::from_str(&cursor).expect("an event id is ASCII"));
    Ok(response)
}

/// The number and the size of a page.
#[derive(Clone, Copy, Debug)]
struct Place {
    page: u32,
    size: u32,
}

impl Place {
    fn skip(self) -> u64 {
        u64::from(self.page) * u64::from(self.size)
    }

    /// Returns the links to other pages (RFC 8288) with the same filters.
    fn links(self, path: &str, fields: &[FieldEquals], total: u64) -> String {
        let last = total.div_ceil(u64::from(self.size)).saturating_sub(1);
        let page = u64::from(self.page);
        let mut filters = String::new();
        append_fields(fields, &mut filters);
        let mut out = String::new();
        let mut link = |page: u64, relation: &str| {
            let comma = if out.is_empty() { "" } else { ", " };
            let size = self.size;
            write!(out, "{comma}<{path}?page={page}&size={size}{filters}>; rel=\"{relation}\"")
                .expect("a String takes every write");
        };
        link(0, "first");
        if page > 0 {
            link((page - 1).min(last), "prev");
        }
        if page < last {
            link(page + 1, "next");
        }
        link(last, "last");
        out
    }
}

type Documents = Box<dyn Iterator<Item = Result<Bytes, store::Error>> + Send>;

/// Reads a page from one snapshot of the store, and encodes it.
struct Reader {
    documents: Documents,
    total: u64,
    place: Place,
    started: bool,
    some: bool,
    ended: bool,
}

impl Reader {
    fn new(
        view: &ReadSnapshot,
        log: crate::event::LogId,
        resources: u64,
        place: Place,
        fields: Vec<FieldEquals>,
    ) -> Result<Reader, store::Error> {
        let size = place.size as usize;
        let (total, documents): (u64, Documents) = if fields.is_empty() {
            let all = view.resources(log, None).map(|entry| Ok(entry?.state.document));
            (resources, Box::new(all.skip(place.skip() as usize).take(size)))
        } else {
            // The count visits every match. It records where the page begins, so that
            // the read after it does not start from the front.
            let mut total = 0;
            let mut before: Option<ResourceId> = None;
            let mut previous: Option<store::ResourceEntry> = None;
            for entry in view.resources(log, None) {
                let found = entry?;
                if fields.iter().all(|field| field.matches(&found.state.document)) {
                    if total == place.skip() {
                        before = previous.as_ref().map(|found| view.id_of(found)).transpose()?;
                    }
                    total += 1;
                }
                previous = Some(found);
            }
            let size = if total > place.skip() { size } else { 0 };
            let rest = view.resources(log, before.as_ref()).map(|entry| Ok(entry?.state.document));
            let wanted = move |document: &Result<Bytes, store::Error>| {
                document.as_ref().map_or(true, |d| fields.iter().all(|field| field.matches(d)))
            };
            (total, Box::new(rest.filter(wanted).take(size)))
        };
        Ok(Reader { documents, total, place, started: false, some: false, ended: false })
    }

    /// Returns the next bytes: at least one resource, or the end of the page.
    fn step(&mut self, bytes_max: usize) -> Result<Vec<u8>, store::Error> {
        let mut out = Vec::new();
        if !self.started {
            out.extend_from_slice(br#"{"data":["#);
            self.started = true;
        }
        while out.len() < bytes_max {
            let Some(document) = self.documents.next() else {
                let Place { page, size } = self.place;
                let total = self.total;
                out.extend_from_slice(
                    format!(
                        r#"],"meta":{{"pagination":{{"page":{page},"size":{size},"totalElements":{total}}}}}}}"#
                    )
                    .as_bytes(),
                );
                self.ended = true;
                break;
            };
            if self.some {
                out.push(b',');
            }
            out.extend_from_slice(&document?);
            self.some = true;
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_the_pages_that_there_are() {
        let relations = |page, total| {
            let links = Place { page, size: 10 }.links("/v1/orders", &[], total);
            links
                .split(", ")
                .map(|link| {
                    let page = link.split_once("?page=").unwrap().1.split_once('&').unwrap().0;
                    let relation = link.split('"').nth(1).unwrap();
                    format!("{relation}:{page}")
                })
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(relations(0, 0), "first:0 last:0");
        assert_eq!(relations(0, 10), "first:0 last:0");
        assert_eq!(relations(0, 11), "first:0 next:1 last:1");
        assert_eq!(relations(1, 30), "first:0 prev:0 next:2 last:2");
        assert_eq!(relations(2, 30), "first:0 prev:1 last:2");
        assert_eq!(relations(9, 30), "first:0 prev:2 last:2");
    }

    #[test]
    fn links_keep_the_filters() {
        let fields = [FieldEquals { name: "size".to_owned(), value: "a b".to_owned() }];
        assert_eq!(
            Place { page: 0, size: 2 }.links("/orders", &fields, 1),
            "</orders?page=0&size=2&field.size=a%20b>; rel=\"first\", \
             </orders?page=0&size=2&field.size=a%20b>; rel=\"last\""
        );
    }
}
