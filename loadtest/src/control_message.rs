//! Control messages of a stream, in any wire form (`docs/protocol.md#streams`).

use serde_json::Value;

use crate::stamp;

/// A `stream-open`, `heartbeat`, `gap`, `stream-close` or other message that is
/// not an event of a publisher.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlMessage {
    /// The type of the message.
    pub kind: String,
    /// The offset to resume from.
    pub position: Option<u64>,
    /// The reason of a `gap` or a `stream-close`.
    pub reason: Option<String>,
    /// The number of events that a `gap` stands for.
    pub count: Option<u64>,
}

impl ControlMessage {
    /// Parses an SSE block, an NDJSON line or a WebSocket message.
    pub fn read(text: &[u8]) -> Option<ControlMessage> {
        let text = std::str::from_utf8(text).ok()?;
        if !text.starts_with('{') {
            return ControlMessage::of_block(text);
        }
        let line: Value = serde_json::from_str(text).ok()?;
        let data = line.get("data");
        if line.get("type")?.as_str()? == "control" {
            let data = data?;
            return Some(ControlMessage::new(
                data.get("type")?,
                data.get("cursor"),
                data.get("data"),
            ));
        }
        Some(ControlMessage::new(line.get("type")?, line.get("id"), data))
    }

    fn of_block(text: &str) -> Option<ControlMessage> {
        let field = |name: &str| {
            let value = |line: &str| line.strip_prefix(name).map(str::to_owned);
            text.lines().find_map(value)
        };
        let kind = Value::String(field("event: ")?);
        let id = field("id: ").map(Value::String);
        let data: Option<Value> = field("data: ").and_then(|data| serde_json::from_str(&data).ok());
        Some(ControlMessage::new(&kind, id.as_ref(), data.as_ref()))
    }

    fn new(kind: &Value, id: Option<&Value>, data: Option<&Value>) -> ControlMessage {
        let member = |name: &str| data.and_then(|data| data.get(name));
        ControlMessage {
            kind: kind.as_str().unwrap_or_default().to_owned(),
            position: id.and_then(Value::as_str).and_then(stamp::offset_of),
            reason: member("reason").and_then(Value::as_str).map(str::to_owned),
            count: member("count").and_then(Value::as_u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, kind: &str, position: Option<u64>, reason: Option<&str>) {
        let count = (kind == "gap").then_some(7);
        let (kind, reason) = (kind.to_owned(), reason.map(str::to_owned));
        let expected = ControlMessage { kind, position, reason, count };
        assert_eq!(ControlMessage::read(text.as_bytes()), Some(expected), "{text}");
    }

    #[test]
    fn a_notice_is_read_from_every_form() {
        check(
            "retry: 3000\nid: k3f9x2ab-4\nevent: stream-open\ndata: {\"connection\":\"c0\"}",
            "stream-open",
            Some(4),
            None,
        );
        check(
            "event: gap\ndata: {\"from\":\"k3f9x2ab-1\",\"reason\":\"dropped\",\"count\":7}",
            "gap",
            None,
            Some("dropped"),
        );
        check(
            r#"{"type":"stream-close","id":"k3f9x2ab-9","data":{"reason":"draining"}}"#,
            "stream-close",
            Some(9),
            Some("draining"),
        );
        check(
            r#"{"id":"c7.5","type":"control","data":{"type":"gap","cursor":"k3f9x2ab-6","data":{"reason":"expired","count":7}}}"#,
            "gap",
            Some(6),
            Some("expired"),
        );
        assert_eq!(ControlMessage::read(b":"), None);
    }
}
