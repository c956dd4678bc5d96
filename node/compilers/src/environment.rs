//! Which environment variables a compile may see.
//!
//! An allowlist: what is not named here never leaves the machine and is never part of a key. A second
//! list names what changes a compile in ways that do not travel; if one of those is set the compile is
//! local.
//!
//! `TERM`, `COLORTERM` and the like are in neither: whether to colour is decided before the compile
//! ([`crate::color`]) and said with a flag.

use std::collections::BTreeMap;

use crate::detect::Family;
use crate::reason::{Reason, ReasonKind};

/// Name to value, as the compiler was given it.
pub type Environment = BTreeMap<Vec<u8>, Vec<u8>>;

/// Read by both families: the language of messages, include paths, the date for `__DATE__`.
const COMMON: &[&str] = &[
    "CPATH",
    "CPLUS_INCLUDE_PATH",
    "C_INCLUDE_PATH",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "LC_MESSAGES",
    "OBJCPLUS_INCLUDE_PATH",
    "OBJC_INCLUDE_PATH",
    "SOURCE_DATE_EPOCH",
];
const GCC: &[&str] = &["GCC_COLORS", "GCC_EXTRA_DIAGNOSTIC_OUTPUT"];
/// Read by clang 17 and later.
const CLANG: &[&str] = &["CLICOLOR_FORCE", "NO_COLOR"];

/// Other programs run, other files read or written; for both families.
const LOCAL_COMMON: &[&str] =
    &["COMPILER_PATH", "DEPENDENCIES_OUTPUT", "GCC_EXEC_PREFIX", "SUNPRO_DEPENDENCIES"];
const LOCAL_GCC: &[&str] = &["EXPERIMENTAL_SARIF_SOCKET", "GCC_COMPARE_DEBUG", "GCC_DIAGNOSTICS_LOG"];
const LOCAL_CLANG: &[&str] = &[
    "CCC_ADD_ARGS",
    "CCC_OVERRIDE_OPTIONS",
    "CC_LOG_DIAGNOSTICS",
    "CC_LOG_DIAGNOSTICS_FILE",
    "CC_PRINT_HEADERS",
    "CC_PRINT_HEADERS_FILE",
    "CC_PRINT_INTERNAL_STAT",
    "CC_PRINT_INTERNAL_STAT_FILE",
    "CC_PRINT_OPTIONS",
    "CC_PRINT_OPTIONS_FILE",
    "CC_PRINT_PROC_STAT",
    "CC_PRINT_PROC_STAT_FILE",
    "FORCE_CLANG_DIAGNOSTICS_CRASH",
    "IPHONEOS_DEPLOYMENT_TARGET",
    "MACOSX_DEPLOYMENT_TARGET",
    "RC_DEBUG_OPTIONS",
    "SDKROOT",
    "TVOS_DEPLOYMENT_TARGET",
    "WATCHOS_DEPLOYMENT_TARGET",
];

/// The variables of `env` that may influence a compiler of this family: part of the key, and the whole
/// environment of a remote compile.
///
/// `logical_cwd` is the value of `PWD` if the caller has checked that it names the working directory and
/// differs from its physical name (see [`crate::Request::pwd_names_cwd`]).
pub fn relevant_env(family: Family, env: &Environment, logical_cwd: Option<&[u8]>) -> Environment {
    let own = match family {
        Family::Gcc => GCC,
        Family::Clang => CLANG,
        _ => &[],
    };
    let mut relevant: Environment = COMMON
        .iter()
        .chain(own)
        .filter_map(|name| Some((name.as_bytes().to_vec(), env.get(name.as_bytes())?.clone())))
        .collect();
    relevant.extend(logical_cwd.map(|pwd| (b"PWD".to_vec(), pwd.to_vec())));
    relevant
}

/// The reason to stay local that a variable of `env` gives, if one does.
pub fn local_reason(family: Family, env: &Environment) -> Option<Reason> {
    let own = match family {
        Family::Gcc => LOCAL_GCC,
        Family::Clang => LOCAL_CLANG,
        _ => &[],
    };
    let set = LOCAL_COMMON.iter().chain(own).find(|name| env.contains_key(name.as_bytes()))?;
    Some(Reason::new(ReasonKind::Environment, set.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn secrets_stay_here() {
        let all =
            env(&[("AWS_SECRET_ACCESS_KEY", "x"), ("HOME", "/home/u"), ("PATH", "/bin"), ("LANG", "C")]);
        for family in [Family::Gcc, Family::Clang] {
            assert_eq!(relevant_env(family, &all, None), env(&[("LANG", "C")]));
        }
    }

    #[test]
    fn families_read_their_own() {
        let all =
            env(&[("GCC_COLORS", ""), ("NO_COLOR", "1"), ("CPATH", "a:b"), ("TERM", "xterm"), ("PWD", "/x")]);
        let gcc = env(&[("GCC_COLORS", ""), ("CPATH", "a:b")]);
        let clang = env(&[("NO_COLOR", "1"), ("CPATH", "a:b"), ("PWD", "/x")]);
        assert_eq!(relevant_env(Family::Gcc, &all, None), gcc);
        assert_eq!(relevant_env(Family::Clang, &all, Some(b"/x")), clang);
    }

    #[test]
    fn what_does_not_travel_is_local() {
        let check = |family, name: &str, local: bool| {
            let reason = local_reason(family, &env(&[(name, "")]));
            assert_eq!(reason.is_some(), local, "{family} {name}");
        };
        check(Family::Gcc, "GCC_EXEC_PREFIX", true);
        check(Family::Gcc, "GCC_COMPARE_DEBUG", true);
        check(Family::Clang, "GCC_COMPARE_DEBUG", false);
        check(Family::Clang, "CCC_OVERRIDE_OPTIONS", true);
        check(Family::Clang, "DEPENDENCIES_OUTPUT", true);
        check(Family::Gcc, "LIBRARY_PATH", false);
    }
}
