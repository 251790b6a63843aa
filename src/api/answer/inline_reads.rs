//! Point reads on the calling task.
//!
//! A read on a blocking thread costs two wake-ups of a thread: nearly twice the cost of a
//! whole request without them. A point read from memory or from the page cache of the
//! system takes microseconds. Only a read that waits for the disk is better on a thread.
//! The kind of a read is not known in advance, so the recent reads decide.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A read that takes longer counts as slow: it waited for the disk. A thread that the
/// system preempts looks the same; the [burst](BURST) absorbs such cases.
const SLOW: Duration = Duration::from_micros(500);

/// The share of one processor that slow reads may take from the runtime in the long run:
/// 1/SHARE.
const SHARE: u64 = 4;

/// The time that slow reads may take at once, whatever happened before.
const BURST: Duration = Duration::from_millis(100);

/// Decides where a point read runs. Limits the time that the threads of the runtime lose
/// to a slow disk: [`BURST`], then 1/[`SHARE`] of one thread. A read is known to be slow
/// only when it ends. Therefore one of several threads never reads: if the disk hangs,
/// that thread serves the rest of the gateway. A runtime with one thread reads on it too:
/// nearly three times the requests every day are worth more than service beside a disk
/// that hangs.
pub struct InlineReads {
    begun: Instant,
    /// The number of running reads, and its limit.
    reading: AtomicUsize,
    most: usize,
    /// The time until which the slow reads so far use up their share, in microseconds
    /// since `begun`.
    spent_until: AtomicU64,
}

/// A read panicked. The panic hook has logged the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panicked;

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a read panicked on the calling task")
    }
}

impl InlineReads {
    /// Creates the state without slow reads.
    pub fn new() -> InlineReads {
        InlineReads::of(std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Creates the state for a runtime of `threads` threads.
    fn of(threads: usize) -> InlineReads {
        InlineReads {
            begun: Instant::now(),
            reading: AtomicUsize::new(0),
            most: threads.saturating_sub(1).max(1),
            spent_until: AtomicU64::new(0),
        }
    }

    /// Runs `read` here and returns its result. Returns `None`, without running `read`, if
    /// recent reads were slow: the caller then uses a blocking thread. `before` is the time
    /// just before the call. A panic ends only the read, as on a thread, and not the
    /// connection; the caller must not use the values that `read` owned or borrowed.
    pub fn run<T>(&self, before: Instant, read: impl FnOnce() -> T) -> Option<Result<T, Panicked>> {
        let before = before.saturating_duration_since(self.begun);
        if !self.has_room(before) {
            return None;
        }
        let _reading = self.begin()?;
        // The read shares only the store with other tasks, as on a thread.
        let result = catch_unwind(AssertUnwindSafe(read)).map_err(|_| Panicked);
        self.took(before, self.begun.elapsed());
        Some(result)
    }

    /// Counts a running read until the returned guard is dropped. Returns `None` at the
    /// limit.
    fn begin(&self) -> Option<impl Drop> {
        struct Reading<'a>(&'a AtomicUsize);
        impl Drop for Reading<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let one_more = |reading| (reading < self.most).then_some(reading + 1);
        let begun = self.reading.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        begun.ok().map(|_| Reading(&self.reading))
    }

    fn has_room(&self, now: Duration) -> bool {
        let room = micros(now) + SHARE * micros(BURST);
        self.spent_until.load(Ordering::Relaxed) <= room
    }

    fn took(&self, before: Duration, after: Duration) {
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
    fn a_disk_takes_its_share_of_a_thread_and_no_more() {
        let inline = InlineReads::new();
        let (mut now, read) = (Duration::ZERO, Duration::from_millis(10));
        let mut waited = Duration::ZERO;
        while now < Duration::from_secs(10) {
            if inline.has_room(now) {
                inline.took(now, now + read);
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
    fn one_thread_is_left_where_reads_hang() {
        let inline = InlineReads::of(3);
        let hanging = (inline.begin(), inline.begin());
        assert!(hanging.0.is_some() && hanging.1.is_some());
        assert_eq!(inline.run(Instant::now(), || ()), None);
        drop(hanging);
        assert_eq!(inline.run(Instant::now(), || ()), Some(Ok(())));
    }

    #[test]
    fn the_only_thread_reads_too() {
        let inline = InlineReads::of(1);
        for _ in 0..2 {
            assert_eq!(inline.run(Instant::now(), || ()), Some(Ok(())));
        }
    }

    #[test]
    fn a_panic_is_the_reads_alone() {
        let inline = InlineReads::of(2);
        for _ in 0..2 {
            // Without the hook, whose backtrace may take as long as a slow disk.
            let read = inline.run(Instant::now(), || resume_unwind(Box::new("a defect")));
            let problem = crate::api::answer::problem::joined::<()>(read.unwrap()).unwrap_err();
            assert_eq!(problem.status(), 500, "as where a thread read it");
        }
        assert_eq!(inline.run(Instant::now(), || ()), Some(Ok(())));
    }

    #[test]
    fn what_comes_out_of_memory_is_never_sent_away() {
        let inline = InlineReads::new();
        for n in 0..10_000 {
            let now = Duration::from_micros(n);
            assert!(inline.has_room(now));
            inline.took(now, now + SLOW);
        }
    }
}
