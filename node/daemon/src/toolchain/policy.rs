//! What a toolchain from somebody else must keep to before anything is done with it.
//!
//! The types already hold: paths are absolute and in normal form, nothing lies below a file or a symbolic link,
//! and no entry is a device or a hard link, because there is no such [`Entry`]. Names that
//! differ in case only do no harm: blobs are stored by digest, and paths exist in the sandbox alone.

use barn_protocol::{limits::TOOLCHAIN_ENTRIES_MAX, path::TreePath, toolchain::Toolchain, tree::Entry};

/// Largest sum of a toolchain's files, in bytes. Debug builds of clang reach 4 GiB, packaged compilers 0.3.
pub const TOOLCHAIN_BYTES_MAX: u64 = 8 << 30;
/// Longest name, in bytes; it is shown on one line.
const NAME_BYTES_MAX: usize = 256;
/// Longest machine name, in bytes.
const MACHINE_BYTES_MAX: usize = 32;
/// Most directories searched for programs. Two are usual: the compiler's and the assembler's.
const SEARCH_PATH_MAX: usize = 64;
/// Where the sandbox and bubblewrap keep their own, or the kernel does.
const RESERVED: [&[u8]; 6] = [b"/proc", b"/dev", b"/sys", b"/.barn", b"/oldroot", b"/newroot"];

/// Why a toolchain is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Too many entries.
    #[error("toolchain has more than {TOOLCHAIN_ENTRIES_MAX} entries")]
    Entries,
    /// Too many bytes.
    #[error("toolchain has more than {TOOLCHAIN_BYTES_MAX} bytes")]
    Bytes,
    /// A name that cannot be shown, or an unlikely machine.
    #[error("toolchain has an unusable name or machine")]
    Name,
    /// Too many directories to search.
    #[error("toolchain searches more than {SEARCH_PATH_MAX} directories, or one with a colon")]
    SearchPath,
    /// An entry where the sandbox keeps its own, or a file directly in the root.
    #[error("toolchain has an entry at {0}")]
    Place(TreePath),
    /// No program at all.
    #[error("toolchain has no program")]
    NoProgram,
}

/// Checks a toolchain against the limits.
///
/// # Errors
/// The first rule it breaks.
pub fn check(toolchain: &Toolchain) -> Result<(), PolicyError> {
    if toolchain.tree.len() > TOOLCHAIN_ENTRIES_MAX {
        return Err(PolicyError::Entries);
    }
    if toolchain.tree.file_bytes() > TOOLCHAIN_BYTES_MAX {
        return Err(PolicyError::Bytes);
    }
    let shown = toolchain.name.len() <= NAME_BYTES_MAX && !toolchain.name.chars().any(char::is_control);
    let machine = toolchain.machine.as_bytes();
    let plain = machine.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_');
    if !shown || !plain || machine.is_empty() || machine.len() > MACHINE_BYTES_MAX {
        return Err(PolicyError::Name);
    }
    let colon = toolchain.search_path.iter().any(|path| path.as_bytes().contains(&b':'));
    if colon || toolchain.search_path.len() > SEARCH_PATH_MAX {
        return Err(PolicyError::SearchPath);
    }
    if let Some((path, _)) = toolchain.tree.iter().find(|(path, entry)| is_misplaced(path, entry)) {
        return Err(PolicyError::Place(path.clone()));
    }
    let program = |entry: &Entry| matches!(entry, Entry::File { executable: true, .. });
    if !toolchain.tree.iter().any(|(_, entry)| program(entry)) {
        return Err(PolicyError::NoProgram);
    }
    Ok(())
}

fn is_misplaced(path: &TreePath, entry: &Entry) -> bool {
    let bytes = path.as_bytes();
    let top = bytes[1..].iter().position(|&b| b == b'/').map_or(bytes, |at| &bytes[..=at]);
    RESERVED.contains(&top) || (top == bytes && matches!(entry, Entry::File { .. }))
}

#[cfg(test)]
mod tests {
    use barn_protocol::{digest::Digest, tree::Tree};

    use super::*;

    fn toolchain(entries: &[(&str, Entry)]) -> Toolchain {
        let mut tree = Tree::new();
        for (path, entry) in entries {
            tree.insert(TreePath::new(*path).unwrap(), entry.clone()).unwrap();
        }
        Toolchain { name: "gcc 1".into(), machine: "x86_64".into(), tree, search_path: Vec::new() }
    }

    fn program() -> Entry {
        Entry::File { digest: Digest::of(b""), size: 0, executable: true }
    }

    #[track_caller]
    fn check_at(path: &str, entry: Entry, good: bool) {
        let result = check(&toolchain(&[("/usr/bin/cc", program()), (path, entry)]));
        assert_eq!(result.is_ok(), good, "{path}: {result:?}");
    }

    #[test]
    fn places_of_the_sandbox_are_not_for_toolchains() {
        let link = || Entry::Symlink { target: b"usr/lib".to_vec() };
        check_at("/lib", link(), true);
        check_at("/opt/cc", program(), true);
        check_at("/devel/cc", program(), true);
        check_at("/cc", program(), false);
        for top in ["/proc", "/dev", "/sys", "/.barn", "/oldroot", "/newroot"] {
            check_at(top, link(), false);
            check_at(&format!("{top}/x"), program(), false);
        }
    }

    #[test]
    fn limits_hold() {
        let good = toolchain(&[("/usr/bin/cc", program())]);
        assert_eq!(check(&good), Ok(()));
        assert_eq!(check(&Toolchain { name: "a\u{1b}[2J".into(), ..good.clone() }), Err(PolicyError::Name));
        assert_eq!(check(&Toolchain { name: "a".repeat(257), ..good.clone() }), Err(PolicyError::Name));
        assert_eq!(check(&Toolchain { machine: "../x".into(), ..good.clone() }), Err(PolicyError::Name));
        let many = vec![TreePath::root(); 65];
        assert_eq!(check(&Toolchain { search_path: many, ..good.clone() }), Err(PolicyError::SearchPath));
        let colon = vec![TreePath::new(*b"/a:/b").unwrap()];
        assert_eq!(check(&Toolchain { search_path: colon, ..good }), Err(PolicyError::SearchPath));
        assert_eq!(check(&toolchain(&[("/usr", Entry::Directory)])), Err(PolicyError::NoProgram));
        let big = Entry::File { digest: Digest::of(b""), size: 1 << 30, executable: false };
        let names: Vec<String> = (0..9).map(|n| format!("/usr/{n}")).collect();
        let files: Vec<_> = names.iter().map(|name| (name.as_str(), big.clone())).collect();
        assert_eq!(check(&toolchain(&files)), Err(PolicyError::Bytes));
    }
}
