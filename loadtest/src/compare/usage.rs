//! The CPU time and memory that a server used during some work.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::process::Meter;

/// The time between two samples.
const SAMPLE_EVERY: Duration = Duration::from_millis(20);

/// A server that uses less of a processor than this is idle.
const REST: f64 = 0.02;

/// The time for which the server must be idle, and the longest wait for it.
const REST_TIME: Duration = Duration::from_millis(500);
const REST_TIMEOUT: Duration = Duration::from_secs(30);

/// Waits until a server has finished the background work of a load: a store
/// merges its files after the responses.
///
/// # Errors
/// If the process has ended.
pub fn wait_until_idle(mut meter: Meter) -> io::Result<()> {
    let deadline = Instant::now() + REST_TIMEOUT;
    let mut before = meter.cpu()?;
    loop {
        std::thread::sleep(REST_TIME);
        let now = meter.cpu()?;
        let used = Duration::from_nanos(now.saturating_sub(before));
        if used < REST_TIME.mul_f64(REST) {
            return Ok(());
        }
        if Instant::now() > deadline {
            eprintln!(
                "  the server is not idle after {REST_TIMEOUT:?}; its background work is measured too"
            );
            return Ok(());
        }
        before = now;
    }
}

/// The CPU time and the memory that a server used during a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// The time that the work took.
    pub wall: Duration,
    /// The CPU time of the server.
    pub cpu: Duration,
    /// The CPU time of this process.
    pub own: Duration,
    /// Resident memory before the work, in bytes.
    pub rss_before: u64,
    /// The most resident memory during the work, in bytes.
    pub rss_max: u64,
}

impl Usage {
    /// Runs `work` and returns its value with what the server used.
    ///
    /// # Errors
    /// The error of `work`, or if the process has ended.
    pub fn measure<T>(
        mut meter: Meter,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<(T, Usage)> {
        let mut own = Meter::of(std::process::id());
        let (own_before, cpu_before) = (own.cpu()?, meter.cpu()?);
        let rss_before = meter.rss()?;
        let (begun, is_done) = (Instant::now(), AtomicBool::new(false));
        let (given, wall, mut meter, mut own) = std::thread::scope(|scope| {
            let sampler = scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    // If the process has ended, the last sample below fails.
                    let _ = (meter.cpu(), own.cpu());
                    std::thread::sleep(SAMPLE_EVERY);
                }
                (meter, own)
            });
            let given = work();
            let wall = begun.elapsed();
            is_done.store(true, Ordering::Relaxed);
            let joined = sampler.join().map_err(|_| io::Error::other("the sampler panicked"));
            let (meter, own) = joined?;
            Ok::<_, io::Error>((given?, wall, meter, own))
        })?;
        let cpu = Duration::from_nanos(meter.cpu()?.saturating_sub(cpu_before));
        let own = Duration::from_nanos(own.cpu()?.saturating_sub(own_before));
        let rss_max = meter.rss_max();
        Ok((given, Usage { wall, cpu, own, rss_before, rss_max }))
    }

    /// Returns `count` as a rate a second.
    pub fn rate(&self, count: u64) -> f64 {
        count as f64 / self.wall.as_secs_f64()
    }

    /// Returns the server's CPU time divided by `count`, in µs.
    pub fn cpu_each(&self, count: u64) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / count as f64
    }

    /// Returns this process's CPU time divided by `count`, in µs.
    pub fn own_each(&self, count: u64) -> f64 {
        self.own.as_secs_f64() * 1e6 / count as f64
    }

    /// Returns the largest growth of resident memory, in MiB.
    pub fn growth(&self) -> f64 {
        (self.rss_max - self.rss_before) as f64 / 1_048_576.0
    }
}
