//! Determines the readiness of the gateway and the state of each of its components,
//! for `/readyz`.

use super::Shared;
use crate::api::admin::Readiness;
use crate::log::WriteState;
use crate::supervisor::Task;

const RUNNING: &str = "running";
const FAILED: &str = "failed";

/// Returns the current readiness of the gateway.
pub(super) fn current(shared: &Shared) -> Readiness {
    let failed = |tasks: &[Task]| tasks.iter().any(|task| shared.failures.has(*task));
    let state = |tasks: &[Task]| if failed(tasks) { FAILED } else { RUNNING };
    let log = shared.services.engine.write_state();
    let draining = shared.draining.is_cancelled();
    // If the disk is full, reads and streams still work, so the gateway stays ready.
    let takes_writes = matches!(log, WriteState::Writable | WriteState::DiskFull);
    Readiness {
        ready: takes_writes && !draining && !failed(&Task::ALL),
        draining,
        log: log.as_str(),
        engine: state(&[Task::Committer]),
        listener: state(&[Task::AcceptClients, Task::AcceptAdmin]),
        hub: state(&[Task::FanOut, Task::Tick]),
        memory: match failed(&[Task::MemoryWatch]) {
            true => FAILED,
            false if shared.services.is_crowded() => "short",
            false => "enough",
        },
        metrics: state(&[Task::Upkeep]),
    }
}
