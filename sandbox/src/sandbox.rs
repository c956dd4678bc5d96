//! The machine's sandbox: found and checked once, used for every run.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    access::{Access, AccessError},
    loader::{Helper, LoaderError},
    seccomp,
    spawner::{Launch, Spawner},
};

/// The uid and gid a node started as root runs bubblewrap as. Nothing on the machine should belong to them.
pub const DROP_TO_DEFAULT: (u32, u32) = (61_337, 61_337);
/// The first bubblewrap with `--disable-userns`.
const BWRAP_MIN: (u32, u32) = (0, 8);
/// The first kernel that counts `RLIMIT_NPROC` for each user namespace; before, a compile shared its count with
/// everything else of its uid.
const KERNEL_MIN: (u32, u32) = (5, 14);

/// Where the sandbox's parts are.
#[derive(Debug, Clone)]
pub struct Config {
    /// The program `barn-room`; installed where the uid the sandbox runs as can read it.
    pub helper: PathBuf,
    /// Bubblewrap, as an absolute path.
    pub bwrap: PathBuf,
    /// As whom to run bubblewrap when this process is root; [`DROP_TO_DEFAULT`] if `None`. Not used otherwise.
    pub drop_to: Option<(u32, u32)>,
}

/// Why this machine cannot sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The kernel is too old, or does not say how old it is.
    #[error("kernel {found:?} is older than {}.{}", KERNEL_MIN.0, KERNEL_MIN.1)]
    Kernel {
        /// What it says it is.
        found: String,
    },
    /// Bubblewrap is not there or does not start.
    #[error("cannot run {}", .path.display())]
    NoBwrap {
        /// Where it was looked for.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Bubblewrap is too old, or something else.
    #[error("{} is {found:?}, not bubblewrap {}.{} or newer", .path.display(), BWRAP_MIN.0, BWRAP_MIN.1)]
    BwrapTooOld {
        /// Where it is.
        path: PathBuf,
        /// What it says it is.
        found: String,
    },
    /// The configuration would run compiles as root, or in root's group.
    #[error("the sandbox cannot drop to uid {0}, gid {1}")]
    DropToRoot(u32, u32),
    /// The room cannot be started.
    #[error("the room cannot be started")]
    Helper(#[from] LoaderError),
    /// The room cannot be reached by the uid the sandbox runs as.
    #[error("the room cannot be reached")]
    HelperAccess(#[from] AccessError),
    /// There is no system call filter for this architecture.
    #[error("no system call filter for {}", std::env::consts::ARCH)]
    Seccomp(#[from] seccompiler::BackendError),
    /// The spawning thread cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The self-test could not be run. The message is bubblewrap's or the room's own.
    #[error("the sandbox does not work: {0}")]
    Broken(String),
    /// The self-test ran and found the sandbox open.
    #[error("the sandbox does not contain: {0}")]
    Open(String),
}

impl SetupError {
    /// What the machine's owner can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoBwrap { .. } => Some("install the package bubblewrap"),
            Self::BwrapTooOld { .. } => Some("install bubblewrap 0.8 or newer"),
            Self::HelperAccess(_) => Some("install barn-room where every user can read it"),
            Self::Broken(text) if text.contains("namespace") || text.contains("uid map") => Some(
                "allow user namespaces: sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces above 0, \
                 and on Ubuntu an AppArmor profile for bwrap or kernel.apparmor_restrict_unprivileged_userns=0",
            ),
            Self::Broken(text) if text.contains("proc") => {
                Some("inside a container, /proc must be mountable: run the node on the machine itself")
            }
            _ => None,
        }
    }
}

/// A machine's sandbox. Runs share nothing, and may happen at the same time from many threads. Dropping it kills
/// what still runs.
#[derive(Debug)]
pub struct Sandbox {
    pub(crate) helper: Helper,
    pub(crate) spawner: Spawner,
    drop_to: Option<(u32, u32)>,
}

impl Sandbox {
    /// Finds and checks the parts. Whether the machine allows what they do, only [`Self::self_test`] can say.
    ///
    /// # Errors
    /// See [`SetupError`].
    pub fn new(config: Config) -> Result<Self, SetupError> {
        check_kernel()?;
        check_bwrap(&config.bwrap)?;
        let drop_to = drop_to(config.drop_to)?;
        let helper = Helper::find(&config.helper)?;
        if let Some((uid, gid)) = drop_to {
            let mut access = Access::new(uid, gid);
            helper.mounts.iter().try_for_each(|mount| access.check(&mount.host))?;
        }
        let launch = Launch {
            bwrap: config.bwrap,
            command: helper.command.clone(),
            filter: seccomp::filter()?,
            drop_to,
        };
        let spawner = Spawner::new(launch).map_err(SetupError::Thread)?;
        Ok(Self { helper, spawner, drop_to })
    }

    /// The uid and gid runs have on the host, when this process is root.
    pub fn drop_to(&self) -> Option<(u32, u32)> {
        self.drop_to
    }
}

fn drop_to(wanted: Option<(u32, u32)>) -> Result<Option<(u32, u32)>, SetupError> {
    if !nix::unistd::geteuid().is_root() && !nix::unistd::getuid().is_root() {
        return Ok(None);
    }
    match wanted.unwrap_or(DROP_TO_DEFAULT) {
        (uid, gid) if uid == 0 || gid == 0 => Err(SetupError::DropToRoot(uid, gid)),
        ids => Ok(Some(ids)),
    }
}

fn check_kernel() -> Result<(), SetupError> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    match version(&release) {
        Some(version) if version >= KERNEL_MIN => Ok(()),
        _ => Err(SetupError::Kernel { found: release.trim().to_owned() }),
    }
}

fn check_bwrap(path: &Path) -> Result<(), SetupError> {
    let output = Command::new(path)
        .arg("--version")
        .env_clear()
        .output()
        .map_err(|source| SetupError::NoBwrap { path: path.to_owned(), source })?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match text.strip_prefix("bubblewrap ").and_then(version) {
        Some(version) if version >= BWRAP_MIN => Ok(()),
        _ => Err(SetupError::BwrapTooOld { path: path.to_owned(), found: text }),
    }
}

/// The first two numbers of a version such as `6.1.0-13-amd64`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version("6.1.0-13-amd64\n"), Some((6, 1)));
        assert_eq!(version("0.8.0"), Some((0, 8)));
        assert_eq!(version("bubblewrap"), None);
        assert_eq!(version(""), None);
        assert!((0, 10) > BWRAP_MIN && (6, 0) > KERNEL_MIN && (4, 19) < KERNEL_MIN);
    }

    #[test]
    fn what_is_not_bubblewrap_is_refused() {
        assert!(matches!(check_bwrap(Path::new("/no/such/bwrap")), Err(SetupError::NoBwrap { .. })));
        assert!(matches!(check_bwrap(Path::new("/bin/echo")), Err(SetupError::BwrapTooOld { .. })));
    }

    #[test]
    fn root_is_never_the_uid_to_drop_to() {
        if nix::unistd::geteuid().is_root() {
            assert!(matches!(drop_to(Some((0, 5))), Err(SetupError::DropToRoot(0, 5))));
            assert!(matches!(drop_to(Some((5, 0))), Err(SetupError::DropToRoot(5, 0))));
            assert_eq!(drop_to(None).unwrap(), Some(DROP_TO_DEFAULT));
        } else {
            assert_eq!(drop_to(Some((5, 5))).unwrap(), None);
        }
    }
}
