//! Source trees: how a case writes one down, and what is there after a compile.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
};

/// Paths and contents. A path that ends with `/` is an empty directory; contents `-> target` make a symbolic link;
/// contents that begin with `#!` make an executable file.
pub type Tree<'a> = &'a [(&'a str, &'a str)];

/// Everything below a directory: permissions, and contents or what else it is.
pub type Snapshot = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// Makes `directory` hold `tree` and nothing else.
pub fn lay(directory: &Path, tree: Tree<'_>) {
    // The directory itself stays: it may be somebody's working directory.
    for entry in fs::read_dir(directory).expect("the directory is there") {
        let path = entry.expect("the directory is readable").path();
        let is_directory = path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        let removed = if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    for (path, contents) in tree {
        let whole = directory.join(path);
        if path.ends_with('/') {
            fs::create_dir_all(&whole).unwrap();
            continue;
        }
        fs::create_dir_all(whole.parent().unwrap()).unwrap();
        match contents.strip_prefix("-> ") {
            Some(target) => symlink(target, &whole).unwrap(),
            None => fs::write(&whole, contents).unwrap(),
        }
        if contents.starts_with("#!") {
            fs::set_permissions(&whole, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
}

/// What is below `directory`.
pub fn snapshot(directory: &Path) -> Snapshot {
    let mut found = Snapshot::new();
    collect(directory, directory, &mut found);
    found
}

fn collect(root: &Path, directory: &Path, found: &mut Snapshot) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        let contents = match () {
            () if meta.is_symlink() => {
                [b"-> ".as_slice(), fs::read_link(&path).unwrap().as_os_str().as_bytes()].concat()
            }
            () if meta.is_file() => fs::read(&path).unwrap(),
            () if meta.is_dir() => b"directory".to_vec(),
            () => b"special".to_vec(),
        };
        let name = path.strip_prefix(root).expect("it is below the root").to_owned();
        found.insert(name, (meta.permissions().mode(), contents));
        if meta.is_dir() {
            collect(root, &path, found);
        }
    }
}
