//! The state directory: what a node keeps between runs, and who may read it.
//!
//! ```text
//! HOME/                 0700 (0711 when run as root: the sandbox's uid must reach toolchains/)
//!   identity.key        0600  ed25519 seed of this node
//!   mesh/               0700
//!     roster            the newest roster seen, as signed
//!     admin.key         0600  only where `barn mesh init` ran; may be moved offline
//!     invites           open invitations: hashes of their secrets
//!   cache/              the store (see docs/cache.md)
//!   toolchains/         descriptions of the toolchains known here
//!   incoming/           parts of toolchains on their way
//!   builds-v1/          0700  what recorded builds need, as signed (see docs/prefetch.md)
//!   recollection        digests and texts of files, for the next start
//!   http-cache.token    0600  what other tools show at the HTTP cache endpoint; only where that is on
//!   stats.json          the counters of `barn stats`
//!   node.log            what a node in the background says
//! ```
//!
//! Every file is written beside its place and renamed, so a crash leaves the old or the new one.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use barn_protocol::{Identity, NodeId, identity::SignedBytes, roster::SignedRoster};
use serde::{Deserialize, Serialize};

/// The state directory of one node.
#[derive(Debug, Clone)]
pub struct Home {
    dir: PathBuf,
}

/// What can be wrong with the state directory.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// A file or directory cannot be read or written.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A secret key that others could read may have been copied.
    #[error("{0} can be read by other users\nhint: chmod 600 it if nobody else has seen it, else delete it")]
    OpenKey(PathBuf),
    /// A file does not hold what its name says.
    #[error("{0} is damaged\nhint: move it away; the node makes or fetches it anew")]
    Damaged(PathBuf),
    /// There is no mesh yet.
    #[error("this machine is in no mesh\nhint: `barn mesh init` founds one, `barn join TOKEN` joins one")]
    NoMesh,
    /// The admin key is not here.
    #[error("the admin key of this mesh is not on this machine\nhint: run this where `barn mesh init` ran")]
    NoAdminKey,
}

/// The roster file: which mesh this is, beside the bytes its admin signed.
#[derive(Serialize, Deserialize)]
struct StoredRoster {
    mesh: NodeId,
    roster: SignedBytes,
}

impl Home {
    /// Opens or creates the state directory.
    ///
    /// # Errors
    /// When it cannot be created or its mode not be set.
    pub fn open(dir: &Path) -> Result<Self, HomeError> {
        let home = Self { dir: dir.to_owned() };
        // Others may pass through a root node's directory, but list nothing.
        let mode = if nix::unistd::geteuid().is_root() { 0o711 } else { 0o700 };
        home.make_dir(dir, mode)?;
        home.make_dir(&dir.join("mesh"), 0o700)?;
        home.make_dir(&dir.join("toolchains"), 0o700)?;
        Ok(home)
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The store's directory.
    pub fn cache_dir(&self) -> PathBuf {
        self.dir.join("cache")
    }

    /// Where descriptions of toolchains are kept.
    pub fn toolchains_dir(&self) -> PathBuf {
        self.dir.join("toolchains")
    }

    /// Where the lists of recorded builds are kept.
    pub fn builds_dir(&self) -> PathBuf {
        self.dir.join("builds-v1")
    }

    /// Where `barn run` keeps its links.
    pub fn links_dir(&self) -> PathBuf {
        self.dir.join("links-v1")
    }

    /// The counters' file.
    pub fn stats_path(&self) -> PathBuf {
        self.dir.join("stats.json")
    }

    /// What the next node shall know of files.
    pub fn recollection_path(&self) -> PathBuf {
        self.dir.join("recollection")
    }

    /// What this machine made while no other was there.
    pub fn backlog_path(&self) -> PathBuf {
        self.dir.join("backlog")
    }

    /// The file with the token of the HTTP cache endpoint.
    pub fn http_cache_token_path(&self) -> PathBuf {
        self.dir.join("http-cache.token")
    }

    /// Where a node in the background writes its log.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("node.log")
    }

    /// The file that says which invitations are open.
    pub fn invites_path(&self) -> PathBuf {
        self.dir.join("mesh/invites")
    }

    /// This node's identity; made at the first call.
    ///
    /// # Errors
    /// When the key file is readable by others, damaged, or cannot be written.
    pub fn identity(&self) -> Result<Identity, HomeError> {
        let path = self.dir.join("identity.key");
        match self.read_key(&path)? {
            Some(identity) => Ok(identity),
            None => self.create_key(&path),
        }
    }

    /// The mesh's admin key, if this is where it is kept.
    ///
    /// # Errors
    /// When there is no mesh, no admin key, or the file is not fit for a secret.
    pub fn admin(&self) -> Result<Identity, HomeError> {
        self.read_key(&self.admin_path())?.ok_or(HomeError::NoAdminKey)
    }

    /// Makes the admin key of a new mesh.
    ///
    /// # Errors
    /// When one is there already or it cannot be written.
    pub fn create_admin(&self) -> Result<Identity, HomeError> {
        self.create_key(&self.admin_path())
    }

    /// Whether the admin key is here.
    pub fn has_admin(&self) -> bool {
        self.admin_path().exists()
    }

    /// The newest roster seen by this node.
    ///
    /// # Errors
    /// When the file is there but damaged; `Ok(None)` without a mesh.
    pub fn roster(&self) -> Result<Option<SignedRoster>, HomeError> {
        let path = self.roster_path();
        let Some(bytes) = self.read_if_there(&path)? else { return Ok(None) };
        let stored: StoredRoster =
            postcard::from_bytes(&bytes).map_err(|_| HomeError::Damaged(path.clone()))?;
        SignedRoster::verify(&stored.mesh, stored.roster).map(Some).map_err(|_| HomeError::Damaged(path))
    }

    /// Keeps `roster` unless a newer one of the same mesh is kept already.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_roster(&self, roster: &SignedRoster) -> Result<(), HomeError> {
        if let Ok(Some(known)) = self.roster()
            && known.roster().mesh == roster.roster().mesh
            && known.roster().epoch >= roster.roster().epoch
        {
            return Ok(());
        }
        let stored = StoredRoster { mesh: roster.roster().mesh, roster: roster.bytes().clone() };
        let bytes = postcard::to_stdvec(&stored).expect("encoding into memory does not fail");
        self.replace(&self.roster_path(), &bytes, 0o600)
    }

    /// Reads a whole file; `None` when it is not there.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read_if_there(&self, path: &Path) -> Result<Option<Vec<u8>>, HomeError> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HomeError::Io { action: "read", path: path.to_owned(), source }),
        }
    }

    /// Writes a file beside its place, syncs it and renames it.
    ///
    /// # Errors
    /// When any step fails; the old file is then untouched.
    pub fn replace(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), HomeError> {
        let fail = |action, source| HomeError::Io { action, path: path.to_owned(), source };
        let temp = path.with_extension(format!("tmp{}", std::process::id()));
        let write = || -> io::Result<()> {
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temp)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|source| fail("write", source))?;
        fs::rename(&temp, path).map_err(|source| fail("replace", source))
    }

    /// Holds off other processes that change the roster or the invitations, until dropped.
    ///
    /// # Errors
    /// When the lock file cannot be opened or locked.
    pub fn lock_mesh(&self) -> Result<nix::fcntl::Flock<fs::File>, HomeError> {
        let path = self.dir.join("mesh/lock");
        let fail = |source| HomeError::Io { action: "lock", path: path.clone(), source };
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(fail)?;
        nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive)
            .map_err(|(_, errno)| fail(errno.into()))
    }

    fn admin_path(&self) -> PathBuf {
        self.dir.join("mesh/admin.key")
    }

    fn roster_path(&self) -> PathBuf {
        self.dir.join("mesh/roster")
    }

    fn make_dir(&self, path: &Path, mode: u32) -> Result<(), HomeError> {
        let fail = |source| HomeError::Io { action: "create", path: path.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(fail)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(fail)
    }

    fn read_key(&self, path: &Path) -> Result<Option<Identity>, HomeError> {
        let Some(bytes) = self.read_if_there(path)? else { return Ok(None) };
        let mode = fs::metadata(path)
            .map_err(|source| HomeError::Io { action: "read", path: path.to_owned(), source })?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(HomeError::OpenKey(path.to_owned()));
        }
        let seed: [u8; 32] = bytes.try_into().map_err(|_| HomeError::Damaged(path.to_owned()))?;
        Ok(Some(Identity::from_seed(&seed)))
    }

    fn create_key(&self, path: &Path) -> Result<Identity, HomeError> {
        let seed: [u8; 32] = rand::random();
        // Linked into place, so that of two processes that start at once the first one's key stays.
        let temp = path.with_extension(format!("new{}", std::process::id()));
        self.replace(&temp, &seed, 0o600)?;
        let linked = fs::hard_link(&temp, path);
        let _ = fs::remove_file(&temp);
        match linked {
            Ok(()) => Ok(Identity::from_seed(&seed)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.read_key(path)?.ok_or_else(|| HomeError::Damaged(path.to_owned()))
            }
            Err(source) => Err(HomeError::Io { action: "create", path: path.to_owned(), source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use barn_protocol::roster::{Capabilities, Member, Roster};

    use super::*;

    #[test]
    fn the_identity_is_made_once_and_kept_secret() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        let first = home.identity().unwrap();
        assert_eq!(home.identity().unwrap().id(), first.id());
        let key = dir.path().join("identity.key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(home.identity(), Err(HomeError::OpenKey(_))));
    }

    #[test]
    fn an_older_roster_never_replaces_a_newer_one() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        assert!(home.roster().unwrap().is_none());
        let admin = home.create_admin().unwrap();
        let member = Member {
            id: home.identity().unwrap().id(),
            name: "one".to_owned(),
            capabilities: Capabilities::OFFICE,
        };
        let old = Roster::found(&admin, member, 0, 10);
        let new = old.renewed(5).sign(&admin).unwrap();
        home.keep_roster(&new).unwrap();
        home.keep_roster(&old.sign(&admin).unwrap()).unwrap();
        assert_eq!(home.roster().unwrap(), Some(new));
    }
}
