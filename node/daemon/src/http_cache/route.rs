//! Which entry a path means.
//!
//! ```text
//! /ccache/NAME     any name of ccache's layouts, below any folders
//! /sccache/NAME    a WebDAV share; a path that ends with a slash is a folder
//! /bazel/ac/KEY    action results, by 64 hexadecimal digits
//! /bazel/cas/KEY   contents, by their SHA-256
//! ```
//!
//! Names become keys of the store by hashing and never paths on disk; the rules for them keep one name per entry.

use barn_cache::ForeignKey;
use data_encoding::HEXLOWER;

/// Longest name behind a tool's prefix, in bytes. The tools use under 100; a project may put folders in front.
const NAME_BYTES_MAX: usize = 512;
/// Bytes of a SHA-256.
pub(super) const SHA256_BYTES: usize = 32;

/// What a path means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// An entry.
    Entry(Entry),
    /// A folder of a WebDAV share. There is nothing to them: each is there, and empty.
    Folder,
}

/// A name of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    namespace: &'static str,
    name: String,
    /// What the contents' SHA-256 must be.
    pub(super) sha256: Option<[u8; SHA256_BYTES]>,
}

impl Entry {
    /// Its key in the store.
    pub(super) fn key(&self) -> ForeignKey {
        ForeignKey::new(self.namespace, self.name.as_bytes())
    }
}

/// Why a path means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum RouteError {
    /// It belongs to no tool.
    #[error("no such cache; paths begin with /ccache/, /sccache/, /bazel/ac/ or /bazel/cas/")]
    NoTool,
    /// Its name is not one that a tool would use.
    #[error("not a name of an entry")]
    BadName,
}

/// What a path (without the token) means.
pub(super) fn route(path: &str) -> Result<Target, RouteError> {
    let path = path.strip_prefix('/').ok_or(RouteError::NoTool)?;
    let (tool, rest) = path.split_once('/').unwrap_or((path, ""));
    // A tool that is given a URL with a slash at its end may add another.
    let name = rest.trim_start_matches('/');
    match tool {
        "ccache" => entry("ccache", name),
        "sccache" if name.is_empty() => Ok(Target::Folder),
        "sccache" => match name.strip_suffix('/') {
            Some(folder) => entry("sccache", folder).map(|_| Target::Folder),
            None => entry("sccache", name),
        },
        "bazel" => bazel(name),
        _ => Err(RouteError::NoTool),
    }
}

fn bazel(name: &str) -> Result<Target, RouteError> {
    let (part, key) = name.split_once('/').ok_or(RouteError::NoTool)?;
    let digest = HEXLOWER.decode(key.as_bytes()).ok();
    let digest: Option<[u8; SHA256_BYTES]> = digest.and_then(|digest| digest.try_into().ok());
    let (namespace, sha256) = match part {
        "ac" => ("bazel ac", None),
        "cas" => ("bazel cas", digest),
        _ => return Err(RouteError::NoTool),
    };
    digest.ok_or(RouteError::BadName)?;
    Ok(Target::Entry(Entry { namespace, name: key.to_owned(), sha256 }))
}

fn entry(namespace: &'static str, name: &str) -> Result<Target, RouteError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._+=@~".contains(&byte);
    let sound = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(plain);
    if name.len() > NAME_BYTES_MAX || !name.split('/').all(sound) {
        return Err(RouteError::BadName);
    }
    Ok(Target::Entry(Entry { namespace, name: name.to_owned(), sha256: None }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn paths_of_the_tools() {
        let check = |path: &str, expected: Result<(&str, &str), RouteError>| {
            let found = route(path);
            let found = found.map(|target| match target {
                Target::Entry(entry) => (entry.namespace, entry.name),
                Target::Folder => ("folder", String::new()),
            });
            assert_eq!(found, expected.map(|(namespace, name)| (namespace, name.to_owned())), "{path}");
        };
        check("/ccache/ab/cdef-12.R", Ok(("ccache", "ab/cdef-12.R")));
        check("/ccache/project/ab/cd", Ok(("ccache", "project/ab/cd")));
        check("/sccache/.sccache_check", Ok(("sccache", ".sccache_check")));
        check("/sccache/a/b/c/abc", Ok(("sccache", "a/b/c/abc")));
        check("/sccache//a/b", Ok(("sccache", "a/b")));
        for folder in ["/sccache", "/sccache/", "/sccache//", "/sccache/a/", "/sccache/a/b/"] {
            check(folder, Ok(("folder", "")));
        }
        check(&format!("/bazel/ac/{HEX}"), Ok(("bazel ac", HEX)));
        check(&format!("/bazel/cas/{HEX}"), Ok(("bazel cas", HEX)));
        for path in ["", "/", "/x", "/sccachex", "/bazel/", "/bazel/x/y", "ccache/x", "//ccache/x"] {
            check(path, Err(RouteError::NoTool));
        }
        let upper = HEX.to_uppercase();
        for path in [
            "/ccache",
            "/ccache/",
            "/ccache/..",
            "/ccache/../bazel/ac/x",
            "/ccache/a/../b",
            "/ccache/./a",
            "/ccache/a//b",
            "/ccache/a/",
            "/ccache/%2e%2e/x",
            "/ccache/a%00",
            "/ccache/a\\b",
            "/sccache/../",
            "/sccache/a//",
            "/bazel/cas/../ac",
            "/bazel/cas/abc",
            &format!("/bazel/cas/{HEX}0"),
            &format!("/bazel/cas/{HEX}/"),
            &format!("/bazel/ac/{upper}"),
            &format!("/ccache/{}", "x".repeat(NAME_BYTES_MAX + 1)),
        ] {
            check(path, Err(RouteError::BadName));
        }
    }

    proptest! {
        /// Two paths never mean one entry, whatever they are made of.
        #[test]
        fn one_path_per_entry(
            one in "/(ccache|sccache|bazel/ac|bazel/cas)/[a-c.%][a-c./%]{0,7}",
            two in "/(ccache|sccache|bazel/ac|bazel/cas)/[a-c.%][a-c./%]{0,7}",
        ) {
            if let (Ok(Target::Entry(first)), Ok(Target::Entry(second))) = (route(&one), route(&two)) {
                prop_assert_eq!(one == two, first.key() == second.key());
            }
        }
    }
}
