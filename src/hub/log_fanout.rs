//! One log on one shard: how far it is fanned out, and who subscribes to it.

use std::sync::Arc;

use super::fanout_progress::{FanoutProgress, LagStats};
use super::index::Index;
use crate::log::Log;
use crate::sync::Mutex;

/// A log as one shard fans it out.
pub(super) struct LogFanout {
    pub(super) progress: Arc<FanoutProgress>,
    pub(super) index: Mutex<Index>,
}

impl LogFanout {
    pub(super) fn new(log: Arc<Log>, stats: Arc<LagStats>) -> LogFanout {
        let progress = Arc::new(FanoutProgress::new(log, stats));
        LogFanout { progress, index: Mutex::default() }
    }
}
