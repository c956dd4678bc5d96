//! Every environment variable that barn reads or sets, each exactly once.
//!
//! The reference page is generated from [`ALL`], so a variable that is not here does not exist.

use std::ffi::OsStr;

/// The state directory (identity, cache, roster, history). An absolute path.
pub const BARN_HOME: &str = "BARN_HOME";
/// The configuration file, instead of `barn.toml` in its usual place. An absolute path.
pub const BARN_CONFIG: &str = "BARN_CONFIG";
/// `1`: the wrapper becomes the compiler at once.
pub const BARN_DISABLE: &str = "BARN_DISABLE";
/// `1`: the wrapper never starts a node; it uses one that runs.
pub const BARN_NO_START: &str = "BARN_NO_START";
/// Whose results this build takes, beside what the node's own setting asks for: a value of `cache.trust`.
pub const BARN_TRUST: &str = "BARN_TRUST";
/// What the node logs, in the filter syntax of `tracing` (`info`, `barn_node=debug`).
pub const BARN_LOG: &str = "BARN_LOG";
/// The name under which a machine that may publish records what a build needs, such as a commit id.
pub const BARN_BUILD: &str = "BARN_BUILD";
/// Set by the wrapper for the programs it runs, so that a compiler which is itself a script around `barn` does not
/// go round for ever. See [`crate::guard`]. Never set by hand.
pub const BARN_CHAIN: &str = "BARN_CHAIN";

/// Where per-user data lives by the XDG rules; read for the default of [`BARN_HOME`].
pub const XDG_DATA_HOME: &str = "XDG_DATA_HOME";
/// Where per-user configuration lives by the XDG rules; read for the default of [`BARN_CONFIG`].
pub const XDG_CONFIG_HOME: &str = "XDG_CONFIG_HOME";
/// Where per-user sockets live by the XDG rules.
pub const XDG_RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";
/// The user's home; the XDG defaults are below it.
pub const HOME: &str = "HOME";
/// Where compilers are looked for.
pub const PATH: &str = "PATH";

/// One line of the reference page.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// The name.
    pub name: &'static str,
    /// What it may hold.
    pub values: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

/// The reference page, in order.
pub const ALL: &[Variable] = &[
    Variable {
        name: BARN_HOME,
        values: "absolute path",
        meaning: "state directory; the socket is then in its `run` folder. Default: `/var/lib/barn` for root, \
                  else `$XDG_DATA_HOME/barn` or `~/.local/share/barn`",
    },
    Variable {
        name: BARN_CONFIG,
        values: "absolute path",
        meaning: "configuration file. Default: `barn.toml` in `BARN_HOME` if that is set, else `/etc/barn` for \
                  root, else `$XDG_CONFIG_HOME/barn` or `~/.config/barn`",
    },
    Variable {
        name: BARN_DISABLE,
        values: "1",
        meaning: "the wrapper becomes the compiler at once and asks nobody",
    },
    Variable {
        name: BARN_NO_START,
        values: "1",
        meaning: "the wrapper uses a running node but never starts one",
    },
    Variable {
        name: BARN_TRUST,
        values: "a policy",
        meaning: "whose results this build takes, beside what `cache.trust` asks for: `own`, `workers`, `members`, \
                  `publishers`, `workers:NAME,NAME`, `agree:N`. It can only make it stricter; what is not understood \
                  counts as `own`",
    },
    Variable { name: BARN_LOG, values: "tracing filter", meaning: "what the node logs, such as `info`" },
    Variable {
        name: BARN_BUILD,
        values: "name of a build",
        meaning: "records what the build needs, so that others can fetch it by `barn cache warm --from NAME`; only on a \
                  machine that may publish",
    },
    Variable {
        name: BARN_CHAIN,
        values: "set by barn",
        meaning: "the compilers that barn is already running above this process; stops endless recursion",
    },
    Variable {
        name: XDG_DATA_HOME,
        values: "absolute path",
        meaning: "base of the default state directory (not for root)",
    },
    Variable {
        name: XDG_CONFIG_HOME,
        values: "absolute path",
        meaning: "base of the default configuration file (not for root)",
    },
    Variable {
        name: XDG_RUNTIME_DIR,
        values: "absolute path",
        meaning: "base of the socket, `barn/node.sock` (not for root, not with `BARN_HOME`)",
    },
    Variable { name: HOME, values: "absolute path", meaning: "base of the XDG defaults" },
    Variable { name: PATH, values: "directories", meaning: "where a compiler given by name is found" },
];

/// Whether a switch such as [`BARN_DISABLE`] with this value is on: set, not empty and not `0`.
pub fn is_on(value: Option<&OsStr>) -> bool {
    value.is_some_and(|value| !value.is_empty() && value != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_on_when_it_says_something_other_than_zero() {
        for (value, expect) in [(None, false), (Some(""), false), (Some("0"), false), (Some("1"), true)] {
            assert_eq!(is_on(value.map(OsStr::new)), expect, "{value:?}");
        }
    }

    #[test]
    fn every_variable_is_listed_once() {
        for (index, variable) in ALL.iter().enumerate() {
            assert!(ALL[..index].iter().all(|other| other.name != variable.name), "{}", variable.name);
        }
    }
}
