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

/// The number of resources of a page if the request has no `?size=`
/// (`docs/protocol.md#paths`).
const SIZE_DEFAULT: u32 = 20;
/// The largest allowed value of `?size=`, the number of resources of a page
/// (`docs/protocol.md#paths`).
const SIZE_MAX: u32 = 1000;
/// The largest number of bytes of a page that the gateway reads before it sends the
/// response: 1,000 resources of 4 KiB. A page of up to this size has a
/// `Content-Length`. The gateway reads the rest of a larger page as fast as the
/// client reads the response.
const WHOLE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The longest time that a request for a page waits while the gateway reads the
/// largest allowed number of other pages.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// The name of the header with the event id of the log's head at the time of the
/// read.
pub const CURSOR: HeaderName = HeaderName::from_static("streamgate-cursor");

/// Handles `GET /{c}` with a JSON response: returns one page of the collection.
///
/// # Errors
/// 400 for a wrong parameter, 503 if too many pages are being read, 500 if the store
/// cannot be read.
///
/// # Cancel safety
/// Safe: a read of the store that has begun continues to its end, and its result is
/// dropped.
pub async fn page(
    api: &Arc<Api>,
    context: &mut RequestContext,
    _permit: Permit,
    collection: &Collection,
) -> Result<Response<Body>, Problem> {
    let page = context.query.take_number("page", 0, u32::MAX)?.unwrap_or(0);
    let size = context.query.take_number("size", 1, SIZE_MAX)?.unwrap_or(SIZE_DEFAULT);
    let fields = std::mem::take(&mut context.query).into_fields()?;
    let name = collection.log.identity().name.clone();
    let pagination = Pagination { page, size };

    let permit = timeout(PERMIT_TIMEOUT, Arc::clone(&api.scans).acquire_owned());
    let permit = permit.await.map_err(|_| problem::busy())?;
    let (store, log) = (api.engine.store().clone(), collection.log.id());
    let filter = fields.clone();
    let read = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let snapshot = store.view();
        let bounds = snapshot.position(log)?;
        let mut reader = Reader::new(&snapshot, log, bounds.resources, pagination, filter)?;
        let first = reader.step(WHOLE_BYTES_MAX)?;
        Ok((bounds.head, reader, first))
    });
    let (head, mut reader, first): (Offset, Reader, Vec<u8>) =
        problem::joined(read.await)?.map_err(problem::store)?;

    let links = pagination.links(&format!("{}/{name}", context.prefix), &fields, reader.total);
    let cursor = collection.log.identity().id(head).to_string();
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

/// The number of a page, counted from 0, and the number of resources per page.
#[derive(Clone, Copy, Debug)]
struct Pagination {
    page: u32,
    size: u32,
}

impl Pagination {
    fn skip(self) -> u64 {
        u64::from(self.page) * u64::from(self.size)
    }

    /// Returns the value of the `Link` header (RFC 8288): the links to other pages
    /// with the same filters.
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

/// Reads a page from one snapshot of the store, and encodes the page as JSON.
struct Reader {
    documents: Documents,
    total: u64,
    pagination: Pagination,
    started: bool,
    /// Whether at least one resource of the page is encoded already.
    has_resources: bool,
    ended: bool,
}

impl Reader {
    fn new(
        snapshot: &ReadSnapshot,
        log: crate::event::LogId,
        resources: u64,
        pagination: Pagination,
        fields: Vec<FieldEquals>,
    ) -> Result<Reader, store::Error> {
        let size = pagination.size as usize;
        let (total, documents): (u64, Documents) = if fields.is_empty() {
            let all = snapshot.resources(log, None).map(|entry| Ok(entry?.state.document));
            (resources, Box::new(all.skip(pagination.skip() as usize).take(size)))
        } else {
            // To count the matches, this loop reads every resource. It records the
            // last resource before the page, so that the page can be read without a
            // second read of these resources.
            let mut total = 0;
            let mut before: Option<ResourceId> = None;
            let mut previous: Option<store::ResourceEntry> = None;
            for entry in snapshot.resources(log, None) {
                let found = entry?;
                if fields.iter().all(|field| field.matches(&found.state.document)) {
                    if total == pagination.skip() {
                        before =
                            previous.as_ref().map(|found| snapshot.id_of(found)).transpose()?;
                    }
                    total += 1;
                }
                previous = Some(found);
            }
            let size = if total > pagination.skip() { size } else { 0 };
            let rest =
                snapshot.resources(log, before.as_ref()).map(|entry| Ok(entry?.state.document));
            let wanted = move |document: &Result<Bytes, store::Error>| {
                document.as_ref().map_or(true, |d| fields.iter().all(|field| field.matches(d)))
            };
            (total, Box::new(rest.filter(wanted).take(size)))
        };
        Ok(Reader {
            documents,
            total,
            pagination,
            started: false,
            has_resources: false,
            ended: false,
        })
    }

    /// Returns the next bytes of the page: at least one resource, or the end of the
    /// page.
    fn step(&mut self, bytes_max: usize) -> Result<Vec<u8>, store::Error> {
        let mut out = Vec::new();
        if !self.started {
            out.extend_from_slice(br#"{"data":["#);
            self.started = true;
        }
        while out.len() < bytes_max {
            let Some(document) = self.documents.next() else {
                let Pagination { page, size } = self.pagination;
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
            if self.has_resources {
                out.push(b',');
            }
            out.extend_from_slice(&document?);
            self.has_resources = true;
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_only_to_pages_that_exist() {
        let relations = |page, total| {
            let links = Pagination { page, size: 10 }.links("/v1/orders", &[], total);
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
            Pagination { page: 0, size: 2 }.links("/orders", &fields, 1),
            "</orders?page=0&size=2&field.size=a%20b>; rel=\"first\", \
             </orders?page=0&size=2&field.size=a%20b>; rel=\"last\""
        );
    }
}
