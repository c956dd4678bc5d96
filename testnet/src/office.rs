//! The office as a whole: made in one go, taken down by its guard.

use std::fs;
use std::ops::Index;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::cgroup::Hierarchies;
use crate::guard::Guard;
use crate::host::{Host, wait_until};
use crate::link::{self, Bridge};
use crate::name::OfficeName;
use crate::rooms::Rooms;
use crate::spec::{HostSpec, OfficeSpec};
use crate::{Error, Result, view};

/// An office; dropping it takes everything down.
#[derive(Debug)]
pub struct Office {
    hosts: Vec<Host>,
    guard: Arc<Guard>,
}

impl Office {
    /// Makes the office of a specification.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when this machine or user cannot have one (not root, no `ip`, no namespaces, no
    /// cgroups), [`Error::Spec`] for a specification that makes no sense, others when something breaks midway;
    /// what was made until then is taken down again.
    pub fn build(spec: OfficeSpec) -> Result<Office> {
        spec.check()?;
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::Unavailable("only root may make network namespaces".into()));
        }
        let hierarchies = Hierarchies::detect()?;
        if let Some(reason) = hierarchies.obstacle() {
            return Err(Error::Unavailable(reason));
        }
        let name = OfficeName::next();
        let real = |path: &Path| fs::canonicalize(path).map_err(Error::path("cannot resolve", path));
        let root = real(&spec.root)?;
        let bin_dir = real(&spec.bin_dir)?;
        let guard = Guard::post(root.join(name.to_string()), hierarchies.of_office(&name))?;
        // From here on the guard's drop takes down whatever was made.
        make_dir(guard.directory(), 0o711)?;
        make_dir(&guard.directory().join("hosts"), 0o711)?;
        let bridge = Arc::new(Bridge::make()?);
        let mut hosts = Vec::new();
        for (number, host) in spec.hosts.iter().enumerate() {
            let group = hierarchies.make(&name, &host.name, host.quota_period)?;
            if host.cpus.is_some() {
                group.set_cpus(host.cpus)?;
            }
            let dir = guard.directory().join("hosts").join(&host.name);
            let rooms = make_rooms(host, &dir, &bin_dir)?;
            let cable = bridge.connect(&rooms.network, number, host.bandwidth_mbit)?;
            hosts.push(Host {
                name: host.name.clone(),
                address: link::address(number),
                dir,
                bin_dir: bin_dir.clone(),
                rooms: Arc::new(rooms),
                group,
                cable,
                bridge: bridge.clone(),
                node: Mutex::new(None),
            });
        }
        let office = Office { hosts, guard };
        office.hosts.iter().try_for_each(Host::wait_for_cable)?;
        Ok(office)
    }

    /// All hosts, in the order of the specification.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host of this name, if there is one.
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name() == name)
    }

    /// The office's one directory, with everything its hosts write of their own.
    pub fn directory(&self) -> &Path {
        self.guard.directory()
    }

    /// Asks `done` until it says yes, and returns how long that took; `what` names it in the error.
    pub fn wait_until(&self, limit: Duration, what: &str, done: impl FnMut() -> bool) -> Result<Duration> {
        wait_until(limit, what, done)
    }
}

impl Index<usize> for Office {
    type Output = Host;

    fn index(&self, number: usize) -> &Host {
        &self.hosts[number]
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        for path in self.guard.take_down() {
            eprintln!("testnet: {} could not be removed\nhint: run `testnet clean`", path.display());
        }
        for host in &self.hosts {
            host.bury_node();
        }
    }
}

/// For tests: the office, or `None` after printing why there can be none here.
///
/// # Panics
/// When the office cannot be made for any other reason, or when the variable `CI` is set: a test that
/// quietly skips everywhere tests nothing.
pub fn office_or_skip(spec: OfficeSpec) -> Option<Office> {
    match Office::build(spec) {
        Ok(office) => Some(office),
        Err(error @ Error::Unavailable(_)) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{}", with_causes(&error)),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn make_rooms(spec: &HostSpec, dir: &Path, bin_dir: &Path) -> Result<Rooms> {
    // Open to passers-by: a worker runs compiles under another user id, which must reach what it is given.
    for part in ["", "home", "barn"] {
        make_dir(&dir.join(part), 0o711)?;
    }
    // The XDG specification wants this one closed; programs check it.
    make_dir(&dir.join("run"), 0o700)?;
    make_dir(&dir.join("tmp"), 0o1777)?;
    let mut keep = vec![dir.to_owned(), bin_dir.to_owned()];
    for path in &spec.sees {
        keep.push(fs::canonicalize(path).map_err(Error::path("cannot resolve", path))?);
    }
    let keep = outermost(keep);
    let hosts = dir.parent().unwrap_or(dir).to_owned();
    Rooms::make(&spec.name, || view::furnish(&dir.join("tmp"), &hosts, &keep))
}

/// Without paths that lie in another of them, for what is bound there is visible already.
fn outermost(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    paths.sort();
    let mut kept: Vec<PathBuf> = Vec::new();
    for path in paths {
        if !kept.last().is_some_and(|outer| path.starts_with(outer)) {
            kept.push(path);
        }
    }
    kept
}

fn make_dir(dir: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new().mode(0o700).create(dir).map_err(Error::path("cannot make directory", dir))?;
    // Set afterwards, for the umask has no say in it.
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
        .map_err(Error::path("cannot set the mode of", dir))
}
