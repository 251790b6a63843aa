//! The query parameters of a stream: its start position and its delivery.

use std::num::NonZeroU32;

use hyper::HeaderMap;

use crate::api::answer::problem;
use crate::api::request::query::Query;
use crate::event::{EventId, EventType, Timestamp};
use crate::hub::{OnGap, Overflow};
use crate::wire::problem::Problem;

/// The position in the log at which a stream starts, as the client chose it. An
/// event id of another log, or of an event that retention removed, is not an error:
/// the stream reports a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartPosition {
    /// At the earliest retained event.
    Earliest,
    /// After the newest event.
    Now,
    /// After this event.
    After(EventId),
    /// At the first event at or after this time. If the clock of the gateway stepped
    /// back, only the events after the last such step are searched.
    At(Timestamp),
}

/// The parameters of a stream, after the checks of their values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamParams {
    /// The start position, if the client chose one: from the `Last-Event-ID` header,
    /// else from `?lastEventId=`, else from `?after=` of a page, else from `?from=`.
    pub from: Option<StartPosition>,
    /// Whether the client resumes an earlier stream: the start position is an event
    /// id that the client received on that stream.
    pub resumed: bool,
    /// The action of the stream at a gap, which means that events are missing.
    pub on_gap: OnGap,
    /// The largest number of records per data frame (`?batchSize=`). It is not above
    /// the configured limit.
    pub batch_size: Option<NonZeroU32>,
}

impl StreamParams {
    /// Reads the parameters of a stream from the query and the headers, and removes
    /// them from the query. `batch_size_max` is the upper limit of `?batchSize=`.
    ///
    /// # Errors
    /// 400 with a problem that names the malformed parameter or header.
    pub fn take(
        headers: &HeaderMap,
        query: &mut Query,
        batch_size_max: u32,
    ) -> Result<StreamParams, Problem> {
        let from = query.take("from").map(|text| parse_from(&text)).transpose()?;
        let last = take_last_event_id(headers, query)?;
        let on_gap = match query.take("onGap").as_deref() {
            None | Some("event") => OnGap::Event,
            Some("snapshot") => OnGap::Snapshot,
            Some("error") => OnGap::Error,
            Some(_) => {
                return Err(problem::parameter("onGap", "it must be event, snapshot or error"));
            }
        };
        let batch_size = query
            .take_number("batchSize", 1, u32::MAX)?
            .and_then(|size| NonZeroU32::new(size.min(batch_size_max)));
        Ok(StreamParams {
            from: last.map(StartPosition::After).or(from),
            resumed: last.is_some(),
            on_gap,
            batch_size,
        })
    }
}

/// Parses the value of `?from=`.
///
/// # Errors
/// 400 for any other value.
pub fn parse_from(text: &str) -> Result<StartPosition, Problem> {
    if text == "earliest" {
        return Ok(StartPosition::Earliest);
    }
    if text == "now" {
        return Ok(StartPosition::Now);
    }
    if let Ok(id) = text.parse() {
        return Ok(StartPosition::After(id));
    }
    // A `+` in the UTC offset of a time arrives as a space if the client did not
    // encode the `+`.
    text.replace(' ', "+").parse().map(StartPosition::At).map_err(|_| {
        problem::parameter("from", "it must be earliest, now, an event id or an RFC 3339 time")
    })
}

fn take_last_event_id(headers: &HeaderMap, query: &mut Query) -> Result<Option<EventId>, Problem> {
    let parse = |text: &str, name: &str| {
        text.parse::<EventId>().map_err(|why| problem::malformed_id(name, why))
    };
    let mut parameter = None;
    for name in ["lastEventId", "last_event_id"] {
        let Some(text) = query.take(name) else { continue };
        if parameter.is_some() {
            return Err(problem::parameter(
                name,
                "the parameter is given under both of its names; send one of them",
            ));
        }
        parameter = Some(parse(&text, name)?);
    }
    let mut values = headers.get_all("last-event-id").iter();
    let Some(value) = values.next() else { return Ok(parameter) };
    if values.next().is_some() {
        return Err(problem::header("Last-Event-ID: the header is given twice; send it once"));
    }
    // A client that has received no event id yet may send an empty header.
    if value.is_empty() {
        return Ok(parameter);
    }
    let text = value
        .to_str()
        .map_err(|_| problem::header("Last-Event-ID: the value must be an event id in ASCII"))?;
    parse(text, "Last-Event-ID").map(Some)
}

/// Returns the overflow policy in the query, and removes the parameter from the
/// query. Returns `default` if the query names no policy. Any policy except
/// `default` must be in `choices`.
///
/// # Errors
/// 400 for an unknown policy, and for a policy that is not allowed.
pub fn take_overflow(
    query: &mut Query,
    default: Overflow,
    choices: &[Overflow],
) -> Result<Overflow, Problem> {
    let Some(name) = query.take("overflow") else { return Ok(default) };
    chosen_overflow(&name, default, choices).map_err(|all| {
        let why = format!("it must be {all}");
        problem::parameter("overflow", &why)
    })
}

/// Returns the overflow policy with the name `name`, if this policy is `default` or
/// is in `choices`.
///
/// # Errors
/// A text with the names of the allowed policies, if the policy `name` is not
/// allowed.
pub fn chosen_overflow(
    name: &str,
    default: Overflow,
    choices: &[Overflow],
) -> Result<Overflow, String> {
    let allowed = |overflow: &Overflow| *overflow == default || choices.contains(overflow);
    Overflow::named(name).filter(allowed).ok_or_else(|| {
        let all = Overflow::ALL.into_iter().filter(allowed);
        let all: Vec<&str> = all.map(Overflow::as_str).collect();
        all.join(" or ")
    })
}

/// Returns the event types in `?types=`, and removes the parameter from the query.
/// Returns an empty list if the query has no such parameter. `view_types` are the
/// event types that the view shows. An empty `view_types` means all types.
///
/// # Errors
/// 400 for an invalid event type, and for a type that the view does not show.
pub fn take_types(query: &mut Query, view_types: &[EventType]) -> Result<Vec<EventType>, Problem> {
    let Some(text) = query.take("types") else { return Ok(Vec::new()) };
    let mut types = Vec::new();
    for name in text.split(',') {
        let event_type = EventType::new(name)
            .map_err(|why| problem::bad_name(&format!("types: {name:?}"), why))?;
        if !view_types.is_empty() && !view_types.contains(&event_type) {
            let all: Vec<&str> = view_types.iter().map(EventType::as_str).collect();
            let why = format!("the view has no such type; use {}", all.join(", "));
            return Err(problem::parameter("types", &why));
        }
        if !types.contains(&event_type) {
            types.push(event_type);
        }
    }
    Ok(types)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(header: Option<&'static str>, raw: &str) -> Result<StreamParams, Problem> {
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert("last-event-id", value.parse().unwrap());
        }
        let mut query = Query::parse(Some(raw)).unwrap();
        let params = StreamParams::take(&headers, &mut query, 100)?;
        query.finish()?;
        Ok(params)
    }

    fn start(header: Option<&'static str>, raw: &str) -> Option<StartPosition> {
        params(header, raw).unwrap().from
    }

    #[test]
    fn the_header_has_priority_over_the_parameters() {
        let id = |text: &str| Some(StartPosition::After(text.parse().unwrap()));
        assert_eq!(start(None, ""), None);
        assert_eq!(start(None, "from=earliest"), Some(StartPosition::Earliest));
        assert_eq!(start(None, "from=now&lastEventId=k3f9x2ab-1"), id("k3f9x2ab-1"));
        assert_eq!(start(None, "last_event_id=k3f9x2ab-2"), id("k3f9x2ab-2"));
        assert_eq!(start(Some("k3f9x2ab-3"), "lastEventId=k3f9x2ab-1"), id("k3f9x2ab-3"));
        assert_eq!(start(Some(""), "lastEventId=k3f9x2ab-1"), id("k3f9x2ab-1"));
    }

    #[test]
    fn the_plus_of_a_time_can_be_encoded_or_not() {
        let time = Some(StartPosition::At("2024-07-15T12:32:22Z".parse().unwrap()));
        for raw in ["from=2024-07-15T14:32:22%2B02:00", "from=2024-07-15T14:32:22+02:00"] {
            assert_eq!(start(None, raw), time, "{raw}");
        }
    }

    #[test]
    fn a_malformed_start_is_rejected_even_if_another_start_has_priority() {
        for raw in [
            "from=",
            "from=yesterday",
            "from=k3f9x2ab",
            "lastEventId=1",
            "lastEventId=",
            "lastEventId=k3f9x2ab-1&last_event_id=k3f9x2ab-1",
            "onGap=never",
            "batchSize=0",
            "batchSize=ten",
            "from=x&lastEventId=k3f9x2ab-1",
        ] {
            assert!(params(None, raw).is_err(), "{raw}");
        }
        assert!(params(Some("42"), "").is_err());
        assert!(params(Some("k3f9x2ab-1"), "lastEventId=1").is_err());
    }

    #[test]
    fn a_batch_size_above_the_limit_is_reduced_to_the_limit() {
        assert_eq!(params(None, "batchSize=10").unwrap().batch_size, NonZeroU32::new(10));
        assert_eq!(params(None, "batchSize=5000").unwrap().batch_size, NonZeroU32::new(100));
    }

    #[test]
    fn a_client_can_choose_the_default_policy_and_the_configured_choices() {
        let policy = |raw, choices: &[Overflow]| {
            let mut query = Query::parse(Some(raw)).unwrap();
            take_overflow(&mut query, Overflow::Log, choices)
        };
        let choices = [Overflow::DropOldest, Overflow::Conflate];
        assert_eq!(policy("", &choices).unwrap(), Overflow::Log);
        assert_eq!(policy("overflow=log", &[]).unwrap(), Overflow::Log);
        assert_eq!(policy("overflow=conflate", &choices).unwrap(), Overflow::Conflate);
        for raw in ["overflow=", "overflow=drop", "overflow=disconnect", "overflow=Log"] {
            assert!(policy(raw, &choices).is_err(), "{raw}");
        }
        assert!(policy("overflow=conflate", &[]).is_err());
    }

    #[test]
    fn types_must_be_valid_and_in_the_view() {
        let types = |raw, shown: &[EventType]| {
            take_types(&mut Query::parse(Some(raw)).unwrap(), shown).map(|types| types.len())
        };
        let shown = [EventType::new("a").unwrap(), EventType::new("b").unwrap()];
        assert_eq!(types("", &shown).unwrap(), 0);
        assert_eq!(types("types=a,b,a", &shown).unwrap(), 2);
        assert_eq!(types("types=c", &[]).unwrap(), 1);
        for raw in ["types=", "types=a,", "types=gap", "types=a%0Ab"] {
            assert!(types(raw, &[]).is_err(), "{raw}");
        }
        assert!(types("types=c", &shown).is_err());
    }
}
