//! Debian's `slowhttptest` against the gateway's deadlines, beside a
//! good client.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Deserialize;
use toml::Table;

use crate::clock::{self, Pace};
use crate::gateway::Gateway;
use crate::gateway_config;
use crate::http::Connection;
use crate::latency;
use crate::program;
use crate::publisher;
use crate::report::figures::median;
use crate::report::figures::short;
use crate::report::proof_report::ProofReport;

/// The size of the load, and the bounds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Connections of each attack.
    connections: u64,
    /// The number of requests a second of the good client.
    probe_rate: f64,
    /// Seconds for which the client is timed before an attack: alone, and while
    /// the tool attacks another listener.
    calm_secs: f64,
    /// The most that the client's p99 during an attack may be, as a multiple of
    /// that while the tool attacks another listener. For the median of the
    /// rounds.
    p99_times_max: f64,
    /// A p99 below this is due to the scheduler and is not compared.
    p99_ms_free: f64,
    rounds: usize,
    /// The time after its limit for which an attacker may stay connected, in seconds.
    grace_secs: f64,
    /// The number of resources of the collection that is read slowly.
    resources: u64,
    /// The size of a resource, in bytes.
    bytes: usize,
    /// The attacks, one after the other.
    attacks: Vec<Attack>,
}

/// One run of `slowhttptest`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Attack {
    name: String,
    /// The flags, except `-c`, `-r`, `-l` and `-u`.
    flags: Vec<String>,
    /// The path to attack.
    path: String,
    /// The key of the limit that ends the attack.
    limit: String,
}

const PROGRAM: &str = "slowhttptest";

/// A collection of the default configuration.
const COLLECTION: &str = "orders";

/// The timeout for all attackers to connect.
const ARRIVAL_MAX: Duration = Duration::from_secs(20);

/// The time after its limit for which an attack is watched.
const WATCH_MAX: Duration = Duration::from_secs(20);

/// The time between two scrapes.
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// The connection of the good client.
const PROBE_CONNECTIONS: u64 = 1;

/// The result of one round of an attack.
struct AttackRound {
    /// The largest number of open connections.
    most: u64,
    /// The time from the last connect until all connections were closed. `None` if some stayed open.
    gone: Option<Duration>,
    /// Latencies of the client: alone, while the tool attacks another listener,
    /// and during the attack.
    latencies: [hdrhistogram::Histogram<u64>; 3],
    failures: u64,
}

/// # Errors
/// If the proof cannot be carried to its end.
pub fn run(settings: &Settings, config: &Table) -> io::Result<ProofReport> {
    program::find(PROGRAM)?;
    let gateway = Gateway::start(config)?;
    let resource = fill(settings, gateway.address())?;
    let mut report = ProofReport::new();
    let mut rows = Vec::new();
    for attack in &settings.attacks {
        eprintln!("  {}", attack.name);
        let limit = gateway_config::duration(config, &attack.limit)?;
        let round = |_| withstand(settings, &gateway, attack, limit, &resource);
        let rounds = (0..settings.rounds).map(round).collect::<io::Result<Vec<_>>>()?;
        judge(settings, attack, limit, &rounds, &mut report);
        let mut row = vec![
            attack.name.clone(),
            format!("`{PROGRAM} {}`", attack.flags.join(" ")),
            format!("`{}` {} s", attack.limit, short(limit.as_secs_f64())),
        ];
        for phase in 0..3 {
            let ms = |quantile| {
                median(rounds.iter().map(|seen| latency::ms(&seen.latencies[phase], quantile)))
            };
            row.push([0.5, 0.99, 1.0].map(|quantile| short(ms(quantile))).join(", "));
        }
        rows.push(row);
    }
    let heads = [
        "attack",
        "flags",
        "ended by",
        "good client alone: p50, p99, max ms",
        "good client beside the tool: p50, p99, max ms",
        "good client during the attack: p50, p99, max ms",
    ];
    report.table(&heads, &rows);
    Ok(report)
}

/// Creates the collection and returns the path of one resource.
fn fill(settings: &Settings, address: SocketAddr) -> io::Result<String> {
    let filling = "x".repeat(settings.bytes);
    let line = |n: u64| format!("{{\"id\":\"{COLLECTION}-{n}\",\"note\":\"{filling}\"}}\n");
    let body: String = (1..=settings.resources).map(line).collect();
    let fields = "Content-Type: application/x-ndjson\r\nPrefer: return=minimal\r\n";
    let path = format!("/{COLLECTION}");
    publisher::expect_success(Connection::open(address)?.post(&path, fields, body.as_bytes())?)?;
    Ok(format!("{path}/{COLLECTION}-1"))
}

fn withstand(
    settings: &Settings,
    gateway: &Gateway,
    attack: &Attack,
    limit: Duration,
    resource: &str,
) -> io::Result<AttackRound> {
    let probe = ProbeClient::start(gateway.address(), resource, settings.probe_rate)?;
    let calm = Duration::from_secs_f64(settings.calm_secs);
    std::thread::sleep(calm);
    let log = gateway.config_path().with_file_name("slowhttptest.log");
    let sink = SinkServer::start()?;
    let busy = clock::now();
    let attackers = AttackTool::start(settings.connections, attack, sink.address, &log)?;
    std::thread::sleep(calm);
    drop((attackers, sink));
    let begun = clock::now();
    let attackers = AttackTool::start(settings.connections, attack, gateway.address(), &log)?;
    let (most, gone) = watch(gateway, limit, settings.connections)?;
    let ended = clock::now();
    drop(attackers);
    let result = probe.finish()?;
    let phases = [(0, busy), (busy, begun), (begun, ended)];
    let latencies = phases.map(|(from, to)| latency::from_values(result.within(from, to)));
    Ok(AttackRound { most, gone, latencies, failures: result.failures })
}

/// Watches how many connections are open. Returns the most at once, and the
/// time from the last connect until all are closed.
fn watch(
    gateway: &Gateway,
    limit: Duration,
    connections: u64,
) -> io::Result<(u64, Option<Duration>)> {
    let (begun, mut most, mut arrived) = (Instant::now(), 0, Instant::now());
    loop {
        let open = gateway.metrics()?.count("streamgate_tcp_connections_open", &[]).unwrap_or(0);
        let attackers = open.saturating_sub(PROBE_CONNECTIONS);
        if attackers > most {
            (most, arrived) = (attackers, Instant::now());
        }
        let have_come = most >= least(connections);
        if have_come && attackers == 0 {
            return Ok((most, Some(arrived.elapsed())));
        }
        let patience = if have_come { limit + WATCH_MAX } else { ARRIVAL_MAX };
        if begun.elapsed() > patience {
            return Ok((most, None));
        }
        std::thread::sleep(CHECK_EVERY);
    }
}

fn judge(
    settings: &Settings,
    attack: &Attack,
    limit: Duration,
    rounds: &[AttackRound],
    to: &mut ProofReport,
) {
    let named = |what: &str| format!("{}: {what}", attack.name);
    let least = least(settings.connections);
    let most = rounds.iter().map(|seen| seen.most).min().unwrap_or(0);
    to.check(
        named("open connections at the peak"),
        most.to_string(),
        format!("≥ {least}"),
        most >= least,
    );
    let bound = limit.as_secs_f64() + settings.grace_secs;
    let gone: Option<Vec<f64>> =
        rounds.iter().map(|seen| seen.gone.map(|gone| gone.as_secs_f64())).collect();
    let gone = gone.map(|secs| secs.into_iter().fold(0.0, f64::max));
    to.check(
        named("time from the arrival of the last connection until all are closed"),
        gone.map_or("still open".to_owned(), |secs| format!("{} s", short(secs))),
        format!("≤ {} s", short(bound)),
        gone.is_some_and(|secs| secs <= bound),
    );
    let p99 = |seen: &AttackRound, phase: usize| latency::ms(&seen.latencies[phase], 0.99);
    let during = median(rounds.iter().map(|seen| p99(seen, 2)));
    let times = median(rounds.iter().map(|seen| p99(seen, 2) / p99(seen, 1)));
    to.check(
        named("p99 of the good client, relative to its p99 beside the tool"),
        format!("{} ({} ms)", short(times), short(during)),
        format!("≤ {}, or {} ms", short(settings.p99_times_max), short(settings.p99_ms_free)),
        times <= settings.p99_times_max || during <= settings.p99_ms_free,
    );
    to.exactly(
        named("failed requests of the good client"),
        rounds.iter().map(|s| s.failures).sum(),
        0,
    );
}

/// Returns how many of an attack's connections must have been open at once.
/// Fewer would show nothing.
fn least(connections: u64) -> u64 {
    connections * 9 / 10
}

/// The tool. Dropping it kills the process. It polls without a pause, so it
/// runs at the lowest priority, to leave the processors to the gateway and the
/// client.
struct AttackTool(Child);

impl AttackTool {
    fn start(
        connections: u64,
        attack: &Attack,
        address: SocketAddr,
        log: &Path,
    ) -> io::Result<AttackTool> {
        let log = File::create(log)?;
        let connections = connections.to_string();
        let child = program::command("nice")?
            .args(["-n", "19", PROGRAM])
            .args(&attack.flags)
            .args(["-c", &connections, "-r", &connections, "-l", "240"])
            .args(["-u", &format!("http://{address}{}", attack.path)])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(AttackTool(child))
    }
}

impl Drop for AttackTool {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The listener that the tool attacks before the gateway. It accepts
/// connections and does nothing with them. What the tool costs the machine is
/// then part of both times.
struct SinkServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl SinkServer {
    fn start() -> io::Result<SinkServer> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, stop) = (listener.local_addr()?, Arc::new(AtomicBool::new(false)));
        listener.set_nonblocking(true)?;
        let stopped = stop.clone();
        std::thread::Builder::new().name("sink".to_owned()).spawn(move || {
            let mut taken = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((socket, _)) => taken.push(socket),
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        })?;
        Ok(SinkServer { address, stop })
    }
}

impl Drop for SinkServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The good client: one keep-alive connection, one request at a time.
struct ProbeClient {
    thread: Option<JoinHandle<ProbeResult>>,
    stop: Arc<AtomicBool>,
}

#[derive(Default)]
struct ProbeResult {
    /// The due time of each request, and the time from then until its response,
    /// in nanoseconds.
    answered: Vec<(u64, u64)>,
    failures: u64,
}

impl ProbeClient {
    fn start(address: SocketAddr, path: &str, rate: f64) -> io::Result<ProbeClient> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, path) = (stop.clone(), path.to_owned());
        let run = move || {
            let (mut pace, mut result, mut connection) =
                (Pace::new(rate), ProbeResult::default(), None);
            while !stopped.load(Ordering::Relaxed) {
                let due = pace.wait();
                match ask(&mut connection, address, &path) {
                    Ok(()) => result.answered.push((due, clock::now().saturating_sub(due))),
                    Err(error) => {
                        eprintln!("  the good client: {error}");
                        result.failures += 1;
                    }
                }
            }
            result
        };
        let thread = std::thread::Builder::new().name("probe".to_owned()).spawn(run)?;
        Ok(ProbeClient { thread: Some(thread), stop })
    }

    fn finish(mut self) -> io::Result<ProbeResult> {
        self.stop.store(true, Ordering::Relaxed);
        let done = self.thread.take().map_or_else(|| Ok(ProbeResult::default()), JoinHandle::join);
        done.map_err(|_| io::Error::other("the good client panicked"))
    }
}

impl Drop for ProbeClient {
    /// After an attack that failed, the client must not go on beside the next
    /// one.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn ask(connection: &mut Option<Connection>, address: SocketAddr, path: &str) -> io::Result<()> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open(address)?,
    };
    let response = open.get(path)?;
    if !response.is_success() {
        return Err(io::Error::other(format!("the response has status {}", response.status)));
    }
    *connection = (!response.closes).then_some(open);
    Ok(())
}

impl ProbeResult {
    fn within(&self, from: u64, to: u64) -> impl Iterator<Item = u64> {
        let within = move |(due, _): &&(u64, u64)| (from..to).contains(due);
        self.answered.iter().filter(within).map(|(_, took)| *took)
    }
}
