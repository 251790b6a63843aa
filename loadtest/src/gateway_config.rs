//! The configuration of a gateway, as scenarios read and change it.

use std::fs;
use std::io;
use std::time::Duration;

use toml::{Table, Value};

/// A file with every key at its default. A test of the gateway compares it with
/// the code.
const DEFAULTS: &str = "config.toml";

/// Merges `over` into `table`: tables key by key, any other value as a whole.
pub fn overlay(table: &mut Table, over: Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

/// Returns the duration at `section.key` of a configuration, or its default.
///
/// # Errors
/// If neither has the key, or the value is no duration.
pub fn duration(config: &Table, path: &str) -> io::Result<Duration> {
    let text = fs::read_to_string(DEFAULTS)?;
    let defaults: Table = toml::from_str(&text).map_err(io::Error::other)?;
    let found = find(config, path).or_else(|| find(&defaults, path));
    let found = found.and_then(Value::as_str).and_then(read_duration);
    found.ok_or_else(|| io::Error::other(format!("`{path}` must be a duration such as \"30s\"")))
}

/// Returns the section of that name, and creates it if it is missing.
pub fn section<'t>(config: &'t mut Table, name: &str) -> &'t mut Table {
    let section = config.entry(name).or_insert_with(|| Value::Table(Table::new()));
    if !section.is_table() {
        *section = Value::Table(Table::new());
    }
    match section {
        Value::Table(table) => table,
        _ => unreachable!("it was made a table above"),
    }
}

fn find<'t>(config: &'t Table, path: &str) -> Option<&'t Value> {
    let (section, key) = path.split_once('.')?;
    config.get(section)?.get(key)
}

fn read_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(60 * number)),
        "h" => Some(Duration::from_secs(3600 * number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_takes_tables_key_by_key() {
        let read = |text: &str| toml::from_str::<Table>(text).unwrap();
        let mut table = read("a = 1\n[b]\nc = 1\nd = [1]\n");
        overlay(&mut table, read("e = 2\n[b]\nd = [2, 3]\n"));
        assert_eq!(table, read("a = 1\ne = 2\n[b]\nc = 1\nd = [2, 3]\n"));
    }

    #[test]
    fn durations_have_units() {
        let check = |text, expected: Option<u64>| {
            assert_eq!(read_duration(text), expected.map(Duration::from_millis), "{text}");
        };
        check("30s", Some(30_000));
        check("250ms", Some(250));
        check("2m", Some(120_000));
        check("30", None);
        check("s", None);
    }
}
