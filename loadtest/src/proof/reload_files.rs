//! The configurations of the [reload](super::reload): valid ones, each with one
//! more collection than the one before, and twenty kinds of faulty ones.

use toml::{Table, Value};

use crate::gateway_config::{overlay, section};

/// The settings of a valid file that a client can observe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedState {
    /// `limits.body_bytes`.
    pub body_bytes: u64,
    /// `streams.retry`, in milliseconds.
    pub retry_ms: [u64; 2],
    /// The collections `extra-1` to this number exist.
    pub extras: usize,
}

/// A small and a large `limits.body_bytes`, in turn. A body between the two
/// shows which one is in force.
const BODY_BYTES: [u64; 2] = [2 * 1024, 64 * 1024];

/// Returns the name of an added collection.
pub fn extra(number: usize) -> String {
    format!("extra-{number}")
}

/// A collection that only faulty files have.
pub const GHOST: &str = "ghost";

/// Returns the valid file of that number, from 1, and what it sets.
pub fn valid_file(base: &Table, number: usize) -> (Table, ExpectedState) {
    let mut table = base.clone();
    let body_bytes = BODY_BYTES[number % BODY_BYTES.len()];
    // Settings that are in use during the reload.
    let stall_timeout = Value::String(format!("{}s", 30 + number));
    set(&mut table, "limits", "stall_timeout", stall_timeout);
    set(&mut table, "streams", "ring_events", Value::Integer(64 + number.cast_signed() as i64));
    let start = 1_000 * number as u64;
    let retry_ms = [start, start + 500];
    set(&mut table, "limits", "body_bytes", Value::Integer(body_bytes.cast_signed()));
    let retry = retry_ms.map(|ms| Value::String(format!("{ms}ms")));
    set(&mut table, "streams", "retry", Value::Array(retry.to_vec()));
    for number in 1..=number {
        add(&mut table, "collections", &[("name", &extra(number)), ("resource", "thing")]);
    }
    (table, ExpectedState { body_bytes, retry_ms, extras: number })
}

/// Returns the next valid file with one of the [`FAULTS`]. A partial reload of
/// it could be observed.
pub fn faulty_file(base: &Table, number: usize, fault: &ConfigFault) -> Vec<u8> {
    let (mut table, _) = valid_file(base, number);
    add(&mut table, "collections", &[("name", GHOST), ("resource", "thing")]);
    match fault.corruption {
        Corruption::Key(section, key, value) => {
            let value: Table = toml::from_str(&format!("v = {value}")).unwrap_or_default();
            let value = value.get("v").cloned().unwrap_or(Value::Boolean(false));
            set(&mut table, section, key, value);
            text(&table)
        }
        Corruption::Entry(list, members) => {
            add(&mut table, list, members);
            text(&table)
        }
        Corruption::Text(corruption) => corruption(&String::from_utf8_lossy(&text(&table))),
    }
}

/// A kind of faulty file.
pub struct ConfigFault {
    /// The name in messages.
    pub name: &'static str,
    corruption: Corruption,
}

enum Corruption {
    /// A key of a section, with a value in TOML.
    Key(&'static str, &'static str, &'static str),
    /// One more entry of a list.
    Entry(&'static str, &'static [(&'static str, &'static str)]),
    /// A change to the text of the file.
    Text(fn(&str) -> Vec<u8>),
}

const fn key(
    name: &'static str,
    section: &'static str,
    key: &'static str,
    value: &'static str,
) -> ConfigFault {
    ConfigFault { name, corruption: Corruption::Key(section, key, value) }
}

const fn entry(
    name: &'static str,
    list: &'static str,
    members: &'static [(&'static str, &'static str)],
) -> ConfigFault {
    ConfigFault { name, corruption: Corruption::Entry(list, members) }
}

const fn corrupted(name: &'static str, corruption: fn(&str) -> Vec<u8>) -> ConfigFault {
    ConfigFault { name, corruption: Corruption::Text(corruption) }
}

/// All kinds of faulty files.
pub const FAULTS: [ConfigFault; 20] = [
    key("an unknown key", "limits", "colour", "3"),
    key("an unknown section", "weather", "rain", "true"),
    key("a unit that is none", "limits", "head_timeout", "\"10 parsecs\""),
    key("a duration without its unit", "limits", "idle_timeout", "60"),
    key("a negative duration", "limits", "stall_timeout", "\"-30s\""),
    key("a ring of no events", "streams", "ring_events", "0"),
    key("a range that is inverted", "streams", "retry", "[\"5s\", \"2s\"]"),
    key("a range of three", "streams", "retry", "[\"1s\", \"2s\", \"3s\"]"),
    key("a word for a number", "limits", "max_connections", "\"many\""),
    key("a negative size", "limits", "body_bytes", "-1"),
    key("a number for a word", "storage", "sync", "3"),
    key("a word that is none", "streams", "overflow", "\"forget\""),
    key("a mode that is none", "auth", "mode", "\"guess\""),
    entry("a collection of a reserved name", "collections", &[("name", "operations")]),
    entry("two collections of one name", "collections", &[("name", GHOST)]),
    entry("a view of nothing", "topics", &[("name", "view"), ("collection", "nothing")]),
    corrupted("a string without its end", |text| format!("{text}\n[auth]\nmode = \"none\n").into()),
    corrupted("a table that stands there twice", |text| format!("{text}\n[limits]\n").into()),
    corrupted("a file that ends in a key", |text| format!("{text}\nname").into()),
    corrupted("a byte that is not UTF-8", |text| [text.as_bytes(), b"\n# \xff\n"].concat()),
];

/// Returns a configuration as the bytes of a file.
pub fn text(table: &Table) -> Vec<u8> {
    toml::to_string(table).unwrap_or_default().into_bytes()
}

fn set(table: &mut Table, name: &str, key: &str, value: Value) {
    let mut over = Table::new();
    over.insert(key.to_owned(), value);
    overlay(section(table, name), over);
}

fn add(table: &mut Table, list: &str, members: &[(&str, &str)]) {
    let value = |value: &str| Value::String(value.to_owned());
    let entry = members.iter().map(|(key, text)| ((*key).to_owned(), value(text))).collect();
    let list = table.entry(list).or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(list) = list {
        list.push(Value::Table(entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Table {
        toml::from_str("[server]\ndrain = \"5s\"\n[[topics]]\nname = \"ticks\"\n").unwrap()
    }

    #[test]
    fn valid_files_grow_and_differ() {
        let (first, expected) = valid_file(&base(), 1);
        assert_eq!(
            (expected.body_bytes, expected.retry_ms, expected.extras),
            (64 * 1024, [1_000, 1_500], 1)
        );
        let (second, expected) = valid_file(&base(), 2);
        assert_eq!((expected.body_bytes, expected.extras), (2 * 1024, 2));
        assert_eq!(second["collections"].as_array().unwrap().len(), 2);
        assert_ne!(first, second);
        assert_eq!(first["server"], base()["server"]);
        let text = String::from_utf8(text(&second)).unwrap();
        assert_eq!(toml::from_str::<Table>(&text).unwrap(), second);
    }

    #[test]
    fn every_fault_is_another_file_than_the_valid_one() {
        let good = text(&valid_file(&base(), 3).0);
        let mut files: Vec<Vec<u8>> =
            FAULTS.iter().map(|fault| faulty_file(&base(), 3, fault)).collect();
        assert!(files.iter().all(|file| *file != good && file.len() > 100));
        files.sort();
        files.dedup();
        assert_eq!(files.len(), FAULTS.len());
    }
}
