//! cgroups of an office and its hosts: the CPU quota, and the list of a host's processes.
//!
//! A host has one cgroup in each hierarchy that a program could use to move its children about (cpu, memory,
//! pids, and the version 2 tree), so that whatever a node makes for its own limits lies below the office's
//! cgroup and goes with it. Both versions work, and the mixture of them.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::name::OfficeName;
use crate::{Error, Result};

/// The kernel's smallest quota.
const QUOTA_US_MIN: f64 = 1_000.0;

/// Version 1 controllers in whose trees a host gets a cgroup.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// The cgroup trees of this machine that matter here.
#[derive(Debug)]
pub(crate) struct Hierarchies(Vec<Hierarchy>);

#[derive(Debug, PartialEq)]
struct Hierarchy {
    mount: PathBuf,
    /// Where in the tree this process stands; offices are made there.
    base: PathBuf,
    version: Version,
    has_cpu: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Version {
    One,
    Two,
}

/// The cgroups of one host, one in each hierarchy.
#[derive(Debug)]
pub(crate) struct Group {
    directories: Vec<PathBuf>,
    cpu: Option<(Version, PathBuf)>,
    /// Over which the quota holds.
    period: Duration,
}

impl Hierarchies {
    /// Reads which hierarchies are mounted and where this process stands in them.
    pub(crate) fn detect() -> Result<Hierarchies> {
        let read = |path: &str| fs::read_to_string(path).map_err(Error::path("cannot read", path));
        let mut all = parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
        for hierarchy in &mut all.0 {
            if hierarchy.version == Version::Two {
                let controllers =
                    fs::read_to_string(hierarchy.mount.join("cgroup.controllers")).unwrap_or_default();
                hierarchy.has_cpu = controllers.split_whitespace().any(|name| name == "cpu");
            }
            // In a container the path of /proc/self/cgroup may lie outside what is mounted.
            if !hierarchy.base.is_dir() {
                hierarchy.base.clone_from(&hierarchy.mount);
            }
        }
        Ok(all)
    }

    pub(crate) fn mounts(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|hierarchy| hierarchy.mount.as_path())
    }

    /// Why no office can be made with these, if so.
    pub(crate) fn obstacle(&self) -> Option<String> {
        if self.0.is_empty() {
            return Some("no cgroup tree is mounted".into());
        }
        (!self.0.iter().any(|hierarchy| hierarchy.has_cpu))
            .then(|| "no cgroup tree has the cpu controller".into())
    }

    /// The cgroups an office of this name has.
    pub(crate) fn of_office(&self, name: &OfficeName) -> Vec<PathBuf> {
        self.0.iter().map(|hierarchy| hierarchy.base.join(name.to_string())).collect()
    }

    /// Makes the cgroups of one host, whose quota will hold over this period.
    pub(crate) fn make(&self, office: &OfficeName, host: &str, period: Duration) -> Result<Group> {
        let mut group = Group { directories: Vec::new(), cpu: None, period };
        for hierarchy in &self.0 {
            let parent = hierarchy.base.join(office.to_string());
            let dir = parent.join(host);
            make_dir(&parent)?;
            if hierarchy.version == Version::Two {
                delegate(&hierarchy.base);
                delegate(&parent);
            }
            make_dir(&dir)?;
            if hierarchy.has_cpu {
                group.cpu = Some((hierarchy.version, dir.clone()));
            }
            group.directories.push(dir);
        }
        Ok(group)
    }
}

impl Group {
    /// Sets the CPU quota in cores; `None` lifts it.
    pub(crate) fn set_cpus(&self, cpus: Option<f64>) -> Result<()> {
        let Some((version, dir)) = &self.cpu else {
            return Err(Error::Unavailable("no cgroup tree has the cpu controller".into()));
        };
        let period = self.period.as_micros();
        let quota = cpus.map(|cpus| (cpus * period as f64).max(QUOTA_US_MIN).round());
        match version {
            Version::One => {
                write(&dir.join("cpu.cfs_period_us"), &period.to_string())?;
                write(&dir.join("cpu.cfs_quota_us"), &format!("{}", quota.unwrap_or(-1.0)))
            }
            Version::Two => {
                let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                write(&dir.join("cpu.max"), &format!("{quota} {period}"))
            }
        }
    }

    /// Opens the files into which a process writes `0` to join.
    pub(crate) fn doors(&self) -> Result<Vec<File>> {
        let open = |dir: &PathBuf| {
            let path = dir.join("cgroup.procs");
            OpenOptions::new().write(true).open(&path).map_err(Error::path("cannot open", path))
        };
        self.directories.iter().map(open).collect()
    }

    /// The processes in these cgroups and those below them.
    pub(crate) fn pids(&self) -> BTreeSet<i32> {
        let mut pids = BTreeSet::new();
        for dir in &self.directories {
            collect(dir, &mut pids);
        }
        pids
    }
}

fn collect(dir: &Path, pids: &mut BTreeSet<i32>) {
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // A process outside this pid namespace reads as 0, which as a signal's target would mean ourselves.
    pids.extend(procs.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), pids);
        }
    }
}

fn parse(mountinfo: &str, own: &str) -> Hierarchies {
    let mut all: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let Some(mount) = before.split(' ').nth(4).map(PathBuf::from) else { continue };
        let mut after = after.split(' ');
        let kind = after.next();
        let options: Vec<&str> = after.nth(1).unwrap_or("").split(',').collect();
        let (version, place) = match kind {
            Some("cgroup") if options.iter().any(|option| CONTROLLERS.contains(option)) => {
                (Version::One, own_place(own, |names| names.split(',').any(|name| options.contains(&name))))
            }
            // The root of the version 2 tree: elsewhere "no processes in inner nodes" forbids what we need.
            Some("cgroup2") => (Version::Two, "/"),
            _ => continue,
        };
        if all.iter().any(|other| other.mount == mount) {
            continue;
        }
        let base = mount.join(place.trim_start_matches('/'));
        let has_cpu = version == Version::One && options.contains(&"cpu");
        all.push(Hierarchy { mount, base, version, has_cpu });
    }
    Hierarchies(all)
}

/// The path in the line of `/proc/self/cgroup` whose controllers `mine` accepts.
fn own_place(own: &str, mine: impl Fn(&str) -> bool) -> &str {
    let fields = |line: &'_ str| -> Option<(usize, usize)> {
        let first = line.find(':')?;
        Some((first, first + 1 + line[first + 1..].find(':')?))
    };
    for line in own.lines() {
        if let Some((first, second)) = fields(line)
            && mine(&line[first + 1..second])
        {
            return &line[second + 1..];
        }
    }
    "/"
}

/// Lets children of a version 2 cgroup use the controllers; what is missing shows when a quota is set.
fn delegate(dir: &Path) {
    for controller in CONTROLLERS {
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

fn make_dir(dir: &Path) -> Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(Error::Unavailable(format!("cannot make cgroup {}: {error}", dir.display())))
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::path("cannot write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(mount: &str, base: &str, version: Version, has_cpu: bool) -> Hierarchy {
        Hierarchy { mount: mount.into(), base: base.into(), version, has_cpu }
    }

    #[test]
    fn the_mixture_of_both_versions_is_understood() {
        let mountinfo = "\
            31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            33 31 0:30 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices\n\
            34 31 0:31 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            35 31 0:32 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let own = "3:devices:/d\n2:memory:/box/7\n1:cpu,cpuacct:/\n0::/u\n";
        let expect = [
            hierarchy("/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct", Version::One, true),
            hierarchy("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/box/7", Version::One, false),
            hierarchy("/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified", Version::Two, false),
        ];
        assert_eq!(parse(mountinfo, own).0, expect);
    }

    #[test]
    fn version_two_alone_is_understood() {
        let mountinfo = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let expect = [hierarchy("/sys/fs/cgroup", "/sys/fs/cgroup", Version::Two, false)];
        assert_eq!(parse(mountinfo, "0::/user.slice\n").0, expect);
    }

    #[test]
    fn a_machine_without_cgroups_is_an_obstacle() {
        assert!(parse("", "").obstacle().is_some());
    }
}
