//! Reloads the configuration of a running gateway.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Error, Gateway, GatewayConfig, Reloadable, descriptors};
use crate::log;
use crate::wire::LogKind;

impl Gateway {
    /// Replaces the configuration of the gateway by `config`. If the function
    /// returns an error, no setting has changed. Connections stay open. An open
    /// stream keeps the limits of its ring, its pace, its overflow policy and its
    /// lifetime. Heartbeats and timeouts change for all streams. Returns the
    /// configuration keys whose change needs a restart. A key of a collection or
    /// topic has its name, for example `collections.resource of orders`.
    ///
    /// # Errors
    /// Returns [`Error::Log`] if the log engine cannot create the log of a new
    /// collection or topic. Returns [`Error::Catalog`] if the log engine does not
    /// have a log that `config` names.
    ///
    /// # Cancel safety
    /// Not safe: if the future is dropped, the log engine can keep new logs that no
    /// collection or topic uses.
    pub async fn reload(&self, config: GatewayConfig) -> Result<Vec<String>, Error> {
        let GatewayConfig { mut server, log, logs: configs, hub, deliver, api } = config;
        let shared = &self.shared;
        let Reloadable { settings: before, api: current } = &*shared.reloadable.load_full();
        let mut pending = unchangeable(&shared.log, &log);
        let addresses: [(&str, SocketAddr, SocketAddr); 2] = [
            ("server.listen", before.listen, server.listen),
            ("server.admin_listen", before.admin_listen, server.admin_listen),
        ];
        pending.extend(
            addresses.iter().filter(|(_, old, new)| old != new).map(|(key, ..)| (*key).to_owned()),
        );
        (server.listen, server.admin_listen) = (before.listen, before.admin_listen);
        let unchanged = current.engine.reconfigure(&configs, log.resource_bytes_max).await;
        let unchanged = unchanged.map_err(Error::Log)?;
        let unchanged = configs.iter().filter(|config| unchanged.contains(&config.name));
        pending.extend(unchanged.map(restart_key));
        let next = current.reloaded(api, deliver, hub.clone()).map_err(Error::Catalog)?;
        server.connections_max = descriptors::connections_max(server.connections_max);
        current.hub.reconfigure(&hub);
        let next = Reloadable { settings: Arc::new(server), api: Arc::new(next) };
        shared.reloadable.store(Arc::new(next));
        shared.services.metrics.reloaded("applied");
        Ok(pending)
    }

    /// Counts in the metrics a reload that failed because the new configuration has
    /// errors.
    pub fn count_failed_reload(&self) {
        self.shared.services.metrics.reloaded("faulty");
    }
}

/// Returns the configuration keys that only a restart can change and whose values
/// differ between `before` and `after`.
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

/// Returns the configuration key whose change needs a restart, and the name of the
/// collection or topic. For each kind of log there is one such key.
fn restart_key(config: &log::LogConfig) -> String {
    let key = match config.kind {
        LogKind::Collection(_) => "collections.resource",
        LogKind::Topic => "topics.durability",
    };
    format!("{key} of {}", config.name)
}
