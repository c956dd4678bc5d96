//! Where a node keeps what it keeps, and where its socket is: a pure function of the environment and the user.
//!
//! | | `BARN_HOME` set | root | others |
//! |---|---|---|---|
//! | state | `$BARN_HOME` | `/var/lib/barn` | `$XDG_DATA_HOME/barn`, `~/.local/share/barn` |
//! | socket | `$BARN_HOME/run/node.sock` | `/run/barn/node.sock` | `$XDG_RUNTIME_DIR/barn/node.sock`, `STATE/run/node.sock` |
//! | configuration | `$BARN_HOME/barn.toml` | `/etc/barn/barn.toml` | `$XDG_CONFIG_HOME/barn/barn.toml`, `~/.config/barn/barn.toml` |
//!
//! `BARN_CONFIG` overrides the last row. Root's state is not below `/root` because the unprivileged user that runs
//! the sandbox for a root node must be able to reach it.

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use crate::{env_vars, platform};

/// The name of the socket in its directory.
const SOCKET_NAME: &str = "node.sock";

/// The places of one user's node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The state directory.
    pub home: PathBuf,
    /// The configuration file; it need not exist.
    pub config: PathBuf,
    /// The node's socket.
    pub socket: PathBuf,
}

/// Why there are no places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlacesError {
    /// This variable holds this relative path. The node and its wrappers have different working directories, so
    /// they would disagree.
    Relative(&'static str, PathBuf),
    /// No variable tells where the user's data lives.
    NoHome,
}

impl fmt::Display for PlacesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relative(name, path) => write!(f, "{name} is not an absolute path: {}", path.display()),
            Self::NoHome => f.write_str("none of BARN_HOME, XDG_DATA_HOME and HOME is set"),
        }
    }
}

impl std::error::Error for PlacesError {}

impl Places {
    /// The places of this process' user and environment.
    ///
    /// # Errors
    /// See [`PlacesError`].
    pub fn of_this_process() -> Result<Self, PlacesError> {
        Self::new(|name| env::var_os(name), platform::effective_uid())
    }

    /// The places of the user `uid` in an environment that `variable` looks up.
    ///
    /// # Errors
    /// See [`PlacesError`].
    pub fn new(variable: impl Fn(&str) -> Option<OsString>, uid: u32) -> Result<Self, PlacesError> {
        let own = |name: &'static str| match path_of(&variable, name) {
            Some(path) if path.is_relative() => Err(PlacesError::Relative(name, path)),
            other => Ok(other),
        };
        let config = own(env_vars::BARN_CONFIG)?;
        let mut places = match own(env_vars::BARN_HOME)? {
            Some(home) => Self::below(home),
            None if uid == 0 => Self::of_root(),
            None => Self::of_user(&variable)?,
        };
        if let Some(config) = config {
            places.config = config;
        }
        Ok(places)
    }

    /// The directory of the socket; also holds the lock and the stamps of starting a node. Only its user may
    /// enter it.
    pub fn run_dir(&self) -> &Path {
        self.socket.parent().unwrap_or(&self.home)
    }

    fn below(home: PathBuf) -> Self {
        Self { config: home.join("barn.toml"), socket: home.join("run").join(SOCKET_NAME), home }
    }

    fn of_root() -> Self {
        Self {
            home: "/var/lib/barn".into(),
            config: "/etc/barn/barn.toml".into(),
            socket: Path::new("/run/barn").join(SOCKET_NAME),
        }
    }

    fn of_user(variable: &impl Fn(&str) -> Option<OsString>) -> Result<Self, PlacesError> {
        // The XDG rules: a relative path is invalid and to be ignored.
        let absolute = |name| path_of(variable, name).filter(|path| path.is_absolute());
        let in_home = |below: &str| absolute(env_vars::HOME).map(|home| home.join(below));
        let data = absolute(env_vars::XDG_DATA_HOME)
            .or_else(|| in_home(".local/share"))
            .ok_or(PlacesError::NoHome)?;
        let home = data.join("barn");
        let config = absolute(env_vars::XDG_CONFIG_HOME)
            .or_else(|| in_home(".config"))
            .map_or_else(|| home.join("barn.toml"), |config| config.join("barn/barn.toml"));
        let run =
            absolute(env_vars::XDG_RUNTIME_DIR).map_or_else(|| home.join("run"), |run| run.join("barn"));
        Ok(Self { socket: run.join(SOCKET_NAME), config, home })
    }
}

/// A variable's path; empty counts as unset.
fn path_of(variable: &impl Fn(&str) -> Option<OsString>, name: &str) -> Option<PathBuf> {
    variable(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(env: &[(&str, &str)], uid: u32, expect: Result<[&str; 3], PlacesError>) {
        let variable =
            |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        let expect = expect.map(|[home, config, socket]| Places {
            home: home.into(),
            config: config.into(),
            socket: socket.into(),
        });
        assert_eq!(Places::new(variable, uid), expect, "{env:?} {uid}");
    }

    #[test]
    fn an_ordinary_user_has_xdg_places() {
        let home = ("HOME", "/h");
        let defaults =
            ["/h/.local/share/barn", "/h/.config/barn/barn.toml", "/h/.local/share/barn/run/node.sock"];
        check(&[home], 7, Ok(defaults));
        check(
            &[home, ("XDG_DATA_HOME", "relative"), ("XDG_RUNTIME_DIR", ""), ("BARN_HOME", "")],
            7,
            Ok(defaults),
        );
        check(
            &[home, ("XDG_DATA_HOME", "/d"), ("XDG_CONFIG_HOME", "/c"), ("XDG_RUNTIME_DIR", "/run/user/7")],
            7,
            Ok(["/d/barn", "/c/barn/barn.toml", "/run/user/7/barn/node.sock"]),
        );
        check(&[("XDG_DATA_HOME", "/d")], 7, Ok(["/d/barn", "/d/barn/barn.toml", "/d/barn/run/node.sock"]));
        check(&[], 7, Err(PlacesError::NoHome));
    }

    #[test]
    fn root_has_system_places() {
        let env = [("HOME", "/root"), ("XDG_RUNTIME_DIR", "/run/user/0"), ("XDG_DATA_HOME", "/d")];
        check(&env, 0, Ok(["/var/lib/barn", "/etc/barn/barn.toml", "/run/barn/node.sock"]));
    }

    #[test]
    fn barn_home_holds_everything_for_everybody() {
        for uid in [0, 7] {
            let env = [("BARN_HOME", "/b"), ("HOME", "/h"), ("XDG_RUNTIME_DIR", "/r")];
            check(&env, uid, Ok(["/b", "/b/barn.toml", "/b/run/node.sock"]));
        }
    }

    #[test]
    fn barn_config_overrides_only_the_configuration() {
        check(&[("BARN_CONFIG", "/x.toml")], 0, Ok(["/var/lib/barn", "/x.toml", "/run/barn/node.sock"]));
        let both = [("BARN_CONFIG", "/x.toml"), ("BARN_HOME", "/b")];
        check(&both, 7, Ok(["/b", "/x.toml", "/b/run/node.sock"]));
    }

    #[test]
    fn own_variables_must_be_absolute() {
        for name in ["BARN_HOME", "BARN_CONFIG"] {
            check(&[(name, "b"), ("HOME", "/h")], 7, Err(PlacesError::Relative(name, "b".into())));
        }
    }

    #[test]
    fn the_run_directory_is_that_of_the_socket() {
        assert_eq!(Places::of_root().run_dir(), Path::new("/run/barn"));
    }
}
