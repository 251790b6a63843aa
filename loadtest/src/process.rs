//! A server under measurement: started, watched through `/proc`, ended by its
//! id.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// From the start to the line with the address.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// From SIGTERM to SIGKILL: the store is thrown away, and nobody is connected.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// A running server.
pub struct Process {
    child: Child,
    /// Where it takes clients.
    pub address: SocketAddr,
    /// Where it takes operators, if it said so.
    pub admin: Option<SocketAddr>,
}

impl Process {
    /// Runs `command` and waits until a line of its output, written to
    /// `output`, is a JSON object with the address as `listen`.
    ///
    /// # Errors
    /// If it cannot be run, ends, or says nothing in 10 seconds.
    pub fn start(command: &[String], output: &Path) -> io::Result<Process> {
        let (program, arguments) =
            command.split_first().ok_or_else(|| io::Error::other("the command is empty"))?;
        let file = File::create(output)?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let said = fs::read_to_string(output)?;
            if let Some((address, admin)) = said.lines().find_map(listen) {
                return Ok(Process { child, address, admin });
            }
            let ended = child.try_wait()?.is_some();
            if ended || Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                return Err(io::Error::other(format!("{program} does not serve: {said}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A meter for it.
    pub fn meter(&self) -> Meter {
        Meter::of(self.child.id())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If it is gone.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the process has no id"))?;
        Ok(kill_process(pid, signal)?)
    }

    /// What it ended with, if it has ended.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.ended(), Ok(Some(_))) {
            return;
        }
        let _ = self.signal(Signal::TERM);
        let deadline = Instant::now() + END_TIMEOUT;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Reads a process's time and memory. Sampled often enough, it also counts
/// threads that have ended, which `/proc` forgets.
pub struct Meter {
    pid: u32,
    threads: HashMap<u32, u64>,
    rss_max: u64,
}

impl Meter {
    /// A meter for the process of that id.
    pub fn of(pid: u32) -> Meter {
        Meter { pid, threads: HashMap::new(), rss_max: 0 }
    }

    /// Samples, and gives the CPU time so far in nanoseconds.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn cpu(&mut self) -> io::Result<u64> {
        for entry in fs::read_dir(format!("/proc/{}/task", self.pid))? {
            let entry = entry?;
            let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // A thread may end between the two.
            let Ok(line) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
            let ran = line.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0);
            self.threads.insert(thread, ran);
        }
        self.rss()?;
        Ok(self.threads.values().sum())
    }

    /// Resident memory now, in bytes.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn rss(&mut self) -> io::Result<u64> {
        let line = fs::read_to_string(format!("/proc/{}/statm", self.pid))?;
        let pages: u64 = line.split(' ').nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
        let rss = pages * rustix::param::page_size() as u64;
        self.rss_max = self.rss_max.max(rss);
        Ok(rss)
    }

    /// The most resident memory that a sample saw, in bytes.
    pub fn rss_max(&self) -> u64 {
        self.rss_max
    }
}

fn listen(line: &str) -> Option<(SocketAddr, Option<SocketAddr>)> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let address = |name: &str| line.get(name)?.as_str()?.parse().ok();
    Some((address("listen")?, address("admin_listen")))
}
