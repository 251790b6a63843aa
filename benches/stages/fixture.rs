//! The engine of the benchmarks: on the disk of the system's temporary folder,
//! with the sizes of `config.toml`.

use std::path::Path;

use streamgate::log::{Engine, FsyncPolicy, LogConfig, Settings, StorageKind, Write};
use streamgate::store::Retention;
use streamgate::wire::LogKind;
use streamgate::wire::json::Json;

/// Opens a store with the collection `orders` and the topic `ticks`. The
/// argument `ticks` is the storage of the topic.
pub fn open(path: &Path, ticks: StorageKind) -> Engine {
    let settings = Settings {
        path: path.join("data"),
        sync: FsyncPolicy::Always,
        tail_bytes: 16 << 20,
        page_cache_bytes: 16 << 20,
        catchup_concurrency: 8,
        resource_bytes_max: 1 << 20,
    };
    let spec = |name: &str, kind, durability| {
        let (name, retention) = (name.to_owned(), Retention::default());
        LogConfig { name, kind, retention, durability }
    };
    let orders = LogKind::collection("order").expect("the name is valid");
    let configs = [spec("orders", orders, StorageKind::Disk), spec("ticks", LogKind::Topic, ticks)];
    Engine::open(&settings, &configs).expect("the store opens")
}

/// Returns an event of the topic `ticks` with about 256 bytes.
pub fn tick(number: u64) -> Write {
    let kind = streamgate::event::EventType::new("tick").expect("the type is valid");
    Write::publish(None, kind, document(number))
}

/// Returns JSON of about 256 bytes.
pub fn document(number: u64) -> Json {
    let text = format!(r#"{{"n":{number},"text":"{}"}}"#, "x".repeat(230));
    Json::parse(text.as_bytes()).expect("the text is JSON")
}
