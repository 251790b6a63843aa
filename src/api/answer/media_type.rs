//! The media types of responses.

/// A media type of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    /// JSON: a resource or a page.
    Json,
    /// NDJSON: one record per line.
    Ndjson,
    /// Server-Sent Events.
    Sse,
    /// `CloudEvents` 1.0: one event per line.
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
