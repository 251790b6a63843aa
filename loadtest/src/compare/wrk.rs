//! Requests made by the tools `wrk` and `oha`. `make peers` installs `oha`.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::program;

/// The path at which `make peers` installs oha.
const OHA: &str = "target/peers/bin/oha";

/// The longest time by which a tool may exceed its duration, to connect and to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The figures of a run of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestStats {
    /// The number of requests that were answered.
    pub count: u64,
    /// Requests a second.
    pub rate: f64,
    /// The median latency, in ms.
    pub p50: f64,
    /// The 99th percentile of the latency, in ms.
    pub p99: f64,
    /// Requests that were cut, or whose status was no success.
    pub failed: u64,
}

/// A load of requests over keep-alive connections.
pub struct RequestLoad<'l> {
    /// The server.
    pub address: SocketAddr,
    /// The path.
    pub path: &'l str,
    /// Connections, each with one request at a time.
    pub connections: u32,
    /// The time for which requests are sent.
    pub time: Duration,
    /// A script for wrk, for anything but a `GET`.
    pub script: Option<&'l Path>,
}

impl RequestLoad<'_> {
    /// Sends the requests with wrk, on one thread.
    ///
    /// # Errors
    /// If wrk is not installed, fails, does not end in time, or prints
    /// something unexpected.
    pub fn wrk(&self) -> io::Result<RequestStats> {
        let mut command = self.bounded("wrk")?;
        command.args(["--threads", "1", "--latency", "--timeout", "10s"]);
        command.arg("--connections").arg(self.connections.to_string());
        command.arg("--duration").arg(format!("{}s", self.time.as_secs().max(1)));
        if let Some(script) = self.script {
            command.arg("--script").arg(script);
        }
        let output = output("wrk", command.arg(self.url()))?;
        read_wrk(&output)
            .ok_or_else(|| io::Error::other(format!("cannot parse the output of wrk: {output}")))
    }

    /// Sends the requests with oha. `None` if oha is not installed.
    ///
    /// # Errors
    /// If oha fails, does not end in time, or prints something unexpected.
    pub fn oha(&self) -> io::Result<Option<RequestStats>> {
        if !Path::new(OHA).exists() {
            return Ok(None);
        }
        let mut command = self.bounded(OHA)?;
        command.args(["--no-tui", "--output-format", "json"]);
        command.arg("-c").arg(self.connections.to_string());
        command.arg("-z").arg(format!("{}s", self.time.as_secs().max(1))).arg(self.url());
        let output = output("oha", &mut command)?;
        let read = read_oha(&output)
            .ok_or_else(|| io::Error::other(format!("cannot parse the output of oha: {output}")))?;
        Ok(Some(read))
    }

    /// Returns a command for a tool. The tool is ended if it runs much longer
    /// than asked.
    fn bounded(&self, tool: &str) -> io::Result<Command> {
        program::find(tool)?;
        let mut command = program::command("timeout")?;
        // In the foreground, so that a Ctrl-C on this process also reaches the
        // tool.
        command.args(["--foreground", "--kill-after=5"]);
        command.arg((self.time + PATIENCE).as_secs().to_string());
        command.arg(tool);
        Ok(command)
    }

    fn url(&self) -> String {
        format!("http://{}{}", self.address, self.path)
    }
}

/// Runs a tool and returns its output.
fn output(tool: &str, command: &mut Command) -> io::Result<String> {
    let output = command.output()?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(match output.status.code() {
        // The exit codes of timeout(1).
        Some(124 | 137) | None => format!("`{tool}` did not end in time: {printed}{error}"),
        Some(code) => format!("`{tool}` exited with code {code}: {printed}{error}"),
    }))
}

fn read_wrk(output: &str) -> Option<RequestStats> {
    let after = |word: &str| output.lines().find_map(|line| line.trim().strip_prefix(word));
    let count =
        output.lines().find_map(|line| line.split_once(" requests in ")?.0.trim().parse().ok());
    let errors = after("Socket errors:").unwrap_or_default();
    let refused = after("Non-2xx or 3xx responses:").unwrap_or("0");
    let numbers = |text: &str| {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u64>().ok()).sum::<u64>()
    };
    Some(RequestStats {
        count: count?,
        rate: after("Requests/sec:")?.trim().parse().ok()?,
        p50: ms(after("50%")?)?,
        p99: ms(after("99%")?)?,
        failed: numbers(errors) + numbers(refused),
    })
}

/// Parses a duration of wrk in milliseconds: `850.00us`, `1.21ms`, `2.00s`,
/// `1.10m`.
fn ms(text: &str) -> Option<f64> {
    let text = text.trim();
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let number: f64 = text[..unit].parse().ok()?;
    match &text[unit..] {
        "us" => Some(number / 1e3),
        "ms" => Some(number),
        "s" => Some(number * 1e3),
        "m" => Some(number * 6e4),
        _ => None,
    }
}

fn read_oha(output: &str) -> Option<RequestStats> {
    let output: Value = serde_json::from_str(output).ok()?;
    let counts = |name: &str| {
        let counts = output.get(name).and_then(Value::as_object);
        counts.into_iter().flatten().filter_map(|(key, n)| Some((key.clone(), n.as_u64()?)))
    };
    let count = counts("statusCodeDistribution").map(|(_, n)| n).sum();
    let refused = counts("statusCodeDistribution").filter(|(code, _)| !code.starts_with('2'));
    // Requests under way at the end of the time are no failure of the server.
    let cut = counts("errorDistribution").filter(|(error, _)| !error.contains("deadline"));
    let quantile = |name: &str| output.get("latencyPercentiles")?.get(name)?.as_f64();
    Some(RequestStats {
        count,
        rate: output.get("summary")?.get("requestsPerSec")?.as_f64()?,
        p50: quantile("p50")? * 1e3,
        p99: quantile("p99")? * 1e3,
        failed: refused.chain(cut).map(|(_, n)| n).sum(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_program_that_exits_with_127_is_not_missing() {
        let mut command = Command::new("timeout");
        command.args(["5", "sh", "-c", "echo no libssl >&2; exit 127"]);
        let error = output("wrk", &mut command).unwrap_err().to_string();
        assert!(error.contains("127") && error.contains("no libssl"), "{error}");
        assert!(!error.contains("missing"), "{error}");
    }

    #[test]
    fn a_tool_ends_with_the_thread_that_started_it() {
        let address = ([127, 0, 0, 1], 1).into();
        let load =
            RequestLoad { address, path: "/", connections: 1, time: Duration::ZERO, script: None };
        let spawn = || {
            let mut command = load.bounded("sh").unwrap();
            command.args(["-c", "echo started; exec sleep 300"]).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            // Before its output, the program may not have set its death signal.
            child.stdout.as_mut().unwrap().read_exact(&mut [0; 8]).unwrap();
            child
        };
        let mut child = std::thread::scope(|scope| scope.spawn(spawn).join().unwrap());
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while child.try_wait().unwrap().is_none() {
            if std::time::Instant::now() > deadline {
                child.kill().unwrap();
                panic!("the tool goes on");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn the_output_of_wrk_is_parsed() {
        let output = "RunningTarget 5s test @ http://127.0.0.1:8080/\n  1 threads and 64 connections\n  \
            Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency   1.04ms  1.10ms\n  \
            Latency Distribution\n     50%  850.00us\n     75%    1.21ms\n     90%    2.01ms\n     \
            99%    1.30s \n  326115 requests in 5.10s, 74.64MB read\n  \
            Socket errors: connect 0, read 1, write 2, timeout 3\n  \
            Non-2xx or 3xx responses: 4\nRequests/sec:  63946.04\nTransfer/sec:     14.64MB\n";
        let (p50, p99) = (0.85, 1300.0);
        let expected = RequestStats { count: 326_115, rate: 63_946.04, p50, p99, failed: 10 };
        assert_eq!(read_wrk(output), Some(expected));
        assert_eq!(read_wrk("unable to connect"), None);
    }

    #[test]
    fn the_output_of_oha_is_parsed() {
        let output = r#"{"summary":{"successRate":1.0,"requestsPerSec":5000.5},
            "latencyPercentiles":{"p50":0.001,"p99":0.0125},
            "statusCodeDistribution":{"200":24998,"500":2},
            "errorDistribution":{"aborted due to deadline":64,"connection reset":1}}"#;
        let expected = RequestStats { count: 25_000, rate: 5000.5, p50: 1.0, p99: 12.5, failed: 3 };
        assert_eq!(read_oha(output), Some(expected));
    }
}
