//! A target: a server to measure, how to start it, and its paths.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tempfile::TempDir;

use crate::http::Connection;
use crate::process::Process;
use crate::publisher::{Dialect, JSON};
use crate::run_dir;
use crate::subscriber::{Protocol, Subscription};

/// The timeout for the second port of a server whose first accepts connections.
const PORT_TIMEOUT: Duration = Duration::from_secs(5);

/// A server as `targets.toml` describes it. These are replaced in its command
/// and its configuration: `{loadtest}` by this program, `{dir}` by a new folder
/// that is removed at the end, `{peers}` by the folder of installed peers,
/// `{config}` by the configuration file, `{port}` and `{publish_port}` by free
/// ports. A server without `{port}` prints its address (see
/// [`Process::start`]).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The version of a peer, for the report.
    pub version: Option<String>,
    /// Files that exist if a peer is installed. A target without such files is
    /// not a peer.
    #[serde(default)]
    needs: Vec<PathBuf>,
    /// The program and its arguments.
    command: Vec<String>,
    /// The template of the configuration file.
    config: Option<PathBuf>,
    /// A path to `PUT` before anything else, as JSON.
    create: Option<String>,
    /// The format in which the server takes events.
    #[serde(default)]
    dialect: Dialect,
    /// The path that takes events by `POST`, if the dialect has paths.
    #[serde(default)]
    publish: String,
    /// The path of the events as SSE, if there is one.
    sse: Option<String>,
    /// The path of the events as NDJSON, if there is one.
    ndjson: Option<String>,
    /// The path of the events as WebSocket, if there is one.
    ws: Option<String>,
}

/// A running target. Dropping it ends the process.
pub struct RunningTarget {
    /// The process.
    pub process: Process,
    target: Target,
    publish_address: SocketAddr,
    _folder: TempDir,
}

/// Reads the targets of a file, by name.
///
/// # Errors
/// If the file cannot be read or parsed.
pub fn read(path: &Path) -> io::Result<BTreeMap<String, Target>> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    toml::from_str(&text).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
}

/// Returns the target of that name in the project's `targets.toml`.
///
/// # Errors
/// If there is none.
pub fn named(name: &str) -> io::Result<Target> {
    let found = read(Path::new("loadtest/targets.toml"))?.remove(name);
    found.ok_or_else(|| io::Error::other(format!("loadtest/targets.toml has no target {name:?}")))
}

impl Target {
    /// Returns whether this is another project's server, which may be missing.
    pub fn is_peer(&self) -> bool {
        !self.needs.is_empty()
    }

    /// Returns whether every file exists that the target needs.
    pub fn is_installed(&self) -> bool {
        self.needs.iter().all(|path| path.exists())
    }

    /// Returns the same target with another program, such as another build.
    #[must_use]
    pub fn with_program(&self, program: &Path) -> Target {
        let mut target = self.clone();
        if let Some(first) = target.command.first_mut() {
            *first = program.display().to_string();
        }
        target
    }

    /// Returns whether the target sends events over this protocol.
    pub fn speaks(&self, protocol: Protocol) -> bool {
        self.path(protocol).is_some()
    }

    /// Starts the target in a new folder under `target/load`.
    ///
    /// # Errors
    /// If it does not serve. `NotFound` if it is not installed.
    pub fn start(&self) -> io::Result<RunningTarget> {
        if let Some(missing) = self.needs.iter().find(|path| !path.exists()) {
            let what =
                format!("{} is not installed; `make peers` installs the peers", missing.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
        }
        let folder = run_dir::temporary()?;
        let this = std::env::current_exe()?;
        let peers = std::path::absolute("target/peers")?;
        let path = folder.path().join("config");
        let held = [free_port()?, free_port()?];
        let [port, publish_port] = [held[0].local_addr()?.port(), held[1].local_addr()?.port()];
        let fill = |text: &str| {
            text.replace("{loadtest}", &this.display().to_string())
                .replace("{dir}", &folder.path().display().to_string())
                .replace("{peers}", &peers.display().to_string())
                .replace("{config}", &path.display().to_string())
                .replace("{port}", &port.to_string())
                .replace("{publish_port}", &publish_port.to_string())
        };
        let mut texts = self.command.clone();
        if let Some(config) = &self.config {
            let text = std::fs::read_to_string(config)?;
            std::fs::write(&path, fill(&text))?;
            texts.push(text);
        }
        let has = |blank: &str| texts.iter().any(|text| text.contains(blank));
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let command: Vec<String> = self.command.iter().map(|word| fill(word)).collect();
        let output = folder.path().join("output");
        // The ports are held until here, so that no other process takes them.
        drop(held);
        let process = if has("{port}") {
            Process::start_on(address(port), &command, &output)?
        } else {
            Process::start(&command, &output)?
        };
        let is_apart = has("{publish_port}");
        let publish_address = if is_apart { address(publish_port) } else { process.address };
        let running =
            RunningTarget { process, target: self.clone(), publish_address, _folder: folder };
        running.prepare()?;
        Ok(running)
    }

    fn path(&self, protocol: Protocol) -> Option<&String> {
        match protocol {
            Protocol::Sse => self.sse.as_ref(),
            Protocol::Ndjson => self.ndjson.as_ref(),
            Protocol::Ws | Protocol::Nats => self.ws.as_ref(),
        }
    }
}

/// Binds a free port. The port is taken as long as the listener lives.
fn free_port() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
}

impl RunningTarget {
    /// Waits for the port that takes events, and creates the stream.
    fn prepare(&self) -> io::Result<()> {
        let deadline = Instant::now() + PORT_TIMEOUT;
        while let Err(error) = TcpStream::connect(self.publish_address) {
            if Instant::now() > deadline {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let Some(path) = &self.target.create else { return Ok(()) };
        let mut connection = Connection::open(self.publish_address)?;
        let host = self.publish_address;
        let request =
            format!("PUT {path} HTTP/1.1\r\nHost: {host}\r\n{JSON}Content-Length: 0\r\n\r\n");
        connection.write(request.as_bytes())?;
        let response = connection.response()?;
        let refused = || {
            io::Error::other(format!(
                "`PUT {path}` failed with status {}: {}",
                response.status, response.body
            ))
        };
        response.is_success().then_some(()).ok_or_else(refused)
    }

    /// Returns the address for subscribers.
    pub fn address(&self) -> SocketAddr {
        self.process.address
    }

    /// Returns the address for publishers.
    pub fn publish_address(&self) -> SocketAddr {
        self.publish_address
    }

    /// Returns the path that takes events.
    pub fn publish(&self) -> &str {
        &self.target.publish
    }

    /// Returns the format of events.
    pub fn dialect(&self) -> Dialect {
        self.target.dialect
    }

    /// Returns how to subscribe: over `protocol`, or over the first protocol
    /// that the target has.
    ///
    /// # Errors
    /// If the target has no path for events.
    pub fn subscription(&self, protocol: Protocol) -> io::Result<Subscription> {
        let others = [Protocol::Sse, Protocol::Ndjson, Protocol::Ws];
        let find = |protocol| Some((protocol, self.target.path(protocol)?.clone()));
        let found = [protocol].into_iter().chain(others).find_map(find);
        let found = found
            .ok_or_else(|| io::Error::other("the target has none of `sse`, `ndjson` and `ws`"));
        let (protocol, path) = found?;
        let is_nats = protocol == Protocol::Ws && self.target.dialect == Dialect::Nats;
        let protocol = if is_nats { Protocol::Nats } else { protocol };
        Ok(Subscription { address: self.address(), path, protocol, after: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_are_those_that_are_installed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let script = std::fs::read_to_string(folder.join("peers/install")).unwrap();
        let targets = read(&folder.join("targets.toml")).unwrap();
        let peers = targets.iter().filter(|(_, target)| target.is_peer());
        for (name, target) in peers.clone() {
            let version = target.version.as_deref().unwrap();
            assert!(script.contains(&format!("={version}\n")), "{name} {version}");
            let config = target.config.iter().map(|config| folder.join("..").join(config));
            config.for_each(|config| assert!(config.exists(), "{name}: {}", config.display()));
        }
        assert_eq!(peers.count(), 4);
    }
}
