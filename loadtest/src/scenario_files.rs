//! The files of `loadtest/scenarios`.

use std::io;
use std::path::{Path, PathBuf};

const FOLDER: &str = "loadtest/scenarios";

/// The names of all there are, in order.
///
/// # Errors
/// If they are not there: they are found from the project's folder.
pub fn names() -> io::Result<Vec<String>> {
    let entries = std::fs::read_dir(FOLDER).map_err(|error| {
        let hint = "run it in the project's folder";
        io::Error::new(error.kind(), format!("{FOLDER}: {error}; {hint}"))
    })?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".toml").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Where the scenario of that name is.
pub fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{name}.toml"))
}

/// The scenarios that have the section `key`, by their files' names.
#[cfg(test)]
pub fn with(key: &str) -> Vec<(String, toml::Table)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let read = files.map(|path| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path.display().to_string(), toml::from_str::<toml::Table>(&text).unwrap())
    });
    read.filter(|(_, table)| table.contains_key(key)).collect()
}
