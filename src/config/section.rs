//! Typed reads of configuration tables. The caller reads each known key by its name,
//! with its type and its default. Every key in the table that the caller does not
//! read is reported as an unknown key.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use super::error::ConfigError;
use super::tree::{Node, SourceLocation, Table, Value};
use super::units;

static EMPTY: Table = Table::new();

/// The errors, the known keys and the unknown keys that are collected while the
/// configuration is read.
#[derive(Default)]
pub(super) struct Diagnostics {
    errors: Vec<ConfigError>,
    /// The paths of all known keys.
    known: Vec<String>,
    unknown: Vec<(SourceLocation, String)>,
}

/// Whether a configuration key accepts the value zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Zero {
    Allowed,
    Rejected,
}

/// A configuration table that is being read. Several tables can be open at the same
/// time. When a `Section` is dropped, all keys of its table that were not read are
/// recorded as unknown keys.
pub(super) struct Section<'t, 'd> {
    path: String,
    table: &'t Table,
    /// The place where the table was set, or `None` if the configuration does not
    /// set the table.
    location: Option<SourceLocation>,
    read_keys: Vec<&'static str>,
    diagnostics: &'d RefCell<Diagnostics>,
}

impl Drop for Section<'_, '_> {
    fn drop(&mut self) {
        let unknown = self.table.iter().filter(|(key, _)| !self.read_keys.contains(&key.as_str()));
        let unknown = unknown.map(|(key, node)| (node.location.clone(), join(&self.path, key)));
        self.diagnostics.borrow_mut().unknown.extend(unknown);
    }
}

impl<'t, 'd> Section<'t, 'd> {
    /// Opens the root table of the configuration.
    pub(super) fn root(table: &'t Table, diagnostics: &'d RefCell<Diagnostics>) -> Section<'t, 'd> {
        let (path, location) = (String::new(), None);
        Section { path, table, location, read_keys: Vec::new(), diagnostics }
    }

    /// Opens the table `key`. If the key is not set, the result is an empty table.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'t, 'd> {
        let (table, location) = match self.node(key) {
            None => (&EMPTY, None),
            Some(Node { value: Value::Table(table), location }) => (table, Some(location.clone())),
            Some(node) => {
                self.error(key, format!("must be a table, not {}", node.value.described()));
                (&EMPTY, None)
            }
        };
        self.child(key, table, location)
    }

    /// Opens all tables of the list `key`. Returns `None` if the key is not set or
    /// is not a list.
    pub(super) fn sections(&mut self, key: &'static str) -> Option<Vec<Section<'t, 'd>>> {
        let node = self.node(key)?;
        let Value::List(items) = &node.value else {
            self.error(key, format!("must be a list of tables, not {}", node.value.described()));
            return None;
        };
        let mut sections = Vec::new();
        for item in items {
            if let Value::Table(table) = &item.value {
                sections.push(self.child(key, table, Some(item.location.clone())));
            } else {
                let message =
                    format!("must be a list of tables; {} is not a table", item.value.described());
                self.error_at(&item.location, key, message);
            }
        }
        Some(sections)
    }

    fn child(
        &self,
        key: &str,
        table: &'t Table,
        location: Option<SourceLocation>,
    ) -> Section<'t, 'd> {
        let (path, read_keys) = (join(&self.path, key), Vec::new());
        Section { path, table, location, read_keys, diagnostics: self.diagnostics }
    }

    /// Reads the duration `key`, for example `"15s"`.
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

    /// Reads the size `key`, for example `"64KiB"`, and returns it in bytes.
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

    /// Reads the integer `key`. Zero is allowed.
    pub(super) fn number(&mut self, key: &'static str, default: u64) -> u64 {
        self.value(key, default, |node| match &node.value {
            Value::Integer(number) => {
                u64::try_from(*number).map_err(|_| "must not be negative".to_owned())
            }
            other => Err(format!("must be an integer, not {}", other.described())),
        })
    }

    /// Reads the integer `key`, from 0 or 1 to `u32::MAX`.
    pub(super) fn count(&mut self, key: &'static str, default: u32, zero: Zero) -> u32 {
        self.value(key, default, |node| {
            let count = match &node.value {
                Value::Integer(number) => u32::try_from(*number).map_err(|_| {
                    let least = u32::from(zero == Zero::Rejected);
                    format!("must be between {least} and {}", u32::MAX)
                })?,
                other => return Err(format!("must be an integer, not {}", other.described())),
            };
            check_zero(zero, count == 0)?;
            Ok(count)
        })
    }

    /// Reads the IP address and port `key` of a listener.
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

    /// Reads the key as one of the names in `choices`, and returns the value of this
    /// name. `unbuilt` contains names that are planned but not implemented; they are
    /// an error with its own text.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        default: T,
        choices: &[(&str, T)],
        unbuilt: &[&str],
    ) -> T {
        self.value(key, default, |node| choice(text(node)?, choices, unbuilt))
    }

    /// Reads the key as a list of names in `choices`, and returns the values of
    /// these names. If the key is not set, the list is empty.
    pub(super) fn choices<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Vec<T> {
        let mut chosen = Vec::new();
        for (location, name) in self.texts(key) {
            match choice(&name, choices, &[]) {
                Ok(value) => chosen.push(value),
                Err(message) => self.error_at(&location, key, message),
            }
        }
        chosen
    }

    /// Reads the key as a string that must not be empty. Returns `None` if the key
    /// is not set or has an error.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.value(key, None, |node| match text(node)? {
            "" => Err("must not be empty".to_owned()),
            text => Ok(Some(text.to_owned())),
        })
    }

    /// Reads the key as a list of strings. Returns each string with the place where
    /// it was set. If the key is not set, the list is empty.
    pub(super) fn texts(&mut self, key: &'static str) -> Vec<(SourceLocation, String)> {
        self.value(key, Vec::new(), |node| match &node.value {
            Value::List(items) => items
                .iter()
                .map(|item| Ok((item.location.clone(), text(item)?.to_owned())))
                .collect(),
            other => Err(format!("must be a list of strings, not {}", other.described())),
        })
    }

    /// Reads the key as a list of two durations, and returns them as a range. The
    /// first duration is the start of the range, and the second is its end.
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

    /// Returns whether the configuration sets the key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Records an error of `key`. The error points to the place where the key was
    /// set. If the key is not set, the error points to the table.
    pub(super) fn error(&self, key: &str, message: String) {
        let location = self.table.get(key).map(|node| &node.location).or(self.location.as_ref());
        if let Some(location) = location {
            self.error_at(location, key, message);
        }
    }

    /// Records an error of `key` that points to `location`.
    pub(super) fn error_at(&self, location: &SourceLocation, key: &str, message: String) {
        let error = error(location, join(&self.path, key), message);
        self.diagnostics.borrow_mut().errors.push(error);
    }

    fn value<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl FnOnce(&Node) -> Result<T, String>,
    ) -> T {
        let Some(node) = self.node(key) else { return default };
        parse(node).unwrap_or_else(|message| {
            self.error(key, message);
            default
        })
    }

    fn node(&mut self, key: &'static str) -> Option<&'t Node> {
        self.read_keys.push(key);
        self.diagnostics.borrow_mut().known.push(join(&self.path, key));
        self.table.get(key)
    }
}

impl Diagnostics {
    /// Returns all errors, including the errors of unknown keys. The errors of the
    /// file come first, in the order of its lines; then those of the environment
    /// variables, by name; then those of the `--set` flags.
    pub(super) fn finish(mut self) -> Vec<ConfigError> {
        for (location, key) in &self.unknown {
            let message = format!("unknown key; {}", suggestion(key, &self.known));
            self.errors.push(error(location, key.clone(), message));
        }
        self.errors.sort_by(|a, b| (&a.source, a.line).cmp(&(&b.source, b.line)));
        self.errors
    }

    /// Returns the paths of all known keys.
    pub(super) fn known(&self) -> &[String] {
        &self.known
    }
}

fn error(location: &SourceLocation, key: String, message: String) -> ConfigError {
    ConfigError { source: location.source.clone(), line: location.line, key, message }
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

/// Returns the part of an error text that helps to correct the unknown key `key`. It
/// suggests the known key whose name is the most similar, in this or another table.
/// If two names are equally similar, a key of the same table is preferred. If no
/// name is similar, the text lists all keys of the table.
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
