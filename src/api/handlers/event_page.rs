//! The handler of a page of past events.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Response;

use crate::api::answer::{body::Body, problem, response};
use crate::api::authorize::Permit;
use crate::api::handlers::stream::StreamTarget;
use crate::api::request::{query::Query, start::StartPosition};
use crate::event::EventId;
use crate::hub::OnGap;
use crate::wire::problem::Problem;

/// The largest number of events of a page if the request has no `?limit=`
/// (`docs/protocol.md#paths`).
const LIMIT_DEFAULT: u32 = 100;
/// The largest allowed value of `?limit=`, the number of events of a page
/// (`docs/protocol.md#paths`).
const LIMIT_MAX: u32 = 1000;
/// The size limit of a page of events in bytes. A page that reaches this size ends,
/// even if it has fewer than `limit` events. The client requests the next page with
/// the event id in `next`.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// The longest time for which the gateway searches the log for events that match the
/// filter of a page. After this time, the page contains the events that were found
/// so far. The client requests the next page with the event id in `next`.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(10);

/// The start and the size of a page of events.
pub struct PageParams {
    after: Option<EventId>,
    limit: u32,
}

impl PageParams {
    /// Reads the parameters `after` and `limit`, and removes them from the query.
    ///
    /// # Errors
    /// 400 with a problem that names the malformed parameter.
    pub fn take(query: &mut Query) -> Result<PageParams, Problem> {
        let after = query
            .take("after")
            .map(|text| text.parse::<EventId>().map_err(|why| problem::malformed_id("after", why)));
        let limit = query.take_number("limit", 1, LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
        Ok(PageParams { after: after.transpose()?, limit })
    }
}

/// Returns a page of the events of `target` from its start position, oldest first:
/// `{"data":[…],"meta":{"next","earliest","head"}}`. `next` is the event id up to
/// which the log was searched. The next page starts after this event id. If `next`
/// equals `head`, no further events exist yet.
///
/// # Errors
/// 400 if the query has two parameters for the start, 410 if retention removed
/// events after the start, 500 if the log cannot be read.
///
/// # Cancel safety
/// Safe.
pub async fn page(
    _permit: Permit,
    mut target: StreamTarget,
    page: PageParams,
) -> Result<Response<Body>, Problem> {
    match (target.params.from, page.after) {
        (None, None) => target.params.from = Some(StartPosition::Earliest),
        (Some(_), None) => {}
        (None, Some(id)) => target.params.from = Some(StartPosition::After(id)),
        (Some(_), Some(_)) => {
            return Err(problem::parameter(
                "after",
                "the query has several parameters for the start; send only one of them",
            ));
        }
    }
    // A page cannot contain a gap event, so a gap is an error.
    target.params.on_gap = OnGap::Error;
    let log = Arc::clone(&target.log);
    let head = log.head();
    let mut position = target.resolve_start(false).await?.position.unwrap_or(head);
    let deadline = Instant::now() + SEARCH_TIMEOUT;
    let mut out = br#"{"data":["#.to_vec();
    let mut count = 0;
    while position < head && count < page.limit && Instant::now() < deadline {
        let read = match &target.scope {
            None => log.page(position).await,
            Some(subject) => log.page_of(subject, position).await,
        }
        .map_err(|error| problem::unavailable(&error))?;
        if log.floor() > position {
            // Retention removed the events at the position during the read.
            if count > 0 {
                break;
            }
            if target.params.from != Some(StartPosition::Earliest) {
                target.params.from = Some(StartPosition::After(log.identity().id(position)));
            }
            position = target.resolve_start(false).await?.position.unwrap_or(head);
            continue;
        }
        let before = position;
        position = read.scanned_to;
        if let Some(selection) = target.filter.select(&read.batch, before) {
            for n in 0..selection.len() {
                if count == page.limit || out.len() >= BYTES_MAX {
                    break;
                }
                if count > 0 {
                    out.push(b',');
                }
                let at = selection.position(n);
                read.batch.object(at, &mut out);
                count += 1;
                let last = n + 1 == selection.len();
                position =
                    if last { read.scanned_to } else { read.batch.events()[at as usize].offset };
            }
        }
        if out.len() >= BYTES_MAX || position <= before {
            break;
        }
    }
    let id = |offset| log.identity().id(offset);
    let (next, earliest, head) = (id(position), id(log.floor()), id(log.head().max(position)));
    out.extend_from_slice(
        format!(r#"],"meta":{{"next":"{next}","earliest":"{earliest}","head":"{head}"}}}}"#)
            .as_bytes(),
    );
    Ok(response::json(200, Body::Full(out.into())))
}
