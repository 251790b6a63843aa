//! Tests of the whole configuration: from texts to settings or errors.

mod errors;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::wire::forwarded::ForwardedHeader;
use crate::{api, deliver, log, server};

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml");

struct File {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn file(text: &str) -> File {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    File { _directory: directory, path }
}

fn load_text(
    text: &str,
    sets: &[&str],
    env: &[(&str, &str)],
) -> Result<GatewayConfig, Vec<String>> {
    let file = file(text);
    let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
    let env = env.iter().map(|&(name, value)| (name.into(), value.into()));
    load(Some(&file.path), &sets, env).map_err(|errors| {
        let folder = format!("{}/", file.path.parent().unwrap().display());
        errors.iter().map(|error| error.to_string().replace(&folder, "")).collect()
    })
}

fn errors(text: &str, sets: &[&str], env: &[(&str, &str)]) -> Vec<String> {
    load_text(text, sets, env).err().unwrap_or_default()
}

#[test]
fn the_shipped_file_has_the_defaults() {
    let shipped = load(Some(Path::new(SHIPPED)), &[], std::iter::empty()).unwrap();
    let without_file = load(None, &[], std::iter::empty()).unwrap();
    assert_eq!(format!("{without_file:#?}"), format!("{shipped:#?}"));
}

#[test]
fn the_shipped_file_has_every_key() {
    let text = std::fs::read_to_string(SHIPPED).unwrap();
    let table = tree::parse(Path::new(SHIPPED), &text).unwrap();
    let (_, diagnostics) = checked(&table);
    for path in diagnostics.known() {
        let key = path.rsplit('.').next().unwrap();
        let set = table_has(&table, path);
        let mentioned = text.contains(&format!("\n# {key} = ")) || path == "topics.retention";
        let in_a_view = path.starts_with("topics.retention.");
        assert!(set || mentioned || in_a_view, "{path} is not in config.toml");
    }
    assert!(diagnostics.known().len() > 40);
}

fn table_has(table: &Table, path: &str) -> bool {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    match table.get(first).map(|node| &node.value) {
        Some(_) if rest.is_empty() => true,
        Some(tree::Value::Table(inner)) => table_has(inner, rest),
        Some(tree::Value::List(items)) => items.iter().any(|item| match &item.value {
            tree::Value::Table(inner) => table_has(inner, rest),
            _ => false,
        }),
        _ => false,
    }
}

#[test]
fn a_syntax_error_is_reported_with_its_line() {
    let found = errors("[server]\nlisten = 127.0.0.1:80\ndrain = \"1s\"\n", &[], &[]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("config.toml:2: "), "{found:?}");
    let found = errors("[server]\ndrain = \"1s\"\ndrain = \"2s\"\n", &[], &[]);
    assert_eq!(found, ["config.toml:3: duplicate key"]);
    let missing = load(Some(Path::new("no/such.toml")), &[], std::iter::empty()).unwrap_err();
    assert_eq!(
        missing[0].to_string(),
        "no/such.toml: the file cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn flags_override_variables_and_variables_override_the_file() {
    let text =
        "[server]\nlisten = \"127.0.0.1:1\"\nadmin_listen = \"127.0.0.1:2\"\ndrain = \"1s\"\n";
    let env = [
        ("STREAMGATE_SERVER__DRAIN", "2s"),
        ("STREAMGATE_SERVER__ADMIN_LISTEN", "127.0.0.1:3"),
        ("STREAMGATE_STREAMS__RETRY", "[\"1s\", \"1s\"]"),
        ("STREAMGATE_LIMITS__REQUEST_RATE", "7"),
        ("STREAMGATE_LOG", "debug"),
        ("OTHER__THING", "1"),
    ];
    let config = load_text(text, &["server.drain=3s", "storage.path=/srv/x"], &env).unwrap();
    assert_eq!(config.server.listen.port(), 1);
    assert_eq!(config.server.admin_listen.port(), 3);
    assert_eq!(config.server.drain.as_secs(), 3);
    assert_eq!(config.deliver.retry.end.as_secs(), 1);
    assert_eq!((config.api.request_rate, config.api.request_burst), (7, 7));
    assert_eq!(config.log.path, Path::new("/srv/x"));
}

#[test]
fn an_error_in_a_variable_or_flag_names_the_variable_or_flag() {
    let env = [
        ("STREAMGATE_SERVER__DRAN", "2s"),
        ("STREAMGATE_COLLECTIONS__0__NAME", "x"),
        ("STREAMGATE_STREAMS__HEARTBEAT", "0s"),
        ("STREAMGATE_ENGINE__KIND__X", "0s"),
    ];
    let sets = ["drain", "server.listen=5", "topics=[]", "server={}", "streams.retry=[\"2s\"]"];
    let text = "[engine]\nkind = \"embedded\"\n";
    assert_eq!(
        errors("", &["server=1"], &[]),
        ["--set: server: must be a table, not the number 1"]
    );
    assert_eq!(
        errors(text, &sets, &env),
        [
            "STREAMGATE_COLLECTIONS__0__NAME: collections.0.name: a list of tables can only be set in the file",
            "STREAMGATE_ENGINE__KIND__X: engine.kind.x: unknown key; the level above the key is a value and not a table",
            "STREAMGATE_SERVER__DRAN: server.dran: unknown key; did you mean server.drain?",
            "STREAMGATE_STREAMS__HEARTBEAT: streams.heartbeat: must be greater than zero",
            "--set: drain: the value is missing; write key.path=value",
            "--set: topics: a list of tables can only be set in the file",
            "--set: server: a table cannot be set as a whole; set each of its keys",
            "--set: server.listen: must be a string in quotes, not the number 5",
            "--set: streams.retry: must be a list of two durations such as [\"2s\", \"5s\"], not of 1",
        ]
    );
}

#[test]
fn a_variable_whose_value_is_not_utf_8_is_an_error() {
    let latin = OsString::from_vec(b"caf\xe9".to_vec());
    let mut env = vec![("STREAMGATE_SERVER__LISTEN".into(), latin.clone())];
    env.push(("STREAMGATE_LOG".into(), latin.clone()));
    env.push(("OTHER__THING".into(), latin));
    let found = load(None, &[], env.into_iter()).unwrap_err();
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        ["STREAMGATE_SERVER__LISTEN: server.listen: the value is not valid UTF-8; use UTF-8 text"]
    );
}

#[test]
fn a_variable_that_resembles_a_key_is_an_error_without_two_underscores() {
    let env = [
        ("STREAMGATE_SERVER_LISTEN", "127.0.0.1:1"),
        ("STREAMGATE_SERVER_LISTN", "127.0.0.1:1"),
        ("STREAMGATE_LISTEN", "127.0.0.1:1"),
        ("STREAMGATE_LIMITS_MAX_CONNECTIONS", "7"),
    ];
    let found = errors("", &[], &env);
    let message = |name: &str, key: &str| {
        format!(
            "STREAMGATE_{name}: unknown variable; did you mean STREAMGATE_{key}, with two \
             underscores after the section?"
        )
    };
    let due = [
        message("LIMITS_MAX_CONNECTIONS", "LIMITS__MAX_CONNECTIONS"),
        message("LISTEN", "SERVER__LISTEN"),
        message("SERVER_LISTEN", "SERVER__LISTEN"),
        message("SERVER_LISTN", "SERVER__LISTEN"),
    ];
    assert_eq!(found, due);
}

#[test]
fn the_variables_that_kubernetes_sets_for_a_service_are_no_error() {
    let mut env = vec![
        ("STREAMGATE_CONFIG".to_owned(), String::new()),
        ("STREAMGATE_URL".to_owned(), "http://127.0.0.1:8080".to_owned()),
        ("STREAMGATE_VERSION".to_owned(), "1.2.3".to_owned()),
    ];
    for service in ["", "_ADMIN", "_SERVER", "_STREAMS", "_STORAGE"] {
        let set = |suffix: &str| (format!("STREAMGATE{service}{suffix}"), "10.0.0.1".to_owned());
        env.extend(
            [
                "_SERVICE_HOST",
                "_SERVICE_PORT",
                "_SERVICE_PORT_HTTP",
                "_PORT",
                "_PORT_8080_TCP",
                "_PORT_8080_TCP_PROTO",
                "_PORT_8080_TCP_PORT",
                "_PORT_8080_TCP_ADDR",
            ]
            .map(set),
        );
    }
    let env = env.into_iter().map(|(name, value)| (name.into(), value.into()));
    assert_eq!(load(None, &[], env).err(), None);
}

#[test]
fn a_list_in_the_file_replaces_the_default_list() {
    let names = |text: &str| {
        let config = load_text(text, &[], &[]).unwrap();
        let logs: Vec<String> = config.logs.iter().map(|log| log.name.clone()).collect();
        let topics: Vec<String> = config.api.topics.iter().map(|t| t.name.clone()).collect();
        (logs.join(" "), topics.join(" "))
    };
    let pair = |logs: &str, topics: &str| (logs.to_owned(), topics.to_owned());
    assert_eq!(names(""), pair("orders", "order-updates"));
    assert_eq!(names("topics = []"), pair("orders", ""));
    assert_eq!(names("collections = []"), pair("", ""));
    assert_eq!(names("[[topics]]\nname = \"alerts\""), pair("orders alerts", "alerts"));
    assert_eq!(names("[[collections]]\nname = \"carts\""), pair("carts", ""));
    assert_eq!(
        names("[[collections]]\nname = \"orders\"\n[[collections]]\nname = \"order-updates\""),
        pair("orders order-updates", "")
    );
}

#[test]
fn the_default_resource_name_is_the_collection_name_without_a_final_s() {
    for (name, expected) in [("carts", "cart"), ("sheep", "sheep"), ("s", "s")] {
        let text = format!("[[collections]]\nname = \"{name}\"");
        let config = load_text(&text, &[], &[]).unwrap();
        assert_eq!(config.api.collections[0].resource, expected);
    }
}

#[test]
fn values_with_units_and_choices_are_passed_to_the_settings_of_the_layers() {
    let text = "[server]\nproxies = [\"10.0.0.0/8\", \"::1\"]\nforwarded = \"forwarded\"\n\
                proxy_protocol = \"required\"\n\
                [storage]\nsync = \"interval\"\nsync_interval = \"250ms\"\n\
                [streams]\nheartbeat_format = \"comment\"\nsse_overload = \"status\"\n\
                [limits]\nbody_bytes = 2048\nstall_timeout = \"5m\"\n\
                control_rate = 0\nbody_rate = 0\n\
                [[collections]]\nname = \"a\"\n\
                retention = { events = 5, bytes = \"64KiB\", age = \"1d\" }\n\
                [[topics]]\nname = \"b\"\ndurability = \"disk\"\n\
                [[topics]]\nname = \"c\"\ndurability = \"memory\"\n";
    let config = load_text(text, &[], &[]).unwrap();
    assert_eq!(config.server.proxy_protocol, server::ProxyProtocol::Required);
    assert_eq!(config.api.proxies.field, Some(ForwardedHeader::Forwarded));
    assert_eq!(config.api.proxies.networks.len(), 2);
    assert!(config.api.proxies.contain([10, 1, 2, 3].into()));
    assert_eq!(config.log.sync, log::FsyncPolicy::Interval(std::time::Duration::from_millis(250)));
    assert_eq!(config.deliver.heartbeat_format, deliver::HeartbeatFormat::Comment);
    assert_eq!(config.api.sse_overload, api::SseOverload::Status);
    assert_eq!((config.api.body_bytes_max, config.log.resource_bytes_max), (2048, 2048));
    assert_eq!(config.hub.stall_timeout, config.api.stall_timeout);
    assert_eq!(config.hub.stall_timeout.as_secs(), 300);
    assert_eq!(
        config.logs.iter().map(|log| log.durability).collect::<Vec<_>>(),
        [log::StorageKind::Disk, log::StorageKind::Disk, log::StorageKind::Memory]
    );
    assert_eq!((config.server.control_rate, config.deliver.control_rate), (0, 0));
    assert_eq!(config.api.body_rate, 0);
    let retention = config.logs[0].retention;
    assert_eq!((retention.events, retention.bytes), (5, 65_536));
    assert_eq!(retention.age.as_secs(), 86_400);
}

/// Returns the errors that `load` returns for a file with `text`. Each error must
/// be one line.
fn check_text(text: &str) -> Vec<String> {
    let errors = match tree::parse(Path::new("f"), text) {
        Ok(table) => checked(&table).1.finish(),
        Err(errors) => errors,
    };
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert!(lines.iter().all(|line| !line.contains('\n')), "{lines:?}");
    lines
}

proptest! {
    #[test]
    fn an_arbitrary_text_never_panics(text in "\\PC{0,200}") {
        check_text(&text);
    }

    #[test]
    fn an_arbitrary_change_of_the_shipped_file_never_panics(
        at in 0usize..4000, cut in 0usize..20, put in "[\\[\\]{}=\"'.,#\n a-z0-9-]{0,6}",
    ) {
        let mut text = include_str!("../../config.toml").to_owned();
        let start = text.floor_char_boundary(at.min(text.len()));
        let end = text.floor_char_boundary((start + cut).min(text.len()));
        text.replace_range(start..end, &put);
        check_text(&text);
    }
}

#[test]
fn nesting_is_bounded() {
    assert!(!check_text(&format!("a = {}", "[".repeat(100_000))).is_empty());
    assert!(!check_text(&format!("{}a = 1", "a.".repeat(100_000))).is_empty());
    assert!(!check_text(&format!("[{}a]", "a.".repeat(100_000))).is_empty());
    let deep = format!("STREAMGATE_{}A", "A__".repeat(40_000));
    assert_eq!(errors("", &[], &[(&deep, "1")]).len(), 1);
    assert_eq!(check_text("\"a\\nb\" = 1")[0].split(';').next(), Some("f:1: a\\nb: unknown key"));
}
