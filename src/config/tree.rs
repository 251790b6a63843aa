//! A configuration as it was written: values, each with the place it comes
//! from. The file makes the tree and the overlay changes it; nothing here
//! knows what a key means.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Source};

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) source: Source,
    pub(super) line: Option<u32>,
}

/// Keys and what they are set to.
pub(super) type Table = BTreeMap<String, Node>;

/// A value and where it was given.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// The kinds of value that keys take.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    List(Vec<Node>),
    Table(Table),
    /// One that no key takes, by what it is called.
    Other(&'static str),
}

impl Value {
    /// What it is, for a sentence.
    pub(super) fn described(&self) -> String {
        match self {
            Value::Text(text) => format!("the text {text:?}"),
            Value::Integer(number) => format!("the number {number}"),
            Value::List(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
            Value::Other(name) => (*name).to_owned(),
        }
    }

    /// Makes a value of a parsed one, with `place` telling where a byte of
    /// the text is.
    pub(super) fn parsed(value: &DeValue<'_>, place: &dyn Fn(usize) -> Place) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or(Value::Other("a number out of range"), Value::Integer),
            DeValue::Float(_) => Value::Other("a number with a fraction"),
            DeValue::Boolean(true) => Value::Other("true"),
            DeValue::Boolean(false) => Value::Other("false"),
            DeValue::Datetime(_) => Value::Other("a date or time"),
            DeValue::Array(items) => Value::List(
                items
                    .iter()
                    .map(|item| Node {
                        place: place(item.span().start),
                        value: Value::parsed(item.get_ref(), place),
                    })
                    .collect(),
            ),
            DeValue::Table(table) => Value::Table(parsed_table(table, place)),
        }
    }
}

fn parsed_table(table: &DeTable<'_>, place: &dyn Fn(usize) -> Place) -> Table {
    let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let key: &Spanned<toml::de::DeString<'_>> = key;
        let node =
            Node { place: place(key.span().start), value: Value::parsed(value.get_ref(), place) };
        (key.get_ref().to_string(), node)
    };
    table.iter().map(entry).collect()
}

/// Reads the text of the file at `path`.
///
/// # Errors
/// Every place where the text is not TOML.
pub(super) fn parse(path: &Path, text: &str) -> Result<Table, Vec<Fault>> {
    let lines = Lines::new(text);
    let source = Source::File(path.to_owned());
    let place = |at: usize| Place { source: source.clone(), line: Some(lines.number(at)) };
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(parsed_table(table.get_ref(), &place));
    }
    let mut faults: Vec<Fault> = errors
        .iter()
        .map(|error| Fault {
            source: source.clone(),
            line: Some(lines.number(error.span().map_or(0, |span| span.start))),
            key: String::new(),
            message: error.message().replace('\n', ", "),
        })
        .collect();
    // One slip makes the parser stumble several times on its line.
    faults.dedup_by_key(|fault| fault.line);
    Err(faults)
}

/// Where each line of a text starts.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Lines {
        Lines(text.match_indices('\n').map(|(at, _)| at + 1).collect())
    }

    /// The line that holds the byte `at`, from 1.
    fn number(&self, at: usize) -> u32 {
        self.0.partition_point(|&start| start <= at) as u32 + 1
    }
}
