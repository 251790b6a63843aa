//! Enforces the limit of the resident memory of the process. Near the limit the
//! gateway first refuses new streams. Only at the limit does it shrink the rings of
//! open streams.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Shared;

/// The time between two checks of the resident memory. If a thousand clients connect
/// per second, they use some megabytes in this time. That is a small part of the
/// memory between the two thresholds: nine tenths of the limit, and the limit.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// The threshold of resident memory above which the gateway refuses new streams, in
/// tenths of the memory limit.
const REFUSE_TENTHS: u64 = 9;

/// The default memory limit of the process, in quarters of the memory of the machine
/// or of the process's control group. The rest of the memory is for the page cache
/// of the kernel, because reads of the log use the page cache.
const DEFAULT_QUARTERS: u64 = 3;

/// Compares the resident memory of the process with its limit at each check, and
/// sets the memory pressure of the API and the hub. Never returns.
pub(super) async fn watch(shared: Arc<Shared>) {
    let machine = machine_bytes();
    let mut crowded = false;
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        let limit = match shared.reloadable.load().settings.memory_bytes_max {
            0 => machine.map(|bytes| bytes / 4 * DEFAULT_QUARTERS),
            bytes => Some(bytes),
        };
        let (Some(limit), Some(resident)) = (limit, resident_bytes()) else { continue };
        let is_crowded = resident >= limit / 10 * REFUSE_TENTHS;
        if is_crowded && !crowded {
            tracing::warn!(resident, limit, "memory is near its limit; new streams are refused");
        } else if crowded && !is_crowded {
            tracing::info!(resident, limit, "memory is below its limit; new streams are accepted");
        }
        crowded = is_crowded;
        shared.services.set_memory_pressure(crowded);
        shared.services.hub.set_memory_pressure(resident >= limit);
    }
}

fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Returns the size of the machine's memory in bytes. If a control group of this
/// process has a lower memory limit, returns that limit.
fn machine_bytes() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = groups.lines().filter_map(|line| group_limit(Path::new("/sys/fs/cgroup"), line));
    Some(limits.fold(total, u64::min))
}

/// Returns the lowest memory limit of a control group and of its parent groups.
/// `top` is the root folder of the control groups. `line` is a line of
/// `/proc/self/cgroup` (`cgroups(7)`): `0::/path` in version 2, `n:memory:/path` in
/// version 1. In a container, the path is often the path on the host, and then the
/// limit is in the folder `top`.
fn group_limit(top: &Path, line: &str) -> Option<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let (folder, file) = match controllers {
        "" => (top.to_owned(), "memory.max"),
        _ if controllers.split(',').any(|name| name == "memory") => {
            (top.join("memory"), "memory.limit_in_bytes")
        }
        _ => return None,
    };
    let mut group: PathBuf = path.trim_start_matches('/').into();
    let mut lowest = None;
    loop {
        let text = fs::read_to_string(folder.join(&group).join(file)).unwrap_or_default();
        if let Ok(bytes) = text.trim().parse::<u64>() {
            lowest = Some(lowest.unwrap_or(bytes).min(bytes));
        }
        if !group.pop() {
            return lowest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_its_own_limit_and_those_above() {
        let top = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = top.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/b/memory.max", "max\n");
        write("a/memory.max", "5000\n");
        write("memory/x/memory.limit_in_bytes", "7000\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(group_limit(top.path(), "0::/a/b"), Some(5000));
        assert_eq!(group_limit(top.path(), "0::/elsewhere"), None);
        assert_eq!(group_limit(top.path(), "4:cpu,memory:/x"), Some(7000));
        assert_eq!(
            group_limit(top.path(), "4:memory:/of/outside"),
            Some(9_223_372_036_854_771_712)
        );
        assert_eq!(group_limit(top.path(), "2:cpu:/x"), None);
        assert_eq!(group_limit(top.path(), "nonsense"), None);
    }

    #[test]
    fn this_machine_has_memory_and_this_process_takes_some() {
        assert!(machine_bytes().unwrap() > resident_bytes().unwrap());
    }
}
