//! The structure of the load generator's source, as far as a program can
//! check it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Most lines of a file, as in the gateway.
const LINES_MAX: usize = 500;

/// Each file of `src` by its module path: `measure::run`.
fn modules() -> BTreeMap<Vec<String>, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut modules = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let inner = path.strip_prefix(&root).unwrap().with_extension("");
            let mut names: Vec<String> =
                inner.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
            names.retain(|name| name != "mod" && name != "main");
            modules.insert(names, fs::read_to_string(path).unwrap());
        }
    }
    modules
}

/// The modules that a file imports by `crate::` or `super::`, tests included,
/// and those that it declares, since it may call them without an import.
fn imports(
    own: &[String],
    text: &str,
    modules: &BTreeMap<Vec<String>, String>,
) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let line = line.trim().trim_start_matches("pub ");
        let line = line.split("//").next().unwrap_or_default();
        if let Some(child) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
            found.insert([own, &[child.to_owned()]].concat());
        }
        for start in ["crate::", "super::", "self::"] {
            for (at, _) in line.match_indices(start) {
                let before = line[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                    continue;
                }
                let base = match start {
                    "crate::" => Vec::new(),
                    "self::" => own.to_vec(),
                    _ => own[..own.len().saturating_sub(1)].to_vec(),
                };
                let path = &line[at + start.len()..];
                // Of a module of tests: the file itself.
                if path.starts_with('*') {
                    continue;
                }
                let (path, group) = path.split_once('{').unwrap_or((path, ""));
                let mut targets = vec![path.to_owned()];
                targets.extend(group.split(',').map(|name| format!("{path}{}", name.trim())));
                for target in targets {
                    let mut module = base.clone();
                    for name in target.split("::") {
                        let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
                        module.push(name[..end.unwrap_or(name.len())].to_owned());
                        if !modules.contains_key(&module) {
                            module.pop();
                            break;
                        }
                    }
                    if !module.is_empty() && module != own {
                        found.insert(module);
                    }
                }
            }
        }
    }
    found
}

#[test]
fn no_file_imports_a_file_that_imports_it() {
    let modules = modules();
    let graph: BTreeMap<_, _> =
        modules.iter().map(|(name, text)| (name, imports(name, text, &modules))).collect();
    assert!(graph.values().map(BTreeSet::len).sum::<usize>() > 100, "too few imports found");
    for name in modules.keys() {
        let mut reached: BTreeSet<&Vec<String>> = BTreeSet::new();
        let mut next: Vec<&Vec<String>> = graph[name].iter().collect();
        while let Some(module) = next.pop() {
            if reached.insert(module) {
                next.extend(&graph[module]);
            }
        }
        assert!(!reached.contains(name), "{} imports itself through others", name.join("::"));
    }
}

#[test]
fn the_report_imports_no_scenario() {
    let modules = modules();
    let of_report = modules.iter().filter(|(name, _)| name.first().is_some_and(|n| n == "report"));
    for (name, text) in of_report {
        for import in imports(name, text, &modules) {
            let scenarios = ["scenario", "measure", "compare", "proof"];
            assert!(!scenarios.contains(&import[0].as_str()), "{name:?} imports {import:?}");
        }
    }
}

#[test]
fn no_file_is_too_long() {
    for (name, text) in modules() {
        assert!(text.lines().count() <= LINES_MAX, "{}", name.join("::"));
    }
}
