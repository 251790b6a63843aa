//! Reads of the store on the calling task.
//!
//! A read on a blocking thread wakes a thread twice. This costs nearly twice as much
//! as a whole request that reads on the calling task. A read from memory or from the
//! page cache of the system takes microseconds. Only a read that waits for the disk
//! should run on a blocking thread. The gateway cannot know in advance whether a
//! read will wait, so it decides by the duration of the recent reads.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The duration above which a read counts as slow. A slow read usually waited for
/// the disk. A read is also slow if the system preempted its thread; [`BURST`]
/// absorbs such cases.
const SLOW: Duration = Duration::from_micros(500);

/// The share of one processor's time that slow reads may take from the runtime in
/// the long run, as 1/SHARE.
const SHARE: u64 = 4;

/// The total time that slow reads may take in a short period, before [`SHARE`]
/// limits them.
const BURST: Duration = Duration::from_millis(100);

/// Decides whether a read runs on the calling task. Limits the time for which slow
/// reads block the threads of the runtime: to [`BURST`] in a short period, and to
/// 1/[`SHARE`] of one thread in the long run.
///
/// Only the end of a read shows that the read was slow. Therefore, if the runtime
/// has several threads, reads never run on all of them at the same time. If the disk
/// hangs, the free thread still serves other requests. If the runtime has only one
/// thread, this thread reads too. This allows nearly three times as many requests,
/// but if the disk hangs, the gateway hangs.
pub struct InlineReads {
    begun: Instant,
    /// The number of reads that run on calling tasks now.
    running: AtomicUsize,
    running_max: usize,
    /// A time in microseconds since `begun`. Each slow read moves this time forward
    /// by [`SHARE`] times the duration of the read. While this time is more than
    /// [`SHARE`] × [`BURST`] ahead of now, no read runs on a calling task.
    spent_until: AtomicU64,
}

/// The error of a read that panicked. The panic hook has logged the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panicked;

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a read panicked on the calling task")
    }
}

impl InlineReads {
    /// Creates the state for this machine, without any slow reads.
    pub fn new() -> InlineReads {
        InlineReads::of(std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Creates the state for a runtime of `threads` threads.
    fn of(threads: usize) -> InlineReads {
        InlineReads {
            begun: Instant::now(),
            running: AtomicUsize::new(0),
            running_max: threads.saturating_sub(1).max(1),
            spent_until: AtomicU64::new(0),
        }
    }

    /// Runs `read` on the calling task and returns its result. If recent reads were slow, or if
    /// too many reads run, returns `None` without running `read`; the caller then uses a blocking
    /// thread. `before` is the time just before the call.
    ///
    /// # Errors
    /// [`Panicked`] if `read` panics. The caller must not use the values that `read` borrowed.
    pub fn run<T>(&self, before: Instant, read: impl FnOnce() -> T) -> Option<Result<T, Panicked>> {
        let before = before.saturating_duration_since(self.begun);
        if !self.may_read(before) {
            return None;
        }
        let _reading = self.begin()?;
        // The read shares only the store with other tasks, so a panic leaves no
        // other data in a broken state.
        let result = catch_unwind(AssertUnwindSafe(read)).map_err(|_| Panicked);
        self.record(before, self.begun.elapsed());
        Some(result)
    }

    /// Counts one more running read until the returned guard is dropped. Returns
    /// `None` if the largest allowed number of reads is running.
    fn begin(&self) -> Option<impl Drop> {
        struct Reading<'a>(&'a AtomicUsize);
        impl Drop for Reading<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let one_more = |running| (running < self.running_max).then_some(running + 1);
        let begun = self.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        begun.ok().map(|_| Reading(&self.running))
    }

    fn may_read(&self, now: Duration) -> bool {
        let limit = micros(now) + SHARE * micros(BURST);
        self.spent_until.load(Ordering::Relaxed) <= limit
    }

    fn record(&self, before: Duration, after: Duration) {
        let took = after.saturating_sub(before);
        if took <= SLOW {
            return;
        }
        let spend = |until: u64| Some(until.max(micros(before)) + SHARE * micros(took));
        let _ = self.spent_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use std::panic::resume_unwind;

    use super::*;

    #[test]
    fn slow_reads_take_only_their_share_of_a_thread() {
        let inline = InlineReads::new();
        let (mut now, read) = (Duration::ZERO, Duration::from_millis(10));
        let mut waited = Duration::ZERO;
        while now < Duration::from_secs(10) {
            if inline.may_read(now) {
                inline.record(now, now + read);
                waited += read;
                now += read;
            } else {
                now += Duration::from_millis(1);
            }
        }
        let bound = Duration::from_secs(10) / SHARE as u32 + BURST + read;
        assert!(waited <= bound, "{waited:?} of 10 s");
    }

    #[test]
    fn one_thread_stays_free_if_reads_hang() {
        let inline = InlineReads::of(3);
        let hanging = (inline.begin(), inline.begin());
        assert!(hanging.0.is_some() && hanging.1.is_some());
        assert_eq!(inline.run(Instant::now(), || ()), None);
        drop(hanging);
        assert_eq!(inline.run(Instant::now(), || ()), Some(Ok(())));
    }

    #[test]
    fn a_runtime_with_one_thread_reads_on_it() {
        let inline = InlineReads::of(1);
        for _ in 0..2 {
            assert_eq!(inline.run(Instant::now(), || ()), Some(Ok(())));
        }
    }

    #[test]
    fn a_panic_ends_only_the_read() {
        let inline = InlineReads::of(2);
        for _ in 0..2 {
            // resume_unwind() skips the panic hook. Its backtrace can take as long as a slow read.
            let read = inline.run(Instant::now(), || resume_unwind(Box::new("a defect")));
            let problem = crate::api::answer::problem::joined::<()>(read.unwrap()).unwrap_err();
            assert_eq!(problem.status(), 500, "the status is the same as for a read on a thread");
        }
        assert_eq!(inline.run(Instant::now(), || ()), Some(Ok(())));
    }

    #[test]
    fn reads_from_memory_always_run_on_the_calling_task() {
        let inline = InlineReads::new();
        for n in 0..10_000 {
            let now = Duration::from_micros(n);
            assert!(inline.may_read(now));
            inline.record(now, now + SLOW);
        }
    }
}
