//! Which compiler is this?
//!
//! A name is a guess: `gcc` on macOS is clang, `cc` is whatever the distribution chose, `/usr/lib/ccache/gcc`
//! is ccache. The name settles the [`Driver`] (whether `.c` means C++) and what to ask; the compiler's own
//! words ([`parse_probe`]) settle the family. Wrappers are told apart so that the node can look past
//! them, or say why it does not.

use std::fmt;

/// A family shares one flag table and one set of habits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// The GNU compiler collection.
    Gcc,
    /// clang, Apple's included.
    Clang,
    /// `cc` or `c++`: gcc or clang, to be probed.
    Cc,
    /// rustc, rustdoc, clippy-driver.
    Rustc,
    /// A program that runs the compiler named by its own name or arguments.
    Wrapper(WrapperKind),
    /// Nothing known by that name.
    Unknown,
}

/// Programs that wrap a compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WrapperKind {
    /// ccache.
    Ccache,
    /// sccache.
    Sccache,
    /// distcc.
    Distcc,
    /// icecream's icecc.
    Icecc,
    /// goma's or reclient's wrapper.
    Goma,
    /// Barnraise itself.
    Barn,
}

/// What the driver does by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Driver {
    /// Takes the language from the file's suffix.
    C,
    /// Takes `.c` for C++, and links the C++ library.
    Cxx,
    /// Preprocesses only (`cpp`, `clang-cpp`).
    Preprocessor,
    /// Takes the command line of Microsoft's compiler (`clang-cl`).
    Msvc,
    /// Takes rustc's command line.
    Rust,
    /// Not known.
    Unknown,
}

/// What a program's name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guess {
    /// The likely family.
    pub family: Family,
    /// The driver, which only the name decides.
    pub driver: Driver,
    /// The version in the name: `12` of `gcc-12`.
    pub version: Option<Vec<u8>>,
    /// The target in the name: `aarch64-linux-gnu` of `aarch64-linux-gnu-gcc`.
    pub target: Option<Vec<u8>>,
}

/// What a compiler says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompilerIdentity {
    /// [`Family::Gcc`], [`Family::Clang`] or [`Family::Rustc`].
    pub family: Family,
    /// The version as printed: `12.2.0`.
    pub version: String,
    /// The target triple, if the output holds one.
    pub target: Option<String>,
    /// Apple's clang counts versions of its own.
    pub apple: bool,
}

/// What a probe's output was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A compiler.
    Compiler(CompilerIdentity),
    /// A wrapper answered for itself.
    Wrapper(WrapperKind),
    /// Nothing recognised.
    Unknown,
}

const DRIVERS: &[(&str, Family, Driver)] = &[
    ("gcc", Family::Gcc, Driver::C),
    ("g++", Family::Gcc, Driver::Cxx),
    ("cc", Family::Cc, Driver::C),
    ("c++", Family::Cc, Driver::Cxx),
    ("clang", Family::Clang, Driver::C),
    ("clang++", Family::Clang, Driver::Cxx),
    ("clang-cl", Family::Clang, Driver::Msvc),
    ("clang-cpp", Family::Clang, Driver::Preprocessor),
    ("cpp", Family::Cc, Driver::Preprocessor),
    ("rustc", Family::Rustc, Driver::Rust),
    ("rustdoc", Family::Rustc, Driver::Rust),
    ("clippy-driver", Family::Rustc, Driver::Rust),
];

const WRAPPERS: &[(&str, WrapperKind)] = &[
    ("ccache", WrapperKind::Ccache),
    ("sccache", WrapperKind::Sccache),
    ("sccache-dist", WrapperKind::Sccache),
    ("distcc", WrapperKind::Distcc),
    ("icecc", WrapperKind::Icecc),
    ("icerun", WrapperKind::Icecc),
    ("gomacc", WrapperKind::Goma),
    ("rewrapper", WrapperKind::Goma),
    ("barn", WrapperKind::Barn),
];

/// Architectures that a target triple may begin with. Without this list `h5-cc`, `afl-gcc` and
/// `c99-gcc`, which are wrappers, would pass for cross compilers.
const ARCHITECTURES: &[&str] = &[
    "aarch64",
    "alpha",
    "amdgcn",
    "arc",
    "arm",
    "avr",
    "bpf",
    "csky",
    "hppa",
    "i386",
    "i486",
    "i586",
    "i686",
    "ia64",
    "loongarch",
    "m68k",
    "microblaze",
    "mips",
    "msp430",
    "nios2",
    "or1k",
    "powerpc",
    "ppc",
    "riscv",
    "s390",
    "sh",
    "sparc",
    "thumb",
    "wasm32",
    "wasm64",
    "x86_64",
    "xtensa",
];

/// Guesses from a file name, or a path, of which the last component counts.
pub fn guess(program: &[u8]) -> Guess {
    let name = base_name(program);
    let name = name.strip_suffix(b".exe").unwrap_or(name);
    if let Some(&(_, kind)) = WRAPPERS.iter().find(|(wrapper, _)| wrapper.as_bytes() == name) {
        return Guess { family: Family::Wrapper(kind), driver: Driver::Unknown, version: None, target: None };
    }
    let (stem, version) = split_version(name);
    let found = DRIVERS.iter().filter_map(|&(driver, family, kind)| {
        let prefix = stem.strip_suffix(driver.as_bytes())?;
        let target = match prefix {
            b"" => None,
            prefix => Some(prefix.strip_suffix(b"-").filter(|target| is_target(target))?.to_vec()),
        };
        Some((driver.len(), Guess { family, driver: kind, version: version.map(<[u8]>::to_vec), target }))
    });
    found.max_by_key(|(length, _)| *length).map(|(_, guess)| guess).unwrap_or(Guess {
        family: Family::Unknown,
        driver: Driver::Unknown,
        version: None,
        target: None,
    })
}

/// The arguments that make a compiler of this family tell its version and target. The output may be on
/// either stream; run it with `LC_ALL=C`.
pub fn probe_argv(family: Family) -> &'static [&'static str] {
    match family {
        Family::Rustc => &["-vV"],
        Family::Wrapper(_) => &["--version"],
        // Not `--version`: gcc's names no target, and distcc's would be about distcc.
        Family::Gcc | Family::Clang | Family::Cc | Family::Unknown => &["-v"],
    }
}

/// Reads what `X -v` or `X --version` printed, standard output and error together.
pub fn parse_probe(output: &[u8]) -> Probe {
    let text = String::from_utf8_lossy(output);
    if let Some(kind) = text.lines().find_map(wrapper_line) {
        return Probe::Wrapper(kind);
    }
    let target = ["Target: ", "host: "]
        .iter()
        .find_map(|key| text.lines().find_map(|line| line.trim().strip_prefix(key)))
        .map(|target| target.trim().to_owned());
    let found = text.lines().find_map(compiler_line).or_else(|| gnu_version(&text));
    match found {
        Some((family, version, apple)) => {
            Probe::Compiler(CompilerIdentity { family, version, target, apple })
        }
        None => Probe::Unknown,
    }
}

impl fmt::Display for WrapperKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WrapperKind::Ccache => "ccache",
            WrapperKind::Sccache => "sccache",
            WrapperKind::Distcc => "distcc",
            WrapperKind::Icecc => "icecc",
            WrapperKind::Goma => "goma",
            WrapperKind::Barn => "barn",
        })
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Family::Gcc => f.write_str("gcc"),
            Family::Clang => f.write_str("clang"),
            Family::Cc => f.write_str("cc"),
            Family::Rustc => f.write_str("rustc"),
            Family::Wrapper(kind) => kind.fmt(f),
            Family::Unknown => f.write_str("unknown"),
        }
    }
}

fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

/// Splits `gcc-12.2` into `gcc` and `12.2`; FreeBSD writes `gcc12` and `clang++14`.
fn split_version(name: &[u8]) -> (&[u8], Option<&[u8]>) {
    let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit() || **byte == b'.').count();
    let (stem, version) = name.split_at(name.len() - digits);
    if !version.first().is_some_and(u8::is_ascii_digit) {
        return (name, None);
    }
    (stem.strip_suffix(b"-").unwrap_or(stem), Some(version))
}

fn is_target(target: &[u8]) -> bool {
    ARCHITECTURES.iter().any(|architecture| target.starts_with(architecture.as_bytes()))
}

fn wrapper_line(line: &str) -> Option<WrapperKind> {
    let mut words = line.split_whitespace();
    let kind = match words.next()? {
        "ccache" => WrapperKind::Ccache,
        "sccache" => WrapperKind::Sccache,
        "distcc" => WrapperKind::Distcc,
        "ICECC" | "icecc" | "Icecc" => WrapperKind::Icecc,
        "barn" => WrapperKind::Barn,
        _ => return None,
    };
    let next = words.next()?;
    let version = if next == "version" { words.next()? } else { next };
    is_version(version).then_some(kind)
}

fn compiler_line(line: &str) -> Option<(Family, String, bool)> {
    let line = line.trim();
    let after = |marker: &str| {
        let (before, rest) = line.split_once(marker)?;
        let word = rest.split([' ', '(']).next()?;
        is_version(word).then(|| (before.trim(), word.to_owned()))
    };
    if let Some((before, version)) = after("clang version ") {
        return Some((Family::Clang, version, before == "Apple"));
    }
    if let Some(("", version)) = after("gcc version ") {
        return Some((Family::Gcc, version, false));
    }
    match after("rustc ").or_else(|| after("rustdoc ")).or_else(|| after("clippy ")) {
        Some(("", version)) => Some((Family::Rustc, version, false)),
        _ => None,
    }
}

/// `gcc --version`: the program's name, the packager in parentheses, the version; then the copyright.
fn gnu_version(text: &str) -> Option<(Family, String, bool)> {
    if !text.contains("Free Software Foundation") {
        return None;
    }
    let first = text.lines().next()?;
    let (_, version) = first.rsplit_once(") ")?;
    let version = version.split_whitespace().next()?;
    is_version(version).then(|| (Family::Gcc, version.to_owned(), false))
}

fn is_version(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, family: Family, driver: Driver, version: Option<&str>, target: Option<&str>) {
        let found = guess(name.as_bytes());
        let bytes = |text: Option<&str>| text.map(|text| text.as_bytes().to_vec());
        let expect = Guess { family, driver, version: bytes(version), target: bytes(target) };
        assert_eq!(found, expect, "{name}");
    }

    #[test]
    fn names() {
        check("gcc", Family::Gcc, Driver::C, None, None);
        check("/usr/bin/g++", Family::Gcc, Driver::Cxx, None, None);
        check("gcc-12", Family::Gcc, Driver::C, Some("12"), None);
        check("gcc-4.8.5", Family::Gcc, Driver::C, Some("4.8.5"), None);
        check("g++12", Family::Gcc, Driver::Cxx, Some("12"), None);
        check("clang++-14", Family::Clang, Driver::Cxx, Some("14"), None);
        check("clang", Family::Clang, Driver::C, None, None);
        check("clang-cl", Family::Clang, Driver::Msvc, None, None);
        check("clang-cpp-14", Family::Clang, Driver::Preprocessor, Some("14"), None);
        check("cc", Family::Cc, Driver::C, None, None);
        check("c++", Family::Cc, Driver::Cxx, None, None);
        check("gcc.exe", Family::Gcc, Driver::C, None, None);
        check("aarch64-linux-gnu-gcc-12", Family::Gcc, Driver::C, Some("12"), Some("aarch64-linux-gnu"));
        check("x86_64-linux-gnu-g++", Family::Gcc, Driver::Cxx, None, Some("x86_64-linux-gnu"));
        check(
            "armv7a-linux-androideabi21-clang",
            Family::Clang,
            Driver::C,
            None,
            Some("armv7a-linux-androideabi21"),
        );
        check("arm-none-eabi-c++", Family::Cc, Driver::Cxx, None, Some("arm-none-eabi"));
        check("avr-gcc", Family::Gcc, Driver::C, None, Some("avr"));
        check("/home/u/.cargo/bin/rustc", Family::Rustc, Driver::Rust, None, None);
        check("clippy-driver", Family::Rustc, Driver::Rust, None, None);
        check("rustdoc", Family::Rustc, Driver::Rust, None, None);
    }

    #[test]
    fn what_is_no_compiler() {
        for name in
            ["ld", "gcc-ar", "gcc-ar-12", "c99-gcc", "afl-gcc", "mpicc", "-gcc", "", "12", "gccgo", "tcc"]
        {
            check(name, Family::Unknown, Driver::Unknown, None, None);
        }
        for (name, kind) in [("ccache", WrapperKind::Ccache), ("/usr/bin/icecc", WrapperKind::Icecc)] {
            check(name, Family::Wrapper(kind), Driver::Unknown, None, None);
        }
    }

    fn probe(output: &str, expect: Option<(Family, &str, Option<&str>, bool)>) {
        let expect = expect.map_or(Probe::Unknown, |(family, version, target, apple)| {
            Probe::Compiler(CompilerIdentity {
                family,
                version: version.to_owned(),
                target: target.map(str::to_owned),
                apple,
            })
        });
        assert_eq!(parse_probe(output.as_bytes()), expect, "{output}");
    }

    #[test]
    fn probes() {
        let linux = Some("x86_64-linux-gnu");
        probe(
            "Using built-in specs.\nCOLLECT_GCC=gcc\nTarget: x86_64-linux-gnu\nConfigured with: ../src/configure\n\
             Thread model: posix\ngcc version 12.2.0 (Debian 12.2.0-14+deb12u1) \n",
            Some((Family::Gcc, "12.2.0", linux, false)),
        );
        probe(
            "gcc (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright (C) 2022 Free Software Foundation, Inc.\n",
            Some((Family::Gcc, "12.2.0", None, false)),
        );
        probe(
            "g++ (GCC) 4.8.5 20150623 (Red Hat 4.8.5-44)\nCopyright (C) 2015 Free Software Foundation, Inc.\n",
            Some((Family::Gcc, "4.8.5", None, false)),
        );
        probe(
            "Debian clang version 14.0.6\nTarget: x86_64-pc-linux-gnu\nThread model: posix\n",
            Some((Family::Clang, "14.0.6", Some("x86_64-pc-linux-gnu"), false)),
        );
        probe(
            "clang version 17.0.1 (https://github.com/llvm/llvm-project abc)\nTarget: riscv64\n",
            Some((Family::Clang, "17.0.1", Some("riscv64"), false)),
        );
        probe(
            "Apple clang version 14.0.3 (clang-1403.0.22.14.1)\nTarget: arm64-apple-darwin22.6.0\n",
            Some((Family::Clang, "14.0.3", Some("arm64-apple-darwin22.6.0"), true)),
        );
        probe(
            "rustc 1.90.0 (1159e78c4 2025-09-14)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\n",
            Some((Family::Rustc, "1.90.0", Some("x86_64-unknown-linux-gnu"), false)),
        );
        probe("GNU ld (GNU Binutils for Debian) 2.40\n", None);
        probe("", None);
    }

    #[test]
    fn probes_of_wrappers() {
        for (output, kind) in [
            ("ccache version 4.7.5\nFeatures: file-storage\n", WrapperKind::Ccache),
            ("distcc 3.4 x86_64-pc-linux-gnu\n  (protocols 1, 2 and 3)\n", WrapperKind::Distcc),
            ("ICECC 1.4\n", WrapperKind::Icecc),
            ("sccache 0.8.1\n", WrapperKind::Sccache),
        ] {
            assert_eq!(parse_probe(output.as_bytes()), Probe::Wrapper(kind), "{output}");
        }
    }
}
