//! Content negotiation: `Accept` and `Content-Type`.

use hyper::HeaderMap;
use hyper::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE};

use crate::api::answer::{media_type::MediaType, problem};
use crate::wire::problem::Problem;

/// The media types in which a client can read a collection. `Accept: */*` selects
/// the first one.
pub const COLLECTION: [MediaType; 3] = [MediaType::Json, MediaType::Ndjson, MediaType::Sse];
/// The media types in which a client can read `/{c}/stream`.
pub const SNAPSHOT: [MediaType; 2] = [MediaType::Ndjson, MediaType::Sse];
/// The media types in which a client can read events.
pub const EVENTS: [MediaType; 4] =
    [MediaType::Sse, MediaType::Ndjson, MediaType::Json, MediaType::CloudEvents];
/// The media types in which a client can read one resource.
pub const RESOURCE: [MediaType; 1] = [MediaType::Json];

/// Returns the media type of `offered` that the `Accept` headers prefer (RFC 9110
/// §12.5.1). If two media types have equal weights, the one with the more specific
/// media range wins: a client that sends `application/json, */*` wants JSON. If the
/// ranges are equally specific, the first media type in `offered` wins.
///
/// # Errors
/// 406 with the list of the offered media types.
pub fn accept(headers: &HeaderMap, offered: &[MediaType]) -> Result<MediaType, Problem> {
    if !headers.contains_key(ACCEPT) {
        return Ok(offered[0]);
    }
    let mut ranges = Vec::new();
    for value in headers.get_all(ACCEPT) {
        let Ok(text) = value.to_str() else { continue };
        ranges.extend(text.split(',').filter_map(Range::parse));
    }
    if ranges.is_empty()
        && headers.get_all(ACCEPT).iter().all(|v| v.as_bytes().trim_ascii().is_empty())
    {
        return Ok(offered[0]);
    }
    let mut best: Option<((u16, u8), MediaType)> = None;
    for &media_type in offered {
        let rank = ranges
            .iter()
            .filter_map(|range| Some((range.exactness(media_type)?, range.weight)))
            .max()
            .map(|(exactness, weight)| (weight, exactness));
        if let Some(rank) = rank.filter(|&(weight, _)| weight > 0)
            && best.is_none_or(|(other, _)| rank > other)
        {
            best = Some((rank, media_type));
        }
    }
    best.map(|(_, media_type)| media_type).ok_or_else(|| {
        let all: Vec<&str> = offered.iter().map(|offer| offer.media_type()).collect();
        problem::not_acceptable(all)
    })
}

/// Returns whether the `Accept` headers list `media_type` by its name. A wildcard
/// does not count.
pub fn names(headers: &HeaderMap, media_type: MediaType) -> bool {
    let lines = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut ranges = lines.flat_map(|line| line.split(',')).filter_map(Range::parse);
    ranges.any(|range| range.weight > 0 && range.exactness(media_type) == Some(2))
}

struct Range {
    main_type: String,
    subtype: String,
    /// The weight (`q`) in thousandths.
    weight: u16,
}

impl Range {
    /// Parses one media range of an `Accept` header. Returns `None` for any other
    /// text, which the caller ignores.
    fn parse(text: &str) -> Option<Range> {
        let mut parts = text.split(';');
        let (main_type, subtype) = parts.next()?.trim().split_once('/')?;
        let mut weight = 1000;
        for part in parts {
            let Some((name, value)) = part.split_once('=') else { continue };
            if name.trim().eq_ignore_ascii_case("q") {
                weight = parse_weight(value.trim())?;
                break;
            }
        }
        let (main_type, subtype) = (main_type.to_ascii_lowercase(), subtype.to_ascii_lowercase());
        (main_type != "*" || subtype == "*").then_some(Range { main_type, subtype, weight })
    }

    /// Returns how exactly the media range names `media_type`: 2 for the exact type,
    /// 1 for `type/*`, 0 for `*/*`. Returns `None` if the range does not contain the
    /// media type.
    fn exactness(&self, media_type: MediaType) -> Option<u8> {
        let (main_type, subtype) =
            media_type.media_type().split_once('/').expect("every media type here has a slash");
        match (self.main_type.as_str(), self.subtype.as_str()) {
            ("*", "*") => Some(0),
            (t, "*") if t == main_type => Some(1),
            (t, s) if t == main_type && s == subtype => Some(2),
            _ => None,
        }
    }
}

/// Parses the weight (`q`) of a media range, which is `0` to `1` with up to three
/// decimals. Returns the weight in thousandths.
fn parse_weight(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{decimals:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

/// Returns the media type of a request body. The media type is one of `accepted`.
///
/// # Errors
/// 415 for another media type, for a missing `Content-Type`, and for a body with a
/// `Content-Encoding`. If the gateway accepted a body without `Content-Type`, a web
/// page of another site could send a body without a CORS preflight. 400 for two
/// `Content-Type` headers.
pub fn content_type(
    headers: &HeaderMap,
    accepted: &[&'static str],
) -> Result<&'static str, Problem> {
    let coded = headers.get_all(CONTENT_ENCODING).iter();
    if coded.into_iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(problem::unsupported(
            "a body with a Content-Encoding is not supported",
            accepted,
        ));
    }
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let Some(value) = values.next() else {
        return Err(problem::unsupported("the request has no Content-Type", accepted));
    };
    if values.next().is_some() {
        return Err(problem::header("Content-Type: the header is given twice; send it once"));
    }
    let text = value.to_str().unwrap_or_default();
    let mut parts = text.split(';');
    let essence = parts.next().unwrap_or_default().trim();
    let found = accepted.iter().find(|known| known.eq_ignore_ascii_case(essence));
    let Some(&found) = found else {
        return Err(problem::unsupported(
            &format!("the path does not accept {essence:?}"),
            accepted,
        ));
    };
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let charset = name.trim().eq_ignore_ascii_case("charset");
        if charset && !value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8") {
            return Err(problem::unsupported("the charset must be utf-8", accepted));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(values: &[&'static str], offered: &[MediaType]) -> Option<MediaType> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT, value.parse().unwrap());
        }
        accept(&headers, offered).ok()
    }

    #[test]
    fn the_preferred_media_type_of_the_client_is_selected() {
        for (values, form) in [
            (&[][..], Some(MediaType::Json)),
            (&[""], Some(MediaType::Json)),
            (&["*/*"], Some(MediaType::Json)),
            (&["application/*"], Some(MediaType::Json)),
            (&["text/*"], Some(MediaType::Sse)),
            (&["Text/Event-Stream"], Some(MediaType::Sse)),
            (&["application/x-ndjson"], Some(MediaType::Ndjson)),
            (&["application/json, text/plain, */*"], Some(MediaType::Json)),
            (&["text/html, */*;q=0.8"], Some(MediaType::Json)),
            (&["application/json;q=0.5, text/event-stream;q=0.9"], Some(MediaType::Sse)),
            (&["application/json;q=0, */*"], Some(MediaType::Ndjson)),
            (&["application/json;q=0.2", "application/x-ndjson;q=0.30"], Some(MediaType::Ndjson)),
            (&["application/json;charset=utf-8"], Some(MediaType::Json)),
            (&["text/html"], None),
            (&["nonsense"], None),
            (&["*/*;q=0"], None),
            (&["application/json;q=2"], None),
            (&["*/json"], None),
        ] {
            assert_eq!(accepted(values, &COLLECTION), form, "{values:?}");
        }
    }

    #[test]
    fn events_are_sse_unless_the_client_names_json() {
        assert_eq!(accepted(&["*/*"], &EVENTS), Some(MediaType::Sse));
        assert_eq!(accepted(&["application/json, */*"], &EVENTS), Some(MediaType::Json));
        assert_eq!(
            accepted(&["application/cloudevents+json"], &EVENTS),
            Some(MediaType::CloudEvents)
        );
    }

    #[test]
    fn a_body_needs_a_supported_content_type() {
        let content = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, value.parse().unwrap());
            content_type(&headers, &["application/json"]).ok()
        };
        for good in
            ["application/json", "Application/JSON; charset=\"UTF-8\"", "application/json;v=1"]
        {
            assert_eq!(content(good), Some("application/json"), "{good}");
        }
        for bad in ["", "text/plain", "application/json;charset=latin1", "application/jsonx"] {
            assert_eq!(content(bad), None, "{bad}");
        }
        assert!(content_type(&HeaderMap::new(), &["application/json"]).is_err());
    }
}
