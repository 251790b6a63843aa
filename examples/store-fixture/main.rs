//! Makes the store fixtures of one release. The program sends requests to a real
//! gateway, records the responses, stops the gateway, and packs its store.
//!
//! ```text
//! cargo build --locked --bin streamgate
//! cargo run --locked --example store-fixture -- target/debug/streamgate tests/fixtures/store-0.1.0
//! ```
//!
//! `clean` syncs each commit and is stopped with SIGTERM. `unclean` never syncs
//! and is killed, so its logs have offsets that stay reserved.

mod gateway;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gateway::{Answer, Gateway};
use serde_json::{Value, json};

/// Any error that ends the program. A person reads its message.
type Failure = Box<dyn std::error::Error>;

/// The number of events that the collection keeps.
const KEPT_EVENTS: usize = 12;
/// The longest wait for retention.
const PATIENCE: Duration = Duration::from_secs(20);

const KEY: &str = "first";
const KEYED_BODY: &str = r#"{"id":"order-keyed","total":1.50}"#;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(program), Some(target)) = (arguments.next(), arguments.next()) else {
        return Err(
            "the arguments must be the streamgate program and the folder of the fixture".into()
        );
    };
    std::fs::create_dir_all(&target)?;
    for (name, sync) in [("clean", "always"), ("unclean", "never")] {
        let folder = tempfile::tempdir()?;
        let gateway = Gateway::start(&program, folder.path(), sync, KEPT_EVENTS)?;
        write(&gateway)?;
        let lines = record(&gateway)?;
        if name == "clean" {
            gateway.stop()?;
        } else {
            gateway.kill()?;
        }
        std::fs::write(target.join(format!("{name}.ndjson")), lines)?;
        pack(folder.path(), &target.join(format!("{name}.tar.gz")))?;
    }
    Ok(())
}

/// Writes every kind of record, and more events than the collection keeps.
fn write(gateway: &Gateway) -> Result<(), Failure> {
    let order = |n: usize| json!({"id": format!("order-{n}"), "status": "CREATED", "total": n});
    for n in 1..=8 {
        gateway.write("POST", "/orders", &order(n).to_string())?;
    }
    gateway.write("PUT", "/orders/order-2", r#"{"status":"PAID","note":"zażółć 🎏"}"#)?;
    gateway.write("PATCH", "/orders/order-3", r#"{"status":null,"lines":[1,2.50,1e3]}"#)?;
    let shipped = json!({"type": "order-shipped", "data": {"carrier": "x", "status": "SHIPPED"}});
    gateway.write("POST", "/orders/order-1/events", &shipped.to_string())?;
    gateway.write("POST", "/orders/order-1/events?merge=false", &shipped.to_string())?;
    gateway.write("DELETE", "/orders/order-4", "")?;
    gateway.write("PUT", "/orders/order-5", &json!({"note": "x".repeat(4000)}).to_string())?;
    let key = format!("idempotency-key: {KEY}\r\n");
    gateway.request("POST", "/orders", &key, KEYED_BODY)?.expect(201)?;
    for n in 1..=3 {
        let body = json!({"total": n}).to_string();
        gateway.write("PATCH", "/orders/order-6", &body)?;
    }
    for n in 1..=4 {
        let mut event = json!({"type": "seen", "data": {"n": n}});
        if n % 2 == 0 {
            event["subject"] = "camera-1".into();
        }
        gateway.write("POST", "/events/audit", &event.to_string())?;
    }
    let deadline = Instant::now() + PATIENCE;
    while kept(gateway)? != KEPT_EVENTS {
        if Instant::now() > deadline {
            return Err("retention did not trim the collection in time".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Returns the number of events in the collection.
fn kept(gateway: &Gateway) -> Result<usize, Failure> {
    let page = gateway.get("/orders/events?limit=1000", "application/json")?;
    let page: Value = serde_json::from_str(&page.body)?;
    Ok(page["data"].as_array().map_or(0, Vec::len))
}

/// Returns each request that a test repeats with its response, one on each line.
fn record(gateway: &Gateway) -> Result<String, Failure> {
    let json = "application/json";
    let head = gateway.get("/orders/events?limit=1", json)?;
    let head: Value = serde_json::from_str(&head.body)?;
    let head = head["meta"]["head"].as_str().ok_or("the page has no head")?.to_owned();
    let (epoch, _) = head.rsplit_once('-').ok_or("the id has no epoch")?;
    let mut targets = vec![
        ("/orders?size=1000".to_owned(), json),
        ("/orders/stream".to_owned(), "application/x-ndjson"),
        ("/orders/events?limit=1000".to_owned(), json),
        // The events after this position are trimmed, so the response is 410
        // with the earliest position.
        (format!("/orders/events?after={epoch}-0"), json),
        ("/orders/order-1/events".to_owned(), json),
        ("/events/audit?limit=1000".to_owned(), json),
    ];
    targets.extend((1..=8).map(|n| (format!("/orders/order-{n}"), json)));
    targets.push(("/orders/order-keyed".to_owned(), json));
    let mut lines = Vec::new();
    for (target, accept) in targets {
        let Answer { status, etag, body } = gateway.get(&target, accept)?;
        let line = json!({
            "target": target, "accept": accept, "status": status, "etag": etag, "body": body,
        });
        lines.push(line.to_string());
    }
    let keyed = gateway.get("/orders/order-keyed", json)?;
    let line = json!({
        "method": "POST", "path": "/orders", "key": KEY, "sent": KEYED_BODY,
        "etag": keyed.etag, "body": keyed.body,
    });
    lines.push(line.to_string());
    Ok(lines.join("\n") + "\n")
}

/// Packs the folder `store`. Journals are created at their full size and consist
/// mostly of holes. A sparse archive omits the holes.
fn pack(folder: &Path, archive: &Path) -> Result<(), Failure> {
    let mut tar = Command::new("tar");
    tar.args(["--sparse", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "-czf"]);
    let status = tar.arg(archive).arg("-C").arg(folder).arg("store").status()?;
    if status.success() { Ok(()) } else { Err(format!("tar ended: {status}").into()) }
}
