//! Reading of tables. The caller reads each known key by its name, with its type
//! and its default. A key that the caller does not read is an unknown key.

use std::net::SocketAddr;
use std::time::Duration;

use super::fault::ConfigError;
use super::tree::{Node, SourceLocation, Table, Value};
use super::units;

static EMPTY: Table = Table::new();

/// The errors and keys that were found while the tree was read.
#[derive(Default)]
pub(super) struct Diagnostics {
    pub(super) faults: Vec<ConfigError>,
    /// The paths of all known keys.
    known: Vec<String>,
    unknown: Vec<(SourceLocation, String)>,
}

/// Whether a key accepts the value zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Zero {
    Allowed,
    Rejected,
}

/// A table of the tree that is being read.
pub(super) struct Section<'t, 'f> {
    path: &'f str,
    table: &'t Table,
    /// The location of the table, or `None` if the table is not set.
    place: Option<SourceLocation>,
    read_keys: Vec<&'static str>,
    findings: &'f mut Diagnostics,
}

/// Reads the root table of the tree with `read`.
pub(super) fn read<T>(
    table: &Table,
    findings: &mut Diagnostics,
    read: impl FnOnce(&mut Section<'_, '_>) -> T,
) -> T {
    read_table("", table, None, findings, read)
}

fn read_table<T>(
    path: &str,
    table: &Table,
    place: Option<SourceLocation>,
    findings: &mut Diagnostics,
    read: impl FnOnce(&mut Section<'_, '_>) -> T,
) -> T {
    let mut section = Section { path, table, place, read_keys: Vec::new(), findings };
    let result = read(&mut section);
    for (key, node) in table {
        if !section.read_keys.contains(&key.as_str()) {
            section.findings.unknown.push((node.place.clone(), join(path, key)));
        }
    }
    result
}

impl<'t> Section<'t, '_> {
    /// Reads the table `key` with `read`. A key that is not set is an empty table.
    pub(super) fn section<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'_, '_>) -> T,
    ) -> T {
        let (table, place) = match self.node(key) {
            None => (&EMPTY, None),
            Some(Node { value: Value::Table(table), place }) => (table, Some(place.clone())),
            Some(node) => {
                self.fault(key, format!("must be a table, not {}", node.value.described()));
                (&EMPTY, None)
            }
        };
        read_table(&join(self.path, key), table, place, self.findings, read)
    }

    /// Reads each table of the list `key` with `read`. Returns `None` if the key is
    /// not set.
    pub(super) fn each<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'_, '_>) -> T,
    ) -> Option<Vec<T>> {
        let node = self.node(key)?;
        let Value::List(items) = &node.value else {
            self.fault(key, format!("must be a list of tables, not {}", node.value.described()));
            return None;
        };
        let mut results = Vec::new();
        for item in items {
            if let Value::Table(table) = &item.value {
                let place = Some(item.place.clone());
                let path = join(self.path, key);
                results.push(read_table(&path, table, place, self.findings, &mut read));
            } else {
                let message =
                    format!("must be a list of tables; {} is not a table", item.value.described());
                self.fault_at(&item.place.clone(), key, message);
            }
        }
        Some(results)
    }

    /// Reads a duration.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        zero: Zero,
    ) -> Duration {
        self.value(key, default, |node| {
            let duration = duration(node)?;
            check_zero(zero, duration.is_zero())?;
            Ok(duration)
        })
    }

    /// Reads a size and returns it in bytes.
    pub(super) fn bytes(&mut self, key: &'static str, default: u64, zero: Zero) -> u64 {
        self.value(key, default, |node| {
            let bytes = match &node.value {
                Value::Integer(number) => {
                    u64::try_from(*number).map_err(|_| "must not be negative".to_owned())?
                }
                Value::Text(text) => units::bytes(text)?,
                other => {
                    return Err(format!(
                        "must be a size such as \"64KiB\", not {}",
                        other.described()
                    ));
                }
            };
            check_zero(zero, bytes == 0)?;
            Ok(bytes)
        })
    }

    /// Reads an integer. Zero is allowed.
    pub(super) fn number(&mut self, key: &'static str, default: u64) -> u64 {
        self.value(key, default, |node| match &node.value {
            Value::Integer(number) => {
                u64::try_from(*number).map_err(|_| "must not be negative".to_owned())
            }
            other => Err(format!("must be an integer, not {}", other.described())),
        })
    }

    /// Reads an integer from 0 to `u32::MAX`.
    pub(super) fn count(&mut self, key: &'static str, default: u32, zero: Zero) -> u32 {
        self.value(key, default, |node| {
            let count = match &node.value {
                Value::Integer(number) => u32::try_from(*number)
                    .map_err(|_| format!("must be between 0 and {}", u32::MAX))?,
                other => return Err(format!("must be an integer, not {}", other.described())),
            };
            check_zero(zero, count == 0)?;
            Ok(count)
        })
    }

    /// Reads the address and port of a listener.
    pub(super) fn address(&mut self, key: &'static str, default: SocketAddr) -> SocketAddr {
        self.value(key, default, |node| {
            text(node)?.parse().map_err(|_| {
                format!(
                    "must be an IP address and a port such as \"127.0.0.1:8080\" or \
                     \"[::1]:8080\", not {}",
                    node.value.described()
                )
            })
        })
    }

    /// Reads one of `choices`. `unbuilt` has the choices that are planned but not
    /// implemented.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        default: T,
        choices: &[(&str, T)],
        unbuilt: &[&str],
    ) -> T {
        self.value(key, default, |node| choice(text(node)?, choices, unbuilt))
    }

    /// Reads a list of `choices`. A key that is not set is an empty list.
    pub(super) fn choices<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Vec<T> {
        let mut chosen = Vec::new();
        for (place, name) in self.texts(key) {
            match choice(&name, choices, &[]) {
                Ok(value) => chosen.push(value),
                Err(message) => self.fault_at(&place, key, message),
            }
        }
        chosen
    }

    /// Reads a string that is not empty. Returns `None` if the key is not set or
    /// has an error.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.value(key, None, |node| match text(node)? {
            "" => Err("must not be empty".to_owned()),
            text => Ok(Some(text.to_owned())),
        })
    }

    /// Reads a list of strings with their locations. A key that is not set is an
    /// empty list.
    pub(super) fn texts(&mut self, key: &'static str) -> Vec<(SourceLocation, String)> {
        self.value(key, Vec::new(), |node| match &node.value {
            Value::List(items) => {
                items.iter().map(|item| Ok((item.place.clone(), text(item)?.to_owned()))).collect()
            }
            other => Err(format!("must be a list of strings, not {}", other.described())),
        })
    }

    /// Reads a range of durations: a list of the shortest and the longest one.
    pub(super) fn range(
        &mut self,
        key: &'static str,
        default: std::ops::Range<Duration>,
    ) -> std::ops::Range<Duration> {
        self.value(key, default, |node| match &node.value {
            Value::List(items) if items.len() == 2 => {
                let (start, end) = (duration(&items[0])?, duration(&items[1])?);
                if start > end {
                    return Err(format!(
                        "the first duration, {:?}, must not be longer than the second, {:?}",
                        text(&items[0])?,
                        text(&items[1])?
                    ));
                }
                Ok(start..end)
            }
            Value::List(items) => Err(format!(
                "must be a list of two durations such as [\"2s\", \"5s\"], not of {}",
                items.len()
            )),
            other => Err(format!(
                "must be a list of two durations such as [\"2s\", \"5s\"], not {}",
                other.described()
            )),
        })
    }

    /// Returns whether the key is set.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Reports an error of `key` at the location of the key. If the key is not set,
    /// reports the error at the location of the table.
    pub(super) fn fault(&mut self, key: &str, message: String) {
        let place = self.table.get(key).map(|node| node.place.clone()).or(self.place.clone());
        if let Some(place) = place {
            self.fault_at(&place, key, message);
        }
    }

    /// Reports an error of `key` at `place`.
    pub(super) fn fault_at(&mut self, place: &SourceLocation, key: &str, message: String) {
        self.findings.faults.push(fault(place, join(self.path, key), message));
    }

    fn value<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl FnOnce(&Node) -> Result<T, String>,
    ) -> T {
        let Some(node) = self.node(key) else { return default };
        parse(node).unwrap_or_else(|message| {
            self.fault(key, message);
            default
        })
    }

    fn node(&mut self, key: &'static str) -> Option<&'t Node> {
        self.read_keys.push(key);
        self.findings.known.push(join(self.path, key));
        self.table.get(key)
    }
}

impl Diagnostics {
    /// Returns all errors, including those for unknown keys. They have the order of
    /// the file, then of the variables, then of the flags.
    pub(super) fn finish(mut self) -> Vec<ConfigError> {
        for (place, key) in &self.unknown {
            let message = format!("unknown key; {}", suggestion(key, &self.known));
            self.faults.push(fault(place, key.clone(), message));
        }
        self.faults.sort_by(|a, b| (&a.source, a.line).cmp(&(&b.source, b.line)));
        self.faults
    }

    /// Returns the paths of all known keys.
    #[cfg(test)]
    pub(super) fn known(&self) -> &[String] {
        &self.known
    }
}

fn fault(place: &SourceLocation, key: String, message: String) -> ConfigError {
    ConfigError { source: place.source.clone(), line: place.line, key, message }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn check_zero(zero: Zero, is_zero: bool) -> Result<(), String> {
    match zero {
        Zero::Rejected if is_zero => Err("must be greater than zero".to_owned()),
        _ => Ok(()),
    }
}

fn text(node: &Node) -> Result<&str, String> {
    match &node.value {
        Value::Text(text) => Ok(text),
        other => Err(format!("must be a string in quotes, not {}", other.described())),
    }
}

fn duration(node: &Node) -> Result<Duration, String> {
    match &node.value {
        Value::Text(text) => units::duration(text),
        other => Err(format!("must be a duration such as \"15s\", not {}", other.described())),
    }
}

fn choice<T: Copy>(word: &str, choices: &[(&str, T)], unbuilt: &[&str]) -> Result<T, String> {
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == word) {
        return Ok(*value);
    }
    let names: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
    let names = names.join(", ");
    if unbuilt.contains(&word) {
        Err(format!("{word:?} is not implemented yet; use {names}"))
    } else {
        Err(format!("must be one of {names}, not {word:?}"))
    }
}

/// Returns the text that suggests a known key for the unknown key `key`. The
/// suggestion is the same name in another table, or a name with a similar
/// spelling. If there is none, the text lists all keys of the table.
fn suggestion(key: &str, known: &[String]) -> String {
    let last = |path: &str| path.rsplit_once('.').map_or(0, |(table, _)| table.len() + 1);
    let (table, word) = key.split_at(last(key));
    let nearest = known
        .iter()
        .map(|path| {
            let (its_table, its_word) = path.split_at(last(path));
            (strsim::levenshtein(word, its_word), its_table != table, path)
        })
        .min()
        .filter(|(distance, ..)| distance * 3 <= word.chars().count().max(3));
    if let Some((_, _, path)) = nearest {
        return format!("did you mean {path}?");
    }
    let mut siblings: Vec<&str> =
        known.iter().filter_map(|p| p.strip_prefix(table)).filter(|p| !p.contains('.')).collect();
    siblings.sort_unstable();
    siblings.dedup();
    format!("the known keys are {}", siblings.join(", "))
}
