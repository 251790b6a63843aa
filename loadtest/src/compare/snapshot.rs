//! A whole collection, read by one client.

use std::io;
use std::ops::ControlFlow;

use serde::Deserialize;

use super::batches::Batches;
use super::document::resource;
use super::ledger::Ledger;
use super::lines;
use super::plan::Course;
use super::usage::{self, Usage};
use crate::mark::Mark;
use crate::report::table::{Column, Table, compared, plain};

/// What is read.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How many resources.
    resources: u64,
    /// Bytes of each.
    bytes: usize,
}

const COLUMNS: &[Column] = &[
    compared("MB/s"),
    plain("seconds"),
    compared("CPU µs per resource"),
    plain("generator µs"),
    plain("RSS growth MiB"),
    plain("RSS MiB"),
];

/// Measures.
///
/// # Errors
/// If the gateway cannot be started, or refuses.
pub fn run(settings: &Settings, course: &Course) -> io::Result<Table> {
    let mut table = Table::new(COLUMNS, "beside", "lost, repeated");
    let gateways = course.gateways()?;
    for (_, gateway) in &gateways {
        let address = gateway.address();
        let batches = Batches::of_orders(address);
        let line = |out: &mut Vec<u8>, number| resource(out, number, settings.bytes);
        batches.send(0..settings.resources, line)?;
        usage::rest(gateway.meter())?;
    }
    for round in 1..=course.repeats {
        course.say(round);
        for (name, gateway) in &gateways {
            let mut ledger = Ledger::new(0..settings.resources);
            let (bytes, usage) = Usage::of(gateway.meter(), || {
                lines::read(gateway.address(), "/orders/stream", |line| {
                    if let Some(mark) = Mark::read(line) {
                        ledger.take(mark.sequence);
                    }
                    ControlFlow::Continue(())
                })
            })?;
            let figures = vec![
                usage.rate(bytes) / 1e6,
                usage.wall.as_secs_f64(),
                usage.cpu_each(settings.resources),
                usage.own_each(settings.resources),
                usage.growth(),
                usage.rss_max as f64 / 1_048_576.0,
            ];
            table.add(name, course.other(name), figures, ledger.faults());
        }
    }
    Ok(table)
}
