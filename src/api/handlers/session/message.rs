//! Parses the messages of a client.

use bytes::Bytes;

use crate::wire::json::{self, Json};
use crate::wire::problem::{Code, Problem};

/// A command with its fields, which are not parsed yet.
pub struct Message {
    /// The id of the command as JSON text. The response repeats it.
    pub id: Option<Bytes>,
    /// Whether the message is bare: it has no envelope.
    pub bare: bool,
    /// The name of the command.
    pub command: String,
    fields: Json,
}

/// The problem of a malformed message, and the id of the message if it has one.
pub type MalformedMessage = (Option<Bytes>, Problem);

/// The largest id that a response repeats, in bytes of JSON text.
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
                .filter(|data| data.first() == Some(&b'{'))
                .ok_or_else(|| missing("data", "send an object with the command"))?;
            let fields = Json::from_trusted(Bytes::copy_from_slice(data));
            Ok((command(&fields)?, fields))
        };
        match parse() {
            Ok((command, fields)) => Ok(Message { id, bare: false, command, fields }),
            Err(problem) => Err((id, problem)),
        }
    }

    /// Checks that the command has only the fields `known`. An ignored field could be a
    /// misspelled position, and the client would miss events.
    ///
    /// # Errors
    /// The problem with the name of the first unknown field.
    pub fn only(&self, known: &[&str]) -> Result<(), Problem> {
        const ENVELOPE: [&str; 3] = ["id", "type", "timestamp"];
        for (name, _) in json::members(self.fields.as_bytes()) {
            let name = json::string(name).unwrap_or_default();
            let is_envelope = self.bare && ENVELOPE.contains(&name.as_ref());
            if name != "command" && !is_envelope && !known.contains(&name.as_ref()) {
                let Message { command, .. } = self;
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let detail = format!("{command} has no field {name:?}; the fields are {known}");
                return Err(Problem::new(Code::BadBody, detail).with("field", name.as_ref()));
            }
        }
        Ok(())
    }

    /// Returns a field as compact JSON.
    pub fn raw(&self, name: &str) -> Option<&[u8]> {
        json::member(self.fields.as_bytes(), name)
    }

    /// Returns a field that must be a string.
    ///
    /// # Errors
    /// The problem for another type.
    pub fn text(&self, name: &str) -> Result<Option<String>, Problem> {
        self.raw(name)
            .map(|raw| {
                json::string(raw)
                    .map(std::borrow::Cow::into_owned)
                    .ok_or_else(|| wrong(name, "a string"))
            })
            .transpose()
    }

    /// Returns a field that must be true or false.
    ///
    /// # Errors
    /// The problem for another type.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Problem> {
        match self.raw(name) {
            None => Ok(None),
            Some(b"true") => Ok(Some(true)),
            Some(b"false") => Ok(Some(false)),
            Some(_) => Err(wrong(name, "true or false")),
        }
    }

    /// Returns a field that must be a whole number above zero.
    ///
    /// # Errors
    /// The problem for another type.
    pub fn count(&self, name: &str) -> Result<Option<u64>, Problem> {
        self.raw(name)
            .map(|raw| {
                let number = str::from_utf8(raw).ok().and_then(|text| text.parse::<u64>().ok());
                number.filter(|&n| n > 0).ok_or_else(|| wrong(name, "a whole number above zero"))
            })
            .transpose()
    }

    /// Returns a field that must be an array of strings. Returns no strings for a missing
    /// field.
    ///
    /// # Errors
    /// The problem for another type.
    pub fn list(&self, name: &str) -> Result<Vec<String>, Problem> {
        let Some(raw) = self.raw(name) else { return Ok(Vec::new()) };
        serde_json::from_slice(raw).map_err(|_| wrong(name, "an array of strings"))
    }
}

fn command(fields: &Json) -> Result<String, Problem> {
    json::member(fields.as_bytes(), "command")
        .and_then(json::string)
        .map(std::borrow::Cow::into_owned)
        .ok_or_else(|| missing("command", "name the command"))
}

/// Returns the problem for a missing field.
pub fn missing(field: &str, why: &str) -> Problem {
    Problem::new(Code::MissingField, format!("the field {field:?} is missing: {why}"))
        .with("field", field)
}

/// Returns the problem for a wrong field.
pub fn wrong(field: &str, must: &str) -> Problem {
    Problem::new(Code::BadBody, format!("the field {field:?} must be {must}")).with("field", field)
}
