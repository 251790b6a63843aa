//! The query of a request: parameters, and equality filters.

use std::borrow::Cow;
use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::api::answer::problem;
use crate::wire::FieldEquals;
use crate::wire::problem::Problem;

/// The names of the query parameters of all paths. If a parameter does not apply to
/// the path of a request, the gateway rejects the request and does not use the
/// parameter as a filter. Otherwise, a misplaced `size` would become a filter that
/// matches no event of a stream.
const PARAMETERS: [&str; 14] = [
    "page",
    "size",
    "follow",
    "batchSize",
    "types",
    "onGap",
    "overflow",
    "from",
    "lastEventId",
    "last_event_id",
    "after",
    "limit",
    "merge",
    "window",
];

/// The bytes that the gateway percent-encodes in a query: all except the unreserved
/// characters (RFC 3986 §2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The prefix of a filter whose member has the same name as a parameter, as in
/// `field.size=3`.
const ESCAPE: &str = "field.";

/// The query parameters that the handler has not read yet, in the order of the
/// request.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Parses the query of a request.
    ///
    /// # Errors
    /// 400 for a parameter that is given twice, has no name or no `=`, or is
    /// not percent-encoded UTF-8.
    pub fn parse(raw: Option<&str>) -> Result<Query, Problem> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for piece in raw.unwrap_or_default().split('&').filter(|piece| !piece.is_empty()) {
            let (name, value) = piece.split_once('=').ok_or_else(|| {
                problem::malformed(format!(
                    "the query part {piece:?} has no value; write name=value"
                ))
            })?;
            let text = |raw| {
                decode(raw, true)
                    .map(Cow::into_owned)
                    .map_err(|why| problem::malformed(format!("the query part {piece:?}: {why}")))
            };
            let (name, value) = (text(name)?, text(value)?);
            if name.is_empty() || name == ESCAPE {
                return Err(problem::malformed(format!(
                    "the query part {piece:?} has no name; write name=value"
                )));
            }
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(problem::parameter(
                    &name,
                    "the parameter is given twice; send it once",
                ));
            }
            pairs.push((name, value));
        }
        Ok(Query { pairs })
    }

    /// Removes the parameter `name` from the query, and returns its value.
    pub fn take(&mut self, name: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(other, _)| other == name)?;
        Some(self.pairs.remove(at).1)
    }

    /// Removes the parameter `name`, which must be `true` or `false`, from the
    /// query, and returns its value.
    ///
    /// # Errors
    /// 400 for any other value.
    pub fn take_flag(&mut self, name: &str) -> Result<Option<bool>, Problem> {
        match self.take(name).as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(problem::parameter(name, "it must be true or false")),
        }
    }

    /// Removes the parameter `name`, which must be a number, from the query, and
    /// returns its value.
    ///
    /// # Errors
    /// 400 if the value is not a decimal number in `least..=most`.
    pub fn take_number(
        &mut self,
        name: &str,
        least: u32,
        most: u32,
    ) -> Result<Option<u32>, Problem> {
        let Some(text) = self.take(name) else { return Ok(None) };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|n| digits && (least..=most).contains(n));
        number.map(Some).ok_or_else(|| {
            problem::parameter(name, &format!("it must be a number from {least} to {most}"))
        })
    }

    /// Checks that the query has none of the parameters `names`.
    ///
    /// # Errors
    /// 400 with a problem that names the first parameter of `names` that the query
    /// has.
    pub fn refuse(&self, names: &[&str]) -> Result<(), Problem> {
        let is_present = |name: &&&str| self.pairs.iter().any(|(other, _)| other == **name);
        names.iter().find(is_present).map_or(Ok(()), |name| Err(not_applicable(name)))
    }

    /// Returns the remaining parameters as equality filters.
    ///
    /// # Errors
    /// 400 for a parameter that does not apply to the path, and for two filters on
    /// one member.
    pub fn into_fields(self) -> Result<Vec<FieldEquals>, Problem> {
        let mut fields: Vec<FieldEquals> = Vec::with_capacity(self.pairs.len());
        for (name, value) in self.pairs {
            let name = match name.strip_prefix(ESCAPE) {
                Some(member) => member.to_owned(),
                None if PARAMETERS.contains(&name.as_str()) => return Err(not_applicable(&name)),
                None => name,
            };
            if fields.iter().any(|field| field.name == name) {
                return Err(problem::parameter(
                    &name,
                    "the parameter is given twice; send it once",
                ));
            }
            fields.push(FieldEquals { name, value });
        }
        Ok(fields)
    }

    /// Checks that the handler has read all parameters of the query.
    ///
    /// # Errors
    /// 400 with a problem that names the first parameter that the handler has not
    /// read.
    pub fn finish(&self) -> Result<(), Problem> {
        match self.pairs.first() {
            None => Ok(()),
            Some((name, _)) if PARAMETERS.contains(&name.as_str()) => Err(not_applicable(name)),
            Some((name, _)) => {
                Err(problem::parameter(name, "the path has no such parameter; omit it"))
            }
        }
    }
}

fn not_applicable(name: &str) -> Problem {
    problem::parameter(
        name,
        &format!(
            "the parameter does not apply here; to filter by a member of this name, write {ESCAPE}{name}="
        ),
    )
}

/// Appends `&name=value` to `out` for each filter in `fields`. Escapes the names and
/// values so that [`Query::into_fields`] returns the same filters.
pub fn append_fields(fields: &[FieldEquals], out: &mut String) {
    for FieldEquals { name, value } in fields {
        out.push('&');
        if PARAMETERS.contains(&name.as_str()) || name.starts_with(ESCAPE) {
            out.push_str(ESCAPE);
        }
        out.extend(utf8_percent_encode(name, ENCODED));
        out.push('=');
        out.extend(utf8_percent_encode(value, ENCODED));
    }
}

/// The reason why percent-encoded text cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecodable {
    /// A `%` without two hexadecimal digits.
    Percent,
    /// The decoded bytes are not UTF-8.
    Utf8,
}

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Undecodable::Percent => write!(f, "a % needs two hexadecimal digits after it"),
            Undecodable::Utf8 => write!(f, "it is not UTF-8 when decoded"),
        }
    }
}

/// Decodes percent-encoded text once: `%2525` becomes `%25`. If `plus` is true, also
/// decodes `+` as a space.
///
/// # Errors
/// [`Undecodable`] for text that is not percent-encoded UTF-8.
pub fn decode(text: &str, plus: bool) -> Result<Cow<'_, str>, Undecodable> {
    let bytes = text.as_bytes();
    let is_decoded = |byte: &u8| *byte == b'%' || (plus && *byte == b'+');
    if !bytes.iter().any(is_decoded) {
        return Ok(Cow::Borrowed(text));
    }
    // The percent_encoding library does not report a `%` without two digits.
    let mut escapes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    let is_whole = |at: usize| {
        bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !escapes.all(|(at, _)| is_whole(at)) {
        return Err(Undecodable::Percent);
    }
    let spaced = if plus { text.replace('+', " ") } else { text.to_owned() };
    let decoded = percent_decode_str(&spaced).decode_utf8().map_err(|_| Undecodable::Utf8)?;
    Ok(Cow::Owned(decoded.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(raw: &str) -> Option<Vec<(String, String)>> {
        let fields = Query::parse(Some(raw)).ok()?.into_fields().ok()?;
        Some(fields.into_iter().map(|f| (f.name, f.value)).collect())
    }

    #[test]
    fn an_unknown_parameter_is_a_filter() {
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        assert_eq!(fields(""), Some(vec![]));
        assert_eq!(fields("a=1&b=x+y%2B"), Some(vec![pair("a", "1"), pair("b", "x y+")]));
        assert_eq!(fields("field.size=3&c=="), Some(vec![pair("size", "3"), pair("c", "=")]));
        assert_eq!(fields("empty="), Some(vec![pair("empty", "")]));
    }

    #[test]
    fn a_malformed_query_is_rejected() {
        for raw in
            ["a", "=1", "a=1&a=2", "a=1&field.a=2", "field.=1", "a=%", "a=%4", "a=%zz", "a=%ff"]
        {
            assert_eq!(fields(raw), None, "{raw}");
        }
        assert_eq!(fields("size=3"), None, "a parameter is not a filter");
    }

    #[test]
    fn a_number_must_be_digits_and_within_the_range() {
        let number = |raw| Query::parse(Some(raw)).unwrap().take_number("n", 1, 1000);
        assert_eq!(number("n=1000").unwrap(), Some(1000));
        assert_eq!(number("m=1").unwrap(), None);
        for raw in ["n=", "n=0", "n=1001", "n=+1", "n=-1", "n=1.0", "n=99999999999"] {
            assert!(number(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn appended_fields_are_parsed_to_the_same_fields() {
        let field = |name: &str, value: &str| FieldEquals {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let all = vec![field("a b", ""), field("size", "ü/&=+%"), field("field.x", "~._-")];
        let mut out = String::new();
        append_fields(&all, &mut out);
        assert_eq!(Query::parse(Some(&out)).unwrap().into_fields().unwrap(), all);
    }
}
