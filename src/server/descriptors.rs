//! File descriptors: the number of connections that the limit of the process
//! permits, and an accept loop that still works when the process has no free
//! descriptor.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};

use crate::metrics::Metrics;

/// The number of file descriptors that are reserved for the store, the admin
/// listener and refused clients. If the limit of the process is low, half of its
/// descriptors are reserved.
const RESERVED_DESCRIPTORS: usize = 512;

/// The pause after the first failed accept. Each further failure doubles the pause,
/// up to `PAUSE_MAX`. The listener stays readable while the process has no free file
/// descriptor, so without a pause the accept loop would spin.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The number of spare file descriptors of the admin listener. It is the number of
/// scrapes and probes that the gateway can serve at the same time while the process
/// has no free descriptor.
const SPARE: usize = 4;

/// Raises the soft limit of file descriptors of this process to the hard limit.
/// Returns the number of client connections that the limit permits, but at most
/// `configured`.
pub(super) fn connections_max(configured: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    let Some(limit) = limit else { return configured };
    let fitting = fitting(limit as usize);
    if fitting < configured {
        tracing::warn!(
            configured,
            fitting,
            "the descriptor limit allows fewer connections than limits.max_connections; raise \
             LimitNOFILE or ulimit -n",
        );
    }
    configured.min(fitting)
}

fn fitting(limit: usize) -> usize {
    (limit - RESERVED_DESCRIPTORS.min(limit / 2)).max(1)
}

/// A listening socket with an accept loop. While accept fails, the acceptor pauses
/// between two attempts and logs only the first failure.
pub(super) struct Acceptor {
    listener: TcpListener,
    /// Spare open file descriptors. When the process has no free descriptor, the
    /// acceptor closes one of them to accept one connection.
    spare: Vec<File>,
    /// The number of spare file descriptors that [`refill`](Self::refill) opens.
    spare_count: usize,
    pause: Duration,
}

impl Acceptor {
    /// Wraps a listening socket. With `has_spare`, the acceptor opens spare file
    /// descriptors, with which it accepts connections even if the process has no
    /// free descriptor.
    pub(super) fn new(listener: TcpListener, has_spare: bool) -> Acceptor {
        let spare_count = if has_spare { SPARE } else { 0 };
        let mut acceptor =
            Acceptor { listener, spare: Vec::new(), spare_count, pause: Duration::ZERO };
        acceptor.refill();
        acceptor
    }

    /// Opens spare file descriptors until there are `spare_count`, or until the
    /// process has no free descriptor.
    pub(super) fn refill(&mut self) {
        while self.spare.len() < self.spare_count {
            let Ok(file) = File::open("/dev/null") else { return };
            self.spare.push(file);
        }
    }

    /// Accepts the next connection.
    ///
    /// # Cancel safety
    /// Safe: a connection that was not accepted stays in the accept queue of the
    /// kernel.
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
                // The closed spare descriptor is for this connection, so accept
                // comes before refill.
                if let Ok(accepted) = self.listener.accept().await {
                    return accepted;
                }
            }
            if self.pause.is_zero() {
                tracing::warn!(%error, "cannot accept connections; trying again");
            }
            metrics.refused("accept");
            self.pause = (self.pause * 2).clamp(PAUSE, PAUSE_MAX);
            tokio::time::sleep(self.pause).await;
        }
    }
}

/// Returns whether `error` means that the process or the system has no free file
/// descriptor.
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
