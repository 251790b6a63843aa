//! What is measured: how it is started, and its paths.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize;
use tempfile::TempDir;

use crate::process::Process;
use crate::subscriber::{Protocol, Subscription};

/// A server as `targets.toml` names it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The program and its arguments. `{loadtest}` is this program, `{dir}` a
    /// fresh folder that is removed in the end.
    pub command: Vec<String>,
    /// The path that takes events by `POST`.
    pub publish: String,
    /// The path of the events as SSE, if it has any.
    pub sse: Option<String>,
    /// The path of the events as NDJSON, if it has any.
    pub ndjson: Option<String>,
    /// The path of the events as WebSocket, if it has any.
    pub ws: Option<String>,
}

/// A target that was started; it ends with this value.
pub struct Running {
    /// Its process.
    pub process: Process,
    target: Target,
    _folder: TempDir,
}

/// Reads the targets of a file, by name.
///
/// # Errors
/// If it cannot be read or is not one.
pub fn read(path: &Path) -> io::Result<BTreeMap<String, Target>> {
    let text = std::fs::read_to_string(path)?;
    toml::from_str(&text).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
}

impl Target {
    /// Starts it, in a folder of its own under `target/load`.
    ///
    /// # Errors
    /// If it does not serve.
    pub fn start(&self) -> io::Result<Running> {
        std::fs::create_dir_all("target/load")?;
        let folder = TempDir::new_in("target/load")?;
        let this = std::env::current_exe()?;
        let fill = |word: &String| {
            word.replace("{loadtest}", &this.display().to_string())
                .replace("{dir}", &folder.path().display().to_string())
        };
        let command: Vec<String> = self.command.iter().map(fill).collect();
        let process = Process::start(&command, &folder.path().join("output"))?;
        Ok(Running { process, target: self.clone(), _folder: folder })
    }
}

impl Running {
    /// Where it takes clients.
    pub fn address(&self) -> SocketAddr {
        self.process.address
    }

    /// The path that takes events.
    pub fn publish(&self) -> &str {
        &self.target.publish
    }

    /// How to subscribe to it.
    ///
    /// # Errors
    /// If it does not speak the protocol.
    pub fn subscription(&self, protocol: Protocol) -> io::Result<Subscription> {
        let path = match protocol {
            Protocol::Sse => &self.target.sse,
            Protocol::Ndjson => &self.target.ndjson,
            Protocol::Ws => &self.target.ws,
        };
        let path = path.clone().ok_or_else(|| {
            io::Error::other(format!("the target has no path for {}", protocol.label()))
        })?;
        Ok(Subscription { address: self.address(), path, protocol, after: None })
    }
}
