//! Many subscribers on one thread.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::delivery_stats::DeliveryStats;
use crate::subscriber::{ReadBuffers, ReadOutcome, Subscriber, Subscription};

/// The most subscribers of a pool.
pub const SUBSCRIBERS_MAX: usize = 200_000;

/// The most requests that wait for their head at a time. Below the backlog of
/// every listener.
const OPENING_MAX: usize = 256;

/// The timeout for all heads of a pool.
const OPEN_TIMEOUT: Duration = Duration::from_mins(1);

/// The most sockets that one wait reports.
const EVENTS_MAX: usize = 1024;

/// The pause after a wait that reported fewer than [`NAP_BELOW`] sockets.
/// Without the pause, each write of a server would wake this thread, and that
/// cost of the generator would count as the server's. Latencies are uncertain
/// by this much.
const NAP: Duration = Duration::from_micros(500);

/// See [`NAP`].
const NAP_BELOW: usize = 512;

/// Subscribers that are read as soon as data arrives.
pub struct SubscriberPool {
    epoll: OwnedFd,
    ready: Vec<epoll::Event>,
    subscribers: Vec<Subscriber>,
    buffers: ReadBuffers,
    /// Counts of what arrived so far.
    pub stats: DeliveryStats,
    opened: usize,
    ended: usize,
    is_busy: bool,
}

impl SubscriberPool {
    /// Opens `count` subscriptions and waits until each has its head.
    ///
    /// # Errors
    /// If one is refused, or they take longer than a minute.
    pub fn open(subscription: &Subscription, count: usize) -> io::Result<SubscriberPool> {
        SubscriberPool::open_with(count, OPENING_MAX, |index| subscription.subscribe(index))
    }

    /// Creates `count` subscribers with `ask` and waits until each has its
    /// head. At most `opening_max` of them are without a head at a time.
    ///
    /// # Errors
    /// If one is refused, or they take longer than a minute.
    pub fn open_with(
        count: usize,
        opening_max: usize,
        mut ask: impl FnMut(usize) -> io::Result<Subscriber>,
    ) -> io::Result<SubscriberPool> {
        if count > SUBSCRIBERS_MAX {
            return Err(io::Error::other(format!(
                "`subscribers` must be at most {SUBSCRIBERS_MAX}"
            )));
        }
        let mut pool = SubscriberPool {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            ready: Vec::with_capacity(EVENTS_MAX),
            subscribers: Vec::with_capacity(count),
            buffers: ReadBuffers::new(),
            stats: DeliveryStats::new(),
            opened: 0,
            ended: 0,
            is_busy: false,
        };
        let deadline = Instant::now() + OPEN_TIMEOUT;
        while pool.opened < count {
            if Instant::now() > deadline {
                return Err(io::Error::other(format!(
                    "only {} of {count} heads arrived in time",
                    pool.opened
                )));
            }
            let index = pool.subscribers.len();
            if index < count && index - pool.opened < opening_max {
                pool.add(ask(index)?)?;
                if index.is_multiple_of(16) {
                    pool.read_ready(Duration::ZERO)?;
                }
            } else {
                pool.read_ready(Duration::from_millis(10))?;
            }
        }
        Ok(pool)
    }

    fn add(&mut self, subscriber: Subscriber) -> io::Result<()> {
        let key = epoll::EventData::new_u64(self.subscribers.len() as u64);
        epoll::add(&self.epoll, subscriber.socket(), key, epoll::EventFlags::IN)?;
        self.subscribers.push(subscriber);
        Ok(())
    }

    /// Returns all subscribers, in the order of their index.
    pub fn subscribers(&self) -> &[Subscriber] {
        &self.subscribers
    }

    /// Returns how many streams have ended.
    pub fn ended(&self) -> usize {
        self.ended
    }

    /// Reads until `is_done` returns true, at most for `limit`. Returns whether
    /// it did. `is_done` is called after every wait, so it must be cheap.
    ///
    /// # Errors
    /// If a stream is malformed or refused.
    pub fn read_until(
        &mut self,
        limit: Duration,
        mut is_done: impl FnMut(&SubscriberPool) -> bool,
    ) -> io::Result<bool> {
        let end = Instant::now() + limit;
        loop {
            if is_done(self) {
                return Ok(true);
            }
            if Instant::now() > end {
                return Ok(false);
            }
            self.read_ready(Duration::from_millis(5))?;
        }
    }

    /// Returns the number of subscribers.
    pub fn len(&self) -> usize {
        self.subscribers.len()
    }

    /// Waits at most `timeout` for data, and reads it.
    ///
    /// # Errors
    /// If a stream is malformed or refused.
    pub fn read_ready(&mut self, timeout: Duration) -> io::Result<()> {
        let timeout = Timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        if self.is_busy {
            std::thread::sleep(NAP);
        }
        self.ready.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.ready), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.is_busy = self.ready.len() < NAP_BELOW && !self.ready.is_empty();
        for event in &self.ready {
            let subscriber = &mut self.subscribers[event.data.u64() as usize];
            match subscriber.read(&mut self.buffers, &mut self.stats)? {
                ReadOutcome::Idle | ReadOutcome::Data => {}
                ReadOutcome::Opened => self.opened += 1,
                ReadOutcome::Ended => {
                    self.ended += 1;
                    self.stats.ended += 1;
                    // The server may wait for this, or may already be gone.
                    let _ = subscriber.socket().shutdown(Shutdown::Both);
                    epoll::delete(&self.epoll, subscriber.socket())?;
                }
            }
        }
        Ok(())
    }

    /// Ends all streams. Returns the counts, compared with what was published.
    pub fn close(mut self, published: &[u64]) -> DeliveryStats {
        for subscriber in &self.subscribers {
            self.stats.finish(subscriber.progress(), published);
        }
        self.stats
    }
}

/// The receive buffer that a stalled reader requests, in bytes. Linux doubles
/// it for its bookkeeping.
const STALLED_RECEIVE_BYTES: usize = 4096;

/// Opens `count` subscriptions that are never read.
///
/// # Errors
/// If one cannot connect, or they take longer than a minute.
pub fn stalled(subscription: &Subscription, count: usize) -> io::Result<Vec<TcpStream>> {
    let deadline = Instant::now() + OPEN_TIMEOUT;
    let ask = |index| {
        if Instant::now() > deadline {
            return Err(io::Error::other(format!(
                "only {index} of {count} readers connected in time"
            )));
        }
        subscription.connect(index, Some(STALLED_RECEIVE_BYTES))
    };
    (0..count).map(ask).collect()
}
