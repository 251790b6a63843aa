//! The load generator is a workspace of its own, with the rules of the
//! gateway's workspace.

use std::fs;
use std::path::Path;

use toml::Table;

fn manifest(path: &str) -> Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    toml::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn lints_profiles_and_compiler_are_those_of_the_gateway() {
    let (own, gateway) = (manifest("Cargo.toml"), manifest("../Cargo.toml"));
    assert_eq!(own["lints"], gateway["workspace"]["lints"]);
    assert_eq!(own["profile"], gateway["profile"]);
    for key in ["edition", "rust-version", "license", "publish"] {
        assert_eq!(own["package"][key], gateway["package"][key], "{key}");
    }
}
