//! Problems: one table of codes, and the problem object of RFC 9457. The object
//! is the same on every protocol: the body of an HTTP error, the data of an SSE
//! `error` event, and the data of a WebSocket `error` message.
//!
//! See `docs/protocol.md#errors`.

use std::fmt;

use bytes::Bytes;
use serde_json::Value;

use super::json::{self, ParseError};

mod code;

pub use code::{ALL, Code};

/// The names of the standard members of a problem object (RFC 9457). An additional
/// member cannot have one of these names.
const STANDARD: [&str; 5] = ["type", "title", "status", "detail", "instance"];

/// One error that the gateway reports to a client (RFC 9457).
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    code: Code,
    detail: String,
    members: Vec<(&'static str, Value)>,
}

impl Problem {
    /// Returns a problem. `detail` states the error and the remedy for a person.
    pub fn new(code: Code, detail: impl Into<String>) -> Problem {
        Problem { code, detail: detail.into(), members: Vec::new() }
    }

    /// Adds the member `name`, which RFC 9457 does not define. If the problem
    /// already has this member, replaces the value.
    ///
    /// # Panics
    /// In debug builds, if `name` is one of the standard members.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Problem {
        debug_assert!(
            !STANDARD.contains(&name),
            "{name} is a standard member of a problem and cannot be added"
        );
        self.members.retain(|(other, _)| *other != name);
        self.members.push((name, value.into()));
        self
    }

    /// Returns the value of the additional member `name`.
    pub fn member(&self, name: &str) -> Option<&Value> {
        self.members.iter().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// Returns the problem code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Returns the HTTP status.
    pub fn status(&self) -> u16 {
        self.code.status()
    }

    /// Returns the member `detail`: the error and the remedy for a person.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Returns the problem object as compact JSON: `type`, `title`, `status`,
    /// `detail`, then `instance` if there is one, then the additional members.
    /// `instance` is the path of the request.
    pub fn to_json(&self, instance: Option<&str>) -> Bytes {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(br#"{"type":"/problems/"#);
        out.extend_from_slice(self.code.slug().as_bytes());
        out.extend_from_slice(br#"","title":"#);
        json::quote(self.code.title(), &mut out);
        out.extend_from_slice(br#","status":"#);
        out.extend_from_slice(self.status().to_string().as_bytes());
        out.extend_from_slice(br#","detail":"#);
        json::quote(&self.detail, &mut out);
        if let Some(instance) = instance {
            out.extend_from_slice(br#","instance":"#);
            json::quote(instance, &mut out);
        }
        for (name, value) in &self.members {
            out.push(b',');
            json::quote(name, &mut out);
            out.push(b':');
            out.extend_from_slice(value.to_string().as_bytes());
        }
        out.push(b'}');
        out.into()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.slug(), self.detail)
    }
}

impl std::error::Error for Problem {}

impl From<ParseError> for Problem {
    /// Returns a problem that names the position of the invalid byte, in the
    /// detail and in the member `position`.
    fn from(malformed: ParseError) -> Problem {
        Problem::new(Code::MalformedJson, malformed.to_string())
            .with("position", malformed.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(problem: &Problem, instance: Option<&str>, expected: &str) {
        assert_eq!(str::from_utf8(&problem.to_json(instance)).unwrap(), expected);
        json::Json::parse(expected.as_bytes()).unwrap();
    }

    #[test]
    fn a_problem_is_written_as_the_object_of_rfc_9457() {
        check(
            &Problem::new(Code::NotFound, "no order named o1"),
            None,
            r#"{"type":"/problems/not-found","title":"Not found","status":404,"detail":"no order named o1"}"#,
        );
        check(
            &Problem::new(Code::TooManyRequests, "wait \"2\" s\n")
                .with("retryAfter", 9)
                .with("limits", vec!["a", "b"])
                .with("retryAfter", 2.5),
            Some("/orders?a=\"é\""),
            concat!(
                r#"{"type":"/problems/too-many-requests","title":"Too many requests","status":429,"#,
                r#""detail":"wait \"2\" s\n","instance":"/orders?a=\"é\"","#,
                r#""limits":["a","b"],"retryAfter":2.5}"#,
            ),
        );
    }

    #[test]
    fn the_problem_of_malformed_json_names_the_byte() {
        let malformed = json::Json::parse(b"[1,]").unwrap_err();
        check(
            &malformed.into(),
            Some("/orders"),
            concat!(
                r#"{"type":"/problems/malformed-json","title":"Malformed JSON","status":400,"#,
                r#""detail":"at byte 3: expected a value","instance":"/orders","position":3}"#,
            ),
        );
    }

    #[test]
    fn a_problem_is_displayed_as_its_code_and_detail() {
        let problem = Problem::new(Code::DiskFull, "less than 64 MiB are free");
        assert_eq!(problem.to_string(), "disk-full: less than 64 MiB are free");
    }

    #[test]
    #[should_panic(expected = "status is a standard member")]
    fn an_additional_member_cannot_have_the_name_of_a_standard_member() {
        let _ = Problem::new(Code::Internal, "").with("status", 200);
    }
}
