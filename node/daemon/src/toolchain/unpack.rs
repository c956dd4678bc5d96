//! A toolchain laid out in a directory, to be used there by a machine that has no compiler.
//!
//! ```text
//! DIR/bin/gcc                     what a user calls
//! DIR/root/usr/bin/…              the toolchain at its own paths below `root`
//! DIR/root/.programs/usr/bin/…    its programs
//! ```
//!
//! Its programs were linked for paths of another machine, and this one's C library may be older than they need. So
//! each lies in `.programs`, and a script in its place starts it with the toolchain's own loader and libraries, under
//! the name it was called by: gcc and clang find their passes from that name. The loader must know `--argv0` (glibc
//! 2.33 and later, musl).
//!
//! One with a sysroot is laid out so that its compiler is an ordinary one to everybody, barn included: its programs stay
//! where they are and are made to start with the toolchain's loader and libraries (`relocate`), `bin` has links to
//! them, and gcc is told where all the rest lies by a specs file. So its compiles are cached and distributed.
//!
//! Invariant: nothing is written outside of the directory, and no link that was made is followed: a tree has nothing
//! below a file or a link, and links are made to lead to paths below `root`.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::{OpenOptionsExt as _, symlink},
    },
    path::{Component, Path, PathBuf},
};

use barn_protocol::{Digest, Entry, Toolchain, Tree, TreePath};

use super::{elf, probe, relocate::relocate, walk::path_of};

/// Where programs lie below the root.
const PROGRAMS: &str = ".programs";
/// What gcc and `collect2` start besides gcc's own passes.
const SUBPROGRAMS: [&str; 7] = ["as", "ld", "ld.bfd", "ld.gold", "nm", "objcopy", "strip"];
/// Links followed before they are taken for a circle, as in the kernel.
const LINKS_MAX: usize = 40;

/// Why a toolchain cannot be laid out.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// There is something already.
    #[error("{0} exists already\nhint: name another directory with --into, or remove it")]
    Exists(PathBuf),
    /// The disk is at fault.
    #[error("cannot write {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A part of it is not in the store.
    #[error("blob {0} of the toolchain is not here")]
    Missing(Digest),
    /// A path that gcc's specs and the loader would take apart.
    #[error(
        "a toolchain with a sysroot cannot lie in {0}\nhint: name a directory of letters, digits and ._+- with --into"
    )]
    Place(PathBuf),
    /// Its gcc does not start here.
    #[error("the compiler in {0} does not answer\nhint: it may be for another kind of machine")]
    Silent(PathBuf),
    /// A program's loader is not part of it.
    #[error("the toolchain has no loader for {0}")]
    NoLoader(PathBuf),
}

/// Lays `toolchain` out in the new directory `dir`, whose `bin` then holds what can be called. `open` gives blobs.
///
/// # Errors
/// When something is missing or cannot be written; then there is no such directory.
pub fn unpack(
    toolchain: &Toolchain,
    dir: &Path,
    open: impl Fn(&Digest) -> Option<File>,
) -> Result<(), UnpackError> {
    if fs::symlink_metadata(dir).is_ok() {
        return Err(UnpackError::Exists(dir.to_owned()));
    }
    let sysroot = Settled::of(toolchain);
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._+-".contains(byte);
    if sysroot.is_some() && !dir.as_os_str().as_bytes().iter().all(is_plain) {
        return Err(UnpackError::Place(dir.to_owned()));
    }
    let parent = dir.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(failed(parent))?;
    let new = tempfile::Builder::new().prefix(".unpacking").tempdir_in(parent).map_err(failed(parent))?;
    let layout = Layout { new: new.path(), root: dir.join("root") };
    layout.write(toolchain, open)?;
    layout.make_programs(toolchain, sysroot.is_some())?;
    match &sysroot {
        Some(sysroot) => layout.settle(toolchain, sysroot)?,
        None => layout.make_bin(toolchain, dir)?,
    }
    fs::rename(new.path(), dir).map_err(failed(dir))?;
    let Some(sysroot) = sysroot else { return Ok(()) };
    // Its programs start only where they will stay.
    let told = Layout { new: dir, root: dir.join("root") }.write_specs(toolchain, &sysroot);
    if told.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_dir_all(dir);
    }
    told
}

/// Where things are written, and where they will be.
struct Layout<'a> {
    new: &'a Path,
    root: PathBuf,
}

impl Layout<'_> {
    /// Where a path of the toolchain is written.
    fn at(&self, path: &Path) -> PathBuf {
        self.new.join("root").join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Where it will be.
    fn later(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn write(
        &self,
        toolchain: &Toolchain,
        open: impl Fn(&Digest) -> Option<File>,
    ) -> Result<(), UnpackError> {
        for (path, entry) in toolchain.tree.iter() {
            let path = path_of(path.as_bytes());
            let at = self.at(&path);
            match entry {
                Entry::Directory => make_dir(&at)?,
                Entry::File { digest, executable, .. } => {
                    let mut from = open(digest).ok_or(UnpackError::Missing(*digest))?;
                    let mut to = create(&at, if *executable { 0o755 } else { 0o644 })?;
                    io::copy(&mut from, &mut to).map_err(failed(&at))?;
                }
                Entry::Symlink { target } => {
                    let target = below(path.parent().unwrap_or(Path::new("/")), &path_of(target));
                    make_dir(at.parent().unwrap_or(self.new))?;
                    symlink(self.later(&target), &at).map_err(failed(&at))?;
                }
            }
        }
        Ok(())
    }

    /// Puts a script in the place of every program that needs a loader.
    fn make_programs(&self, toolchain: &Toolchain, in_place: bool) -> Result<(), UnpackError> {
        let libraries = self.library_path(toolchain);
        let loaders: BTreeSet<PathBuf> =
            self.programs(toolchain).map(|(_, interpreter)| interpreter).collect();
        for (path, interpreter) in self.programs(toolchain) {
            if loaders.contains(&path) {
                continue;
            }
            let loader =
                resolve(toolchain, &interpreter).ok_or_else(|| UnpackError::NoLoader(path.clone()))?;
            if in_place && self.relocate(&path, &loader, &libraries)? {
                continue;
            }
            let program = Path::new("/").join(PROGRAMS).join(path.strip_prefix("/").unwrap_or(&path));
            let moved = self.at(&program);
            make_dir(moved.parent().unwrap_or(self.new))?;
            fs::rename(self.at(&path), &moved).map_err(failed(&moved))?;
            let words = [
                quoted(&self.later(&loader)),
                b"--argv0 \"$0\" --library-path".to_vec(),
                quoted(Path::new(&libraries)),
                quoted(&self.later(&program)),
            ];
            self.script(&self.at(&path), &words.join(&b' '))?;
        }
        Ok(())
    }

    /// Makes a program start from where it is; `false` if it has no room for that.
    fn relocate(&self, path: &Path, loader: &Path, libraries: &OsString) -> Result<bool, UnpackError> {
        let at = self.at(path);
        let image = fs::read(&at).map_err(failed(&at))?;
        let loader = self.later(loader).into_os_string();
        let Some(moved) = relocate(&image, loader.as_bytes(), libraries.as_bytes()) else { return Ok(false) };
        fs::write(&at, moved).map_err(failed(&at))?;
        Ok(true)
    }

    /// The programs with their loaders, by the paths that both had.
    fn programs<'t>(&'t self, toolchain: &'t Toolchain) -> impl Iterator<Item = (PathBuf, PathBuf)> + 't {
        let files = toolchain.tree.iter().filter(|(_, entry)| matches!(entry, Entry::File { .. }));
        files.filter_map(|(path, _)| {
            let path = path_of(path.as_bytes());
            // Libraries may name a loader, too, but nobody calls them.
            let is_library = path.file_name()?.as_bytes().windows(3).any(|part| part == b".so");
            let elf = elf::read(&self.at(&path)).ok()?.ok()?;
            (!is_library).then_some((path, elf.interpreter?))
        })
    }

    /// The directories with libraries.
    fn library_path(&self, toolchain: &Toolchain) -> OsString {
        let paths = toolchain.tree.iter().map(|(path, _)| path_of(path.as_bytes()));
        let libraries = paths.filter(|path| {
            path.file_name().is_some_and(|name| name.as_bytes().windows(3).any(|part| part == b".so"))
        });
        let dirs: BTreeSet<PathBuf> = libraries.filter_map(|path| Some(self.later(path.parent()?))).collect();
        let dirs: Vec<Vec<u8>> = dirs.into_iter().map(|dir| dir.into_os_string().into_vec()).collect();
        OsString::from_vec(dirs.join(&b':'))
    }

    /// Tells gcc where the rest of it lies. gcc takes a file of this name for all of its specs, so it is asked for them.
    fn write_specs(&self, toolchain: &Toolchain, sysroot: &Settled) -> Result<(), UnpackError> {
        let path = self.at(&sysroot.library.join("specs"));
        let silent = || UnpackError::Silent(self.root.clone());
        if fs::symlink_metadata(&path).is_err() {
            let mut drivers = toolchain.tree.iter().map(|(path, _)| path_of(path.as_bytes()));
            let driver = drivers.find(|path| path.ends_with("bin/gcc") || path.ends_with("bin/g++"));
            let driver = driver.or_else(|| named_like_gcc(toolchain)).ok_or_else(silent)?;
            let answer = probe::ask(&self.at(&driver), &["-dumpspecs".as_ref()], "".as_ref());
            let answer = answer.map_err(failed(&driver))?;
            let specs = answer.line().ok_or_else(silent)?;
            create(&path, 0o644)?.write_all(specs).map_err(failed(&path))?;
        }
        let directory = |dir: &PathBuf| [self.later(dir).as_os_str().as_bytes(), b"/"].concat();
        let prefixes: Vec<Vec<u8>> = sysroot.start_files.iter().map(directory).collect();
        let root = self.root.as_os_str().as_bytes();
        // gcc settles the place of start-up files and the linker's words before options of its specs count, so all are told.
        let text = [
            b"\n\n*self_spec:\n+ %{!-sysroot=*:--sysroot=".as_slice(),
            root,
            b"}\n\n*link:\n+ --sysroot=%R\n\n*startfile_prefix_spec:\n",
            &prefixes.join(&b' '),
            b"\n\n",
        ];
        let mut file = OpenOptions::new().append(true).open(&path).map_err(failed(&path))?;
        file.write_all(&text.concat()).map_err(failed(&path))
    }

    /// Makes links in `bin` to what can be called, and beside the passes to what gcc starts.
    fn settle(&self, toolchain: &Toolchain, sysroot: &Settled) -> Result<(), UnpackError> {
        let bin = self.new.join("bin");
        make_dir(&bin)?;
        for path in toolchain.tree.iter().map(|(path, _)| path_of(path.as_bytes())) {
            let is_bin = path.parent().and_then(Path::file_name).is_some_and(|name| name == "bin");
            let (true, Some(name), Some(_)) = (is_bin, path.file_name(), resolve(toolchain, &path)) else {
                continue;
            };
            let mut links = vec![bin.join(name)];
            // gcc looks for these in PATH unless they lie beside its passes.
            if SUBPROGRAMS.iter().any(|program| name == *program) {
                links.push(self.at(&sysroot.passes.join(name)));
            }
            for link in links.into_iter().filter(|link| fs::symlink_metadata(link).is_err()) {
                symlink(self.later(&path), &link).map_err(failed(&link))?;
            }
        }
        Ok(())
    }

    /// A script in `bin` for every program in a directory of that name.
    fn make_bin(&self, toolchain: &Toolchain, dir: &Path) -> Result<(), UnpackError> {
        let bin = self.new.join("bin");
        make_dir(&bin)?;
        let has_headers =
            toolchain.tree.iter().any(|(path, _)| path.as_bytes().starts_with(b"/usr/include/"));
        let resources = self.resource_dir(toolchain);
        for (path, entry) in toolchain.tree.iter() {
            let path = path_of(path.as_bytes());
            let is_bin = path.parent().and_then(Path::file_name).is_some_and(|name| name == "bin");
            let Some(name) = path.file_name().filter(|_| is_bin && *entry != Entry::Directory) else {
                continue;
            };
            let Some(real) = resolve(toolchain, &path) else { continue };
            if fs::symlink_metadata(bin.join(name)).is_ok() {
                continue;
            }
            let mut words = vec![quoted(&self.later(&path))];
            let real_name =
                real.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let is_clang = real_name.starts_with("clang");
            if is_clang || ["gcc", "g++", "cpp"].iter().any(|driver| real_name.contains(driver)) {
                words.push([b"-B".to_vec(), quoted(&self.later(Path::new("/usr/bin")))].concat());
                if has_headers {
                    words.push([b"--sysroot=".to_vec(), quoted(&self.root)].concat());
                }
            }
            if let (true, Some(resources)) = (is_clang, &resources) {
                words.push([b"-resource-dir ".to_vec(), quoted(&self.later(resources))].concat());
            }
            self.script(&bin.join(name), &words.join(&b' '))?;
        }
        debug_assert!(self.root.starts_with(dir));
        Ok(())
    }

    /// clang's own directory, `…/lib/clang/VERSION`, if there is one: clang looks for it beside the loader.
    fn resource_dir(&self, toolchain: &Toolchain) -> Option<PathBuf> {
        toolchain.tree.iter().find_map(|(path, _)| {
            let path = path_of(path.as_bytes());
            let ancestor =
                path.ancestors().find(|at| at.parent().is_some_and(|parent| parent.ends_with("lib/clang")));
            ancestor.map(Path::to_owned)
        })
    }

    fn script(&self, at: &Path, command: &[u8]) -> Result<(), UnpackError> {
        let text = [b"#!/bin/sh\nexec ".as_slice(), command, b" \"$@\"\n"].concat();
        create(at, 0o755)?.write_all(&text).map_err(failed(at))
    }
}

/// A driver such as `x86_64-linux-gnu-gcc-12`.
fn named_like_gcc(toolchain: &Toolchain) -> Option<PathBuf> {
    toolchain.tree.iter().map(|(path, _)| path_of(path.as_bytes())).find(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let is_bin = path.parent().is_some_and(|parent| parent.ends_with("bin"));
        is_bin && (name.contains("-gcc") || name.contains("-g++"))
    })
}

/// What lies where in a toolchain that has a sysroot.
struct Settled {
    /// gcc's own directory of libraries.
    library: PathBuf,
    /// The directory of its passes.
    passes: PathBuf,
    /// Directories of start-up files and the C library.
    start_files: BTreeSet<PathBuf>,
}

impl Settled {
    /// `None` if it has none.
    fn of(toolchain: &Toolchain) -> Option<Self> {
        let paths = || toolchain.tree.iter().map(|(path, _)| path_of(path.as_bytes()));
        let parent = |name: &str| paths().find(|path| path.ends_with(name))?.parent().map(Path::to_owned);
        let start = |path: &Path| ["crt1.o", "libc.so", "libc.a"].iter().any(|name| path.ends_with(name));
        let start_files: BTreeSet<PathBuf> =
            paths().filter(|path| start(path)).filter_map(|path| path.parent().map(Path::to_owned)).collect();
        parent("crt1.o")?;
        Some(Self { library: parent("crtbegin.o")?, passes: parent("collect2")?, start_files })
    }
}

/// The real path that `path` leads to; `None` if it leads out of the tree or in a circle.
fn resolve(toolchain: &Toolchain, path: &Path) -> Option<PathBuf> {
    let path = below(Path::new("/"), path);
    real_path(&toolchain.tree, &TreePath::new(path.as_os_str().as_bytes()).ok()?)
        .map(|real| path_of(real.as_bytes()))
}

/// The real path of the file that `path` leads to in a tree; `None` if there is none, or it leads in a circle.
pub(super) fn real_path(tree: &Tree, path: &TreePath) -> Option<TreePath> {
    let mut path = path_of(path.as_bytes());
    for _ in 0..LINKS_MAX {
        let link = path.ancestors().find_map(|at| {
            match tree.get(&TreePath::new(at.as_os_str().as_bytes()).ok()?)? {
                Entry::Symlink { target } => Some((at.to_owned(), path_of(target))),
                _ => None,
            }
        });
        let Some((at, target)) = link else {
            let real = TreePath::new(path.as_os_str().as_bytes()).ok()?;
            return matches!(tree.get(&real), Some(Entry::File { .. })).then_some(real);
        };
        let rest = path.strip_prefix(&at).ok()?.to_owned();
        path = below(&below(at.parent()?, &target), &rest);
    }
    None
}

/// `target` as seen from `dir`, with no way above the root.
fn below(dir: &Path, target: &Path) -> PathBuf {
    let mut path = PathBuf::from("/");
    for part in dir.join(target).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => drop(path.pop()),
            _ => {}
        }
    }
    path
}

/// A word that a shell reads as this path.
fn quoted(path: &Path) -> Vec<u8> {
    let mut word = vec![b'\''];
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'\'' => word.extend_from_slice(b"'\\''"),
            other => word.push(*other),
        }
    }
    word.push(b'\'');
    word
}

fn create(at: &Path, mode: u32) -> Result<File, UnpackError> {
    make_dir(at.parent().unwrap_or(Path::new("/")))?;
    OpenOptions::new().write(true).create_new(true).mode(mode).open(at).map_err(failed(at))
}

fn make_dir(at: &Path) -> Result<(), UnpackError> {
    fs::create_dir_all(at).map_err(failed(at))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> UnpackError {
    let path = path.to_owned();
    move |source| UnpackError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, process::Command};

    use super::*;
    use crate::toolchain::{Discovered, discover, discover_with_sysroot};

    fn open_files(found: &Discovered) -> impl Fn(&Digest) -> Option<File> {
        let digest = |path| match found.toolchain.tree.get(path) {
            Some(Entry::File { digest, .. }) => Some(*digest),
            _ => None,
        };
        let files = found.files.iter().filter_map(|(path, host)| Some((digest(path)?, host.clone())));
        let files: BTreeMap<Digest, PathBuf> = files.collect();
        move |digest| File::open(files.get(digest)?).ok()
    }

    /// The passes that a compile starts, as the kernel sees them.
    fn traced(dir: &Path, compiler: &str) -> String {
        let log = dir.join("trace");
        let status = Command::new("/usr/bin/strace")
            .args(["-f", "-qq", "-s", "4096", "-e", "trace=execve,openat,readlink", "-o"])
            .arg(&log)
            .arg(dir.join("a b's/bin").join(compiler))
            .args(["-c", "x.c", "-o", "there.o"])
            .env("PATH", "/nonexistent")
            .current_dir(dir)
            .status()
            .unwrap();
        assert!(status.success(), "{compiler}");
        fs::read_to_string(&log).unwrap()
    }

    #[track_caller]
    fn check(compiler: &str) {
        let room = tempfile::tempdir().unwrap();
        let program = Path::new("/usr/bin").join(compiler);
        let found = discover(&program, "/usr/bin:/bin".as_ref()).unwrap();
        // A name that a shell would take apart.
        let dir = room.path().join("a b's");
        unpack(&found.toolchain, &dir, open_files(&found)).unwrap();
        assert!(matches!(unpack(&found.toolchain, &dir, open_files(&found)), Err(UnpackError::Exists(_))));
        fs::write(room.path().join("x.c"), "int twice(int a) { return 2 * a; }\n").unwrap();
        let trace = traced(room.path(), compiler);
        let foreign = |line: &&str| {
            line.contains(" = ")
                && !line.contains(" = -1 ")
                && (line.contains("/usr/bin/") || line.contains("/cc1\""))
                && !line.contains("a b's")
        };
        assert_eq!(trace.lines().find(foreign), None, "{compiler} used this machine's own");
        let here =
            Command::new(&program).args(["-c", "x.c", "-o", "here.o"]).current_dir(room.path()).status();
        assert!(here.unwrap().success());
        let object = |name: &str| fs::read(room.path().join(name)).unwrap();
        assert!(object("here.o") == object("there.o"), "{compiler}: another object");
    }

    #[test]
    fn gcc_works_where_it_was_laid_out() {
        check("gcc");
    }

    /// The kernel's account of compiling and linking names no file of a compiler of this machine, and barn's own discovery
    /// takes what was laid out for a compiler like any other.
    #[test]
    fn a_sysroot_is_all_that_programs_are_made_of() {
        let room = tempfile::tempdir().unwrap();
        let program = Path::new("/usr/bin/gcc");
        let found = discover_with_sysroot(program, "/usr/bin:/bin".as_ref()).unwrap();
        let refused = unpack(&found.toolchain, &room.path().join("a b"), open_files(&found));
        assert!(matches!(refused, Err(UnpackError::Place(_))));
        let dir = room.path().canonicalize().unwrap().join("gcc");
        unpack(&found.toolchain, &dir, open_files(&found)).unwrap();
        let source = "#include <iostream>\n#include <math.h>\nint main(int n, char **) {\n\
            try { throw sqrt(n); } catch (double) { std::cout << __FILE__; } }\n";
        fs::write(room.path().join("x.cc"), source).unwrap();
        for flags in [&["-O2"][..], &["-static"], &["-flto"]] {
            let log = room.path().join("trace");
            let ran = Command::new("/usr/bin/strace")
                .args(["-f", "-qq", "-s", "4096", "-e", "trace=execve,openat", "-o"])
                .args([&log, &dir.join("bin/g++")])
                .args(flags)
                .args(["x.cc", "-o", "x"])
                .env("PATH", "/nonexistent")
                .current_dir(room.path())
                .output()
                .unwrap();
            assert!(ran.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&ran.stderr));
            let trace = fs::read_to_string(log).unwrap();
            let own = |line: &&str| {
                let opened =
                    line.contains(" = ") && !line.contains(" = -1 ") && !line.contains("O_DIRECTORY");
                let path = line.split('"').nth(1).unwrap_or_default();
                let tops = ["/usr/", "/lib"].iter().any(|top| path.starts_with(top));
                opened
                    && tops
                    && !path.contains("/locale/")
                    && !path.contains("gconv")
                    && path != "/usr/bin/strace"
            };
            assert_eq!(trace.lines().find(own), None, "{flags:?} used this machine's own");
            assert_eq!(Command::new(room.path().join("x")).output().unwrap().stdout, b"x.cc", "{flags:?}");
        }
        let again = discover(&dir.join("bin/gcc"), format!("{}/bin", dir.display()).as_ref()).unwrap();
        assert_eq!(again.identity.version, found.identity.version);
        assert!(
            again.files.iter().all(|(_, host)| host.starts_with(&dir) || host.starts_with("/usr/lib/locale"))
        );
    }

    #[test]
    fn clang_works_where_it_was_laid_out() {
        check("clang");
    }

    #[test]
    fn links_stay_below_the_root() {
        for (dir, target, expected) in [
            ("/usr/lib", "../../../../etc/passwd", "/etc/passwd"),
            ("/usr/lib", "/etc/./x", "/etc/x"),
            ("/", "..", "/"),
        ] {
            assert_eq!(below(Path::new(dir), Path::new(target)), Path::new(expected));
        }
    }

    #[test]
    fn a_missing_blob_leaves_nothing_behind() {
        let room = tempfile::tempdir().unwrap();
        let found = discover(Path::new("/usr/bin/gcc"), "/usr/bin:/bin".as_ref()).unwrap();
        let failed = unpack(&found.toolchain, &room.path().join("x"), |_| None);
        assert!(matches!(failed, Err(UnpackError::Missing(_))));
        assert_eq!(fs::read_dir(room.path()).unwrap().count(), 0);
    }
}
