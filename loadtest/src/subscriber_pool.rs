//! Many subscribers on one thread.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::delivery_stats::DeliveryStats;
use crate::subscriber::{ReadBuffers, ReadOutcome, Subscriber, Subscription};

/// Subscribers of one run.
pub const SUBSCRIBERS_MAX: usize = 200_000;

/// Requests that wait for their head at a time: below every listener's backlog.
const OPENING_MAX: usize = 256;

/// For all heads of a pool.
const OPEN_TIMEOUT: Duration = Duration::from_mins(1);

/// Sockets that one wait reports.
const EVENTS_MAX: usize = 1024;

/// A pause after a wait that reported less than [`NAP_BELOW`] sockets, so that
/// a server's writes do not each wake this thread, which would be a cost of
/// the generator's in the server's account. It is what a latency is uncertain
/// by.
const NAP: Duration = Duration::from_micros(500);

/// See [`NAP`].
const NAP_BELOW: usize = 512;

/// Subscribers that are read as soon as something comes.
pub struct SubscriberPool {
    epoll: OwnedFd,
    ready: Vec<epoll::Event>,
    subscribers: Vec<Subscriber>,
    buffers: ReadBuffers,
    /// What came so far.
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

    /// Takes the `count` subscribers that `ask` gives, at most `opening_max` of
    /// them without a head at a time, and waits until each has its own.
    ///
    /// # Errors
    /// If one is refused, or they take longer than a minute.
    pub fn open_with(
        count: usize,
        opening_max: usize,
        mut ask: impl FnMut(usize) -> io::Result<Subscriber>,
    ) -> io::Result<SubscriberPool> {
        if count > SUBSCRIBERS_MAX {
            return Err(io::Error::other(format!("at most {SUBSCRIBERS_MAX} subscribers")));
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
                return Err(io::Error::other(format!("{} of {count} heads came", pool.opened)));
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

    /// All of them, in the order in which they came.
    pub fn subscribers(&self) -> &[Subscriber] {
        &self.subscribers
    }

    /// How many of their streams have ended.
    pub fn ended(&self) -> usize {
        self.ended
    }

    /// Reads until `is_done` says so, and gives whether it did within `limit`.
    /// It is asked after every read, so it should cost little.
    ///
    /// # Errors
    /// If a stream is no stream.
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

    /// How many there are.
    pub fn len(&self) -> usize {
        self.subscribers.len()
    }

    /// Waits for something to come, at most `timeout`, and reads it.
    ///
    /// # Errors
    /// If a stream is no stream.
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
                    // The server may wait for it. It may also have gone.
                    let _ = subscriber.socket().shutdown(Shutdown::Both);
                    epoll::delete(&self.epoll, subscriber.socket())?;
                }
            }
        }
        Ok(())
    }

    /// Ends all streams and says what came, against what was published.
    pub fn close(mut self, published: &[u64]) -> DeliveryStats {
        for subscriber in &self.subscribers {
            self.stats.finish(subscriber.progress(), published);
        }
        self.stats
    }
}

/// Receive buffer that a stalled reader asks for, in bytes; Linux makes it
/// twice as large, for what it keeps beside the data.
const STALLED_RECEIVE_BYTES: usize = 4096;

/// Opens `count` subscriptions that nobody ever reads.
///
/// # Errors
/// If one cannot be connected, or they take longer than a minute.
pub fn stalled(subscription: &Subscription, count: usize) -> io::Result<Vec<TcpStream>> {
    let deadline = Instant::now() + OPEN_TIMEOUT;
    let ask = |index| {
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("{index} of {count} could connect in time")));
        }
        subscription.connect(index, Some(STALLED_RECEIVE_BYTES))
    };
    (0..count).map(ask).collect()
}
