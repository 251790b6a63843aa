//! A gateway with its own configuration and store. It can be signalled, ended,
//! and restarted on the same store and ports.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::http::Connection;
use crate::metrics_snapshot::MetricsSnapshot;
use crate::process::{Meter, Process};
use crate::run_dir;

/// The program, from the top folder of the project.
pub const PROGRAM: &str = "target/release/streamgate";

/// The time between two checks whether the process has ended.
const CHECK_EVERY: Duration = Duration::from_millis(5);

/// A running gateway. Dropping it ends the process and removes its folder.
pub struct Gateway {
    program: PathBuf,
    process: Process,
    admin: SocketAddr,
    folder: TempDir,
    starts: u32,
}

impl Gateway {
    /// Starts this build on free ports.
    ///
    /// # Errors
    /// If the gateway does not serve. The error has its output.
    pub fn start(config: &toml::Table) -> io::Result<Gateway> {
        Gateway::start_build(Path::new(PROGRAM), config)
    }

    /// Starts another build on free ports.
    ///
    /// # Errors
    /// If the gateway does not serve. The error has its output.
    pub fn start_build(program: &Path, config: &toml::Table) -> io::Result<Gateway> {
        let folder = run_dir::temporary()?;
        let text = toml::to_string(config).map_err(io::Error::other)?;
        fs::write(folder.path().join("gateway.toml"), text)?;
        let process = run(program, &folder, 0, "127.0.0.1:0", "127.0.0.1:0")?;
        let admin = admin(&process)?;
        Ok(Gateway { program: program.to_owned(), process, admin, folder, starts: 1 })
    }

    /// Returns the address of the client listener.
    pub fn address(&self) -> SocketAddr {
        self.process.address
    }

    /// Returns the address of the admin listener.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Returns the path of the configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("gateway.toml")
    }

    /// Returns the last line of the gateway's output.
    ///
    /// # Errors
    /// If the output cannot be read.
    pub fn last_log_line(&self) -> io::Result<String> {
        let output = format!("output-{}", self.starts - 1);
        let received = fs::read_to_string(self.folder.path().join(output))?;
        Ok(received.lines().next_back().unwrap_or_default().to_owned())
    }

    /// Returns a meter for the process.
    pub fn meter(&self) -> Meter {
        self.process.meter()
    }

    /// Scrapes the metrics.
    ///
    /// # Errors
    /// If the gateway does not answer.
    pub fn metrics(&self) -> io::Result<MetricsSnapshot> {
        let response = Connection::open(self.admin)?.get("/metrics")?;
        MetricsSnapshot::parse(&response.body)
    }

    /// Returns how many subscriptions read from the log and not from their ring.
    ///
    /// # Errors
    /// If the gateway does not answer, or has no such metric.
    pub fn catching_up(&self) -> io::Result<u64> {
        catching_up(&self.metrics()?)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.process.signal(signal)
    }

    /// Returns the exit status if the process has ended.
    ///
    /// # Errors
    /// If the process cannot be waited for.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.process.try_wait()
    }

    /// Waits for the end of the process. Returns `None` if it does not end
    /// within `limit`.
    ///
    /// # Errors
    /// If the process cannot be waited for.
    pub fn wait(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            let ended = self.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                return Ok(ended);
            }
            std::thread::sleep(CHECK_EVERY);
        }
    }

    /// Starts the gateway again on the same store and ports. It must have
    /// ended.
    ///
    /// # Errors
    /// If the gateway does not serve. The error has its output.
    pub fn restart(&mut self) -> io::Result<()> {
        let (address, admin_address) = (self.address().to_string(), self.admin.to_string());
        self.process = run(&self.program, &self.folder, self.starts, &address, &admin_address)?;
        self.admin = admin(&self.process)?;
        self.starts += 1;
        Ok(())
    }

    /// Returns whether `streamgate check` accepts a file.
    ///
    /// # Errors
    /// If the program cannot be run.
    pub fn check(path: &Path) -> io::Result<bool> {
        let mut command = Command::new(PROGRAM);
        let output = command.args(["check", "--config"]).arg(path).output()?;
        Ok(output.status.success())
    }
}

fn run(
    program: &Path,
    folder: &TempDir,
    start: u32,
    listen: &str,
    admin_listen: &str,
) -> io::Result<Process> {
    let path = |name: &str| folder.path().join(name).display().to_string();
    let words = [
        program.display().to_string(),
        "serve".to_owned(),
        "--log-format".to_owned(),
        "json".to_owned(),
        "--config".to_owned(),
        path("gateway.toml"),
        "--set".to_owned(),
        format!("storage.path={}", path("data")),
        "--set".to_owned(),
        format!("server.listen={listen}"),
        "--set".to_owned(),
        format!("server.admin_listen={admin_listen}"),
    ];
    Process::start(&words, &folder.path().join(format!("output-{start}")))
}

fn admin(process: &Process) -> io::Result<SocketAddr> {
    process.admin.ok_or_else(|| io::Error::other("the gateway printed no `admin_listen`"))
}

/// The gauge of subscriptions that catch up, and its name in builds from before
/// 2026-12. `--beside` may start one of those.
const CATCHING_UP: [&str; 2] =
    ["streamgate_subscribers_catching_up", "streamgate_subscribers_parked"];

fn catching_up(metrics: &MetricsSnapshot) -> io::Result<u64> {
    let found = CATCHING_UP.iter().find_map(|name| metrics.count(name, &[]));
    found.ok_or_else(|| io::Error::other(format!("/metrics has no {}", CATCHING_UP[0])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscribers_that_catch_up_are_counted_in_every_build() {
        let check = |text: &str, expected| {
            let metrics = MetricsSnapshot::parse(text).unwrap();
            assert_eq!(catching_up(&metrics).ok(), expected, "{text}");
        };
        check("streamgate_subscribers_catching_up 3\n", Some(3));
        check("streamgate_subscribers_parked 4\n", Some(4));
        check("streamgate_connections_open 5\n", None);
    }
}
