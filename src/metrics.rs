//! The metrics that Prometheus scrapes. `docs/operations.md#metrics` lists the names
//! and labels. Each label has a fixed set of possible values.
//!
//! Each gateway has its own recorder, so that one process can run several gateways.
//! The recorder gives out a handle for each metric. Most handles are stored, because
//! a macro call with labels costs ten times as much as an update through a stored
//! handle. The exporter stores every sample of a histogram until its upkeep
//! aggregates the samples. So durations that are measured for each delivery are
//! first counted in the buckets of a [`Latency`], and are moved to the exporter
//! later.

mod logs;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fs, io};

use ::metrics::{Counter, Gauge, Histogram, Unit};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

pub use logs::LogValues;

/// The protocol of a stream. Metrics show it in the label `protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Server-Sent Events.
    Sse,
    /// NDJSON. Streams of CloudEvents lines also count as NDJSON.
    Ndjson,
    /// WebSocket.
    WebSocket,
}

impl Protocol {
    /// All protocols, in the order of their discriminants.
    pub const ALL: [Protocol; 3] = [Protocol::Sse, Protocol::Ndjson, Protocol::WebSocket];

    /// Returns the value of the label `protocol`.
    pub fn label(self) -> &'static str {
        match self {
            Protocol::Sse => "sse",
            Protocol::Ndjson => "ndjson",
            Protocol::WebSocket => "ws",
        }
    }
}

/// The upper bounds of the histogram buckets for durations, in seconds. The lowest
/// bound suits a delivery over loopback, and the highest suits a slow client.
const SECONDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// The values of the label `route`. A request that matches no route counts as
/// `unknown`.
pub const ROUTES: [&str; 11] = [
    "/{c}/{id}",
    "/{c}",
    "/{c}/stream",
    "/{c}/events",
    "/{c}/ws",
    "/{c}/{id}/events",
    "/{c}/{id}/ws",
    "/events/{topic}",
    "/events/{topic}/ws",
    "/ws",
    "unknown",
];

/// The classes of HTTP status codes, as values of the label `status`.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The request metrics of one route.
#[derive(Default)]
struct Requests {
    /// The metric `streamgate_requests_total`, with one counter for each class of
    /// status codes. A counter is registered at the first response of its class.
    total: [OnceLock<Counter>; CLASSES.len()],
    /// The metric `streamgate_request_duration_seconds`.
    took: Latency,
}

/// The stream metrics of one protocol.
pub struct Streams {
    /// The metric `streamgate_connections_open`.
    pub open: Gauge,
    /// The metric `streamgate_connections_opened_total`.
    pub opened: Counter,
    /// The metric `streamgate_events_delivered_total`.
    pub delivered: Counter,
    /// The metric `streamgate_events_replayed_total`.
    pub replayed: Counter,
    /// The metric `streamgate_sent_bytes_total`.
    pub sent_bytes: Counter,
    /// The metric `streamgate_delivery_latency_seconds`.
    pub latency: Latency,
}

/// All metrics of one gateway.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    streams: [Streams; Protocol::ALL.len()],
    requests: [Requests; ROUTES.len()],
    /// The metric `streamgate_ring_overflows_total`.
    pub ring_overflows: Counter,
    /// The metric `streamgate_subscribers_catching_up`.
    pub catching_up: Gauge,
    /// The metric `streamgate_subscriber_lag_events`.
    pub lag: Gauge,
    /// The metric `streamgate_received_bytes_total`.
    pub received_bytes: Counter,
    /// The metric `streamgate_tcp_connections_open`.
    pub sockets: Gauge,
    /// The metric `streamgate_commit_duration_seconds`.
    pub commit: Histogram,
    /// The metric `streamgate_log_writable`.
    pub log_writable: Gauge,
}

impl Metrics {
    /// Returns metrics with a new recorder. Every metric starts at zero.
    ///
    /// # Panics
    /// Never, because `SECONDS` is not empty.
    pub fn new() -> Metrics {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
            .expect("SECONDS is not empty")
            .build_recorder();
        let handle = recorder.handle();
        let registering = ::metrics::set_default_local_recorder(&recorder);
        describe();
        let protocol = |protocol: Protocol| Streams {
            open: ::metrics::gauge!("streamgate_connections_open", "protocol" => protocol.label()),
            opened: ::metrics::counter!("streamgate_connections_opened_total", "protocol" => protocol.label()),
            delivered: ::metrics::counter!("streamgate_events_delivered_total", "protocol" => protocol.label()),
            replayed: ::metrics::counter!("streamgate_events_replayed_total", "protocol" => protocol.label()),
            sent_bytes: ::metrics::counter!("streamgate_sent_bytes_total", "protocol" => protocol.label()),
            latency: Latency::default(),
        };
        ::metrics::gauge!("streamgate_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
        let streams = Protocol::ALL.map(protocol);
        let ring_overflows = ::metrics::counter!("streamgate_ring_overflows_total");
        let catching_up = ::metrics::gauge!("streamgate_subscribers_catching_up");
        let lag = ::metrics::gauge!("streamgate_subscriber_lag_events");
        let received_bytes = ::metrics::counter!("streamgate_received_bytes_total");
        let sockets = ::metrics::gauge!("streamgate_tcp_connections_open");
        let commit = ::metrics::histogram!("streamgate_commit_duration_seconds");
        let log_writable = ::metrics::gauge!("streamgate_log_writable");
        drop(registering);
        Metrics {
            recorder,
            handle,
            streams,
            requests: Default::default(),
            ring_overflows,
            catching_up,
            lag,
            received_bytes,
            sockets,
            commit,
            log_writable,
        }
    }

    /// Returns the stream metrics of one protocol.
    pub fn streams(&self, protocol: Protocol) -> &Streams {
        &self.streams[protocol as usize]
    }

    /// Counts a rejected connection or request. `reason` must come from a fixed set
    /// of values.
    pub fn refused(&self, reason: &'static str) {
        ::metrics::with_local_recorder(&self.recorder, || {
            ::metrics::counter!("streamgate_connections_refused_total", "reason" => reason)
                .increment(1);
        });
    }

    /// Counts a closed stream. `reason` must come from a fixed set of values.
    pub fn closed(&self, protocol: Protocol, reason: &'static str) {
        self.streams(protocol).open.decrement(1);
        ::metrics::with_local_recorder(&self.recorder, || {
            ::metrics::counter!("streamgate_connections_closed_total", "protocol" => protocol.label(), "reason" => reason).increment(1);
        });
    }

    /// Counts a reload of the configuration. `result` must come from a fixed set of
    /// values.
    pub fn reloaded(&self, result: &'static str) {
        ::metrics::with_local_recorder(&self.recorder, || {
            ::metrics::counter!("streamgate_config_reloads_total", "result" => result).increment(1);
        });
    }

    /// Adds `n` to the number of failed supervised tasks. `task` must come from a
    /// fixed set of values.
    pub fn tasks_failed(&self, task: &'static str, n: u64) {
        ::metrics::with_local_recorder(&self.recorder, || {
            ::metrics::counter!("streamgate_tasks_failed_total", "task" => task).increment(n);
        });
    }

    /// Adds `n` to the number of events that an overflow policy dropped and that a
    /// `gap` message reported to the client. `policy` must come from a fixed set of
    /// values.
    pub fn dropped(&self, policy: &'static str, n: u64) {
        ::metrics::with_local_recorder(&self.recorder, || {
            ::metrics::counter!("streamgate_events_dropped_total", "policy" => policy).increment(n);
        });
    }

    /// Counts a response to a request of `route`, which is one of [`ROUTES`]. `took`
    /// is the time from the head of the request to the head of the response.
    pub fn answered(&self, route: &'static str, status: u16, took: Duration) {
        let known = ROUTES.iter().position(|it| *it == route);
        let at = known.unwrap_or(ROUTES.len() - 1);
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        let requests = &self.requests[at];
        let registered = || {
            ::metrics::with_local_recorder(
                &self.recorder,
                || ::metrics::counter!("streamgate_requests_total", "route" => ROUTES[at], "status" => CLASSES[class]),
            )
        };
        requests.total[class].get_or_init(registered).increment(1);
        requests.took.record(took, 1);
    }

    /// Sets the counter `name` to `value`. Another module does the counting.
    pub fn counted(&self, name: &'static str, label: (&'static str, String), value: u64) {
        ::metrics::with_local_recorder(&self.recorder, || {
            ::metrics::counter!(name, label.0 => label.1).absolute(value);
        });
    }

    /// Moves the samples of every [`Latency`] to the exporter, and makes the
    /// exporter aggregate its samples. The gateway calls this every few seconds.
    pub fn fold(&self) {
        ::metrics::with_local_recorder(&self.recorder, || {
            for (protocol, streams) in Protocol::ALL.into_iter().zip(&self.streams) {
                streams.latency.fold(|| ::metrics::histogram!("streamgate_delivery_latency_seconds", "protocol" => protocol.label()));
            }
            for (route, requests) in ROUTES.into_iter().zip(&self.requests) {
                requests.took.fold(|| ::metrics::histogram!("streamgate_request_duration_seconds", "route" => route));
            }
        });
        self.handle.run_upkeep();
    }

    /// Returns the current values of all metrics in the Prometheus text format, with
    /// the series of `logs`. Blocks the thread, because it reads files in `/proc`.
    pub fn render(&self, logs: &[LogValues<'_>]) -> String {
        self.fold();
        ::metrics::with_local_recorder(&self.recorder, process);
        let mut text = self.handle.render();
        logs::write(&mut text, logs);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

/// A histogram of durations with fixed buckets. Any thread can record a sample,
/// which costs a few nanoseconds.
#[derive(Default)]
pub struct Latency {
    buckets: [Bucket; SECONDS.len() + 1],
}

#[derive(Default)]
struct Bucket {
    count: AtomicU64,
    /// The sum of the samples in this bucket, in nanoseconds.
    nanos: AtomicU64,
}

impl Latency {
    /// Records `n` samples that all have the duration `took`.
    pub fn record(&self, took: Duration, n: u64) {
        let seconds = took.as_secs_f64();
        let bucket = &self.buckets[SECONDS.partition_point(|&bound| bound < seconds)];
        bucket.count.fetch_add(n, Ordering::Relaxed);
        bucket.nanos.fetch_add(took.as_nanos() as u64 * n, Ordering::Relaxed);
    }

    /// Moves the samples to the histogram that `histogram` creates. If there are no
    /// samples, does not create it.
    fn fold(&self, histogram: impl FnOnce() -> Histogram) {
        let counted = |bucket: &Bucket| bucket.count.load(Ordering::Relaxed) > 0;
        if !self.buckets.iter().any(counted) {
            return;
        }
        let histogram = histogram();
        for (at, bucket) in self.buckets.iter().enumerate() {
            let count = bucket.count.swap(0, Ordering::Relaxed);
            if count > 0 {
                let nanos = bucket.nanos.swap(0, Ordering::Relaxed);
                // The exporter gets `count` samples of the mean, which have the
                // right sum. Another thread can record a sample between the two
                // swaps. The mean could then lie outside of the bucket, so it is
                // clamped to the bounds of the bucket.
                let least = at.checked_sub(1).map_or(0.0, |below| SECONDS[below].next_up());
                let most = SECONDS.get(at).copied().unwrap_or(f64::INFINITY);
                let mean = nanos as f64 / 1e9 / count as f64;
                histogram.record_many(mean.clamp(least, most), count as usize);
            }
        }
    }
}

/// Registers one line of help text for each metric. `promtool check metrics`
/// requires these lines.
fn describe() {
    use ::metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_gauge!("streamgate_build_info", "Always 1; the label is the version");
    describe_gauge!("streamgate_connections_open", "Open streams");
    describe_counter!("streamgate_connections_opened_total", "Opened streams");
    describe_counter!("streamgate_connections_closed_total", "Closed streams, by reason");
    describe_counter!(
        "streamgate_connections_refused_total",
        "Rejected requests and connections, by reason"
    );
    describe_counter!("streamgate_config_reloads_total", "Configuration reloads, by result");
    describe_gauge!("streamgate_tcp_connections_open", "Open client sockets");
    describe_counter!("streamgate_requests_total", "Requests, by route and status class");
    describe_histogram!(
        "streamgate_request_duration_seconds",
        Unit::Seconds,
        "Time from the head of a request to the head of its response"
    );
    describe_counter!("streamgate_events_delivered_total", "Events written to subscribers");
    describe_counter!(
        "streamgate_events_replayed_total",
        "Events written to subscribers that were read from the log"
    );
    describe_counter!(
        "streamgate_events_dropped_total",
        "Events that an overflow policy dropped, as reported to clients"
    );
    describe_counter!("streamgate_sent_bytes_total", Unit::Bytes, "Bytes written to subscribers");
    describe_counter!(
        "streamgate_received_bytes_total",
        Unit::Bytes,
        "Bytes read of request bodies and messages"
    );
    describe_counter!("streamgate_encodings_total", "Encoded events, by wire format");
    describe_counter!("streamgate_ring_overflows_total", "Number of times that a ring was full");
    describe_gauge!(
        "streamgate_subscribers_catching_up",
        "Subscriptions that read older events from the log"
    );
    describe_gauge!(
        "streamgate_subscriber_lag_events",
        "Offsets from the slowest subscription to the head of its log"
    );
    describe_histogram!(
        "streamgate_delivery_latency_seconds",
        Unit::Seconds,
        "Time from the commit of an event to the socket write"
    );
    describe_histogram!(
        "streamgate_commit_duration_seconds",
        Unit::Seconds,
        "Duration of one group commit, including its sync"
    );
    describe_gauge!("streamgate_log_writable", "1 while the log accepts writes, 0 otherwise");
    describe_counter!(
        "streamgate_tasks_failed_total",
        "Supervised tasks that returned or panicked, by task"
    );
    describe_gauge!("process_resident_memory_bytes", Unit::Bytes, "Resident memory");
    describe_counter!("process_cpu_seconds_total", "CPU time, user and system");
    describe_gauge!("process_open_fds", "Open file descriptors");
    describe_gauge!("process_max_fds", "Limit of open file descriptors");
}

/// Updates the metrics of the process (memory, CPU, descriptors) from `/proc`. If a
/// file cannot be read, its metric keeps the last value.
fn process() {
    let word =
        |text: &str, n: usize| text.split_whitespace().nth(n).and_then(|w| w.parse::<u64>().ok());
    if let Ok(statm) = std::fs::read_to_string("/proc/self/statm")
        && let Some(pages) = word(&statm, 1)
    {
        let bytes = pages * rustix::param::page_size() as u64;
        ::metrics::gauge!("process_resident_memory_bytes").set(bytes as f64);
    }
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat")
        && let Some((_, fields)) = stat.rsplit_once(')')
        && let (Some(user), Some(system)) = (word(fields, 11), word(fields, 12))
    {
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        ::metrics::counter!("process_cpu_seconds_total").absolute((user + system) / ticks);
    }
    if let Ok(open) = open_descriptors() {
        ::metrics::gauge!("process_open_fds").set(open as f64);
    }
    if let Ok(limits) = std::fs::read_to_string("/proc/self/limits")
        && let Some(line) = limits.lines().find(|line| line.starts_with("Max open files"))
        && let Some(most) = word(line, 3)
    {
        ::metrics::gauge!("process_max_fds").set(most as f64);
    }
}

/// Returns the number of open file descriptors of the process. Since version 6.2,
/// Linux reports this number as the size of the folder `/proc/self/fd`. Older
/// versions report zero. In that case the function lists all entries of the folder,
/// which can be ten thousand. One of these entries is the descriptor of the listing
/// itself, so it is subtracted.
fn open_descriptors() -> io::Result<u64> {
    const FOLDER: &str = "/proc/self/fd";
    match fs::metadata(FOLDER)?.len() {
        0 => Ok((fs::read_dir(FOLDER)?.count() as u64).saturating_sub(1)),
        open => Ok(open),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_descriptors_are_counted() {
        const FILES: u64 = 300;
        let open = |_| fs::File::open("/dev/null").unwrap();
        let files: Vec<_> = (0..FILES).map(open).collect();
        // Other tests open and close descriptors at the same time.
        assert!(open_descriptors().unwrap() > FILES);
        drop(files);
    }
}
