//! Paths inside trees, checked when they are made.

use std::{borrow::Borrow, fmt};

use serde::{Deserialize, Serialize};

use crate::limits::{PATH_BYTES_MAX, PATH_DEPTH_MAX};

/// An absolute path in normal form: it starts with `/`, has no `.`, `..` or empty component, no trailing slash
/// and no NUL, and keeps to the length and depth limits. Any other bytes are allowed. The root itself is `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct TreePath(Vec<u8>);

/// Why some bytes are not a [`TreePath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TreePathError {
    /// It does not start with a slash.
    #[error("path is not absolute")]
    Relative,
    /// It has an empty, `.` or `..` component, or a trailing slash.
    #[error("path is not in normal form")]
    NotNormal,
    /// It contains a NUL byte.
    #[error("path contains a NUL byte")]
    Nul,
    /// It is longer or deeper than the limits.
    #[error("path is too long or too deep")]
    TooLarge,
}

impl TreePath {
    /// Checks `bytes` as they are; nothing is normalised away.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, TreePathError> {
        let bytes = bytes.into();
        if bytes.first() != Some(&b'/') {
            return Err(TreePathError::Relative);
        }
        if bytes.len() > PATH_BYTES_MAX {
            return Err(TreePathError::TooLarge);
        }
        if bytes.contains(&0) {
            return Err(TreePathError::Nul);
        }
        if bytes.len() == 1 {
            return Ok(Self(bytes));
        }
        let mut depth = 0;
        for component in bytes[1..].split(|&b| b == b'/') {
            if component.is_empty() || component == b"." || component == b".." {
                return Err(TreePathError::NotNormal);
            }
            depth += 1;
        }
        if depth > PATH_DEPTH_MAX {
            return Err(TreePathError::TooLarge);
        }
        Ok(Self(bytes))
    }

    /// The root, `/`.
    pub fn root() -> Self {
        Self(b"/".to_vec())
    }

    /// The path's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The directory that holds this path; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.0.len() == 1 {
            return None;
        }
        let slash = self.0.iter().rposition(|&b| b == b'/').unwrap_or(0);
        Some(Self(self.0[..slash.max(1)].to_vec()))
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &[u8] {
        let slash = self.0.iter().rposition(|&b| b == b'/').unwrap_or(0);
        &self.0[slash + 1..]
    }

    /// This path extended by one component.
    ///
    /// # Errors
    /// When `name` is empty, `.`, `..`, holds a slash or NUL, or the result is over the limits.
    pub fn child(&self, name: &[u8]) -> Result<Self, TreePathError> {
        if name.contains(&b'/') {
            return Err(TreePathError::NotNormal);
        }
        let mut bytes = self.0.clone();
        if bytes.len() > 1 {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        if name.is_empty() {
            return Err(TreePathError::NotNormal);
        }
        Self::new(bytes)
    }

    /// Whether this path is `ancestor` or lies below it.
    pub fn starts_with(&self, ancestor: &Self) -> bool {
        ancestor.0.len() == 1
            || (self.0.starts_with(&ancestor.0)
                && (self.0.len() == ancestor.0.len() || self.0[ancestor.0.len()] == b'/'))
    }
}

impl TryFrom<Vec<u8>> for TreePath {
    type Error = TreePathError;

    fn try_from(bytes: Vec<u8>) -> Result<Self, Self::Error> {
        Self::new(bytes)
    }
}

impl From<TreePath> for Vec<u8> {
    fn from(path: TreePath) -> Self {
        path.0
    }
}

/// Paths compare as their bytes do, so maps of paths can be asked with bytes.
impl Borrow<[u8]> for TreePath {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &[u8], expect: Result<(), TreePathError>) {
        assert_eq!(TreePath::new(input).map(drop), expect, "{}", String::from_utf8_lossy(input));
    }

    #[test]
    fn only_normal_absolute_paths_are_accepted() {
        check(b"/", Ok(()));
        check(b"/usr/lib", Ok(()));
        check(b"/a b/\xff\n", Ok(()));
        check(b"", Err(TreePathError::Relative));
        check(b"usr", Err(TreePathError::Relative));
        check(b"//", Err(TreePathError::NotNormal));
        check(b"/usr/", Err(TreePathError::NotNormal));
        check(b"/usr//lib", Err(TreePathError::NotNormal));
        check(b"/usr/./lib", Err(TreePathError::NotNormal));
        check(b"/usr/../etc", Err(TreePathError::NotNormal));
        check(b"/a\0b", Err(TreePathError::Nul));
        check(&[b"/", &[b'x'; 4096][..]].concat(), Err(TreePathError::TooLarge));
        check("/x".repeat(65).as_bytes(), Err(TreePathError::TooLarge));
        check("/x".repeat(64).as_bytes(), Ok(()));
    }

    #[test]
    fn family_relations() {
        let path = TreePath::new(*b"/usr/lib").unwrap();
        assert_eq!(path.parent(), TreePath::new(*b"/usr").ok());
        assert_eq!(path.parent().unwrap().parent(), Some(TreePath::root()));
        assert_eq!(TreePath::root().parent(), None);
        assert_eq!(path.name(), b"lib");
        assert!(path.starts_with(&TreePath::root()));
        assert!(path.starts_with(&TreePath::new(*b"/usr").unwrap()));
        assert!(!TreePath::new(*b"/usrx").unwrap().starts_with(&TreePath::new(*b"/usr").unwrap()));
        assert_eq!(TreePath::root().child(b"usr").unwrap().child(b"lib"), Ok(path));
        assert!(TreePath::root().child(b"..").is_err());
    }

    #[test]
    fn a_foreign_encoding_is_checked_too() {
        let good = postcard::to_stdvec(&TreePath::root()).unwrap();
        assert!(postcard::from_bytes::<TreePath>(&good).is_ok());
        let bad = postcard::to_stdvec(&b"/..".to_vec()).unwrap();
        assert!(postcard::from_bytes::<TreePath>(&bad).is_err());
    }
}
