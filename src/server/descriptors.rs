//! Descriptors: how many connections they are enough for, and what to do when
//! there are none left.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};

use crate::metrics::Metrics;

/// Descriptors that connections leave for the store, the operators' listener
/// and clients that have to be turned away; half of them where there are few.
const RESERVED_DESCRIPTORS: usize = 512;

/// Pause after a failed accept, doubled up to the second one: out of
/// descriptors the listener stays readable, and accepting would spin.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Descriptors that are kept for operators: as many scrapes and probes come
/// through at a time when everything else is taken.
const SPARE: usize = 4;

/// Raises this process's soft limit of descriptors to its hard one, and gives
/// how many connections fit below it, at most `asked`.
pub(super) fn connections_max(asked: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    let Some(limit) = limit else { return asked };
    let fitting = fitting(limit as usize);
    if fitting < asked {
        tracing::warn!(
            asked,
            fitting,
            "limits.max_connections is lowered to what the descriptor limit leaves; raise \
             LimitNOFILE or ulimit -n",
        );
    }
    asked.min(fitting)
}

fn fitting(limit: usize) -> usize {
    (limit - RESERVED_DESCRIPTORS.min(limit / 2)).max(1)
}

/// A listener that backs off while it cannot accept, and says so once.
pub(super) struct Acceptor {
    listener: TcpListener,
    /// Descriptors given up, one by one, when there is no other.
    spare: Vec<File>,
    /// How many of these there should be.
    spare_count: usize,
    pause: Duration,
}

impl Acceptor {
    /// Wraps a listening socket. An acceptor with spare descriptors accepts
    /// connections even if the process has no free descriptor.
    pub(super) fn new(listener: TcpListener, has_spare: bool) -> Acceptor {
        let spare_count = if has_spare { SPARE } else { 0 };
        let mut acceptor =
            Acceptor { listener, spare: Vec::new(), spare_count, pause: Duration::ZERO };
        acceptor.refill();
        acceptor
    }

    /// Takes back what was given up, as soon as there is something again.
    pub(super) fn refill(&mut self) {
        while self.spare.len() < self.spare_count {
            let Ok(file) = File::open("/dev/null") else { return };
            self.spare.push(file);
        }
    }

    /// The next connection.
    ///
    /// # Cancel safety
    /// Safe: a connection that was not given stays in the listener's queue.
    pub(super) async fn accept(&mut self, metrics: &Metrics) -> (TcpStream, SocketAddr) {
        loop {
            self.refill();
            let error = match self.listener.accept().await {
                Ok(accepted) => {
                    if !std::mem::take(&mut self.pause).is_zero() {
                        tracing::info!("accepting again");
                    }
                    return accepted;
                }
                Err(error) => error,
            };
            if is_exhausted(&error) && self.spare.pop().is_some() {
                // Accepting takes the one that was freed, before a refill does.
                if let Ok(accepted) = self.listener.accept().await {
                    return accepted;
                }
            }
            if self.pause.is_zero() {
                tracing::warn!(%error, "cannot accept; trying again until it works");
            }
            metrics.refused("accept");
            self.pause = (self.pause * 2).clamp(PAUSE, PAUSE_MAX);
            tokio::time::sleep(self.pause).await;
        }
    }
}

/// Whether the process or the system has no descriptor left.
fn is_exhausted(error: &io::Error) -> bool {
    let exhausted = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    error.raw_os_error().is_some_and(|code| exhausted.iter().any(|it| it.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_a_reserve() {
        assert_eq!(fitting(20_000), 19_488);
        assert_eq!(fitting(1024), 512);
        assert_eq!(fitting(256), 128);
        assert_eq!(fitting(1), 1);
    }
}
