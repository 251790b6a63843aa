//! Whole runs of the load generator, against its own baseline.

use std::fs;
use std::process::{Command, Output};

use tempfile::TempDir;

const LOADTEST: &str = env!("CARGO_BIN_EXE_loadtest");

/// A folder like the project's, with small fan-out scenarios.
fn project(targets: &str, protocols: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let scenarios = folder.path().join("loadtest/scenarios");
    fs::create_dir_all(&scenarios).unwrap();
    // The baseline speaks every protocol of the gateway.
    let file = include_str!("../targets.toml");
    let (_, others) = file.split_once("[baseline]").unwrap();
    let baseline = "command = [\"{loadtest}\", \"baseline\"]\npublish = \"/events/ticks\"\n\
                    sse = \"/events/ticks\"\nndjson = \"/events/ticks\"\nws = \"/events/ticks/ws\"\n";
    let file = format!("[gateway]\n{baseline}[baseline]{others}");
    fs::write(folder.path().join("loadtest/targets.toml"), file).unwrap();
    for protocol in protocols {
        let scenario = format!(
            "about = \"a few\"\ntargets = {targets}\nreport = \"page.md\"\nrepeats = 1\n\
             warm_up = 1\n[measure]\nkind = \"fanout\"\nprotocol = \"{protocol}\"\n\
             subscribers = 5\nbytes = 64\nevents = 40\nbatch = 4\npublishers = 2\n"
        );
        fs::write(scenarios.join(format!("{protocol}.toml")), scenario).unwrap();
    }
    folder
}

fn run(folder: &TempDir, arguments: &[&str]) -> Output {
    let mut command = Command::new(LOADTEST);
    command.arg("run").args(arguments).current_dir(folder.path()).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn the_baseline_delivers_everything_in_every_protocol() {
    let folder = project("[\"baseline\", \"nchan\"]", &["sse", "ndjson", "ws"]);
    let output = run(&folder, &[]);
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    let whole = |line: &&str| line.starts_with("| baseline |") && line.ends_with("0, 0, 0, 0, 0 |");
    assert_eq!(text.lines().filter(whole).count(), 3, "{text}");
    let left_out = text.lines().filter(|line| line.ends_with("not installed: nchan."));
    assert_eq!(left_out.count(), 3, "{text}");
}

#[test]
fn another_build_is_measured_in_the_same_rounds() {
    let folder = project("[\"gateway\", \"baseline\", \"nchan\"]", &["sse"]);
    let output = run(&folder, &["sse", "--repeats", "2", "--beside", LOADTEST]);
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    for expected in [
        "| beside |",
        "| gateway / beside | round 1 | round 2 | median | least | most | verdict |",
        "\nVerdict: none, since 2 rounds are fewer than 9; so far ",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(!text.contains("nchan"), "peers are left out: {text}");
    let output = run(&folder, &["sse", "--targets", "baseline", "--beside", LOADTEST]);
    assert!(!output.status.success());
}

#[test]
fn a_section_is_not_replaced_by_one_that_lacks_targets() {
    let folder = project("[\"baseline\", \"nchan\"]", &["sse"]);
    let page = folder.path().join("page.md");
    let before = "# Page\n\n## sse\n\n| nchan | 5 |\n";
    fs::write(&page, before).unwrap();
    let output = run(&folder, &["sse", "--report"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("was not replaced, since the new one lacks nchan"));
    assert_eq!(fs::read_to_string(&page).unwrap(), before);
    assert!(run(&folder, &["sse", "--report", "--partial"]).status.success());
    assert!(fs::read_to_string(&page).unwrap().contains("| baseline |"));
    assert!(folder.path().join("charts/sse.svg").exists());
}
