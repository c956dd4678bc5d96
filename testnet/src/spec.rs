//! What an office shall be: plain data, checked before anything is made.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Error, Result};

/// Hosts in one office; their addresses are the host part of one /24.
pub(crate) const HOSTS_MAX: usize = 200;

/// A host name ends up in a path of a Unix socket, which has room for 108 bytes.
const NAME_BYTES_MAX: usize = 24;

/// Short, so that a quota below one core acts like a slow core rather than a core that sleeps in long pauses
/// (the kernel's default is 100 ms; nodes that look for stalled peers would see those).
pub const QUOTA_PERIOD: Duration = Duration::from_millis(10);

/// The kernel takes periods of 1 ms to 1 s, and no quota below 1 ms.
const QUOTA_PERIODS: RangeInclusive<Duration> = QUOTA_PERIOD..=Duration::from_secs(1);

/// A whole office.
#[derive(Clone, Debug)]
pub struct OfficeSpec {
    /// The hosts, in the order of their addresses.
    pub hosts: Vec<HostSpec>,
    /// Where the programs under test lie (`barn`, `barn-node`, `barn-room`); first in every host's `PATH`.
    pub bin_dir: PathBuf,
    /// Where the office's one directory is made. Must be reachable by every user.
    pub root: PathBuf,
}

/// One machine of the office.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// Its name, which is also its UTS host name: letters, digits and hyphens.
    pub name: String,
    /// Cores it may use, such as 0.45; `None` leaves it the whole machine.
    pub cpus: Option<f64>,
    /// The period over which the quota of cores holds.
    pub quota_period: Duration,
    /// Bandwidth of its cable in each direction, in Mbit/s; `None` is as fast as the kernel.
    pub bandwidth_mbit: Option<u32>,
    /// Paths below `/tmp` it shall see at their own place, for its `/tmp` is private.
    pub sees: Vec<PathBuf>,
}

impl OfficeSpec {
    /// An office without hosts that uses the programs of `bin_dir`.
    pub fn new(bin_dir: impl Into<PathBuf>) -> OfficeSpec {
        OfficeSpec { hosts: Vec::new(), bin_dir: bin_dir.into(), root: std::env::temp_dir() }
    }

    /// Adds a host.
    pub fn host(mut self, host: HostSpec) -> OfficeSpec {
        self.hosts.push(host);
        self
    }

    /// Adds `count` hosts named `h1`, `h2`, … with the same quota.
    pub fn hosts(mut self, count: usize, cpus: Option<f64>) -> OfficeSpec {
        for number in 1..=count {
            self.hosts.push(HostSpec { cpus, ..HostSpec::new(format!("h{number}")) });
        }
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        let bad = |reason: String| Err(Error::Spec(reason));
        if self.hosts.is_empty() || self.hosts.len() > HOSTS_MAX {
            return bad(format!("{} hosts, must be 1 to {HOSTS_MAX}", self.hosts.len()));
        }
        if !self.bin_dir.is_absolute() || !self.root.is_absolute() {
            return bad("bin_dir and root must be absolute paths".into());
        }
        let mut names = BTreeSet::new();
        for host in &self.hosts {
            host.check()?;
            if !names.insert(&host.name) {
                return bad(format!("two hosts are named {}", host.name));
            }
        }
        Ok(())
    }
}

impl HostSpec {
    /// A host with the whole machine, a fast cable and nothing of `/tmp`.
    pub fn new(name: impl Into<String>) -> HostSpec {
        HostSpec {
            name: name.into(),
            cpus: None,
            quota_period: QUOTA_PERIOD,
            bandwidth_mbit: None,
            sees: Vec::new(),
        }
    }

    /// Sets the cores it may use.
    pub fn cpus(mut self, cpus: f64) -> HostSpec {
        self.cpus = Some(cpus);
        self
    }

    /// Sets the period over which the quota of cores holds.
    pub fn quota_period(mut self, period: Duration) -> HostSpec {
        self.quota_period = period;
        self
    }

    /// Sets the bandwidth of its cable, in Mbit/s.
    pub fn bandwidth_mbit(mut self, mbit: u32) -> HostSpec {
        self.bandwidth_mbit = Some(mbit);
        self
    }

    /// Lets it see a path below `/tmp`.
    pub fn sees(mut self, path: impl Into<PathBuf>) -> HostSpec {
        self.sees.push(path.into());
        self
    }

    fn check(&self) -> Result<()> {
        let name = &self.name;
        let clean = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !clean || name.starts_with('-') {
            return Err(Error::Spec(format!(
                "host name {name:?} is not 1 to {NAME_BYTES_MAX} letters, digits and hyphens"
            )));
        }
        if let Some(cpus) = self.cpus {
            check_cpus(cpus)?;
        }
        if !QUOTA_PERIODS.contains(&self.quota_period) {
            return Err(Error::Spec(format!(
                "a quota over {:?}, must be over 10 ms to 1 s",
                self.quota_period
            )));
        }
        if self.bandwidth_mbit == Some(0) {
            return Err(Error::Spec(format!("host {name} has a cable of 0 Mbit/s; use cut()")));
        }
        match self.sees.iter().find(|path| !path.is_absolute()) {
            Some(path) => Err(Error::Spec(format!("path {} is not absolute", path.display()))),
            None => Ok(()),
        }
    }
}

/// Below one millisecond in ten the kernel refuses a quota, above any machine it is a mistake.
pub(crate) fn check_cpus(cpus: f64) -> Result<()> {
    if (0.1..=1024.0).contains(&cpus) {
        return Ok(());
    }
    Err(Error::Spec(format!("{cpus} CPUs, must be 0.1 to 1024")))
}

/// The directory with the programs built together with the running one: its own, or, for a test, the one above
/// `deps`. `BARN_BIN_DIR` overrides it.
pub fn bin_dir_of_this_build() -> PathBuf {
    if let Some(dir) = std::env::var_os(BIN_DIR_VARIABLE) {
        return PathBuf::from(dir);
    }
    let exe = std::env::current_exe().unwrap_or_default();
    let dir = exe.parent().unwrap_or(Path::new("/"));
    match dir.file_name() {
        Some(name) if name == "deps" => dir.parent().unwrap_or(dir).to_owned(),
        _ => dir.to_owned(),
    }
}

/// Where the programs under test lie, if not beside the running one.
const BIN_DIR_VARIABLE: &str = "BARN_BIN_DIR";

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: OfficeSpec, expect: &str) {
        let said = spec.check().err().map_or_else(|| "ok".to_owned(), |error| error.to_string());
        assert!(said.contains(expect), "{said:?} lacks {expect:?}");
    }

    fn office() -> OfficeSpec {
        OfficeSpec::new("/bin")
    }

    #[test]
    fn specifications_are_checked() {
        check(office().hosts(3, Some(0.45)), "ok");
        check(office(), "0 hosts");
        check(office().hosts(HOSTS_MAX + 1, None), "201 hosts");
        check(office().host(HostSpec::new("a")).host(HostSpec::new("a")), "two hosts");
        check(office().host(HostSpec::new("a/b")), "host name");
        check(office().host(HostSpec::new("")), "host name");
        check(office().host(HostSpec::new("a").cpus(0.01)), "0.01 CPUs");
        check(office().host(HostSpec::new("a").cpus(f64::NAN)), "NaN CPUs");
        check(office().host(HostSpec::new("a").quota_period(Duration::from_millis(2))), "over 2ms");
        check(office().host(HostSpec::new("a").bandwidth_mbit(0)), "0 Mbit/s");
        check(office().host(HostSpec::new("a").sees("tmp/x")), "not absolute");
        check(OfficeSpec::new("bin").hosts(1, None), "absolute");
    }
}
