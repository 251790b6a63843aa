//! The media types of responses.

/// A media type of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    /// JSON, for one resource or a page.
    Json,
    /// NDJSON, with one record per line.
    Ndjson,
    /// Server-Sent Events.
    Sse,
    /// `CloudEvents` 1.0 in JSON, with one event per line.
    CloudEvents,
}

impl MediaType {
    /// Returns the name of the media type.
    pub fn media_type(self) -> &'static str {
        match self {
            MediaType::Json => "application/json",
            MediaType::Ndjson => "application/x-ndjson",
            MediaType::Sse => "text/event-stream",
            MediaType::CloudEvents => "application/cloudevents+json",
        }
    }
}
