//! A configuration that is reloaded again and again under thousands of streams.
//! Valid files take effect, faulty files change nothing, and no stream is
//! disturbed.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::Deserialize;
use toml::Table;

use super::reload_files::{self, ExpectedState, FAULTS, GHOST};
use super::topic::{self, QUIET, TICKS};
use crate::feed::{Feed, FeedHandle, OnFailure};
use crate::gateway::Gateway;
use crate::http::Connection;
use crate::publisher::JSON;
use crate::report::figures::short;
use crate::report::proof_report::ProofReport;
use crate::subscriber_pool::SubscriberPool;

/// The size of the load.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Streams, over SSE, NDJSON and WebSocket in turn.
    streams: usize,
    /// Publishers, each with one event a request.
    publishers: usize,
    /// Events a second of each publisher.
    rate: f64,
    /// The size of an event's data, in bytes.
    bytes: usize,
    /// The number of SIGHUPs with a valid file. As many faulty files are
    /// between them.
    reloads: usize,
    /// Milliseconds between two SIGHUPs.
    pause_ms: u64,
}

/// The counter of files read, by `result`.
const RELOADS: &str = "streamgate_config_reloads_total";

/// The timeout for reading a file after SIGHUP.
const RELOAD_MAX: Duration = Duration::from_secs(5);

/// The timeout for the last events.
const REST_MAX: Duration = Duration::from_secs(20);

/// The size of a body between the small limit and the large limit, in bytes.
const PROBE_BYTES: usize = 16 * 1024;

/// The files after which the gateway differed from the last valid file.
#[derive(Default)]
struct Deviations {
    limits: Vec<String>,
    ranges: Vec<String>,
    collections: Vec<String>,
    unchecked: Vec<String>,
}

/// # Errors
/// If the proof cannot be carried to its end.
pub fn run(settings: &Settings, config: &Table) -> io::Result<ProofReport> {
    let gateway = Gateway::start(config)?;
    let mut pool = topic::mixed(&gateway, TICKS, settings.streams)?;
    let (address, rate, bytes) = (gateway.address(), settings.rate, settings.bytes);
    let feed =
        Feed { address, topic: TICKS, publisher: 0, rate, bytes, on_failure: OnFailure::Fail };
    let feeds = feed.start_all(settings.publishers)?;
    let pause = Duration::from_millis(settings.pause_ms);
    let (mut faults, begun) = (Deviations::default(), Instant::now());
    for number in 1..=settings.reloads {
        pool.read_until(pause, |_| false)?;
        let (table, expected) = reload_files::valid_file(config, number);
        let name = format!("valid file {number}");
        let is_valid = reload(&gateway, &mut pool, &reload_files::text(&table), "applied")
            .map_err(|error| io::Error::other(format!("{name}: {error}")))?;
        faults.note(&gateway, &name, &expected, is_valid)?;
        pool.read_until(pause, |_| false)?;
        let fault = &FAULTS[(number - 1) % FAULTS.len()];
        let file = reload_files::faulty_file(config, number + 1, fault);
        let is_valid = reload(&gateway, &mut pool, &file, "faulty")
            .map_err(|error| io::Error::other(format!("{}: {error}", fault.name)))?;
        faults.note(&gateway, fault.name, &expected, is_valid)?;
    }
    let took = begun.elapsed();
    let finish = |feed: FeedHandle| feed.finish().map(|result| result.acknowledged);
    let totals = feeds.into_iter().map(finish).collect::<io::Result<Vec<u64>>>()?;
    let expected = totals.iter().sum::<u64>() * settings.streams as u64;
    pool.read_until(REST_MAX, |pool| pool.stats.deliveries >= expected)?;
    let mut report = ProofReport::new();
    report.exactly("streams that ended", pool.ended() as u64, 0);
    let [lost, repeated, disordered, gaps, _] = pool.close(&totals).faults();
    let what = format!("of {expected} deliveries: lost, repeated, out of order, reported as gaps");
    report.exactly(what, lost + repeated + disordered + gaps, 0);
    for result in ["applied", "faulty"] {
        let what = format!("files counted as `{result}`");
        report.exactly(what, counted(&gateway, result)?, settings.reloads as u64);
    }
    let files = 2 * settings.reloads;
    faults.judge(files, &mut report);
    let row = vec![
        files.to_string(),
        short(took.as_secs_f64()),
        totals.iter().sum::<u64>().to_string(),
        FAULTS.iter().take(settings.reloads).map(|fault| fault.name).collect::<Vec<_>>().join(", "),
    ];
    report.table(
        &["reloads", "seconds", "events published meanwhile", "faults of the invalid files"],
        &[row],
    );
    Ok(report)
}

/// Replaces the file, sends SIGHUP and waits until the file is counted as
/// `result`. Returns whether `streamgate check` agrees.
fn reload(
    gateway: &Gateway,
    pool: &mut SubscriberPool,
    file: &[u8],
    result: &str,
) -> io::Result<bool> {
    let path = gateway.config_path();
    // By a rename, as anyone who changes a live configuration should do it.
    let next = path.with_extension("next");
    fs::write(&next, file)?;
    let is_valid = Gateway::check(&next)?;
    fs::rename(&next, &path)?;
    let before = counted(gateway, result)?;
    gateway.signal(Signal::HUP)?;
    let mut read = None;
    let mut checked_at = Instant::now();
    pool.read_until(RELOAD_MAX, |_| {
        if checked_at.elapsed() > Duration::from_millis(20) {
            checked_at = Instant::now();
            read = Some(counted(gateway, result));
        }
        matches!(read, Some(Ok(now)) if now > before)
    })?;
    match read {
        Some(Ok(now)) if now > before => Ok(is_valid == (result == "applied")),
        Some(Err(error)) => Err(error),
        _ => Err(io::Error::other(format!(
            "{RELOADS}{{result=\"{result}\"}} did not rise within {} s of SIGHUP; the gateway's last line: {}",
            RELOAD_MAX.as_secs(),
            gateway.last_log_line()?
        ))),
    }
}

fn counted(gateway: &Gateway, result: &str) -> io::Result<u64> {
    Ok(gateway.metrics()?.count(RELOADS, &[("result", result)]).unwrap_or(0))
}

impl Deviations {
    /// Checks that the gateway behaves as `expected` says.
    fn note(
        &mut self,
        gateway: &Gateway,
        name: &str,
        expected: &ExpectedState,
        is_checked: bool,
    ) -> io::Result<()> {
        let mut note = |to: fn(&mut Deviations) -> &mut Vec<String>, is_so: bool| {
            if !is_so {
                to(self).push(name.to_owned());
            }
        };
        note(|faults| &mut faults.unchecked, is_checked);
        let taken = expected.body_bytes > PROBE_BYTES as u64;
        let body = format!(r#"{{"type":"probe","data":"{}"}}"#, "x".repeat(PROBE_BYTES));
        let status = post(gateway, &format!("/events/{QUIET}"), body.as_bytes())?;
        note(|faults| &mut faults.limits, status == if taken { 201 } else { 413 });
        let retry = retry(gateway)?;
        let is_within = (expected.retry_ms[0]..=expected.retry_ms[1]).contains(&retry);
        note(|faults| &mut faults.ranges, is_within);
        let newest = reload_files::extra(expected.extras);
        let next = reload_files::extra(expected.extras + 1);
        let statuses = [
            (post(gateway, &format!("/{newest}"), b"{}")?, 201),
            (get(gateway, &format!("/{newest}"))?, 200),
            (get(gateway, &format!("/{next}"))?, 404),
            (get(gateway, &format!("/{GHOST}"))?, 404),
        ];
        let are_so = statuses.iter().all(|(found, expected)| found == expected);
        note(|faults| &mut faults.collections, are_so);
        Ok(())
    }

    fn judge(&self, files: usize, report: &mut ProofReport) {
        for (items, what, faults) in [
            (
                "reloads",
                "after which the body limit was not that of the last valid file",
                &self.limits,
            ),
            (
                "reloads",
                "after which `retry` was outside the range of the last valid file",
                &self.ranges,
            ),
            (
                "reloads",
                "after which a new collection was not served, or a collection of an invalid file was \
                 served",
                &self.collections,
            ),
            ("files", "that `streamgate check` judged differently", &self.unchecked),
        ] {
            let found = match faults.as_slice() {
                [] => "0".to_owned(),
                names => format!("{}: {}", names.len(), names.join(", ")),
            };
            report.check(format!("{items}, of {files}, {what}"), found, "0", faults.is_empty());
        }
    }
}

fn post(gateway: &Gateway, path: &str, body: &[u8]) -> io::Result<u16> {
    Ok(Connection::open(gateway.address())?.post(path, JSON, body)?.status)
}

fn get(gateway: &Gateway, path: &str) -> io::Result<u16> {
    Ok(Connection::open(gateway.address())?.get(path)?.status)
}

/// Returns the reconnect delay that a new SSE stream is sent, in milliseconds.
fn retry(gateway: &Gateway) -> io::Result<u64> {
    let mut socket = TcpStream::connect(gateway.address())?;
    socket.set_read_timeout(Some(RELOAD_MAX))?;
    let fields = "Accept: text/event-stream";
    let address = gateway.address();
    write!(socket, "GET /events/{QUIET} HTTP/1.1\r\nHost: {address}\r\n{fields}\r\n\r\n")?;
    for line in BufReader::new(socket).lines() {
        if let Some(pause) = line?.strip_prefix("retry: ") {
            return pause.parse().map_err(io::Error::other);
        }
    }
    Err(io::Error::other("the stream sent no `retry`"))
}
