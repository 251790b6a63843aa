//! Evaluates `If-Match` and `If-None-Match` (RFC 9110 §13.1).

use hyper::HeaderMap;
use hyper::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};

use crate::api::answer::problem;
use crate::event::{Epoch, EventId, Offset};
use crate::log::Precondition;
use crate::wire::problem::Problem;

/// The entity tags of an `If-Match` or `If-None-Match` header.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tags {
    Any,
    List(Vec<Tag>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Tag {
    weak: bool,
    text: String,
}

/// Returns the precondition that the headers `If-Match` and `If-None-Match` set for
/// a write. An entity tag is the event id of a revision of the resource. A tag whose
/// epoch is not `epoch` belongs to another log and matches no revision. In
/// `If-Match`, a weak tag matches no revision.
///
/// # Errors
/// 400 if a header is malformed, or if both headers are given.
pub fn precondition(headers: &HeaderMap, epoch: Epoch) -> Result<Precondition, Problem> {
    let revision = |tag: &Tag| {
        let id: EventId = tag.text.parse().ok()?;
        (id.epoch == epoch).then_some(id.offset)
    };
    match (tags(headers, &IF_MATCH)?, tags(headers, &IF_NONE_MATCH)?) {
        (None, None) => Ok(Precondition::None),
        (Some(Tags::Any), None) => Ok(Precondition::Present),
        (None, Some(Tags::Any)) => Ok(Precondition::Absent),
        (Some(Tags::List(tags)), None) => {
            let strong = tags.iter().filter(|tag| !tag.weak);
            Ok(Precondition::OneOf(strong.filter_map(revision).collect()))
        }
        (None, Some(Tags::List(tags))) => {
            Ok(Precondition::NoneOf(tags.iter().filter_map(revision).collect()))
        }
        (Some(_), Some(_)) => {
            Err(problem::header("If-Match and If-None-Match are both given; send one of them"))
        }
    }
}

/// The result of `If-Match` and `If-None-Match` in a read request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionResult {
    /// The conditions are true: respond with the resource.
    Send,
    /// The client already has this revision of the resource: respond with 304.
    Unchanged,
    /// `If-Match` is false: respond with 412.
    Failed,
}

/// Evaluates `If-Match` and `If-None-Match` in a read request for a resource at
/// `revision`.
///
/// # Errors
/// 400 if a header is malformed.
pub fn read(
    headers: &HeaderMap,
    epoch: Epoch,
    revision: Offset,
) -> Result<ConditionResult, Problem> {
    if !headers.contains_key(IF_MATCH) && !headers.contains_key(IF_NONE_MATCH) {
        return Ok(ConditionResult::Send);
    }
    let own = EventId { epoch, offset: revision }.to_string();
    let failed = match tags(headers, &IF_MATCH)? {
        None | Some(Tags::Any) => false,
        Some(Tags::List(tags)) => !tags.iter().any(|tag| !tag.weak && tag.text == own),
    };
    let unchanged = match tags(headers, &IF_NONE_MATCH)? {
        None => false,
        Some(Tags::Any) => true,
        Some(Tags::List(tags)) => tags.iter().any(|tag| tag.text == own),
    };
    Ok(match (failed, unchanged) {
        (true, _) => ConditionResult::Failed,
        (false, true) => ConditionResult::Unchanged,
        (false, false) => ConditionResult::Send,
    })
}

/// Returns the entity tags in all lines of the header `name`. Returns `None` if the
/// request has no such header.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Problem> {
    let mut any = false;
    let mut list = Vec::new();
    for value in headers.get_all(name) {
        let text = str::from_utf8(value.as_bytes()).map_err(|_| malformed(name))?;
        if text.trim() == "*" {
            any = true;
        } else {
            parse_list(text, &mut list).ok_or_else(|| malformed(name))?;
        }
    }
    match (any, list.is_empty()) {
        (true, true) => Ok(Some(Tags::Any)),
        (true, false) => Err(malformed(name)),
        (false, false) => Ok(Some(Tags::List(list))),
        (false, true) if headers.contains_key(name) => Err(malformed(name)),
        (false, true) => Ok(None),
    }
}

fn malformed(name: &HeaderName) -> Problem {
    let name = if *name == IF_MATCH { "If-Match" } else { "If-None-Match" };
    problem::header(format!("{name} must be * or a list of entity tags in double quotes"))
}

/// Parses a list of entity tags such as `"a", W/"b"`, and appends the tags to
/// `list`. Returns `None` for malformed text. A tag can contain a comma, so the text
/// cannot be split at commas.
fn parse_list(text: &str, list: &mut Vec<Tag>) -> Option<()> {
    let mut rest = text.trim();
    while !rest.is_empty() {
        let strong = rest.strip_prefix("W/");
        let weak = strong.is_some();
        let opened = strong.unwrap_or(rest).strip_prefix('"')?;
        let (tag, after) = opened.split_once('"')?;
        if tag.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return None;
        }
        list.push(Tag { weak, text: tag.to_owned() });
        rest = after.trim_start();
        if !rest.is_empty() {
            rest = rest.strip_prefix(',')?.trim_start();
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: &str = "k3f9x2ab";

    fn headers(pairs: &[(&HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn condition(pairs: &[(&HeaderName, &'static str)]) -> Option<Precondition> {
        precondition(&headers(pairs), EPOCH.parse().unwrap()).ok()
    }

    #[test]
    fn a_precondition_has_only_revisions_of_its_own_log() {
        let offsets = |list: &[u64]| list.iter().map(|&n| Offset(n)).collect();
        for (value, expected) in [
            ("*", Precondition::Present),
            ("\"k3f9x2ab-7\"", Precondition::OneOf(offsets(&[7]))),
            ("\"k3f9x2ab-7\" , \"k3f9x2ab-9\",", Precondition::OneOf(offsets(&[7, 9]))),
            ("W/\"k3f9x2ab-7\"", Precondition::OneOf(vec![])),
            ("\"zzzzzzzz-7\", \"a,b\"", Precondition::OneOf(vec![])),
        ] {
            assert_eq!(condition(&[(&IF_MATCH, value)]), Some(expected), "{value}");
        }
        assert_eq!(condition(&[]), Some(Precondition::None));
        assert_eq!(condition(&[(&IF_NONE_MATCH, "*")]), Some(Precondition::Absent));
        assert_eq!(
            condition(&[(&IF_NONE_MATCH, "W/\"k3f9x2ab-7\"")]),
            Some(Precondition::NoneOf(offsets(&[7])))
        );
    }

    #[test]
    fn text_that_is_not_a_list_of_tags_is_malformed() {
        for value in ["", "k3f9x2ab-7", "\"a", "\"a\" \"b\"", "w/\"a\"", "*, \"a\"", "\"a b\""] {
            assert_eq!(condition(&[(&IF_MATCH, value)]), None, "{value}");
        }
        assert_eq!(condition(&[(&IF_MATCH, "*"), (&IF_NONE_MATCH, "*")]), None);
        assert_eq!(condition(&[(&IF_MATCH, "*"), (&IF_MATCH, "\"a\"")]), None);
    }

    #[test]
    fn a_read_compares_weakly_for_unchanged_and_strongly_for_match() {
        let outcome = |pairs: &[(&HeaderName, &'static str)]| {
            read(&headers(pairs), EPOCH.parse().unwrap(), Offset(7)).unwrap()
        };
        assert_eq!(outcome(&[]), ConditionResult::Send);
        assert_eq!(outcome(&[(&IF_NONE_MATCH, "W/\"k3f9x2ab-7\"")]), ConditionResult::Unchanged);
        assert_eq!(outcome(&[(&IF_NONE_MATCH, "*")]), ConditionResult::Unchanged);
        assert_eq!(outcome(&[(&IF_NONE_MATCH, "\"k3f9x2ab-6\"")]), ConditionResult::Send);
        assert_eq!(outcome(&[(&IF_MATCH, "W/\"k3f9x2ab-7\"")]), ConditionResult::Failed);
        assert_eq!(outcome(&[(&IF_MATCH, "\"k3f9x2ab-7\"")]), ConditionResult::Send);
    }
}
