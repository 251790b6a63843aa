//! The media types of responses.

/// A form that an answer can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    /// A resource, or a page.
    Json,
    /// One record a line.
    Ndjson,
    /// Server-Sent Events.
    Sse,
    /// `CloudEvents` 1.0, one a line.
    CloudEvents,
}

impl MediaType {
    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            MediaType::Json => "application/json",
            MediaType::Ndjson => "application/x-ndjson",
            MediaType::Sse => "text/event-stream",
            MediaType::CloudEvents => "application/cloudevents+json",
        }
    }
}
