//! A gateway in its own process.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::DemoError;
use crate::script::Script;

/// The longest time from the signal to the end of the process. The drain has 3
/// s.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A running gateway. Dropping it kills the process.
pub struct Gateway {
    /// The address of the client listener.
    pub address: SocketAddr,
    child: Child,
    _folder: TempDir,
}

impl Gateway {
    /// Starts the `streamgate` binary of this build, on free ports and a new
    /// store.
    pub fn start(script: &Script) -> Result<Gateway, DemoError> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("config.toml");
        let store = Value::from(folder.path().join("data").display().to_string());
        std::fs::write(
            &file,
            format!(
                "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
                 drain = \"3s\"\n\
                 [storage]\npath = {store}\n\
                 [[collections]]\nname = \"{}\"\nresource = \"{}\"\n\
                 [[topics]]\nname = \"{}\"\n",
                script.collection, script.resource, script.topic
            ),
        )?;
        let this = std::env::current_exe()?;
        let binary = this
            .parent()
            .and_then(|examples| examples.parent())
            .ok_or("the example must be in a target folder")?
            .join("streamgate");
        let mut child = Command::new(&binary)
            .arg("serve")
            .arg("--config")
            .arg(&file)
            .args(["--log-format", "json"])
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                format!("{}: {error}; build it with `cargo build --release`", binary.display())
            })?;
        let log = child.stderr.take().ok_or("the gateway has no standard error")?;
        let mut log = BufReader::new(log);
        match address(&mut log) {
            Ok(address) => {
                std::thread::spawn(move || pass_on(log));
                Ok(Gateway { address, child, _folder: folder })
            }
            Err(error) => {
                let _ = child.kill();
                Err(error)
            }
        }
    }

    /// Sends SIGTERM, as a service manager does, and waits for the end of the
    /// process.
    pub fn stop(mut self) -> Result<(), DemoError> {
        let pid = self.child.id().to_string();
        // The kill of the shell: a minimal system may have no kill program.
        Command::new("sh").args(["-c", "kill -TERM \"$0\"", &pid]).status()?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                return Err(format!("the gateway did not end within {STOP_TIMEOUT:?}").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        if status.success() { Ok(()) } else { Err(format!("the gateway failed: {status}").into()) }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the address from the line that the gateway logs when it serves.
fn address(log: &mut BufReader<ChildStderr>) -> Result<SocketAddr, DemoError> {
    let mut line = String::new();
    while log.read_line(&mut line)? > 0 {
        let entry: Value = serde_json::from_str(&line).unwrap_or_default();
        let fields = entry.get("fields").unwrap_or(&entry);
        if let Some(address) = fields.get("listen").and_then(Value::as_str) {
            return Ok(address.parse()?);
        }
        eprint!("{line}");
        line.clear();
    }
    Err("the gateway ended before it printed its address".into())
}

/// Prints the gateway's warnings. Also drains its pipe, so that the gateway
/// never blocks on a log line.
fn pass_on(log: BufReader<ChildStderr>) {
    for line in log.lines().map_while(Result::ok) {
        if !line.contains("\"INFO\"") {
            eprintln!("{line}");
        }
    }
}
