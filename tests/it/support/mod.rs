//! A gateway on a real disk and real sockets, and clients that see its bytes.

pub mod client;
pub mod frame;
pub mod http2;

use std::net::SocketAddr;
use std::path::Path;

use streamgate::config::{self, Config};
use streamgate::server::{Gateway, Setup};
use tempfile::TempDir;

/// A gateway in this process, on free ports.
pub struct Running {
    pub gateway: Gateway,
    pub address: SocketAddr,
    pub admin: SocketAddr,
}

/// What every test's configuration begins with.
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

/// Starts a gateway whose store is in `data`, with `sets` as `key=value`.
pub async fn start_in(data: &Path, sets: &[&str]) -> Running {
    let file = data.join("config.toml");
    std::fs::write(&file, FILE).unwrap();
    let mut all = vec![format!("storage.path={}", data.join("store").display())];
    all.extend(sets.iter().map(|set| (*set).to_owned()));
    let config = config::load(Some(&file), &all, std::iter::empty()).unwrap();
    let Config { server, log, logs, hub, deliver, api, .. } = config;
    let gateway = Gateway::start(Setup { server, log, logs, hub, deliver, api }).await.unwrap();
    let (address, admin) = (gateway.address(), gateway.admin_address());
    Running { gateway, address, admin }
}

/// Starts a gateway on a fresh directory, which goes with the guard.
pub async fn start(sets: &[&str]) -> (TempDir, Running) {
    let directory = tempfile::tempdir().unwrap();
    let running = start_in(directory.path(), sets).await;
    (directory, running)
}
