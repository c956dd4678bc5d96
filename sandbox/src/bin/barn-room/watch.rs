//! What the kernel's limits for one process leave open: the sum over processes and over file systems.
//!
//! Looked at every [`TICK`] while the compile runs; memory, which costs most to look at, only when it can have
//! come up to its limit since. A compile can overshoot by what it allocates in one tick; what a single process or
//! a single file system can take is held by the kernel itself.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::PathBuf,
    time::{Duration, Instant},
};

use barn_sandbox::wire::{Job, failed, limit};
use nix::sys::statvfs::statvfs;

use crate::host::End;

/// How often the sums are looked at. A process can touch some hundred megabytes of new memory in this time.
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// The fastest that one core touches new memory, in bytes each second: huge pages, cleared as fast as memory takes it.
const TOUCH_RATE_MAX: u64 = 8 << 30;
/// The longest that nobody looks at memory.
const MEMORY_TICK_MAX: Duration = Duration::from_secs(1);

/// The sandbox's writable file systems, and what may be used of them and of memory.
pub(crate) struct Room {
    tops: Vec<PathBuf>,
    devices: BTreeSet<u64>,
    bytes_max: u64,
    entries_max: u64,
    memory_max: u64,
    /// When it could be over, if all `cores` do nothing but touch more.
    memory_due: Instant,
    cores: u64,
}

impl Room {
    /// Measures the room as it is before the compile starts.
    pub(crate) fn new(job: &Job) -> Result<Self, End> {
        let tops: Vec<_> = job.tops.iter().map(|top| PathBuf::from(OsStr::from_bytes(top))).collect();
        let devices =
            tops.iter().map(|top| fs::metadata(top).map(|metadata| metadata.dev())).collect::<Result<_, _>>();
        let devices =
            devices.map_err(|error| End::failed_io(failed::ROOM, "looking at the file systems", &error))?;
        let (bytes, entries) = usage(&tops)?;
        Ok(Self {
            tops,
            devices,
            bytes_max: bytes.saturating_add(job.room_bytes),
            entries_max: entries.saturating_add(job.room_entries),
            memory_max: job.memory_bytes,
            memory_due: Instant::now(),
            cores: std::thread::available_parallelism().map_or(u64::MAX, |cores| cores.get() as u64),
        })
    }

    /// Whether `device` is one of the sandbox's writable file systems.
    pub(crate) fn has(&self, device: u64) -> bool {
        self.devices.contains(&device)
    }

    /// Whether everything is within its limit.
    pub(crate) fn check(&mut self) -> Result<(), End> {
        let (bytes, entries) = usage(&self.tops)?;
        if bytes > self.bytes_max {
            return Err(End::Limit(limit::ROOM));
        }
        if entries > self.entries_max {
            return Err(End::Limit(limit::ENTRIES));
        }
        let now = Instant::now();
        if now >= self.memory_due {
            let left = self.memory_max.checked_sub(memory()).ok_or(End::Limit(limit::MEMORY))?;
            self.memory_due = now + until_touched(left, self.cores);
        }
        Ok(())
    }
}

/// How long so many cores need at least to touch `bytes` of new memory.
fn until_touched(bytes: u64, cores: u64) -> Duration {
    let micros = u128::from(bytes) * 1_000_000 / (u128::from(TOUCH_RATE_MAX) * u128::from(cores.max(1)));
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)).clamp(TICK, MEMORY_TICK_MAX)
}

/// Bytes and inodes in use.
fn usage(tops: &[PathBuf]) -> Result<(u64, u64), End> {
    let mut sum = (0u64, 0u64);
    for top in tops {
        let stat =
            statvfs(top).map_err(|errno| End::failed(failed::ROOM, "measuring the file systems", errno))?;
        sum.0 += stat.blocks().saturating_sub(stat.blocks_free()).saturating_mul(stat.fragment_size());
        sum.1 += stat.files().saturating_sub(stat.files_free());
    }
    Ok(sum)
}

/// Memory of all processes but bubblewrap and the room: private, and shared without a file. What two processes
/// share is counted twice, which compilers do not do.
fn memory() -> u64 {
    let Ok(processes) = fs::read_dir("/proc") else { return 0 };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|&pid| pid != 1 && pid != std::process::id())
        // A process may end while it is looked at.
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok())
        .map(|status| kilobytes(&status, "RssAnon:") + kilobytes(&status, "RssShmem:"))
        .sum::<u64>()
        .saturating_mul(1024)
}

fn kilobytes(status: &str, field: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_looked_at_before_it_can_be_over() {
        let check = |bytes, cores, expect_ms| {
            assert_eq!(until_touched(bytes, cores).as_millis(), expect_ms, "{bytes} bytes, {cores} cores");
        };
        check(4 << 30, 1, 500);
        check(4 << 30, 2, 250);
        check(2 << 30, 2, 125);
        check(4 << 30, 64, 50);
        check(0, 2, 50);
        check(u64::MAX, 1, 1000);
        check(4 << 30, u64::MAX, 50);
        check(4 << 30, 0, 500);
    }
}
