//! The environment variables and the `--set` flags. They override the values of the
//! configuration file.

use toml::de::DeValue;

use super::error::{ConfigError, Source};
use super::tree::{Node, SourceLocation, Table, Value};

/// The prefix of the environment variables that set configuration keys.
const PREFIX: &str = "STREAMGATE_";

/// Sets in `table` the configuration keys that environment variables set. Such a
/// variable has the name `STREAMGATE_SECTION__KEY`, with two underscores between the
/// levels of the key. A variable without two consecutive underscores sets no key,
/// for example `STREAMGATE_LOG`.
pub(super) fn environment(
    table: &mut Table,
    variables: impl Iterator<Item = (String, String)>,
    errors: &mut Vec<ConfigError>,
) {
    let mut named: Vec<(String, String)> = variables
        .filter(|(name, _)| name.strip_prefix(PREFIX).is_some_and(|key| key.contains("__")))
        .collect();
    named.sort();
    for (name, text) in named {
        let key = name[PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
        set(table, &key, &text, Source::Variable(name), errors);
    }
}

/// Sets in `table` the configuration keys of the `--set` flags. Each flag has the
/// form `key.path=value`.
pub(super) fn flags(table: &mut Table, sets: &[String], errors: &mut Vec<ConfigError>) {
    for pair in sets {
        match pair.split_once('=') {
            Some((key, text)) => set(table, key.trim(), text.trim(), Source::Flag, errors),
            None => errors.push(ConfigError {
                source: Source::Flag,
                line: None,
                key: pair.clone(),
                message: "the value is missing; write key.path=value".to_owned(),
            }),
        }
    }
}

fn set(table: &mut Table, key: &str, text: &str, source: Source, errors: &mut Vec<ConfigError>) {
    let location = SourceLocation { source, line: None };
    let node = Node { value: value(text, &location), location: location.clone() };
    if let Err(message) = insert(table, key, node, &location) {
        errors.push(ConfigError {
            source: location.source,
            line: None,
            key: key.to_owned(),
            message: message.to_owned(),
        });
    }
}

/// Parses the value of a variable or flag as a TOML value. If `text` is not a TOML
/// value, it becomes a string. So the user does not need a second pair of quotes in
/// a shell or a compose file.
fn value(text: &str, location: &SourceLocation) -> Value {
    match DeValue::parse(text) {
        Ok(parsed) => Value::parsed(parsed.get_ref(), &|_| location.clone()),
        Err(_) => Value::Text(text.to_owned()),
    }
}

/// The largest number of levels in a configuration key. All known keys have fewer
/// levels. The limit bounds the recursion of `insert`.
const LEVELS_MAX: usize = 8;

fn insert(
    table: &mut Table,
    key: &str,
    node: Node,
    location: &SourceLocation,
) -> Result<(), &'static str> {
    if key.split('.').count() > LEVELS_MAX {
        return Err("unknown key; a key has at most 8 levels");
    }
    let (first, rest) = key.split_once('.').unwrap_or((key, ""));
    if matches!(first, "collections" | "topics") {
        return Err("a list of tables can only be set in the file");
    }
    if rest.is_empty() {
        if matches!(node.value, Value::Table(_)) {
            return Err("a table cannot be set as a whole; set each of its keys");
        }
        // If the key must be a table, a plain value is an error. Section::section
        // reports this error later, as it does for a value in the file.
        table.insert(first.to_owned(), node);
        return Ok(());
    }
    let under = table
        .entry(first.to_owned())
        .or_insert_with(|| Node { location: location.clone(), value: Value::Table(Table::new()) });
    match &mut under.value {
        Value::Table(inner) => insert(inner, rest, node, location),
        _ => Err("unknown key; the level above the key is a value and not a table"),
    }
}
