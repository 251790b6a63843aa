//! The number of requests of one connection that have begun and that have ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Counts the requests of one connection.
#[derive(Default)]
pub(super) struct RequestCounter {
    /// The number of requests whose head is complete.
    begun: AtomicUsize,
    /// The number of requests whose response has ended.
    ended: AtomicUsize,
    /// Whether the current response is bulk.
    bulk: AtomicBool,
}

impl RequestCounter {
    /// Counts a request whose head is complete. The request is in progress as
    /// long as the returned guard lives.
    pub(super) fn begin(self: &Arc<Self>) -> RequestGuard {
        self.begun.fetch_add(1, Ordering::AcqRel);
        RequestGuard(self.clone())
    }

    /// Returns the number of requests that have begun and of those that have
    /// ended.
    pub(super) fn counts(&self) -> (usize, usize) {
        let ended = self.ended.load(Ordering::Acquire);
        (self.begun.load(Ordering::Acquire), ended)
    }

    /// Returns whether a request has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.counts().0 > 0
    }

    /// Returns whether the current response is bulk.
    pub(super) fn is_bulk(&self) -> bool {
        self.bulk.load(Ordering::Relaxed)
    }

    /// Resolves when no request has been in progress for `idle_timeout`. The counter is
    /// checked `checks` times in this time, so the future can resolve `idle_timeout` /
    /// `checks` late. A timer that is reset for each request would cost each request a
    /// tenth of its time.
    ///
    /// # Cancel safety
    /// Safe: the next call starts again.
    pub(super) async fn idle(&self, idle_timeout: Duration, checks: u32) {
        let mut before = self.counts();
        let mut idle_checks = 0;
        while idle_checks < checks {
            tokio::time::sleep(idle_timeout / checks).await;
            let now = self.counts();
            idle_checks = if now == before && now.0 == now.1 { idle_checks + 1 } else { 0 };
            before = now;
        }
    }
}

/// Counts a request as in progress until the guard is dropped.
pub(super) struct RequestGuard(Arc<RequestCounter>);

impl RequestGuard {
    /// Sets whether the response is bulk: a large response whose bytes do not become
    /// outdated while they wait in the kernel.
    pub(super) fn set_bulk(&self, bulk: bool) {
        if self.0.bulk.load(Ordering::Relaxed) != bulk {
            self.0.bulk.store(bulk, Ordering::Relaxed);
        }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::AcqRel);
    }
}
