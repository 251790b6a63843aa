//! Memory: how much there may be, and what happens near the bound. New streams
//! are refused before those that are open are made to feel it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Shared;

/// Between two looks: a thousand connections a second take some megabytes in
/// it, a small part of what lies between the two marks.
const EVERY: Duration = Duration::from_millis(250);

/// Tenths of the bound, from where on no stream begins.
const CROWDED: u64 = 9;

/// Quarters of what the machine or its control group has that are the bound
/// where none is configured: the rest is for the page cache, which the log is
/// read from.
const PART: u64 = 3;

/// Looks at the process's memory for ever.
pub(super) async fn watch(shared: Arc<Shared>) {
    let machine = machine_bytes();
    let mut crowded = false;
    loop {
        tokio::time::sleep(EVERY).await;
        let bound = match shared.reloadable.load().settings.memory_bytes_max {
            0 => machine.map(|bytes| bytes / 4 * PART),
            bytes => Some(bytes),
        };
        let (Some(bound), Some(resident)) = (bound, resident_bytes()) else { continue };
        let now = resident >= bound / 10 * CROWDED;
        if now && !crowded {
            tracing::warn!(resident, bound, "memory is short; no stream begins until it is not");
        } else if crowded && !now {
            tracing::info!(resident, bound, "streams begin again");
        }
        crowded = now;
        shared.services.set_memory_pressure(crowded);
        shared.services.hub.set_memory_pressure(resident >= bound);
    }
}

fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// The memory of the machine, or of the control group that holds the process
/// where that has less.
fn machine_bytes() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = groups.lines().filter_map(|line| limit(Path::new("/sys/fs/cgroup"), line));
    Some(limits.fold(total, u64::min))
}

/// The least limit of a group and those above it; `line` is of
/// `/proc/self/cgroup` (`cgroups(7)`): `0::/path` in version 2,
/// `n:memory:/path` in version 1. In a container the path is often that of
/// outside, and the limit at the top.
fn limit(top: &Path, line: &str) -> Option<u64> {
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
    let mut least = None;
    loop {
        let text = fs::read_to_string(folder.join(&group).join(file)).unwrap_or_default();
        if let Ok(bytes) = text.trim().parse::<u64>() {
            least = Some(least.unwrap_or(bytes).min(bytes));
        }
        if !group.pop() {
            return least;
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
        assert_eq!(limit(top.path(), "0::/a/b"), Some(5000));
        assert_eq!(limit(top.path(), "0::/elsewhere"), None);
        assert_eq!(limit(top.path(), "4:cpu,memory:/x"), Some(7000));
        assert_eq!(limit(top.path(), "4:memory:/of/outside"), Some(9_223_372_036_854_771_712));
        assert_eq!(limit(top.path(), "2:cpu:/x"), None);
        assert_eq!(limit(top.path(), "nonsense"), None);
    }

    #[test]
    fn this_machine_has_memory_and_this_process_takes_some() {
        assert!(machine_bytes().unwrap() > resident_bytes().unwrap());
    }
}
