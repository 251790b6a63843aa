//! Counts the requests of one connection that have begun and that have ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Counts the requests of one connection.
#[derive(Default)]
pub(super) struct RequestCounter {
    /// The number of requests whose head was received completely.
    begun: AtomicUsize,
    /// The number of requests whose response was sent or aborted.
    ended: AtomicUsize,
    /// Whether the current response is bulk: a large response that a delay does not
    /// make outdated.
    bulk: AtomicBool,
}

impl RequestCounter {
    /// Counts a request whose head was received completely. The request is in
    /// progress until the returned guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> RequestGuard {
        self.begun.fetch_add(1, Ordering::AcqRel);
        RequestGuard(self.clone())
    }

    /// Returns two numbers: the requests that have begun, and the requests that have
    /// ended.
    pub(super) fn counts(&self) -> (usize, usize) {
        let ended = self.ended.load(Ordering::Acquire);
        (self.begun.load(Ordering::Acquire), ended)
    }

    /// Returns whether at least one request of the connection has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.counts().0 > 0
    }

    /// Returns whether the current response is bulk, as set by
    /// [`RequestGuard::set_bulk`].
    pub(super) fn is_bulk(&self) -> bool {
        self.bulk.load(Ordering::Relaxed)
    }

    /// Resolves when the connection has had no request in progress for
    /// `idle_timeout`. The function checks the counter `checks` times within
    /// `idle_timeout`, so it can resolve late by `idle_timeout` / `checks`. A timer
    /// that is reset for each request would make each request a tenth slower.
    ///
    /// # Cancel safety
    /// Safe: the next call starts a new idle time.
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
