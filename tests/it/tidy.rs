//! Checks of the laws in `docs/architecture.md#laws` that a program can check.

mod crates;
mod cycles;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use streamgate::wire::close::CloseCode;
use streamgate::wire::problem;

/// The maximum number of lines of a file. A longer file must be split.
const LINES_MAX: usize = 500;

/// The folders with the Rust code of this project.
const CODE: [&str; 5] = ["src", "tests", "benches", "examples", "fuzz/fuzz_targets"];

/// The folders that tools generate.
const GENERATED: [&str; 9] = [
    ".git",
    ".venv",
    "target",
    "node_modules",
    "data",
    "corpus",
    "artifacts",
    "coverage",
    "proptest-regressions",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns every file under a folder, relative to the root.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(root().join(folder)) else { return found };
    for entry in entries {
        let entry = entry.unwrap();
        let path = folder.join(entry.file_name());
        let generated = GENERATED.iter().any(|name| entry.file_name() == *name);
        // The folder `data` at the top is a store. The data of the demo is
        // written by hand.
        if generated && path != Path::new("examples/data") {
            continue;
        }
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => found.extend(files(&path)),
            kind if kind.is_file() => found.push(path),
            _ => {}
        }
    }
    found.sort();
    found
}

fn rust() -> Vec<PathBuf> {
    let all = CODE.iter().flat_map(|folder| files(Path::new(folder)));
    all.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// Returns the code of a file without comments and tests. Tests may use every
/// layer. The line numbers stay the same.
fn code(path: &Path) -> String {
    let text = text(path);
    let mut out = String::with_capacity(text.len());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let tests = line.trim() == "#[cfg(test)]"
            && lines.peek().is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'));
        if tests {
            break;
        }
        let comment = line.find("//").filter(|&at| !line[..at].ends_with(':'));
        out.push_str(&line[..comment.unwrap_or(line.len())]);
        out.push('\n');
    }
    out
}

/// Returns whether a file belongs to a module that is compiled only for tests.
/// The parent module declares such a module with `#[cfg(test)] mod name;` or
/// with `#[cfg(all(test, …))]`. A module inside such a module also counts.
fn is_test_only(path: &Path) -> bool {
    let mut path = path.to_owned();
    while path.components().count() > 2 {
        let folder = path.parent().unwrap().to_owned();
        let (name, above) = match path.file_stem().unwrap().to_str().unwrap() {
            "mod" => (folder.file_name().unwrap().to_owned(), folder.parent().unwrap().to_owned()),
            name => (name.into(), folder.clone()),
        };
        let name = name.to_str().unwrap();
        for parent in [above.join("mod.rs"), above.with_extension("rs"), above.join("lib.rs")] {
            let Ok(parent) = fs::read_to_string(root().join(parent)) else { continue };
            let mut lines = parent.lines();
            while let Some(line) = lines.next() {
                let module = format!("mod {name};");
                let line = line.trim();
                if (line == "#[cfg(test)]" || line.starts_with("#[cfg(all(test,"))
                    && lines.next().is_some_and(|l| l.ends_with(&module))
                {
                    return true;
                }
            }
        }
        path = above.with_extension("rs");
    }
    false
}

/// Returns the layers, the top one first: the `mod` lines of `lib.rs`.
fn layers() -> Vec<String> {
    let lib = text("src/lib.rs");
    let names = lib.lines().filter_map(|line| {
        line.strip_prefix("pub mod ").or(line.strip_prefix("mod "))?.strip_suffix(';')
    });
    names.map(str::to_owned).collect()
}

/// Returns the layers that a piece of code names, with their line numbers:
/// `crate::hub`, `crate::{hub, log::Log}`.
fn named_layers(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        let word = |text: &str| {
            text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
        };
        let Some(group) = rest.strip_prefix('{') else {
            found.push((line, word(rest)));
            continue;
        };
        let mut depth = 0;
        let mut fresh = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => fresh = true,
                c if fresh && depth == 0 && c.is_alphabetic() => {
                    found.push((line, word(&group[at..])));
                    fresh = false;
                }
                _ => {}
            }
        }
    }
    found
}

/// Returns the layer of a file in `src` and the depth of its module.
fn layer_of(path: &Path) -> Option<(String, usize)> {
    let inner = path.strip_prefix("src").ok()?.with_extension("");
    let mut names: Vec<&str> = inner.iter().map(|name| name.to_str().unwrap()).collect();
    names.retain(|name| *name != "mod");
    (!["lib", "main"].contains(&names[0])).then(|| (names[0].to_owned(), names.len()))
}

#[test]
fn layers_import_only_lower_layers() {
    let layers = layers();
    let rank = |name: &str| layers.iter().position(|layer| layer == name);
    let mut wrong = Vec::new();
    let mut checked = 0;
    for path in files(Path::new("src")) {
        let Some((own, depth)) = layer_of(&path) else { continue };
        if is_test_only(&path) {
            continue;
        }
        let own_rank = rank(&own).unwrap_or_else(|| panic!("{own} is not in lib.rs"));
        let code = code(&path);
        for (line, other) in named_layers(&code) {
            checked += 1;
            if rank(&other).is_none_or(|other| other < own_rank) {
                wrong.push(format!("{}:{line}: {own} uses {other}", path.display()));
            }
        }
        if code.contains(&"super::".repeat(depth)) {
            wrong.push(format!("{}: super:: leads out of {own}; write crate::", path.display()));
        }
    }
    assert!(checked > 100, "only {checked} imports found");
    assert!(wrong.is_empty(), "imports that point up:\n{}", wrong.join("\n"));
}

#[test]
fn the_import_search_finds_every_form_of_import() {
    let code =
        "use crate::{api, hub::{Ring, x}, log};\n let _ = crate::wire::json(1);\n mycrate::x";
    let names: Vec<String> = named_layers(code).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["api", "hub", "log", "wire"]);
    assert_eq!(named_layers(code)[3].0, 2);
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<String> = rust()
        .into_iter()
        .map(|path| (text(&path).lines().count(), path))
        .filter(|(lines, _)| *lines > LINES_MAX)
        .map(|(lines, path)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "over {LINES_MAX}:\n{}", long.join("\n"));
}

#[test]
fn no_module_has_a_generic_name() {
    for path in rust() {
        for name in &path.with_extension("") {
            let generic = ["utils", "util", "common", "types", "helpers", "misc"];
            assert!(!generic.iter().any(|generic| name == *generic), "{}", path.display());
        }
    }
}

#[test]
fn no_code_is_unsafe() {
    let word = ["un", "safe"].concat();
    for path in rust() {
        let code = code(&path);
        let used = ["{", "fn", "impl", "trait", "extern"]
            .iter()
            .any(|next| code.contains(&format!("{word} {next}")));
        assert!(!used, "{}", path.display());
    }
}

/// Returns the quoted metric names in the code.
fn metrics() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in files(Path::new("src")) {
        for quoted in code(&path).split('"').skip(1).step_by(2) {
            let whole = quoted.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            if whole && (quoted.starts_with("streamgate_") || quoted.starts_with("process_")) {
                names.insert(quoted.to_owned());
            }
        }
    }
    names
}

#[test]
fn every_metric_is_documented() {
    let docs = text("docs/operations.md");
    let names = metrics();
    assert!(names.len() > 20, "only {names:?} found");
    let missing: Vec<_> =
        names.iter().filter(|name| !docs.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/operations.md has no {missing:?}");
    let known = |name: &str| names.contains(name);
    let rows = docs.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let gone: Vec<_> = rows
        .filter(|row| row.starts_with("streamgate_") || row.starts_with("process_"))
        .filter(|row| !known(row))
        .collect();
    assert!(gone.is_empty(), "docs/operations.md names {gone:?}, but the code does not");
}

#[test]
fn every_error_and_close_code_is_documented() {
    let docs = text("docs/protocol.md");
    let yes = |yes| if yes { "yes" } else { "no" };
    for code in problem::ALL {
        let (again, wrote) = (yes(code.retryable()), yes(code.may_have_committed()));
        let row = format!("| `{}` | {} | {again} | {wrote} |", code.slug(), code.status());
        assert!(docs.contains(&row), "docs/protocol.md has no row {row}");
    }
    for close in CloseCode::ALL {
        let row = format!("| {} | {} | {} |", close.code(), close.reason(), yes(close.reconnect()));
        assert!(docs.contains(&row), "docs/protocol.md has no row {row}");
    }
}

/// Returns every key in `config.toml` as `section.key`, including the keys in
/// comments.
fn keys() -> Vec<String> {
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in text("config.toml").lines() {
        if line.starts_with('[') {
            line.trim_matches(['[', ']']).clone_into(&mut section);
        }
        let line = line.strip_prefix("# ").unwrap_or(line);
        let key = line.split_once(" = ").map(|(key, _)| key);
        let is_key = |key: &&str| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        keys.extend(key.filter(is_key).map(|key| format!("{section}.{key}")));
    }
    keys
}

#[test]
fn every_configuration_key_is_documented() {
    let docs = text("docs/operations.md");
    let keys = keys();
    assert!(keys.len() > 30, "only {keys:?} found");
    let missing: Vec<_> =
        keys.iter().filter(|key| !docs.contains(&format!("| `{key}` |"))).collect();
    assert!(missing.is_empty(), "docs/operations.md has no {missing:?}");
}

/// Returns the anchors of a page. Forges derive them from the headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix(' '));
    let slug = |heading: &str| {
        let kept = heading.trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(slug).collect()
}

#[test]
fn every_cited_page_and_anchor_exists() {
    let mut wrong = Vec::new();
    let mut cited = 0;
    for path in files(Path::new("")) {
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        let beside = path.starts_with("docs");
        let start = if beside { "](" } else { "docs/" };
        for (at, _) in text.match_indices(start) {
            let rest = &text[at + start.len()..];
            let ends = |c: char| !(c.is_ascii_alphanumeric() || "._#-".contains(c));
            let reference = &rest[..rest.find(ends).unwrap_or(rest.len())];
            let reference = reference.trim_end_matches(['.', '-']);
            let (page, anchor) = reference.split_once('#').unwrap_or((reference, ""));
            let page = if beside && page.is_empty() {
                path.file_name().unwrap().to_str().unwrap()
            } else {
                page
            };
            if Path::new(page).extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            cited += 1;
            let found = fs::read_to_string(root().join("docs").join(page));
            let there =
                found.is_ok_and(|text| anchor.is_empty() || anchors(&text).contains(anchor));
            if !there {
                wrong.push(format!("{}: {reference}", path.display()));
            }
        }
    }
    assert!(cited > 30, "only {cited} references found");
    assert!(wrong.is_empty(), "cited but missing:\n{}", wrong.join("\n"));
}

#[test]
fn no_file_names_a_machine_path_or_a_registry() {
    // The names are split, so that this file passes the check.
    let names = [
        ["/ro", "ot/"],
        ["/wo", "rk/"],
        ["/tmp", "/wt"],
        ["/ho", "me/"],
        ["index.crates", ".io"],
        ["static.crates", ".io"],
        ["://crates", ".io"],
        ["npmjs", ".org"],
        ["pypi", ".org"],
        ["pythonhosted", ".org"],
        ["proxy.golang", ".org"],
    ]
    .map(|pieces| pieces.concat());
    let mut wrong = Vec::new();
    for path in files(Path::new("")) {
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        for name in names.iter().filter(|name| text.contains(name.as_str())) {
            wrong.push(format!("{}: {name}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
