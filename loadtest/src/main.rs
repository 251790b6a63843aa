//! The load generator: measures servers of event streams over loopback.
//!
//! A [measurement](measure) counts what a delivery costs a server, how late it
//! is, how much memory a connection takes, and whether every subscriber got
//! every event once and in order. The [baseline] is the least that a server
//! could do. A [comparison](compare) measures everything but deliveries. A
//! [proof] checks what the gateway promises about overload, limits and its end.

mod bare;
mod baseline;
mod clock;
mod compare;
mod control_message;
mod delivery_stats;
mod feed;
mod framing;
mod gateway;
mod gateway_config;
mod http;
mod latency;
mod measure;
mod metrics_snapshot;
mod nats;
mod process;
mod program;
mod proof;
mod publisher;
mod report;
mod run;
mod run_dir;
mod run_options;
mod scenario;
mod scenario_files;
mod stamp;
mod subscriber;
mod subscriber_pool;
mod target;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Measures streamgate and the servers that it is compared with
#[derive(Parser)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run scenarios; from the top folder of the project
    Run(run::Run),
    /// Serve as the baseline: one write for each delivery, and nothing else
    Baseline {
        /// The address to listen on; port 0 takes a free port
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// Serve the same response to every request, with hyper and nothing else
    Bare {
        /// The address to listen on; port 0 takes a free port
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// A file with the response, as its bytes are on the wire
        #[arg(long)]
        answer: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = raise_descriptors().and_then(|()| match Command::parse().verb {
        Verb::Run(run) => run.run(),
        Verb::Baseline { listen } => baseline::serve(listen),
        Verb::Bare { listen, answer } => bare::serve(listen, &answer),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Raises the limit of open descriptors to the highest that the system allows,
/// for this process and its children.
fn raise_descriptors() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(())
}
