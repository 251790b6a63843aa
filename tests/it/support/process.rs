//! The gateway as a separate process, for tests of signals, exit codes and
//! limits of the operating system.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::client::PATIENCE;

/// A running gateway. A drop kills the process.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub file: PathBuf,
    /// The log output up to now.
    log: Arc<Mutex<String>>,
    folder: TempDir,
}

impl Process {
    /// Starts a gateway with the configuration `text`, on free ports and with a
    /// new store.
    pub fn start(text: &str) -> Process {
        Process::start_with(text, None, &[], &[])
    }

    /// Starts a gateway like [`Process::start`], with environment variables and
    /// through `command`. The last arguments of `command` are the command that
    /// it must execute. The variable `FOLDER` names the folder that contains the
    /// folder `store` of the store.
    pub fn start_by(command: &[&str], variables: &[(&str, &Path)], text: &str) -> Process {
        Process::start_with(text, None, command, variables)
    }

    /// Starts a gateway with the configuration `text`, on free ports and with
    /// the store in the folder `store`.
    pub fn start_on(text: &str, store: &Path) -> Process {
        Process::start_with(text, Some(store), &[], &[])
    }

    fn start_with(
        text: &str,
        store: Option<&Path>,
        command: &[&str],
        variables: &[(&str, &Path)],
    ) -> Process {
        let folder = tempfile::tempdir().unwrap();
        let store = store.map_or_else(|| folder.path().join("store"), Path::to_owned);
        let file = folder.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        let words = [command, &[env!("CARGO_BIN_EXE_streamgate")]].concat();
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .env("FOLDER", folder.path())
            .envs(variables.iter().copied())
            .args(["serve", "--log-format", "json", "--config"])
            .arg(&file)
            .args(["--set", "server.listen=127.0.0.1:0"])
            .args(["--set", "server.admin_listen=127.0.0.1:0", "--set"])
            .arg(format!("storage.path={}", store.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log: Arc<Mutex<String>> = Arc::default();
        let (output, stderr) = (log.clone(), child.stderr.take().unwrap());
        let (found, addresses) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                let address = |name: &str| value[name].as_str()?.parse::<SocketAddr>().ok();
                if let (Some(listen), Some(admin)) = (address("listen"), address("admin_listen")) {
                    let _ = found.send((listen, admin));
                }
                let mut output = output.lock().unwrap();
                output.push_str(&line);
                output.push('\n');
            }
        });
        let (address, admin) =
            addresses.recv_timeout(PATIENCE).expect("the gateway starts in time");
        Process { child, address, admin, file, log, folder }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Returns the folder of the store from the view of the process. The path
    /// is also valid if the process has its own mount namespace.
    pub fn store(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.pid().as_raw_nonzero()));
        let store = self.folder.path().join("store");
        root.join(store.strip_prefix("/").unwrap_or(&store))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Returns whether the log contains `text`.
    pub fn has_logged(&self, text: &str) -> bool {
        self.log.lock().unwrap().contains(text)
    }

    /// Waits until the log contains `text`.
    pub async fn logs(&self, text: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.has_logged(text) {
            let log = self.log.lock().unwrap().clone();
            assert!(tokio::time::Instant::now() < deadline, "no {text:?} in {log}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for the end of the process.
    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(tokio::time::Instant::now() < deadline, "the process does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Replaces the configuration file.
    pub fn rewrite(&self, text: &str) {
        let fresh: &Path = &self.file.with_extension("new");
        std::fs::write(fresh, text).unwrap();
        std::fs::rename(fresh, &self.file).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
