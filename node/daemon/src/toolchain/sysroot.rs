//! What a C or C++ program is made of besides the compiler: the linker, start-up files, the C library, headers.
//!
//! A toolchain with a sysroot serves a machine that has no compiler at all. What is taken is told by the compiler's own
//! answers and by names, never by a package manager and never by what else happens to be installed: the directories of
//! the compiler and of C++ whole, and of the directories that all packages share only what the C library and the
//! kernel have in every distribution. So two machines with the same compiler and C library pack the same.
//!
//! Goals: compile and link ordinary programs, shared and static, with LTO and with sanitizers as far as installed.
//! Non-goals: libraries of other packages; other word sizes (`-m32`); clang.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use barn_compilers::search::parse_search_dirs;

use super::{
    discover::DiscoverError,
    gather::Gather,
    gcc::{add_tool, answered_path},
    probe, stamp,
    walk::path_of,
};

/// Most headers and library files of a sysroot. glibc, the kernel, C++ and gcc's own have 2,500 together.
pub(super) const FILES_MAX: usize = 16_384;
/// Largest sum of their sizes, in bytes. They have about 120 MB with all sanitizers.
pub(super) const BYTES_MAX: u64 = 1 << 30;
/// Deepest directory below one that is searched for headers; libstdc++ has four levels.
const DEPTH_MAX: usize = 16;
/// Largest linker script, in bytes; libc's has 300.
const SCRIPT_BYTES_MAX: u64 = 64 << 10;
/// The languages whose headers are taken.
const LANGUAGES: [&str; 2] = ["c", "c++"];
/// Programs of binutils that a build calls by itself. Missing ones are left out.
const TOOLS: [&str; 7] = ["ld.bfd", "ld.gold", "ar", "ranlib", "nm", "strip", "readelf"];
/// What gcc starts to link: `collect2` runs `ld`, the others serve `-flto`.
const LINK_PASSES: [&str; 4] = ["collect2", "lto-wrapper", "lto1", "liblto_plugin.so"];
/// Start-up files of the C library; the first two are in every program.
const START_FILES: [&str; 7] = ["crt1.o", "crti.o", "crtn.o", "Scrt1.o", "rcrt1.o", "gcrt1.o", "Mcrt1.o"];
/// Libraries of the C library, by what follows `-l`. Those of gcc lie in its own directory.
const LIBRARIES: [&str; 11] =
    ["c", "m", "mvec", "pthread", "dl", "rt", "util", "resolv", "anl", "crypt", "BrokenLocale"];
/// Directories of the C library and the kernel below one that is searched for headers.
const HEADER_DIRECTORIES: [&str; 26] = [
    "arpa",
    "asm",
    "asm-generic",
    "bits",
    "gnu",
    "linux",
    "misc",
    "mtd",
    "net",
    "netash",
    "netatalk",
    "netax25",
    "neteconet",
    "netinet",
    "netipx",
    "netiucv",
    "netpacket",
    "netrom",
    "netrose",
    "nfs",
    "protocols",
    "rpc",
    "scsi",
    "sound",
    "sys",
    "video",
];
/// Headers of the C library that lie directly in such a directory: ISO C, POSIX, glibc and musl.
const HEADERS: &str = "a.out aio aliases alloca ar argp argz assert byteswap complex cpio crypt ctype dirent dlfcn elf \
    endian envz err errno error execinfo fcntl features features-time64 fenv fmtmsg fnmatch fpu_control fstab fts ftw \
    gconv getopt glob gnu-versions grp gshadow iconv ieee754 ifaddrs inttypes iso646 langinfo lastlog libgen libintl \
    limits link locale malloc math mcheck memory mntent monetary mqueue netdb nl_types nss obstack paths poll printf \
    proc_service pthread pty pwd re_comp regex regexp resolv sched search semaphore setjmp sgtty shadow signal spawn \
    stab stdalign stdarg stdbool stdc-predef stddef stdint stdio stdio_ext stdlib stdnoreturn string strings stropts \
    syscall sysexits syslog tar termio termios tgmath thread_db threads time ttyent uchar ucontext ulimit unistd utime \
    utmp utmpx values wait wchar wctype wordexp";

/// Gathers what this gcc needs to link, and all headers of C and C++.
pub(super) fn gather(gather: &mut Gather<'_>) -> Result<(), DiscoverError> {
    add_drivers(gather)?;
    for pass in LINK_PASSES {
        if let Some(path) = answered_path(gather, &format!("-print-prog-name={pass}"))? {
            gather.add_program(&path)?;
        }
    }
    if !add_tool(gather, "ld")? {
        return Err(missing(gather, "ld"));
    }
    for tool in TOOLS {
        add_tool(gather, tool)?;
    }
    let mut sysroot = Sysroot::default();
    sysroot.add_libraries(gather)?;
    sysroot.add_headers(gather)
}

/// The compilers beside the one that was called: who packs `gcc` wants to compile C++ as well.
fn add_drivers(gather: &mut Gather<'_>) -> Result<(), DiscoverError> {
    let question = ["-dumpfullversion", "-dumpmachine"];
    let own = gather.ask(&question)?;
    for path in siblings(gather.program) {
        if !path.is_file() {
            continue;
        }
        let args = question.map(OsStr::new);
        // One of another version or family stays where it is, and so does a script or wrapper that is in the way.
        let same = probe::ask(&path, &args, gather.search_path())
            .is_ok_and(|answer| answer.status.success() && answer.stdout == own.stdout);
        if same && is_gcc(&path) {
            gather.add_program(&path)?;
        }
    }
    Ok(())
}

fn is_gcc(path: &Path) -> bool {
    let program = matches!(super::elf::read(path), Ok(Ok(_)));
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let guessed = barn_compilers::guess(real.as_os_str().as_bytes());
    program && !matches!(guessed.family, barn_compilers::Family::Wrapper(_))
}

fn siblings(program: &Path) -> Vec<PathBuf> {
    let name = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let names: Vec<String> = match name.as_str() {
        "gcc" | "g++" | "cc" | "c++" => ["gcc", "g++", "cc", "c++", "cpp"].map(str::to_owned).to_vec(),
        _ => match ["gcc", "g++"].into_iter().find(|kind| name.contains(kind)) {
            Some(kind) => ["gcc", "g++", "cpp"].map(|other| name.replacen(kind, other, 1)).to_vec(),
            None => Vec::new(),
        },
    };
    names.into_iter().filter(|other| *other != name).map(|name| program.with_file_name(name)).collect()
}

fn missing(gather: &Gather<'_>, tool: &'static str) -> DiscoverError {
    DiscoverError::ToolMissing { compiler: gather.program.to_owned(), tool }
}

/// What has been taken so far.
#[derive(Default)]
struct Sysroot {
    files: BTreeSet<PathBuf>,
    directories: BTreeSet<PathBuf>,
    bytes: u64,
}

impl Sysroot {
    fn add_libraries(&mut self, gather: &mut Gather<'_>) -> Result<(), DiscoverError> {
        for name in START_FILES {
            match answered_path(gather, &format!("-print-file-name={name}"))? {
                Some(path) => self.add(gather, &path)?,
                None if name == "crt1.o" || name == "crti.o" => return Err(missing(gather, name)),
                None => {}
            }
        }
        for library in LIBRARIES {
            for ending in ["so", "a"] {
                if let Some(path) = answered_path(gather, &format!("-print-file-name=lib{library}.{ending}"))?
                {
                    self.add_library(gather, &path)?;
                }
            }
        }
        let own = answered_path(gather, "-print-file-name=crtbegin.o")?;
        let own = own.ok_or_else(|| missing(gather, "crtbegin.o"))?;
        let directory = gather.resolve(own.parent().unwrap_or(Path::new("/")))?;
        for path in list(&directory)? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if [".o", ".a", ".so", ".spec"].iter().any(|ending| name.ends_with(ending)) {
                self.add_library(gather, &path)?;
            }
        }
        Ok(())
    }

    /// A library, or a linker script with all that it names.
    fn add_library(&mut self, gather: &mut Gather<'_>, path: &Path) -> Result<(), DiscoverError> {
        // A link whose library is not installed is no use to this machine either.
        if !path.is_file() || !self.is_new(gather, path)? {
            return Ok(());
        }
        self.add(gather, path)?;
        for word in script_words(path)? {
            let named = path_of(word.as_bytes());
            let found = match named.is_absolute() {
                true => Some(named),
                false => answered_path(gather, &format!("-print-file-name={word}"))?,
            };
            if let Some(found) = found {
                self.add_library(gather, &found)?;
            }
        }
        Ok(())
    }

    fn add_headers(&mut self, gather: &mut Gather<'_>) -> Result<(), DiscoverError> {
        let own = answered_path(gather, "-print-file-name=include")?;
        let own = own.and_then(|include| include.parent().map(Path::to_owned));
        let own = own.map(|library| gather.resolve(&library)).transpose()?;
        for language in LANGUAGES {
            let answer = gather.ask(&["-x", language, "-E", "-v", "/dev/null"])?;
            // A gcc without C++ has no such headers.
            let Some(dirs) = parse_search_dirs(&answer.stderr) else { continue };
            for directory in dirs.present() {
                let real = gather.resolve(&path_of(directory))?;
                let is_own = own.as_ref().is_some_and(|own| real.starts_with(own));
                match is_own || real.iter().any(|part| part == "c++") {
                    true => self.add_directory(gather, &real, 0)?,
                    false => self.add_named(gather, &real)?,
                }
            }
        }
        Ok(())
    }

    /// What the C library and the kernel have in a directory that all packages share.
    fn add_named(&mut self, gather: &mut Gather<'_>, directory: &Path) -> Result<(), DiscoverError> {
        for name in HEADERS.split_whitespace() {
            let path = directory.join(format!("{name}.h"));
            if path.is_file() {
                self.add(gather, &path)?;
            }
        }
        for name in HEADER_DIRECTORIES {
            let path = directory.join(name);
            if path.is_dir() {
                self.add_directory(gather, &path, 0)?;
            }
        }
        Ok(())
    }

    fn add_directory(
        &mut self,
        gather: &mut Gather<'_>,
        path: &Path,
        depth: usize,
    ) -> Result<(), DiscoverError> {
        let real = gather.resolve(path)?;
        if depth > DEPTH_MAX || !self.directories.insert(real.clone()) {
            return Ok(());
        }
        for path in list(&real)? {
            if path.is_dir() {
                self.add_directory(gather, &path, depth + 1)?;
            } else if path.is_file() {
                self.add(gather, &path)?;
            }
        }
        Ok(())
    }

    fn is_new(&self, gather: &mut Gather<'_>, path: &Path) -> Result<bool, DiscoverError> {
        Ok(!self.files.contains(&gather.resolve(path)?))
    }

    fn add(&mut self, gather: &mut Gather<'_>, path: &Path) -> Result<(), DiscoverError> {
        let real = gather.add_file(path)?;
        let size = fs::metadata(&real).map_err(|error| DiscoverError::io(&real, &error))?.len();
        if self.files.insert(real) {
            self.bytes += size;
        }
        if self.files.len() > FILES_MAX || self.bytes > BYTES_MAX {
            return Err(DiscoverError::SysrootTooLarge(path.to_owned()));
        }
        Ok(())
    }
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, DiscoverError> {
    let fail = |error: std::io::Error| DiscoverError::io(directory, &error);
    let entries = fs::read_dir(directory).map_err(fail)?;
    let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(fail)?;
    paths.sort();
    Ok(paths)
}

/// The libraries that a linker script names; nothing if the file is none.
fn script_words(path: &Path) -> Result<Vec<String>, DiscoverError> {
    let read = || -> std::io::Result<Vec<u8>> {
        if fs::metadata(path)?.len() > SCRIPT_BYTES_MAX { Ok(Vec::new()) } else { fs::read(path) }
    };
    match read() {
        Ok(bytes) if bytes.starts_with(b"\x7fELF") || bytes.starts_with(b"!<") => Ok(Vec::new()),
        Ok(bytes) => Ok(words_of(&String::from_utf8_lossy(&bytes))),
        Err(error) if stamp::is_absent(&error) => Ok(Vec::new()),
        Err(error) => Err(DiscoverError::io(path, &error)),
    }
}

fn words_of(script: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut rest = script;
    while let Some((before, comment)) = rest.split_once("/*") {
        plain.push_str(before);
        plain.push(' ');
        rest = comment.split_once("*/").map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    let words = plain.split(|c: char| c.is_whitespace() || "(),;\"".contains(c));
    let is_library = |word: &&str| word.ends_with(".a") || word.ends_with(".o") || word.contains(".so");
    words.filter(is_library).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linker_script_names_its_libraries() {
        let script = "/* GNU ld script /lib/no.so */\nOUTPUT_FORMAT(elf64-x86-64)\n\
            GROUP ( /lib/libc.so.6 /usr/lib/libc_nonshared.a  AS_NEEDED ( /lib64/ld-linux-x86-64.so.2 ) )\n\
            INPUT(libgcc_s.so.1 -lgcc)";
        let expected =
            ["/lib/libc.so.6", "/usr/lib/libc_nonshared.a", "/lib64/ld-linux-x86-64.so.2", "libgcc_s.so.1"];
        assert_eq!(words_of(script), expected);
        assert!(words_of("/* never closed libc.so").is_empty());
    }

    #[test]
    fn a_compiler_s_siblings_have_its_prefix_and_suffix() {
        let of = |name: &str| siblings(&Path::new("/usr/bin").join(name));
        let path = |name: &str| PathBuf::from("/usr/bin").join(name);
        assert_eq!(of("gcc"), [path("g++"), path("cc"), path("c++"), path("cpp")]);
        assert_eq!(of("arm-gcc-12"), [path("arm-g++-12"), path("arm-cpp-12")]);
        assert!(of("tcc").is_empty());
    }
}
