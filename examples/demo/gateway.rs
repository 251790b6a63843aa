//! The gateway as a process of its own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::DemoError;
use crate::script::Script;

/// From the signal to the end of the process; the drain itself has 3 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A running gateway; killed when dropped.
pub struct Gateway {
    /// Where clients connect.
    pub address: SocketAddr,
    child: Child,
    _folder: TempDir,
}

impl Gateway {
    /// Starts `streamgate serve` beside this example, on free ports and a
    /// fresh store.
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
            .ok_or("the example is not in a target folder")?
            .join("streamgate");
        let mut child = Command::new(&binary)
            .arg("serve")
            .arg("--config")
            .arg(&file)
            .args(["--log-format", "json"])
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}; build it first", binary.display()))?;
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

    /// Asks it to end, as a service manager would, and waits for that.
    pub fn stop(mut self) -> Result<(), DemoError> {
        let pid = self.child.id().to_string();
        // The shell's own kill: a bare system may have no other.
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
        if status.success() { Ok(()) } else { Err(format!("the gateway ended: {status}").into()) }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in the line that the gateway logs once it serves.
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
    Err("the gateway ended before it served".into())
}

/// Shows what the gateway warns of, and keeps it from waiting for a reader.
fn pass_on(log: BufReader<ChildStderr>) {
    for line in log.lines().map_while(Result::ok) {
        if !line.contains("\"INFO\"") {
            eprintln!("{line}");
        }
    }
}
