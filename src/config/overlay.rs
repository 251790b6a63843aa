//! The environment and `--set`, laid over what the file says.

use toml::de::DeValue;

use super::fault::{Fault, Source};
use super::tree::{Node, Place, Table, Value};

/// What the name of a variable that sets a key begins with.
const PREFIX: &str = "STREAMGATE_";

/// Sets what the variables name: `STREAMGATE_SECTION__KEY`, two underscores
/// between levels. Names without two underscores are not keys
/// (`STREAMGATE_LOG`).
pub(super) fn environment(
    table: &mut Table,
    variables: impl Iterator<Item = (String, String)>,
    faults: &mut Vec<Fault>,
) {
    let mut named: Vec<(String, String)> = variables
        .filter(|(name, _)| name.strip_prefix(PREFIX).is_some_and(|key| key.contains("__")))
        .collect();
    named.sort();
    for (name, text) in named {
        let key = name[PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
        set(table, &key, &text, Source::Variable(name), faults);
    }
}

/// Sets what each `key.path=value` says.
pub(super) fn flags(table: &mut Table, sets: &[String], faults: &mut Vec<Fault>) {
    for pair in sets {
        match pair.split_once('=') {
            Some((key, text)) => set(table, key.trim(), text.trim(), Source::Flag, faults),
            None => faults.push(Fault {
                source: Source::Flag,
                line: None,
                key: pair.clone(),
                message: "has no value; write key.path=value".to_owned(),
            }),
        }
    }
}

fn set(table: &mut Table, key: &str, text: &str, source: Source, faults: &mut Vec<Fault>) {
    let place = Place { source, line: None };
    let node = Node { value: value(text, &place), place: place.clone() };
    if let Err(message) = insert(table, key, node, &place) {
        faults.push(Fault {
            source: place.source,
            line: None,
            key: key.to_owned(),
            message: message.to_owned(),
        });
    }
}

/// The text as a TOML value if it is one, else as it stands, so that neither
/// a shell nor a compose file has to quote twice.
fn value(text: &str, place: &Place) -> Value {
    match DeValue::parse(text) {
        Ok(parsed) => Value::parsed(parsed.get_ref(), &|_| place.clone()),
        Err(_) => Value::Text(text.to_owned()),
    }
}

/// More levels than any key has. Inserting goes down them one by one.
const LEVELS_MAX: usize = 8;

fn insert(table: &mut Table, key: &str, node: Node, place: &Place) -> Result<(), &'static str> {
    if key.split('.').count() > LEVELS_MAX {
        return Err("unknown key: no key has so many levels");
    }
    let (first, rest) = key.split_once('.').unwrap_or((key, ""));
    if matches!(first, "collections" | "topics") {
        return Err("only the file sets a list of tables");
    }
    if rest.is_empty() {
        if matches!(node.value, Value::Table(_)) {
            return Err("is set one key at a time");
        }
        // A value in place of a table is what the file may not say either;
        // reading it names the fault.
        table.insert(first.to_owned(), node);
        return Ok(());
    }
    let under = table
        .entry(first.to_owned())
        .or_insert_with(|| Node { place: place.clone(), value: Value::Table(Table::new()) });
    match &mut under.value {
        Value::Table(inner) => insert(inner, rest, node, place),
        _ => Err("unknown key: what it is under is a value, not a table"),
    }
}
