//! The parts of a request: client address, head, query, negotiation, conditions, and body.

pub mod address;
pub mod body_reader;
pub mod condition;
pub mod head;
pub mod idempotency;
pub mod negotiate;
pub mod query;
pub mod start;
