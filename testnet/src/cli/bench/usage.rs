//! CPU time by cgroup: everything that ran on a host, whoever started it and however it ended.

use std::fs;
use std::path::{Path, PathBuf};

use barn_testnet::{Host, Office};

use crate::cli::Failure;

/// CPU seconds used on one host since it was made.
pub(super) fn of_host(office: &Office, host: &Host) -> Result<f64, Failure> {
    let name = office.directory().file_name().ok_or("the office has no name")?;
    read(&tree()?.join(name).join(host.name()))
}

/// CPU seconds used on the whole machine since it was started.
pub(super) fn of_machine() -> Result<f64, Failure> {
    read(&tree()?)
}

/// The version 2 tree. It counts CPU time even where the quota is set by a tree of version 1.
fn tree() -> Result<PathBuf, Failure> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let found =
        mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    Ok(found.ok_or("no cgroup tree of version 2 is mounted, which counts CPU time")?.into())
}

fn read(dir: &Path) -> Result<f64, Failure> {
    let path = dir.join("cpu.stat");
    let text =
        fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    parse(&text).ok_or_else(|| format!("{} tells no usage", path.display()).into())
}

fn parse(text: &str) -> Option<f64> {
    let micros: f64 = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?.parse().ok()?;
    Some(micros / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_in_microseconds() {
        assert_eq!(parse("usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n"), Some(2.5));
        assert_eq!(parse("nr_periods 0\n"), None);
    }
}
