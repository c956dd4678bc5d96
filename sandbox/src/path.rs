//! Paths inside the sandbox, checked when they are made.

use std::{ffi::OsStr, fmt, os::unix::ffi::OsStrExt, path::Path};

/// Longest path in bytes, one less than Linux' `PATH_MAX`, which counts the NUL.
const PATH_BYTES_MAX: usize = 4095;
/// Longest component in bytes (`NAME_MAX`).
const NAME_BYTES_MAX: usize = 255;
/// Deepest path in components; real projects stay under 30.
const DEPTH_MAX: usize = 64;

/// An absolute path in normal form below the root: no empty, `.` or `..` component, no trailing slash, no NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InsidePath(Vec<u8>);

/// Why some bytes are not an [`InsidePath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not start with a slash.
    #[error("path is not absolute")]
    Relative,
    /// It is `/`, or has an empty, `.` or `..` component, or a trailing slash.
    #[error("path is not in normal form")]
    NotNormal,
    /// It contains a NUL byte.
    #[error("path contains a NUL byte")]
    Nul,
    /// It, or one of its components, is too long, or it is too deep.
    #[error("path is too long or too deep")]
    TooLarge,
}

impl InsidePath {
    /// Checks `bytes` as they are; nothing is normalised away.
    ///
    /// # Errors
    /// See [`PathError`].
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        if bytes.first() != Some(&b'/') {
            return Err(PathError::Relative);
        }
        if bytes.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLarge);
        }
        if bytes.contains(&0) {
            return Err(PathError::Nul);
        }
        let mut depth = 0;
        for component in bytes[1..].split(|&b| b == b'/') {
            depth += 1;
            if matches!(component, b"" | b"." | b"..") {
                return Err(PathError::NotNormal);
            }
            if component.len() > NAME_BYTES_MAX || depth > DEPTH_MAX {
                return Err(PathError::TooLarge);
            }
        }
        Ok(Self(bytes))
    }

    /// The path's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path as the standard library's type.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The top-level directory it lies in or is, as a path: `/usr` for `/usr/lib/x`.
    pub fn top(&self) -> Self {
        let end = self.0[1..].iter().position(|&b| b == b'/').map_or(self.0.len(), |at| at + 1);
        Self(self.0[..end].to_vec())
    }

    /// Whether it lies directly in the root.
    pub fn is_top(&self) -> bool {
        !self.0[1..].contains(&b'/')
    }

    /// The directories above it, nearest first, without the root.
    pub fn ancestors(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let slash = rest.iter().rposition(|&b| b == b'/').filter(|&at| at > 0)?;
            rest = &rest[..slash];
            Some(rest)
        })
    }
}

impl std::borrow::Borrow<[u8]> for InsidePath {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for InsidePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for InsidePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(path: &[u8], expect: Result<(), PathError>) {
        assert_eq!(InsidePath::new(path).map(|_| ()), expect, "{}", path.escape_ascii());
    }

    #[test]
    fn paths_are_refused_unless_normal() {
        check(b"/a", Ok(()));
        check(b"/a/b\xff c", Ok(()));
        check(b"", Err(PathError::Relative));
        check(b"a/b", Err(PathError::Relative));
        check(b"/", Err(PathError::NotNormal));
        check(b"/a/", Err(PathError::NotNormal));
        check(b"/a//b", Err(PathError::NotNormal));
        check(b"/a/./b", Err(PathError::NotNormal));
        check(b"/a/../b", Err(PathError::NotNormal));
        check(b"/..", Err(PathError::NotNormal));
        check(b"/a\0b", Err(PathError::Nul));
        check(&b"/a".repeat(64), Ok(()));
        check(&b"/a".repeat(65), Err(PathError::TooLarge));
        check(&[b"/".as_slice(), &[b'a'; 256]].concat(), Err(PathError::TooLarge));
    }

    #[test]
    fn top_and_ancestors() {
        let path = InsidePath::new("/usr/lib/x").unwrap();
        assert_eq!(path.top().as_bytes(), b"/usr");
        assert!(!path.is_top() && path.top().is_top());
        assert_eq!(path.ancestors().collect::<Vec<_>>(), [b"/usr/lib".as_slice(), b"/usr"]);
    }

    proptest! {
        #[test]
        fn what_is_accepted_resolves_to_itself(bytes in proptest::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), any::<u8>()], 0..40)) {
            if let Ok(path) = InsidePath::new(bytes.clone()) {
                let again: std::path::PathBuf = path.as_path().components().collect();
                prop_assert_eq!(again.as_os_str().as_bytes(), bytes.as_slice());
                prop_assert!(path.as_path().components().all(|c| c != std::path::Component::ParentDir));
            }
        }
    }
}
