//! The embedded engine: a committer for all logs, with group commit.

mod answers;
mod clock;
mod commit_batch;
mod committer;
mod engine;
mod messages;
mod registry;
mod writer;
mod writers;

pub(super) use clock::Clock;
#[cfg(test)]
pub(super) use clock::{TestClock, earlier, later};
pub use engine::Embedded;
pub use messages::PendingAppend;
#[cfg(test)]
pub(super) use {registry::LogRegistry, writer::LogWriter, writers::Writers};
