//! The mutex and the atomics that join catch-up and live fan-out
//! (`docs/delivery.md`).
//!
//! With the feature `shuttle`, these types come from the crate shuttle. The
//! scheduler of shuttle decides at each operation which thread continues. The
//! tests in `hub/schedules.rs` run the hub in this way. The rest of the gateway
//! cannot run with this feature: shuttle's types panic outside of the scheduler.

#[cfg(not(feature = "shuttle"))]
mod real {
    pub(crate) use parking_lot::Mutex;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64};

    /// Runs `work` on the blocking thread pool of tokio.
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

    /// The mutex of shuttle with the interface of `parking_lot`.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Mutex<T> {
            Mutex(shuttle::sync::Mutex::new(value))
        }

        /// Locks the mutex, also after a panic. `parking_lot` has no poisoning.
        /// A second panic would end the process before the first is reported.
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// Runs `work` on the calling thread. Before and after `work`, other threads
    /// can run.
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
