//! The observers of a log.

use std::sync::{Arc, Weak};

use tokio::sync::Notify;

use crate::sync::Mutex;

/// An object that a log notifies when the log's head has moved.
pub trait LogObserver: Send + Sync {
    /// Runs on the committer's thread after each commit to the log, once the new
    /// events can be read. The implementation must not block.
    fn head_moved(self: Arc<Self>);
}

impl LogObserver for Notify {
    fn head_moved(self: Arc<Self>) {
        self.notify_one();
    }
}

/// The observers of one log.
#[derive(Default)]
pub(in crate::log) struct Observers(Mutex<Vec<Weak<dyn LogObserver>>>);

impl Observers {
    /// Adds an observer. Before the list grows, removes the observers that were
    /// dropped, because a log without commits never removes them otherwise.
    pub(in crate::log) fn add(&self, observer: Weak<dyn LogObserver>) {
        let mut observers = self.0.lock();
        if observers.len() == observers.capacity() {
            observers.retain(|observer| observer.strong_count() > 0);
        }
        observers.push(observer);
    }

    /// Notifies all observers, and removes the observers that were dropped.
    pub(in crate::log) fn notify(&self) {
        self.0.lock().retain(|observer| {
            let observer = observer.upgrade();
            observer.map(LogObserver::head_moved).is_some()
        });
    }
}
