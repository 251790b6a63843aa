//! Other settings for a running gateway.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Error, Gateway, GatewayConfig, Reloadable, descriptors};
use crate::log;

impl Gateway {
    /// Takes `setup` in place of what it was started with: the whole of it, or,
    /// on an error, nothing. What is connected stays connected; a stream keeps
    /// what it came with: the bounds of its ring, its pace, policy and age. The
    /// other matters of time change for all. Gives the keys whose change waits for a
    /// restart: the addresses, the store, the kind of a log.
    ///
    /// # Errors
    /// [`Error::Log`] when the log of a new collection or topic cannot be
    /// made, [`Error::Catalog`] when settings and engine do not agree.
    ///
    /// # Cancel safety
    /// Not safe: the engine may then have logs that nothing names.
    pub async fn reload(&self, setup: GatewayConfig) -> Result<Vec<String>, Error> {
        let GatewayConfig { mut server, log, logs, hub, deliver, api } = setup;
        let shared = &self.shared;
        let Reloadable { settings: before, api: current } = &*shared.reloadable.load_full();
        let mut waiting = unchangeable(&shared.log, &log);
        let addresses: [(&str, SocketAddr, SocketAddr); 2] = [
            ("server.listen", before.listen, server.listen),
            ("server.admin_listen", before.admin_listen, server.admin_listen),
        ];
        waiting.extend(addresses.iter().filter(|it| it.1 != it.2).map(|it| it.0.to_owned()));
        (server.listen, server.admin_listen) = (before.listen, before.admin_listen);
        let logs = current.engine.reconfigure(&logs, log.resource_bytes_max).await;
        let logs = logs.map_err(Error::Log)?;
        waiting.extend(logs.iter().map(|name| format!("the kind or durability of {name}")));
        let next = current.reloaded(api, deliver, hub.clone()).map_err(Error::Catalog)?;
        server.connections_max = descriptors::connections_max(server.connections_max);
        current.hub.reconfigure(&hub);
        let next = Reloadable { settings: Arc::new(server), api: Arc::new(next) };
        shared.reloadable.store(Arc::new(next));
        shared.services.metrics.reloaded("applied");
        Ok(waiting)
    }

    /// Counts a configuration that was not taken because of its faults.
    pub fn reload_was_faulty(&self) {
        self.shared.services.metrics.reloaded("faulty");
    }
}

/// The keys of the store that differ.
fn unchangeable(before: &log::Settings, after: &log::Settings) -> Vec<String> {
    let differs = [
        ("storage.path", before.path != after.path),
        ("storage.sync", before.sync != after.sync),
        ("storage.tail_bytes", before.tail_bytes != after.tail_bytes),
        ("streams.page_cache", before.page_cache_bytes != after.page_cache_bytes),
        ("streams.catchup_concurrency", before.catchup_concurrency != after.catchup_concurrency),
    ];
    differs.iter().filter(|(_, differs)| *differs).map(|(key, _)| (*key).to_owned()).collect()
}
