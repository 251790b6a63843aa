//! The parts of a response: problems, bodies and headers.

pub mod body;
pub mod inline_reads;
pub mod media_type;
pub mod problem;
pub mod response;
pub mod step;
pub mod streamed_body;
