//! The interface that all engines have in common: writes, outcomes, errors and
//! settings.

mod apply;
mod error;
mod settings;
mod write;

pub(super) use apply::{Effect, ResourceChange, apply};
pub use error::{Error, WriteState};
pub use settings::{FsyncPolicy, LogConfig, Settings, StorageKind};
pub use write::{
    AppendOutcome, AppendRejection, BadWrite, IdempotencyKey, Mutation, Precondition, Write,
};
