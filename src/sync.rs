//! The lock and the atomics on which the join of catch-up and live fan-out
//! rests (`docs/architecture.md#delivery`).
//!
//! With the feature `shuttle` these are shuttle's, whose scheduler decides at
//! each of them which thread goes on. The tests in `hub/schedules.rs` run the
//! hub so. Nothing else of the gateway runs with the feature: shuttle's types
//! panic outside of its scheduler.

#[cfg(not(feature = "shuttle"))]
mod real {
    pub(crate) use parking_lot::Mutex;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64};

    /// Runs `work` on a thread that may block.
    ///
    /// # Errors
    /// [`tokio::task::JoinError`] if `work` panicked.
    pub(crate) async fn unblock<T: Send + 'static>(
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, tokio::task::JoinError> {
        tokio::task::spawn_blocking(work).await
    }
}

#[cfg(feature = "shuttle")]
mod scheduled {
    pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU64};

    use std::sync::PoisonError;

    use shuttle::sync::MutexGuard;

    /// shuttle's mutex with `parking_lot`'s interface.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Mutex<T> {
            Mutex(shuttle::sync::Mutex::new(value))
        }

        /// Locks, also after a panic: `parking_lot` knows no poisoning, and a
        /// second panic would end the process before the first is reported.
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// Runs `work` on the thread that asks, between two turns of the others.
    pub(crate) async fn unblock<T: Send + 'static>(
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, tokio::task::JoinError> {
        shuttle::thread::yield_now();
        let done = work();
        shuttle::thread::yield_now();
        Ok(done)
    }
}

#[cfg(not(feature = "shuttle"))]
pub(crate) use real::{AtomicBool, AtomicU64, Mutex, unblock};
#[cfg(feature = "shuttle")]
pub(crate) use scheduled::{AtomicBool, AtomicU64, Mutex, unblock};
