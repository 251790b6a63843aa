//! The files of `loadtest/scenarios`.

use std::io;
use std::path::{Path, PathBuf};

const FOLDER: &str = "loadtest/scenarios";

/// Returns the names of all scenarios, sorted.
///
/// # Errors
/// If the folder is missing. Runs start in the top folder of the project.
pub fn names() -> io::Result<Vec<String>> {
    let entries = std::fs::read_dir(FOLDER).map_err(|error| {
        let hint = "run loadtest in the top folder of the project";
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

/// Returns the path of a scenario file.
pub fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{name}.toml"))
}

/// Returns the files that have the section `key`, by path.
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
