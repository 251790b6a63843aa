//! A server process: its start, its end by process id, and its CPU time and
//! memory from `/proc`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::program;

/// The longest time from the start to the line with the address.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// The time from SIGTERM to SIGKILL. It is short: the store is deleted, and no
/// client is connected.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// A running server. Dropping it ends the process.
pub struct Process {
    child: Child,
    /// The address of its client listener.
    pub address: SocketAddr,
    /// The address of its admin listener, if it printed one.
    pub admin: Option<SocketAddr>,
}

impl Process {
    /// Runs `command` with its output in the file `output`. Waits until a line
    /// of the output is a JSON object whose `listen` is the address.
    ///
    /// # Errors
    /// `NotFound` if the program is not installed. Any other kind if it exits or
    /// prints no address within 10 seconds.
    pub fn start(command: &[String], output: &Path) -> io::Result<Process> {
        Process::run(command, output, |output| output.lines().find_map(listen))
    }

    /// Runs `command` and waits until it accepts connections at `address`. For
    /// a server that is given its address and does not print it.
    ///
    /// # Errors
    /// `NotFound` if the program is not installed. Any other kind if it exits or
    /// accepts no connection within 10 seconds.
    pub fn start_on(address: SocketAddr, command: &[String], output: &Path) -> io::Result<Process> {
        Process::run(command, output, |_| {
            TcpStream::connect(address).is_ok().then_some((address, None))
        })
    }

    fn run(
        command: &[String],
        output: &Path,
        serves: impl Fn(&str) -> Option<(SocketAddr, Option<SocketAddr>)>,
    ) -> io::Result<Process> {
        let program = command
            .first()
            .ok_or_else(|| io::Error::other("a target's `command` must not be empty"))?;
        let file = File::create(output)?;
        let mut child = program::command(program)?
            .args(&command[1..])
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()?;
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            // From here on, no error may leave this function before the child
            // is killed.
            let output = fs::read(output).unwrap_or_default();
            let output = String::from_utf8_lossy(&output);
            if let Some((address, admin)) = serves(&output) {
                return Ok(Process { child, address, admin });
            }
            let ended = child.try_wait();
            if !matches!(ended, Ok(None)) || Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                let status = match ended {
                    Ok(Some(status)) => status.to_string(),
                    Ok(None) => format!("no address after {} s", START_TIMEOUT.as_secs()),
                    Err(error) => error.to_string(),
                };
                return Err(io::Error::other(format!(
                    "`{program}` does not serve: {status}: {output}"
                )));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns a meter for the process and its present workers.
    pub fn meter(&self) -> Meter {
        let id = self.child.id();
        Meter { processes: tree(id), ..Meter::of(id) }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(id(self.child.id())?, signal)?)
    }

    /// Returns the exit status if the process has ended.
    ///
    /// # Errors
    /// If the process cannot be waited for.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.try_wait(), Ok(Some(_))) {
            return;
        }
        let _ = self.signal(Signal::TERM);
        let deadline = Instant::now() + END_TIMEOUT;
        let tree = tree(self.child.id());
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > deadline {
                // Workers survive a main process that is killed.
                for worker in tree.into_iter().skip(1) {
                    let _ = id(worker).and_then(|worker| Ok(kill_process(worker, Signal::KILL)?));
                }
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn id(process: u32) -> io::Result<Pid> {
    let id = i32::try_from(process).ok().and_then(Pid::from_raw);
    id.ok_or_else(|| io::Error::other("the process id is out of range"))
}

/// Returns a process and all its descendants, the process itself first.
fn tree(process: u32) -> Vec<u32> {
    let mut tree = vec![process];
    let Ok(entries) = fs::read_dir("/proc") else { return tree };
    let number = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    let parent = |process: u32| -> Option<(u32, u32)> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The name, in brackets, may contain any character.
        let parent = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?;
        Some((process, parent.parse().ok()?))
    };
    let parents: Vec<(u32, u32)> = entries.filter_map(number).filter_map(parent).collect();
    let mut next = 0;
    while let Some(&of) = tree.get(next) {
        next += 1;
        let children = parents.iter().filter(|&&(child, parent)| parent == of && child != of);
        tree.extend(children.map(|&(child, _)| child));
    }
    tree
}

/// Reads the CPU time and memory of a process, or of a process and its workers.
/// `/proc` forgets threads that have ended. The meter counts those too if it
/// samples often enough.
#[derive(Clone)]
pub struct Meter {
    processes: Vec<u32>,
    threads: HashMap<u32, u64>,
    rss_max: u64,
}

impl Meter {
    /// Returns a meter for one process.
    pub fn of(process: u32) -> Meter {
        Meter { processes: vec![process], threads: HashMap::new(), rss_max: 0 }
    }

    /// Samples, and returns the CPU time so far in nanoseconds.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn cpu(&mut self) -> io::Result<u64> {
        for process in &self.processes {
            for entry in fs::read_dir(format!("/proc/{process}/task"))? {
                let entry = entry?;
                let name = entry.file_name();
                let Some(thread) = name.to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                // The thread may have ended since the folder was read.
                let Ok(line) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
                let ran = line.split(' ').next().and_then(|field| field.parse().ok());
                self.threads.insert(thread, ran.unwrap_or(0));
            }
        }
        self.rss()?;
        Ok(self.threads.values().sum())
    }

    /// Returns the resident memory in bytes. Memory that workers share counts
    /// once for each.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn rss(&mut self) -> io::Result<u64> {
        let mut pages = 0;
        for process in &self.processes {
            let line = fs::read_to_string(format!("/proc/{process}/statm"))?;
            let field = line.split(' ').nth(1).and_then(|field| field.parse::<u64>().ok());
            pages += field.unwrap_or(0);
        }
        let rss = pages * rustix::param::page_size() as u64;
        self.rss_max = self.rss_max.max(rss);
        Ok(rss)
    }

    /// Returns the most resident memory that a sample saw, in bytes.
    pub fn rss_max(&self) -> u64 {
        self.rss_max
    }
}

fn listen(line: &str) -> Option<(SocketAddr, Option<SocketAddr>)> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let address = |name: &str| line.get(name)?.as_str()?.parse().ok();
    Some((address("listen")?, address("admin_listen")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(command: &[&str]) -> io::Error {
        let folder = tempfile::tempdir().unwrap();
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        Process::start(&command, &folder.path().join("output")).err().unwrap()
    }

    #[test]
    fn a_program_that_exits_with_127_is_not_missing() {
        let error = start(&["sh", "-c", "echo 'setpriv: no libssl'; exit 127"]);
        assert_ne!(error.kind(), io::ErrorKind::NotFound);
        let error = error.to_string();
        assert!(error.contains("exit status: 127: setpriv: no libssl"), "{error}");
    }

    #[test]
    fn a_program_that_is_missing_is_not_found() {
        assert_eq!(start(&["no-such-program"]).kind(), io::ErrorKind::NotFound);
    }
}
