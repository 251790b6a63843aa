//! Parses the WebSocket messages that a client sends.

use bytes::Bytes;

use crate::wire::json::{self, Json};
use crate::wire::problem::{Code, Problem};

/// A command of a client. Its fields are still JSON text.
pub struct Message {
    /// The id of the command as JSON text. The response repeats the id.
    pub id: Option<Bytes>,
    /// Whether the client sent the command in the bare format, without an envelope.
    pub bare: bool,
    /// The name of the command.
    pub command: String,
    fields: Json,
}

/// The error for a malformed message: the id of the message, if it has one, and the
/// problem.
pub type MalformedMessage = (Option<Bytes>, Problem);

/// The largest message id that a response repeats, in bytes of JSON text.
const ID_BYTES_MAX: usize = 256;

impl Message {
    /// Parses a message: `{"id","type":"command","data":{"command",…}}`, or
    /// bare `{"command",…}`.
    ///
    /// # Errors
    /// The problem of a malformed message.
    pub fn parse(text: &str) -> Result<Message, MalformedMessage> {
        let whole = Json::parse(text.as_bytes()).map_err(|bad| (None, bad.into()))?;
        if !whole.is_object() {
            return Err((None, Problem::new(Code::BadBody, "a message must be a JSON object")));
        }
        let id = json::member(whole.as_bytes(), "id")
            .filter(|id| id.len() <= ID_BYTES_MAX && matches!(id[0], b'"' | b'-' | b'0'..=b'9'))
            .map(Bytes::copy_from_slice);
        if json::member(whole.as_bytes(), "command").is_some() {
            let command = command(&whole).map_err(|problem| (id.clone(), problem))?;
            return Ok(Message { id, bare: true, command, fields: whole });
        }
        let parse = || {
            let message_type = json::member(whole.as_bytes(), "type");
            let message_type = message_type.ok_or_else(|| missing("type", "send \"command\""))?;
            if json::string(message_type).as_deref() != Some("command") {
                return Err(wrong("type", "\"command\""));
            }
            let data = json::member(whole.as_bytes(), "data")
                .ok_or_else(|| missing("data", "send an object with the command"))?;
            if data.first() != Some(&b'{') {
                return Err(wrong("data", "an object with the command"));
            }
            check_envelope(&whole)?;
            let fields = Json::from_trusted(Bytes::copy_from_slice(data));
            Ok((command(&fields)?, fields))
        };
        match parse() {
            Ok((command, fields)) => Ok(Message { id, bare: false, command, fields }),
            Err(problem) => Err((id, problem)),
        }
    }

    /// Checks that the command has no fields except `known`. If the gateway ignored
    /// unknown fields, a misspelled start position would have no effect, and the
    /// client would miss events.
    ///
    /// # Errors
    /// The problem that names the first unknown field.
    pub fn only(&self, known: &[&str]) -> Result<(), Problem> {
        for (name, value) in json::members(self.fields.as_bytes()) {
            let name = json::string(name).unwrap_or_default();
            // A bare message may repeat members of the envelope. A `type` with a value
            // other than "command" is probably a misspelled `types`.
            let is_envelope = self.bare
                && match name.as_ref() {
                    "id" | "timestamp" => true,
                    "type" => json::string(value).as_deref() == Some("command"),
                    _ => false,
                };
            if name != "command" && !is_envelope && !known.contains(&name.as_ref()) {
                let Message { command, .. } = self;
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let detail = format!("{command} has no field {name:?}; the fields are {known}");
                return Err(Problem::new(Code::BadBody, detail).with("field", name.as_ref()));
            }
        }
        Ok(())
    }

    /// Returns the value of the field `name` as compact JSON text. Returns `None` if
    /// the field is missing.
    pub fn raw(&self, name: &str) -> Option<&[u8]> {
        json::member(self.fields.as_bytes(), name)
    }

    /// Returns the value of the field `name`, which must be a string.
    ///
    /// # Errors
    /// The problem for any other value.
    pub fn text(&self, name: &str) -> Result<Option<String>, Problem> {
        self.raw(name)
            .map(|raw| {
                json::string(raw)
                    .map(std::borrow::Cow::into_owned)
                    .ok_or_else(|| wrong(name, "a string"))
            })
            .transpose()
    }

    /// Returns the value of the field `name`, which must be `true` or `false`.
    ///
    /// # Errors
    /// The problem for any other value.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Problem> {
        match self.raw(name) {
            None => Ok(None),
            Some(b"true") => Ok(Some(true)),
            Some(b"false") => Ok(Some(false)),
            Some(_) => Err(wrong(name, "true or false")),
        }
    }

    /// Returns the value of the field `name`, which must be a whole number above
    /// zero.
    ///
    /// # Errors
    /// The problem for any other value.
    pub fn count(&self, name: &str) -> Result<Option<u64>, Problem> {
        self.raw(name)
            .map(|raw| {
                let number = str::from_utf8(raw).ok().and_then(|text| text.parse::<u64>().ok());
                number.filter(|&n| n > 0).ok_or_else(|| wrong(name, "a whole number above zero"))
            })
            .transpose()
    }

    /// Returns the value of the field `name`, which must be an array of strings.
    /// Returns an empty list if the field is missing.
    ///
    /// # Errors
    /// The problem for any other value.
    pub fn list(&self, name: &str) -> Result<Vec<String>, Problem> {
        let Some(raw) = self.raw(name) else { return Ok(Vec::new()) };
        serde_json::from_slice(raw).map_err(|_| wrong(name, "an array of strings"))
    }
}

fn command(fields: &Json) -> Result<String, Problem> {
    let command = json::member(fields.as_bytes(), "command")
        .ok_or_else(|| missing("command", "name the command"))?;
    json::string(command)
        .map(std::borrow::Cow::into_owned)
        .ok_or_else(|| wrong("command", "a string that names the command"))
}

/// Checks that `message` has no members except the members of the envelope. If the
/// gateway ignored other members, a field beside `data` would have no effect.
///
/// # Errors
/// The problem that names the first unknown member.
fn check_envelope(message: &Json) -> Result<(), Problem> {
    for (name, _) in json::members(message.as_bytes()) {
        let name = json::string(name).unwrap_or_default();
        if !matches!(name.as_ref(), "id" | "type" | "timestamp" | "data") {
            let detail = format!(
                "a message has no member {name:?}; the members are id, type, timestamp and data, \
                 and the fields of the command belong in data"
            );
            return Err(Problem::new(Code::BadBody, detail).with("field", name.as_ref()));
        }
    }
    Ok(())
}

/// Returns the problem for a command without the required field `field`. `why` tells
/// the client what to send.
pub fn missing(field: &str, why: &str) -> Problem {
    Problem::new(Code::MissingField, format!("the field {field:?} is missing: {why}"))
        .with("field", field)
}

/// Returns the problem for a field with a wrong value. `must` names the allowed
/// values.
pub fn wrong(field: &str, must: &str) -> Problem {
    Problem::new(Code::BadBody, format!("the field {field:?} must be {must}")).with("field", field)
}
