//! A page of past events.

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

/// Events of a page where `?limit=` does not say (`docs/protocol.md#paths`).
const LIMIT_DEFAULT: u32 = 100;
/// Most events of a page (`docs/protocol.md#paths`).
const LIMIT_MAX: u32 = 1000;
/// A page that has grown to this many bytes is given as it is; `next` goes on.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest search for events that a narrow filter wants; then the page is
/// given with what was found, and `next` goes on.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Which page.
pub struct Place {
    after: Option<EventId>,
    limit: u32,
}

impl Place {
    /// Takes `after` and `limit` out of the query.
    ///
    /// # Errors
    /// 400 naming the one that is malformed.
    pub fn take(query: &mut Query) -> Result<Place, Problem> {
        let after = query
            .take("after")
            .map(|text| text.parse::<EventId>().map_err(|why| problem::malformed_id("after", why)));
        let limit = query.take_number("limit", 1, LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
        Ok(Place { after: after.transpose()?, limit })
    }
}

/// The events of `target` from its start, oldest first:
/// `{"data":[…],"meta":{"next","earliest","head"}}`. `next` is how far was
/// looked: the next page is after it, and when it is `head` there is no more.
///
/// # Errors
/// 400 when the start is given twice, 410 when events after it are gone, 500.
///
/// # Cancel safety
/// Safe.
pub async fn page(
    _permit: Permit,
    mut target: StreamTarget,
    place: Place,
) -> Result<Response<Body>, Problem> {
    match (target.asked.from, place.after) {
        (None, None) => target.asked.from = Some(StartPosition::Earliest),
        (Some(_), None) => {}
        (None, Some(id)) => target.asked.from = Some(StartPosition::After(id)),
        (Some(_), Some(_)) => {
            return Err(problem::parameter("after", "the start is given in another way too"));
        }
    }
    // A page cannot tell of a gap in any other way.
    target.asked.on_gap = OnGap::Error;
    let log = Arc::clone(&target.log);
    let head = log.head();
    let mut position = target.beginning().await?.start.unwrap_or(head);
    let deadline = Instant::now() + SEARCH_TIMEOUT;
    let mut out = br#"{"data":["#.to_vec();
    let mut count = 0;
    while position < head && count < place.limit && Instant::now() < deadline {
        let read = match &target.scope {
            None => log.page(position).await,
            Some(subject) => log.page_of(subject, position).await,
        }
        .map_err(|error| problem::unavailable(&error))?;
        if log.floor() > position {
            // Retention has overtaken the reading.
            if count > 0 {
                break;
            }
            if target.asked.from != Some(StartPosition::Earliest) {
                target.asked.from = Some(StartPosition::After(log.origin().id(position)));
            }
            position = target.beginning().await?.start.unwrap_or(head);
            continue;
        }
        let before = position;
        position = read.scanned_to;
        if let Some(selection) = target.filter.select(&read.batch, before) {
            for n in 0..selection.len() {
                if count == place.limit || out.len() >= BYTES_MAX {
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
    let id = |offset| log.origin().id(offset);
    let (next, earliest, head) = (id(position), id(log.floor()), id(log.head().max(position)));
    out.extend_from_slice(
        format!(r#"],"meta":{{"next":"{next}","earliest":"{earliest}","head":"{head}"}}}}"#)
            .as_bytes(),
    );
    Ok(response::json(200, Body::Full(out.into())))
}
