//! The external crates that each layer may use.

use std::collections::BTreeSet;
use std::path::Path;

use super::{code, files, is_test_only, layer_of, text};

/// The complete list of the crates that each layer uses. A new use is a decision
/// and needs a change here. `docs/architecture.md#dependencies` has the reason
/// for each crate. `wire` has no I/O, no clock and no tokio (law 5).
const USES: [(&str, &str); 15] = [
    ("main", "mimalloc"),
    (
        "cli",
        "bytes clap clap_complete clap_mangen http_body_util hyper hyper_util \
         indicatif percent_encoding serde serde_json tokio tracing tracing_subscriber",
    ),
    ("config", "strsim toml"),
    (
        "server",
        "arc_swap bytes hyper hyper_util parking_lot rustix socket2 tokio tokio_util tracing",
    ),
    (
        "api",
        "bytes http_body_util hyper ipnet parking_lot percent_encoding serde serde_json sha2 strsim \
         tokio tokio_tungstenite tokio_util tracing uuid",
    ),
    ("deliver", "bytes hyper hyper_util parking_lot socket2 tokio tracing"),
    ("hub", "bytes parking_lot tokio"),
    ("log", "bytes metrics parking_lot rustix tokio tokio_util tracing uuid"),
    ("store", "bytes crc32fast fjall rustix tracing"),
    ("wire", "bytes ipnet serde_json"),
    ("event", "bytes ipnet itoa jiff"),
    ("supervisor", "parking_lot tokio tracing"),
    ("metrics", "metrics metrics_exporter_prometheus rustix"),
    ("random", "fastrand"),
    ("sync", "parking_lot shuttle tokio"),
];

/// Returns the packages in the dependency table of `Cargo.toml`, with their
/// names in code.
fn dependencies(manifest: &str) -> Vec<String> {
    let table = manifest.split("\n[").find_map(|table| table.strip_prefix("dependencies]"));
    let names = table.unwrap().lines().filter_map(|line| line.split_once(" = "));
    let names = names.map(|(name, _)| name).filter(|name| !name.starts_with('#'));
    names.map(|name| name.replace('-', "_")).collect()
}

/// Returns whether code names the crate in a path. This project has a module
/// `metrics`, so the crate of this name counts only as `::metrics::`.
fn uses(code: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = &code[..at];
        match before.strip_suffix("::") {
            Some(before) => !before.ends_with(|c| is_word(c) || c == '>'),
            None => name != "metrics" && !before.ends_with(|c| is_word(c) || c == ':'),
        }
    })
}

/// Returns the crates that the code of a layer names, without its tests.
fn used(layer: &str, dependencies: &[String]) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for path in files(Path::new("src")) {
        let own = match layer_of(&path) {
            Some((own, _)) => own,
            None => path.file_stem().unwrap().to_str().unwrap().to_owned(),
        };
        if own != layer || is_test_only(&path) {
            continue;
        }
        let code = code(&path);
        used.extend(dependencies.iter().filter(|name| uses(&code, name)).cloned());
    }
    used
}

#[test]
fn each_layer_uses_only_its_allowed_crates() {
    let dependencies = dependencies(&text("Cargo.toml"));
    assert!(dependencies.len() > 20, "only {dependencies:?} found");
    for (layer, may) in USES {
        let may: BTreeSet<String> = may.split(' ').map(str::to_owned).collect();
        assert_eq!(
            used(layer, &dependencies),
            may,
            "{layer}: left is the code, right is the table"
        );
    }
    for path in files(Path::new("src")) {
        let Some((own, _)) = layer_of(&path) else { continue };
        assert!(USES.iter().any(|(layer, _)| *layer == own), "{own} is not in the table");
    }
}

#[test]
fn the_crate_search_finds_every_form_of_use() {
    for code in ["use tokio::net;", "#[tokio::main]", "let a = ::tokio::spawn(1);", "(tokio::x)"] {
        assert!(uses(code, "tokio"), "{code}");
    }
    for code in ["my_tokio::x", "crate::tokio::x", "tokio_util::x", "Vec::<u8>::tokio::x"] {
        assert!(!uses(code, "tokio"), "{code}");
    }
    assert!(uses("use ::metrics::Counter;", "metrics"));
    assert!(!uses("metrics::Protocol; crate::metrics::X", "metrics"));
}
