//! A measurement from end to end: the generator against its own baseline.

use std::fs;
use std::process::Command;

#[test]
fn the_baseline_delivers_everything_in_every_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let scenarios = folder.path().join("loadtest/scenarios");
    fs::create_dir_all(&scenarios).unwrap();
    let targets = include_str!("../targets.toml");
    fs::write(folder.path().join("loadtest/targets.toml"), targets).unwrap();
    for protocol in ["sse", "ndjson", "ws"] {
        let scenario = format!(
            "about = \"a few\"\ntargets = [\"baseline\", \"nchan\"]\nrepeats = 1\nwarm_up = 1\n[measure]\n\
             kind = \"fanout\"\nprotocol = \"{protocol}\"\nsubscribers = 5\nbytes = 64\n\
             events = 40\nbatch = 4\npublishers = 2\n"
        );
        fs::write(scenarios.join(format!("{protocol}.toml")), scenario).unwrap();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .arg("run")
        .current_dir(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{error}");
    let whole = |line: &&str| line.starts_with("| baseline |") && line.ends_with("0, 0, 0, 0, 0 |");
    assert_eq!(said.lines().filter(whole).count(), 3, "{said}{error}");
    let left_out = said.lines().filter(|line| line.ends_with("not installed: nchan."));
    assert_eq!(left_out.count(), 3, "{said}");
}
