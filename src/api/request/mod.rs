//! The request room: reads the meaning of a request out of its head and its body.

pub mod address;
pub mod body_reader;
pub mod condition;
pub mod head;
pub mod idempotency;
pub mod negotiate;
pub mod query;
pub mod start;
