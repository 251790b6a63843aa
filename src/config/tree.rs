//! The tree of configuration values. Each value has a location: the source that set
//! it, and the line in the file. `parse` builds the tree from the file, and
//! `overlay` changes it. This module does not know which keys exist or what they
//! mean.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Source};

/// The place where a configuration value was set: the source, and the line if the
/// source is a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SourceLocation {
    pub(super) source: Source,
    pub(super) line: Option<u32>,
}

/// A table of the configuration: the keys with their values.
pub(super) type Table = BTreeMap<String, Node>;

/// A configuration value and the place where it was set.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) location: SourceLocation,
    pub(super) value: Value,
}

/// A configuration value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    List(Vec<Node>),
    Table(Table),
    /// A value whose type no configuration key accepts, for example a date. The text
    /// describes the value.
    Other(&'static str),
}

impl Value {
    /// Returns a description of the value for an error text.
    pub(super) fn described(&self) -> String {
        match self {
            Value::Text(text) => format!("the string {text:?}"),
            Value::Integer(number) => format!("the number {number}"),
            Value::List(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
            Value::Other(name) => (*name).to_owned(),
        }
    }

    /// Converts a value of the TOML parser. `location` maps a byte position in the
    /// text to a location.
    pub(super) fn parsed(value: &DeValue<'_>, location: &dyn Fn(usize) -> SourceLocation) -> Value {
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
                        location: location(item.span().start),
                        value: Value::parsed(item.get_ref(), location),
                    })
                    .collect(),
            ),
            DeValue::Table(table) => Value::Table(parsed_table(table, location)),
        }
    }
}

fn parsed_table(table: &DeTable<'_>, location: &dyn Fn(usize) -> SourceLocation) -> Table {
    let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let key: &Spanned<toml::de::DeString<'_>> = key;
        let node = Node {
            location: location(key.span().start),
            value: Value::parsed(value.get_ref(), location),
        };
        (key.get_ref().to_string(), node)
    };
    table.iter().map(entry).collect()
}

/// Parses `text`, the content of the configuration file at `path`.
///
/// # Errors
/// Returns all syntax errors of the text.
pub(super) fn parse(path: &Path, text: &str) -> Result<Table, Vec<ConfigError>> {
    let lines = Lines::new(text);
    let source = Source::File(path.to_owned());
    let location =
        |at: usize| SourceLocation { source: source.clone(), line: Some(lines.number(at)) };
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(parsed_table(table.get_ref(), &location));
    }
    let mut found: Vec<ConfigError> = errors
        .iter()
        .map(|error| ConfigError {
            source: source.clone(),
            line: Some(lines.number(error.span().map_or(0, |span| span.start))),
            key: String::new(),
            message: error.message().replace('\n', ", "),
        })
        .collect();
    // The parser can report several errors for one mistake, all on the same line. So
    // only the first error of each line is kept.
    found.dedup_by_key(|error| error.line);
    Err(found)
}

/// The byte positions at which the lines of a text start. The position 0 of the
/// first line is not stored.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Lines {
        Lines(text.match_indices('\n').map(|(at, _)| at + 1).collect())
    }

    /// Returns the number of the line that contains the byte position `at`. The
    /// first line is 1.
    fn number(&self, at: usize) -> u32 {
        self.0.partition_point(|&start| start <= at) as u32 + 1
    }
}
