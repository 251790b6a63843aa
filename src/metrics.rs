//! What Prometheus is told. Names and labels are listed in
//! `docs/operations.md#metrics`; labels come from closed sets only.
//!
//! Each gateway has a recorder of its own, so that several can live in one
//! process. Handles are kept: a macro with labels costs ten times as much per
//! call. The exporter keeps every histogram sample until it is drained, so
//! what happens per delivery is counted in buckets here and folded in later.

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

/// What a connection speaks, as the label `protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Server-Sent Events.
    Sse,
    /// NDJSON, CloudEvents lines included.
    Ndjson,
    /// WebSocket.
    WebSocket,
}

impl Protocol {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Protocol; 3] = [Protocol::Sse, Protocol::Ndjson, Protocol::WebSocket];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Protocol::Sse => "sse",
            Protocol::Ndjson => "ndjson",
            Protocol::WebSocket => "ws",
        }
    }
}

/// Bucket bounds of durations, in seconds: from a loopback delivery to a
/// client that has to be waited for.
const SECONDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// The routes of requests, and of those that found none: the values of the
/// label `route`.
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

/// Classes of statuses, the values of the label `status`.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Requests of one route.
#[derive(Default)]
struct Requests {
    /// `streamgate_requests_total`, of each class once there is one.
    total: [OnceLock<Counter>; CLASSES.len()],
    /// `streamgate_request_duration_seconds`
    took: Latency,
}

/// One protocol's streams.
pub struct Streams {
    /// `streamgate_connections_open`
    pub open: Gauge,
    /// `streamgate_connections_opened_total`
    pub opened: Counter,
    /// `streamgate_events_delivered_total`
    pub delivered: Counter,
    /// `streamgate_events_replayed_total`
    pub replayed: Counter,
    /// `streamgate_sent_bytes_total`
    pub sent_bytes: Counter,
    /// `streamgate_delivery_latency_seconds`
    pub latency: Latency,
}

/// Every metric of one gateway.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    streams: [Streams; Protocol::ALL.len()],
    requests: [Requests; ROUTES.len()],
    /// `streamgate_ring_overflows_total`
    pub ring_overflows: Counter,
    /// `streamgate_subscribers_catching_up`
    pub catching_up: Gauge,
    /// `streamgate_subscriber_lag_events`
    pub lag: Gauge,
    /// `streamgate_received_bytes_total`
    pub received_bytes: Counter,
    /// `streamgate_tcp_connections_open`
    pub sockets: Gauge,
    /// `streamgate_commit_duration_seconds`
    pub commit: Histogram,
    /// `streamgate_log_writable`
    pub log_writable: Gauge,
}

impl Metrics {
    /// A recorder with every metric at zero.
    ///
    /// # Panics
    /// Never: the bucket bounds above are not empty.
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

    /// One protocol's metrics.
    pub fn streams(&self, protocol: Protocol) -> &Streams {
        &self.streams[protocol as usize]
    }

    /// A connection or request was turned away, for a `reason` of a closed set.
    pub fn refused(&self, reason: &'static str) {
        ::metrics::with_local_recorder(&self.recorder, || {
            ::metrics::counter!("streamgate_connections_refused_total", "reason" => reason)
                .increment(1);
        });
    }

    /// A stream ended, for a `reason` of a closed set.
    pub fn closed(&self, protocol: Protocol, reason: &'static str) {
        self.streams(protocol).open.decrement(1);
        ::metrics::with_local_recorder(&self.recorder, || {
            ::metrics::counter!("streamgate_connections_closed_total", "protocol" => protocol.label(), "reason" => reason).increment(1);
        });
    }

    /// The configuration was read again, with a `result` of a closed set.
    pub fn reloaded(&self, result: &'static str) {
        ::metrics::with_local_recorder(&self.recorder, || {
            ::metrics::counter!("streamgate_config_reloads_total", "result" => result).increment(1);
        });
    }

    /// `n` supervised tasks of one kind have failed; `task` is of a closed set.
    pub fn tasks_failed(&self, task: &'static str, n: u64) {
        ::metrics::with_local_recorder(&self.recorder, || {
            ::metrics::counter!("streamgate_tasks_failed_total", "task" => task).increment(n);
        });
    }

    /// A client was told that `n` events were dropped by an overflow `policy`,
    /// of a closed set.
    pub fn dropped(&self, policy: &'static str, n: u64) {
        ::metrics::with_local_recorder(&self.recorder, || {
            ::metrics::counter!("streamgate_events_dropped_total", "policy" => policy).increment(n);
        });
    }

    /// A request of `route`, one of [`ROUTES`], was answered with `status`
    /// after `took`; for a stream until its head.
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

    /// Brings a counter that is kept elsewhere up to `value`.
    pub fn counted(&self, name: &'static str, label: (&'static str, String), value: u64) {
        ::metrics::with_local_recorder(&self.recorder, || {
            ::metrics::counter!(name, label.0 => label.1).absolute(value);
        });
    }

    /// Moves what was counted in buckets into the exporter, and lets that
    /// aggregate its samples. To be called every few seconds.
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

    /// The exposition text, current to this moment, with the series of `logs`.
    /// Blocks on `/proc`.
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

/// A histogram in fixed buckets: a few nanoseconds a sample, from any thread.
#[derive(Default)]
pub struct Latency {
    buckets: [Bucket; SECONDS.len() + 1],
}

#[derive(Default)]
struct Bucket {
    count: AtomicU64,
    /// The sum of its samples.
    nanos: AtomicU64,
}

impl Latency {
    /// Counts `n` samples of one duration.
    pub fn record(&self, took: Duration, n: u64) {
        let seconds = took.as_secs_f64();
        let bucket = &self.buckets[SECONDS.partition_point(|&bound| bound < seconds)];
        bucket.count.fetch_add(n, Ordering::Relaxed);
        bucket.nanos.fetch_add(took.as_nanos() as u64 * n, Ordering::Relaxed);
    }

    /// Moves what was counted to `histogram`, which is not made for nothing.
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
                // Their mean, so that the sum is right; kept in the bucket
                // where a sample came between the two.
                let least = at.checked_sub(1).map_or(0.0, |below| SECONDS[below].next_up());
                let most = SECONDS.get(at).copied().unwrap_or(f64::INFINITY);
                let mean = nanos as f64 / 1e9 / count as f64;
                histogram.record_many(mean.clamp(least, most), count as usize);
            }
        }
    }
}

/// One line of help a metric; `promtool check metrics` wants them.
fn describe() {
    use ::metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_gauge!("streamgate_build_info", "1, labelled with the version");
    describe_gauge!("streamgate_connections_open", "Streams that are open");
    describe_counter!("streamgate_connections_opened_total", "Streams that were opened");
    describe_counter!("streamgate_connections_closed_total", "Streams that ended, by reason");
    describe_counter!(
        "streamgate_connections_refused_total",
        "Requests and connections turned away, by reason"
    );
    describe_counter!(
        "streamgate_config_reloads_total",
        "Configurations read again, by whether they were applied or faulty"
    );
    describe_gauge!("streamgate_tcp_connections_open", "Client sockets that are open");
    describe_counter!("streamgate_requests_total", "Requests by route and class of status");
    describe_histogram!(
        "streamgate_request_duration_seconds",
        Unit::Seconds,
        "From a request's head to its answer's head"
    );
    describe_counter!("streamgate_events_delivered_total", "Events written to subscribers");
    describe_counter!(
        "streamgate_events_replayed_total",
        "Events of these that were read from the log"
    );
    describe_counter!(
        "streamgate_events_dropped_total",
        "Events that an overflow policy took, as clients were told"
    );
    describe_counter!("streamgate_sent_bytes_total", Unit::Bytes, "Bytes written to subscribers");
    describe_counter!(
        "streamgate_received_bytes_total",
        Unit::Bytes,
        "Bytes of request bodies and messages read"
    );
    describe_counter!("streamgate_encodings_total", "Events encoded, by wire form");
    describe_counter!("streamgate_ring_overflows_total", "Times that a ring was full");
    describe_gauge!(
        "streamgate_subscribers_catching_up",
        "Subscriptions that read the log instead of being fed"
    );
    describe_gauge!(
        "streamgate_subscriber_lag_events",
        "Offsets that the slowest subscription is behind its log"
    );
    describe_histogram!(
        "streamgate_delivery_latency_seconds",
        Unit::Seconds,
        "From commit to socket write"
    );
    describe_histogram!(
        "streamgate_commit_duration_seconds",
        Unit::Seconds,
        "One group commit, its sync included"
    );
    describe_gauge!("streamgate_log_writable", "1 while writes are taken, 0 while none are");
    describe_counter!(
        "streamgate_tasks_failed_total",
        "Supervised tasks that have ended or panicked, by task"
    );
    describe_gauge!("process_resident_memory_bytes", Unit::Bytes, "Resident memory");
    describe_counter!("process_cpu_seconds_total", "CPU time, user and system");
    describe_gauge!("process_open_fds", "Open descriptors");
    describe_gauge!("process_max_fds", "Descriptors that may be open");
}

/// What `/proc` says of this process; what cannot be read is left out.
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

/// The number of open descriptors. Linux has it as the folder's size from 6.2
/// on; before that the size is zero, and each of ten thousand entries has to be
/// listed, the one of the listing itself among them.
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
        // Other tests open and close theirs meanwhile.
        assert!(open_descriptors().unwrap() > FILES);
        drop(files);
    }
}
