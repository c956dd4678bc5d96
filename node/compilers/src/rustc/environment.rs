//! Which variables of the environment a rustc may see, and which keep it here.
//!
//! Procedural macros read what they like; what cargo sets for a package (`CARGO_*`, `OUT_DIR`) is therefore all in the key, and
//! not what steers cargo itself, which holds tokens and differs from terminal to terminal. What the source asks for is in
//! the dependency list.

use crate::environment::Environment;
use crate::reason::{Reason, ReasonKind};

/// In the key by name.
const NAMES: &[&str] = &[
    "CLIPPY_ARGS",
    "CLIPPY_CONF_DIR",
    "CLIPPY_DISABLE_DOCS_LINKS",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "LC_MESSAGES",
    "LD_LIBRARY_PATH",
    "OUT_DIR",
    "RUSTC_BOOTSTRAP",
    "SOURCE_DATE_EPOCH",
];
/// `CARGO_*` variables that cargo reads itself.
const CARGOS_OWN: &[&str] = &[
    "CARGO_ALIAS_",
    "CARGO_BUILD_",
    "CARGO_CACHE_",
    "CARGO_HTTP_",
    "CARGO_INCREMENTAL",
    "CARGO_LOG",
    "CARGO_MAKEFLAGS",
    "CARGO_NET_",
    "CARGO_PROFILE_",
    "CARGO_REGISTRIES_",
    "CARGO_REGISTRY_",
    "CARGO_TERM_",
];
/// Variables of these names that rustc does not read.
const NOT_RUSTCS: &[&str] = &["RUSTC", "RUSTC_LINKER", "RUSTC_WORKSPACE_WRAPPER", "RUSTC_WRAPPER", "RUSTDOC"];
/// Other programs run, other files read or written.
const LOCAL: &[&str] =
    &["GCONV_PATH", "LD_AUDIT", "LD_PRELOAD", "LOCPATH", "NLSPATH", "OUTPUT_CHARSET", "RUST_TARGET_PATH"];
/// The same where a linker runs.
const LOCAL_LINKER: &[&str] = &[
    "COLLECT_GCC",
    "COMPILER_PATH",
    "GCC_EXEC_PREFIX",
    "LDEMULATION",
    "LD_RUN_PATH",
    "LIBRARY_PATH",
    "MOLD_PATH",
];

/// The variables of `env` that belong to the key.
///
/// # Errors
/// When one changes what is read in ways that no key covers.
pub(super) fn relevant(env: &Environment, links: bool) -> Result<Environment, Reason> {
    let set = |name: &&&str| env.get(name.as_bytes()).is_some_and(|value| !value.is_empty());
    let linkers = if links { LOCAL_LINKER } else { &[] };
    if let Some(name) = LOCAL.iter().chain(linkers).find(set) {
        return Err(Reason::new(ReasonKind::Environment, name.as_bytes()));
    }
    let is_rustcs = |name: &&Vec<u8>| {
        name.starts_with(b"RUSTC") && !is_one_of(NOT_RUSTCS, name) && !is_one_of(NAMES, name)
    };
    if let Some(name) = env.keys().find(is_rustcs) {
        return Err(Reason::new(ReasonKind::Environment, name.clone()));
    }
    let matters = |name: &[u8]| {
        let cargos_own = CARGOS_OWN.iter().any(|own| name.starts_with(own.as_bytes()));
        is_one_of(NAMES, name) || (name.starts_with(b"CARGO") && !cargos_own)
    };
    Ok(env
        .iter()
        .filter(|(name, _)| matters(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect())
}

fn is_one_of(names: &[&str], name: &[u8]) -> bool {
    names.iter().any(|known| known.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(names: &[&str]) -> Environment {
        names.iter().map(|name| (name.as_bytes().to_vec(), b"x".to_vec())).collect()
    }

    #[test]
    fn what_macros_of_a_package_may_read_is_in_the_key_and_secrets_are_not() {
        let all = env(&[
            "CARGO_PKG_NAME",
            "CARGO_REGISTRY_TOKEN",
            "CARGO_REGISTRIES_X_TOKEN",
            "CARGO_TERM_COLOR",
            "CARGO_MAKEFLAGS",
            "OUT_DIR",
            "HOME",
            "RUSTC_WRAPPER",
        ]);
        assert_eq!(relevant(&all, true), Ok(env(&["CARGO_PKG_NAME", "OUT_DIR"])));
    }

    #[test]
    fn what_no_key_covers_is_local() {
        let check = |name: &str, links, expect: bool| {
            assert_eq!(relevant(&env(&[name]), links).is_ok(), expect, "{name} {links}");
        };
        check("RUSTC_LOG", false, false);
        check("LD_PRELOAD", false, false);
        check("LIBRARY_PATH", true, false);
        check("LIBRARY_PATH", false, true);
        check("LD_LIBRARY_PATH", true, true);
        check("RUSTC_BOOTSTRAP", true, true);
    }
}
