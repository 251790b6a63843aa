//! A gateway with a real disk and real sockets, and clients that read bytes.

pub mod client;
pub mod frame;
pub mod process;
pub mod http2;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use streamgate::config;
use streamgate::server::{Error, Gateway, GatewayConfig};
use streamgate::store;
use tempfile::TempDir;

/// A gateway that runs in this process, on free ports.
pub struct Running {
    pub gateway: Gateway,
    pub address: SocketAddr,
    pub admin: SocketAddr,
}

/// The configuration to which each test adds its settings.
const FILE: &str = r#"
[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
drain = "2s"
[[collections]]
name = "orders"
resource = "order"
[[collections]]
name = "visits"
resource = "visit"
retention = { events = 2 }
[[topics]]
name = "order-updates"
collection = "orders"
types = ["order-created", "order-updated"]
[[topics]]
name = "audit"
[[topics]]
name = "ticks"
durability = "memory"
"#;

/// Starts a gateway whose store is in `data`. `sets` has settings of the form
/// `key=value`.
pub async fn start_in(data: &Path, sets: &[&str]) -> Running {
    let deadline = tokio::time::Instant::now() + client::PATIENCE;
    let gateway = loop {
        match Gateway::start(setup(data, sets)).await {
            Ok(gateway) => break gateway,
            // If a client did not wait for a read, the read can end a moment
            // after its gateway. It keeps the store locked until then.
            Err(Error::Store(store::Error::Locked(_))) => {
                assert!(tokio::time::Instant::now() < deadline, "the store stays locked");
                tokio::task::yield_now().await;
            }
            Err(error) => panic!("{error}"),
        }
    };
    let (address, admin) = (gateway.address(), gateway.admin_address());
    Running { gateway, address, admin }
}

fn setup(data: &Path, sets: &[&str]) -> GatewayConfig {
    let file = data.join("config.toml");
    std::fs::write(&file, FILE).unwrap();
    let mut all = vec![format!("storage.path={}", data.join("store").display())];
    all.extend(sets.iter().map(|set| (*set).to_owned()));
    config::load(Some(&file), &all, std::iter::empty()).unwrap()
}

/// Reloads a running gateway with other settings.
pub async fn reload_in(data: &Path, running: &Running, sets: &[&str]) {
    let waiting = running.gateway.reload(setup(data, sets)).await.unwrap();
    assert_eq!(waiting, [""; 0], "no setting needs a restart");
}

/// Waits until `holds` returns true.
pub async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let polling = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(client::PATIENCE, polling).await.expect("the condition holds in time");
}

/// Starts a gateway with a new directory. A drop of the guard deletes the
/// directory.
pub async fn start(sets: &[&str]) -> (TempDir, Running) {
    let directory = tempfile::tempdir().unwrap();
    let running = start_in(directory.path(), sets).await;
    (directory, running)
}
