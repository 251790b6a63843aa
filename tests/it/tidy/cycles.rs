//! Import cycles between the files of a layer.
//!
//! A file imports another file if one of its paths resolves to that file. A name
//! that a module imports or re-exports resolves to the file that defines the
//! name. The re-exports of a `mod.rs` therefore make no cycle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{code, files, is_test_only};

/// The most files in one cycle, by layer. Lower a number once it holds; the
/// aim is 4.
const FILES_MAX: [(&str, usize); 6] =
    [("api", 0), ("hub", 4), ("log", 2), ("deliver", 1), ("store", 7), ("wire", 2)];

/// A name that `use` brings into scope.
struct Import {
    path: Vec<String>,
    name: String,
    is_reexport: bool,
}

struct Module {
    file: PathBuf,
    imports: Vec<Import>,
    /// The paths in the rest of the code, including single names.
    paths: BTreeSet<Vec<String>>,
}

/// The files of a crate by module.
struct Modules(BTreeMap<Vec<String>, Module>);

impl Modules {
    fn read(files: impl IntoIterator<Item = (PathBuf, String)>) -> Modules {
        let module = |(file, code): (PathBuf, String)| {
            let inner = file.strip_prefix("src").unwrap().with_extension("");
            let mut names: Vec<String> =
                inner.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
            names.retain(|name| name != "mod" && name != "lib");
            let (imports, paths) = parse(&code);
            (names, Module { file, imports, paths })
        };
        Modules(files.into_iter().map(module).collect())
    }

    /// Resolves `path` in the module `from`. Returns the module whose file
    /// defines the item, or `None` if the item is in another crate.
    fn resolve(&self, from: &[String], path: &[String]) -> Option<Vec<String>> {
        let (mut at, mut rest) = match path[0].as_str() {
            "crate" => (Vec::new(), &path[1..]),
            "self" => (from.to_vec(), &path[1..]),
            "super" => (from[..from.len().checked_sub(1)?].to_vec(), &path[1..]),
            name if self.is_child(from, name) => (from.to_vec(), path),
            name => {
                let import = self.import(from, name)?;
                return self.resolve(from, &[import, &path[1..]].concat());
            }
        };
        while let Some((name, after)) = rest.split_first() {
            match name.as_str() {
                "super" => drop(at.pop()),
                "self" => {}
                name if self.is_child(&at, name) => at.push(name.to_owned()),
                // The name of an item that this file defines or imports.
                name => {
                    let Some(import) = self.import(&at, name) else { return Some(at) };
                    return self.resolve(&at, &[import, after].concat());
                }
            }
            rest = after;
        }
        Some(at)
    }

    fn is_child(&self, of: &[String], name: &str) -> bool {
        self.0.contains_key(&[of, &[name.to_owned()]].concat())
    }

    fn import(&self, module: &[String], name: &str) -> Option<&[String]> {
        let imports = &self.0.get(module)?.imports;
        let import = imports.iter().find(|import| import.name == name && import.path[0] != name);
        import.map(|import| import.path.as_slice())
    }

    /// Returns for each file of `layer` the files of `layer` that it imports.
    fn graph(&self, layer: &str) -> BTreeMap<&Path, BTreeSet<&Path>> {
        let of_layer = |names: &[String]| names.first().is_some_and(|name| name == layer);
        let mut graph = BTreeMap::new();
        for (names, module) in self.0.iter().filter(|(names, _)| of_layer(names)) {
            // A re-export does not count as an import, unless the file uses the
            // name.
            let imports = module.imports.iter().filter(|import| !import.is_reexport);
            let imports = imports.map(|import| &import.path);
            let targets = imports.chain(&module.paths).filter_map(|path| {
                let found = self.resolve(names, path).filter(|found| of_layer(found))?;
                let file = self.0.get(&found)?.file.as_path();
                (file != module.file).then_some(file)
            });
            graph.insert(module.file.as_path(), targets.collect());
        }
        graph
    }
}

/// Returns the largest set of files in which each file reaches all others.
fn largest_cycle<'a>(graph: &BTreeMap<&'a Path, BTreeSet<&'a Path>>) -> BTreeSet<&'a Path> {
    let reached = |from: &'a Path| {
        let (mut seen, mut waiting) = (BTreeSet::new(), vec![from]);
        while let Some(file) = waiting.pop() {
            for &next in graph.get(file).into_iter().flatten() {
                if seen.insert(next) {
                    waiting.push(next);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&Path, BTreeSet<&Path>> =
        graph.keys().map(|&file| (file, reached(file))).collect();
    let cycle = |file: &&'a Path| -> BTreeSet<&'a Path> {
        reached[file].iter().filter(|other| reached[*other].contains(file)).copied().collect()
    };
    graph.keys().map(cycle).max_by_key(BTreeSet::len).unwrap_or_default()
}

/// Returns the imports of a file and the other paths in the file.
fn parse(code: &str) -> (Vec<Import>, BTreeSet<Vec<String>>) {
    let (mut imports, mut other) = (Vec::new(), String::new());
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let line = line.trim_start();
        let visibility = match line.strip_prefix("pub") {
            Some(rest) if rest.starts_with('(') => rest.split_once(") ").map(|(_, rest)| rest),
            Some(rest) => rest.strip_prefix(' '),
            None => None,
        };
        let Some(first) = visibility.unwrap_or(line).strip_prefix("use ") else {
            // `pub(in path)` says who may use the item, and uses nothing of the path.
            let start = line.find("pub(in ").unwrap_or(line.len());
            let end = line[start..].find(')').map_or(line.len(), |length| start + length);
            other.push_str(&line[..start]);
            other.push_str(&line[end..]);
            other.push('\n');
            continue;
        };
        let mut tree = first.to_owned();
        while !tree.contains(';') {
            tree.push_str(lines.next().unwrap());
        }
        expand(&[], tree.trim_end().trim_end_matches(';'), &mut |path, name| {
            let is_reexport = visibility.is_some();
            imports.push(Import { path, name, is_reexport });
        });
    }
    (imports, paths(&other))
}

/// Calls `found` with each path of a `use` tree below `prefix` and its name.
fn expand(prefix: &[String], tree: &str, found: &mut impl FnMut(Vec<String>, String)) {
    let tree = tree.trim().trim_start_matches("::");
    if let Some((head, group)) = tree.split_once('{') {
        let prefix = [prefix, &segments(head)].concat();
        let group = group.trim_end().strip_suffix('}').unwrap();
        let (mut depth, mut start) = (0, 0);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    expand(&prefix, &group[start..at], found);
                    start = at + 1;
                }
                _ => {}
            }
        }
        return expand(&prefix, &group[start..], found);
    }
    let (path, name) = tree.split_once(" as ").unwrap_or((tree, ""));
    let path = [prefix, &segments(path)].concat();
    let named = path.iter().rev().find(|segment| *segment != "self");
    let Some(last) = named.filter(|_| !tree.is_empty()) else { return };
    let name = if name.is_empty() { last.clone() } else { name.trim().to_owned() };
    found(path, name);
}

fn segments(path: &str) -> Vec<String> {
    let segments = path.split("::").map(str::trim).filter(|segment| !segment.is_empty());
    segments.map(str::to_owned).collect()
}

/// Returns the paths in code without imports. A name after a dot is not a path.
fn paths(code: &str) -> BTreeSet<Vec<String>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = BTreeSet::new();
    let mut rest = code;
    while let Some(start) = rest.find(is_word) {
        let skipped = &rest[..start];
        let chain = &rest[start..];
        // A path consists of words with `::` between them.
        let is_path = |at: usize, c: char| {
            let joins = chain[at..].starts_with("::") && chain[at + 2..].starts_with(is_word);
            is_word(c) || joins || c == ':' && chain[..at].ends_with(':')
        };
        let end = chain.char_indices().find(|&(at, c)| !is_path(at, c));
        let end = end.map_or(chain.len(), |(at, _)| at);
        let path = segments(&chain[..end]);
        // Keywords on their own are not paths: `pub(super)`, `self.ring`.
        let is_word_only =
            ["crate", "super", "self"].contains(&path[0].as_str()) && path.len() == 1;
        if !skipped.ends_with(['.', '\'']) && !skipped.ends_with("::") && !is_word_only {
            found.insert(path);
        }
        rest = &chain[end..];
        if &chain[..end] == "mod" {
            // `mod name;` declares a module and does not use it.
            rest = rest.trim_start().trim_start_matches(is_word);
        }
    }
    found
}

fn modules() -> Modules {
    let files = files(Path::new("src")).into_iter().filter(|path| !is_test_only(path));
    Modules::read(files.map(|path| (path.clone(), code(&path))))
}

#[test]
fn import_cycles_do_not_grow() {
    let modules = modules();
    for (layer, files_max) in FILES_MAX {
        let graph = modules.graph(layer);
        assert!(graph.len() > 3, "{layer} has only {graph:?}");
        let cycle = largest_cycle(&graph);
        let edges = |file: &&Path| {
            let to: Vec<_> = graph[*file].intersection(&cycle).map(|to| to.display()).collect();
            format!("{} imports {to:?}", file.display())
        };
        let files: Vec<String> = cycle.iter().map(edges).collect();
        assert!(
            cycle.len() <= files_max,
            "{layer}: a cycle of {} files, at most {files_max}:\n{}",
            cycle.len(),
            files.join("\n")
        );
    }
}

#[test]
fn the_cycle_search_resolves_every_form_of_path() {
    let files = [
        (
            "src/a/mod.rs",
            "mod b;\nmod c;\npub(super) mod d;\npub use b::{B, deep::Deep};\nuse c::C;\nfn f(_: C) {}",
        ),
        (
            "src/a/b.rs",
            "mod deep;\nuse super::C;\nuse crate::a::d::{self, D as E};\npub(super) struct B;",
        ),
        ("src/a/b/deep.rs", "pub(in crate::a) struct Deep;\nfn f() { super::super::c::f() }"),
        ("src/a/c.rs", "use std::fmt;\nstruct C;\nfn f() { crate::a::Deep::new() }"),
        ("src/a/d.rs", "use super::{\n    B,\n    c,\n};\nfn f() { c::f(); self::g() }"),
    ];
    let modules = Modules::read(files.map(|(file, code)| (file.into(), code.to_owned())));
    let graph = modules.graph("a");
    let of = |file: &str| {
        let imports = graph[Path::new(file)].iter();
        imports.map(|it| it.to_str().unwrap().strip_prefix("src/a/").unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(of("src/a/mod.rs"), ["c.rs"], "a re-export is not an import");
    assert_eq!(of("src/a/b.rs"), ["c.rs", "d.rs"]);
    assert_eq!(of("src/a/b/deep.rs"), ["c.rs"]);
    assert_eq!(of("src/a/c.rs"), ["b/deep.rs"], "the file that defines the re-exported name");
    assert_eq!(of("src/a/d.rs"), ["b.rs", "c.rs"]);
    let cycle: Vec<_> = largest_cycle(&graph).into_iter().collect();
    assert_eq!(cycle, ["src/a/b.rs", "src/a/d.rs"].map(Path::new));
}
