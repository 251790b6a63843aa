//! This build opens stores that released versions wrote (`tests/fixtures`).

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use streamgate::store::{self, Store};
use tempfile::TempDir;

use crate::support::client::{post, request};
use crate::support::process::Process;

/// Folders of `tests/fixtures`.
const FIXTURES: [&str; 2] = ["store-0.1.0", "store-format-2"];

/// The configuration with which the fixtures were written. Retention therefore
/// has no event to trim.
const CONFIG: &str = "[[collections]]\nname = \"orders\"\nretention = { events = 12 }\n\
    [[topics]]\nname = \"audit\"\n";

/// The number of offsets that the log reserves together after the first event,
/// if commits are not synced.
const RESERVED_OFFSETS: u64 = 65_536;

/// A copy of a store and the recorded responses of its gateway.
struct Copy {
    _folder: TempDir,
    store: PathBuf,
    /// The requests and their responses.
    answers: Vec<Value>,
    /// The idempotent write.
    keyed: Value,
}

impl Copy {
    fn of(fixture: &str, name: &str) -> Copy {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture);
        let folder = tempfile::tempdir().unwrap();
        let archive = fixture.join(format!("{name}.tar.gz"));
        let mut tar = Command::new("tar");
        let status = tar.arg("-xzf").arg(archive).arg("-C").arg(folder.path()).status().unwrap();
        assert!(status.success(), "tar ended: {status}");
        let recorded = std::fs::read_to_string(fixture.join(format!("{name}.ndjson"))).unwrap();
        let mut answers: Vec<Value> =
            recorded.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let keyed = answers.pop().unwrap();
        assert!(answers.len() > 10, "only {} answers are recorded", answers.len());
        Copy { store: folder.path().join("store"), _folder: folder, answers, keyed }
    }

    /// Checks every resource with its entity tag, every event, and the earliest
    /// id.
    async fn reads_as_recorded(&self, process: &Process) {
        for recorded in &self.answers {
            let target = recorded["target"].as_str().unwrap();
            let accept = format!("accept: {}\r\n", recorded["accept"].as_str().unwrap());
            let answer = request(process.address, "GET", target, &accept, b"").await;
            assert_eq!(answer.status, recorded["status"], "{target}");
            assert_eq!(answer.header("etag"), recorded["etag"].as_str(), "{target}");
            let body = recorded["body"].as_str().unwrap();
            if answer.status < 400 {
                assert_eq!(answer.text(), body, "{target}");
            } else {
                // The title and the detail of a problem may change.
                let (found, was) = (answer.json(), serde_json::from_str::<Value>(body).unwrap());
                for member in ["type", "status", "earliest", "reason"] {
                    assert_eq!(found[member], was[member], "{target}: {member}");
                }
            }
        }
    }

    /// Checks that the store has the idempotent response. A response expires
    /// after a day. A gateway would delete the response of a fixture at its
    /// first tick, so the test reads the store directly.
    fn keeps_the_idempotent_answer(&self) {
        let text = |member: &str| self.keyed[member].as_str().unwrap();
        let mut hash = Sha256::new();
        for part in ["", text("method"), text("path"), text("key")] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let store = Store::open(&self.store).unwrap().store;
        let answer =
            store.answer(&hash.finalize().into()).unwrap().expect("the store has the response");
        let (_, offset) = offset(text("etag"));
        assert_eq!(answer.offset.0, offset);
        assert_eq!(answer.document.as_deref(), Some(text("body").as_bytes()));
        assert!(answer.created);
    }
}

/// Returns the epoch and the offset of an entity tag.
fn offset(etag: &str) -> (&str, u64) {
    let (epoch, offset) = etag.trim_matches('"').rsplit_once('-').unwrap();
    (epoch, offset.parse().unwrap())
}

fn is_sound(store: &Path) {
    assert_eq!(store::verify(store, |_, _| {}).unwrap().damage, Vec::<String>::new());
}

/// Returns the id of the newest event of the collection.
async fn head(process: &Process) -> String {
    let json = "accept: application/json\r\n";
    let page = request(process.address, "GET", "/orders/events?limit=1", json, b"").await;
    page.json()["meta"]["head"].as_str().unwrap().to_owned()
}

async fn opens_and_goes_on(name: &str, next: impl Fn(u64) -> u64) {
    for fixture in FIXTURES {
        let copy = Copy::of(fixture, name);
        is_sound(&copy.store);
        copy.keeps_the_idempotent_answer();
        let process = Process::start_on(CONFIG, &copy.store);
        copy.reads_as_recorded(&process).await;
        let was = head(&process).await;
        let (epoch, newest) = offset(&was);
        post(process.address, "/orders", r#"{"id":"order-new"}"#).await;
        assert_eq!(head(&process).await, format!("{epoch}-{}", next(newest)));
        drop(process);
        is_sound(&copy.store);
    }
}

#[tokio::test]
async fn a_store_of_each_release_opens_and_accepts_writes() {
    opens_and_goes_on("clean", |newest| newest + 1).await;
}

#[tokio::test]
async fn a_killed_store_of_each_release_continues_after_the_reserved_offsets() {
    opens_and_goes_on("unclean", |_| 1 + RESERVED_OFFSETS + 1).await;
}
