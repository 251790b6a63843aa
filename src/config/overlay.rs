//! The environment variables and the `--set` flags. They override the values of the
//! configuration file.

use std::ffi::OsString;

use toml::de::DeValue;

use super::error::{ConfigError, Source};
use super::tree::{Node, SourceLocation, Table, Value};

/// The prefix of the environment variables that set configuration keys.
const PREFIX: &str = "STREAMGATE_";

/// Sets in `table` the configuration keys that environment variables set. Such a
/// variable has the name `STREAMGATE_SECTION__KEY`, with two underscores between the
/// levels of the key. A variable without two consecutive underscores sets no key,
/// for example `STREAMGATE_LOG`. Returns the names of these variables.
pub(super) fn environment(
    table: &mut Table,
    variables: impl Iterator<Item = (OsString, OsString)>,
    errors: &mut Vec<ConfigError>,
) -> Vec<String> {
    let (mut named, others): (Vec<_>, Vec<_>) = variables
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
        .filter(|(name, _)| name.starts_with(PREFIX))
        .partition(|(name, _)| name[PREFIX.len()..].contains("__"));
    named.sort();
    for (name, value) in named {
        let key = name[PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
        match value.into_string() {
            Ok(text) => set(table, &key, &text, Source::Variable(name), errors),
            Err(_) => errors.push(ConfigError {
                source: Source::Variable(name),
                line: None,
                key,
                message: "the value is not valid UTF-8; use UTF-8 text".to_owned(),
            }),
        }
    }
    others.into_iter().map(|(name, _)| name).collect()
}

/// The largest edit distance between the name of a variable and the correct name
/// that is reported as a misspelling.
const MISSPELLING_MAX: usize = 2;

/// Returns an error for each variable in `names` that resembles the variable of a key
/// in `known`: `STREAMGATE_SERVER_LISTEN` or `STREAMGATE_LISTEN` instead of
/// `STREAMGATE_SERVER__LISTEN`. Other variables are not an error, because Kubernetes
/// sets variables such as `STREAMGATE_SERVICE_HOST` and `STREAMGATE_PORT` for a
/// service with the name `streamgate`.
pub(super) fn misspelled(names: Vec<String>, known: &[String]) -> Vec<ConfigError> {
    let keys: Vec<&String> = known
        .iter()
        .filter(|key| key.contains('.'))
        .filter(|key| !key.starts_with("collections.") && !key.starts_with("topics."))
        .collect();
    let nearest = |name: &str| {
        let word = name[PREFIX.len()..].to_ascii_lowercase();
        let distances = keys.iter().map(|key| {
            let is_last = key.rsplit('.').next() == Some(&word);
            let distance = strsim::levenshtein(&word, &key.replace('.', "_"));
            (if is_last { 0 } else { distance }, *key)
        });
        distances.min().filter(|(distance, _)| *distance <= MISSPELLING_MAX)
    };
    let error = |name: String| {
        let (_, key) = nearest(&name)?;
        let right = key.replace('.', "__").to_ascii_uppercase();
        let message = format!(
            "unknown variable; did you mean {PREFIX}{right}, with two underscores after the \
             section?"
        );
        Some(ConfigError {
            source: Source::Variable(name),
            line: None,
            key: String::new(),
            message,
        })
    };
    names.into_iter().filter_map(error).collect()
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
