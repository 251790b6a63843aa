//! The gateway as a process of its own, for signals, exit codes and limits
//! that the system sets.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::client::PATIENCE;

/// A process that is killed with this value.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub file: PathBuf,
    /// What it has logged so far.
    log: Arc<Mutex<String>>,
    folder: TempDir,
}

impl Process {
    /// Serves the configuration `text`, on free ports and a fresh store.
    pub fn start(text: &str) -> Process {
        Process::start_with(text, None, &[], &[])
    }

    /// The same, with variables of the environment, and started by a command
    /// that takes another command as its last arguments and executes it. In
    /// `$FOLDER` is the folder that the store's folder, `store`, lies in.
    pub fn start_by(command: &[&str], variables: &[(&str, &Path)], text: &str) -> Process {
        Process::start_with(text, None, command, variables)
    }

    /// Serves the configuration `text`, on free ports and the store in the
    /// folder `store`.
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
        let (said, stderr) = (log.clone(), child.stderr.take().unwrap());
        let (found, addresses) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                let address = |name: &str| value[name].as_str()?.parse::<SocketAddr>().ok();
                if let (Some(listen), Some(admin)) = (address("listen"), address("admin_listen")) {
                    let _ = found.send((listen, admin));
                }
                let mut said = said.lock().unwrap();
                said.push_str(&line);
                said.push('\n');
            }
        });
        let (address, admin) = addresses.recv_timeout(PATIENCE).expect("it serves");
        Process { child, address, admin, file, log, folder }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The store's folder as the process sees it, also where it has a mount
    /// namespace of its own.
    pub fn store(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.pid().as_raw_nonzero()));
        let store = self.folder.path().join("store");
        root.join(store.strip_prefix("/").unwrap_or(&store))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Whether the log has `text` already.
    pub fn has_logged(&self, text: &str) -> bool {
        self.log.lock().unwrap().contains(text)
    }

    /// Waits until the log has `text`.
    pub async fn logs(&self, text: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.has_logged(text) {
            let log = self.log.lock().unwrap().clone();
            assert!(tokio::time::Instant::now() < deadline, "no {text:?} in {log}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(tokio::time::Instant::now() < deadline, "it does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Changes the configuration's file.
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
