//! The mutex and the atomic types of the code that moves a subscription from
//! catching up to live events (`docs/delivery.md`).
//!
//! With the feature `shuttle`, these types come from the crate `shuttle`. The
//! scheduler of shuttle decides at each operation of these types which thread
//! continues. The tests in `hub/schedules.rs` run the hub in this way. The rest of
//! the gateway cannot run with this feature, because shuttle's types panic outside
//! of its scheduler.

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

    /// shuttle's mutex with the interface of `parking_lot::Mutex`.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Mutex<T> {
            Mutex(shuttle::sync::Mutex::new(value))
        }

        /// Locks the mutex, even if a thread has panicked while it held the lock.
        /// `parking_lot` has no poisoning either. A panic here would be a second
        /// panic, which would end the process before the first one is reported.
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// Runs `work` on the calling thread. Lets shuttle run other threads before and
    /// after `work`.
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
