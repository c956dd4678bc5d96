//! What to ask a compiler once per flag set, so that the includes of all units with these flags can be found without it.
//!
//! [`Preprocessing::of`] splits a compile's flags in two. Flags that decide which macros are predefined and where includes
//! are searched stay for the compiler to answer ([`Preprocessing::macros_argv`]); `-D`, `-U`, `-include`, `-imacros` and
//! the source are the unit's own. Units that differ only in these share one answer: the keys
//! ([`Preprocessing::dialect_key`], [`Preprocessing::search_key`]) hold everything else and nothing more.
//!
//! Not in the keys, because only the caller knows: the compiler's own contents and the name it is called by.

use std::fmt;

use thiserror::Error;

use crate::{
    compile::Compile,
    detect::Family,
    flags::{self, Effect, Found},
    language::Language,
};

/// A `-D` or `-U`, in the order in which the preprocessor takes them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MacroFlag {
    /// What follows `-D`: `name`, `name=value`, `name(x)=value`.
    Define(Vec<u8>),
    /// What follows `-U`.
    Undefine(Vec<u8>),
}

/// Why a unit's includes cannot be found without its compiler.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotScannable {
    /// The source is plain assembly.
    #[error("the source is not preprocessed")]
    NotPreprocessed,
    /// A flag changes how sources are read, or has no single meaning.
    #[error("{0} changes how the source is read")]
    Flag(String),
}

/// A compile as its preprocessor sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preprocessing {
    language: Language,
    family: Family,
    /// Flags that may change what is predefined.
    flags: Vec<Vec<u8>>,
    /// Flags that name directories to search, each with its value; they too are passed in order.
    directories: Vec<Vec<u8>>,
    /// Whether where includes are searched depends on the working directory.
    relative: bool,
    /// Variables that name directories to search, and their values.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// `-D` and `-U`.
    pub macros: Vec<MacroFlag>,
    /// The files of `-imacros`, in order; they are read before those of `-include`.
    pub imacros: Vec<Vec<u8>>,
    /// The files of `-include`, in order.
    pub includes: Vec<Vec<u8>>,
}

/// Variables with lists of directories.
const PATH_VARIABLES: [&[u8]; 5] =
    [b"CPATH", b"CPLUS_INCLUDE_PATH", b"C_INCLUDE_PATH", b"OBJCPLUS_INCLUDE_PATH", b"OBJC_INCLUDE_PATH"];

/// Flags, up to their value, that change how text becomes tokens and directives, or where includes are searched in ways
/// that the compiler's list of directories does not show.
const READS_OTHERWISE: [&[u8]; 14] = [
    b"-fdirectives-only",
    b"-fdollars-in-identifiers",
    b"-fexec-charset",
    b"-finput-charset",
    b"-fms-compatibility",
    b"-fms-compatibility-version",
    b"-fmsc-version",
    b"-fno-dollars-in-identifiers",
    b"-fno-operator-names",
    b"-fvisual-studio",
    b"-fwide-exec-charset",
    b"-index-header-map",
    b"-traditional",
    b"-traditional-cpp",
];

/// Flags, up to their value, that neither macros nor search depend on. Some build systems give each unit its own.
const WITHOUT_INFLUENCE: [&[u8]; 11] = [
    b"-C",
    b"-CC",
    b"-H",
    b"-P",
    b"-fdebug-compilation-dir",
    b"-fdebug-prefix-map",
    b"-ffile-compilation-dir",
    b"-ffile-prefix-map",
    b"-fmacro-prefix-map",
    b"-fprofile-prefix-map",
    b"-frandom-seed",
];

/// Flags, up to their value, that name a root of headers or the place of another gcc.
const ROOTS: [&[u8]; 5] =
    [b"--gcc-install-dir", b"--gcc-toolchain", b"--sysroot", b"-gcc-toolchain", b"-isysroot"];

impl Preprocessing {
    /// How `compile` is preprocessed.
    ///
    /// # Errors
    /// If no scan could be trusted to read its source as the compiler does.
    pub fn of(compile: &Compile) -> Result<Self, NotScannable> {
        if compile.language == Language::Assembler {
            return Err(NotScannable::NotPreprocessed);
        }
        let mut found = Self {
            language: compile.language,
            family: compile.family,
            flags: Vec::new(),
            directories: Vec::new(),
            relative: false,
            env: Vec::new(),
            macros: Vec::new(),
            imacros: Vec::new(),
            includes: Vec::new(),
        };
        // Both families append the macros of `-Wp,` to those of the command line.
        let mut late = Vec::new();
        let mut rest = compile.dependency_args.as_slice();
        while let Some(arg) = rest.first() {
            let (effect, value, length) = match flags::find(compile.family, rest) {
                Found::Known { effect: Effect::EndOfFlags, .. } => break,
                Found::Known { effect, value, length } if is_flag(arg) => (effect, value, length),
                // The source; anything else would have made the compile local.
                _ => (Effect::Output, &[][..], 1),
            };
            found.flag(effect, value, &rest[..length], &mut late)?;
            rest = &rest[length..];
        }
        found.macros.append(&mut late);
        for name in PATH_VARIABLES {
            if let Some(value) = compile.env.get(name) {
                // An empty entry is the working directory.
                found.relative |= value.split(|&byte| byte == b':').any(|path| !path.starts_with(b"/"));
                found.env.push((name.to_vec(), value.clone()));
            }
        }
        Ok(found)
    }

    /// The arguments of the run that prints the predefined macros to standard output and the search directories to
    /// standard error (see [`crate::search::parse_search_dirs`]). Run it with the compile's environment and
    /// directory, and with `LC_ALL=C`.
    pub fn macros_argv(&self) -> Vec<Vec<u8>> {
        self.argv(&["-dM", "-v"], b"/dev/null")
    }

    /// The arguments of a run that preprocesses standard input under the same flags.
    pub fn questions_argv(&self) -> Vec<Vec<u8>> {
        self.argv(&["-P"], b"-")
    }

    /// Two units with the same key, compiler and name of the compiler have the same predefined macros, unless a directory
    /// that is searched before the system's holds a `stdc-predef.h` of its own.
    pub fn dialect_key(&self) -> Vec<u8> {
        let mut key = Key::new("barn dialect 1");
        key.text(self.family).text(self.language.name()).list(&self.flags);
        key.0
    }

    /// Two units with the same key, compiler and name of the compiler have the same predefined macros and search the same
    /// directories, as long as the same ones exist. `cwd` is the working directory.
    pub fn search_key(&self, cwd: &[u8]) -> Vec<u8> {
        let mut key = Key::new("barn search 1");
        key.bytes(&self.dialect_key())
            .list(&self.directories)
            .list(self.env.iter().flat_map(|(n, v)| [n, v]));
        key.bytes(if self.relative { cwd } else { b"" });
        key.0
    }

    fn argv(&self, first: &[&str], source: &[u8]) -> Vec<Vec<u8>> {
        let mut argv: Vec<Vec<u8>> = first.iter().map(|arg| arg.as_bytes().to_vec()).collect();
        argv.push(b"-E".to_vec());
        if self.family == Family::Clang {
            // With -Werror, a flag for a later stage than this one would be an error.
            argv.push(b"-Qunused-arguments".to_vec());
        }
        argv.extend_from_slice(&self.flags);
        argv.extend_from_slice(&self.directories);
        argv.extend([b"-x".to_vec(), name_for_driver(self.language).to_vec(), source.to_vec()]);
        argv
    }

    /// Takes in one flag, `args` being it and its value.
    fn flag(
        &mut self,
        effect: Effect,
        value: &[u8],
        args: &[Vec<u8>],
        late: &mut Vec<MacroFlag>,
    ) -> Result<(), NotScannable> {
        let flag = args[0].as_slice();
        match effect {
            Effect::Output | Effect::Language => {}
            Effect::Define => self.macros.push(MacroFlag::Define(one_line(value)?)),
            Effect::Neutral if flag.starts_with(b"-U") => {
                self.macros.push(MacroFlag::Undefine(one_line(value)?));
            }
            Effect::ForcedInclude if flag.starts_with(b"-imacros") => self.imacros.push(value.to_vec()),
            Effect::ForcedInclude => self.includes.push(value.to_vec()),
            Effect::PreprocessorList => {
                for piece in value.split(|&byte| byte == b',') {
                    late.push(match piece.get(..2) {
                        Some(b"-D") => MacroFlag::Define(one_line(&piece[2..])?),
                        Some(b"-U") => MacroFlag::Undefine(one_line(&piece[2..])?),
                        _ => return Err(refused(flag)),
                    });
                }
            }
            Effect::IncludeDirectory => {
                // A leading `=` stands for the root of the system's headers, which another flag names.
                self.relative |= !value.starts_with(b"/");
                self.directories.extend_from_slice(args);
            }
            // What is linked, and from where.
            Effect::Linker if !value.is_empty() => {}
            _ if args.iter().any(|arg| is_among(&READS_OTHERWISE, arg)) => {
                return self.otherwise(flag, value);
            }
            _ if is_among(&WITHOUT_INFLUENCE, flag) => {}
            _ => {
                self.relative |= is_among(&ROOTS, flag) && names_relative(args);
                self.flags.extend_from_slice(args);
            }
        }
        Ok(())
    }

    /// A flag that may change how sources are read.
    fn otherwise(&mut self, flag: &[u8], value: &[u8]) -> Result<(), NotScannable> {
        for charset in [&b"-finput-charset"[..], b"-fexec-charset"] {
            let Some(named) = flag.strip_prefix(charset) else { continue };
            if named.strip_prefix(b"=").unwrap_or(value).eq_ignore_ascii_case(b"utf-8") {
                return Ok(());
            }
        }
        Err(refused(flag))
    }
}

/// Whether the value of a flag, behind `=` or in the next argument, is no absolute path.
fn names_relative(args: &[Vec<u8>]) -> bool {
    let joined = || args[0].splitn(2, |&byte| byte == b'=').nth(1);
    let value = args.get(1).map(Vec::as_slice).or_else(joined);
    value.is_some_and(|value| !value.starts_with(b"/"))
}

/// `-x`'s name of a language.
fn name_for_driver(language: Language) -> &'static [u8] {
    match language {
        Language::C => b"c",
        Language::Cxx => b"c++",
        Language::ObjectiveC => b"objective-c",
        Language::ObjectiveCxx => b"objective-c++",
        Language::AssemblerWithCpp | Language::Assembler => b"assembler-with-cpp",
    }
}

fn is_flag(arg: &[u8]) -> bool {
    arg.len() > 1 && arg[0] == b'-'
}

/// Whether `arg` is one of these flags, with or without a value behind `=`.
fn is_among(flags: &[&[u8]], arg: &[u8]) -> bool {
    let name = arg.split(|&byte| byte == b'=').next().unwrap_or(arg);
    flags.contains(&name)
}

/// Compilers warn of a line break in a definition, or cut it off there.
fn one_line(text: &[u8]) -> Result<Vec<u8>, NotScannable> {
    if text.is_empty() || text.iter().any(|byte| matches!(byte, b'\n' | b'\r' | 0)) {
        return Err(refused(text));
    }
    Ok(text.to_vec())
}

fn refused(flag: &[u8]) -> NotScannable {
    NotScannable::Flag(String::from_utf8_lossy(flag).into_owned())
}

/// Length-prefixed fields.
struct Key(Vec<u8>);

impl Key {
    fn new(domain: &str) -> Self {
        let mut key = Self(Vec::with_capacity(256));
        key.bytes(domain.as_bytes());
        key
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    fn text(&mut self, text: impl fmt::Display) -> &mut Self {
        self.bytes(text.to_string().as_bytes())
    }

    fn list<'a>(&mut self, items: impl IntoIterator<Item = &'a Vec<u8>>) -> &mut Self {
        let items: Vec<_> = items.into_iter().collect();
        self.0.extend_from_slice(&(items.len() as u64).to_le_bytes());
        for item in items {
            self.bytes(item);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Invocation, Request, classify};

    fn compile(line: &str, env: &[(&str, &str)]) -> Compile {
        let mut words = line.split_whitespace().map(|word| word.as_bytes().to_vec());
        let program = words.next().unwrap();
        let args: Vec<_> = words.collect();
        let env = env.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect();
        let family = crate::guess(&program).family;
        let request = Request {
            family,
            program_name: &program,
            args: &args,
            env: &env,
            cwd: b"/w",
            pwd_names_cwd: false,
            stderr_is_terminal: false,
        };
        match classify(&request, &|_: &[u8]| None) {
            Invocation::Distributable(compile) | Invocation::CacheOnly(compile, _) => *compile,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn of(line: &str) -> Preprocessing {
        Preprocessing::of(&compile(line, &[])).unwrap()
    }

    fn shown(argv: &[Vec<u8>]) -> String {
        String::from_utf8_lossy(&argv.join(&b' ')).into_owned()
    }

    #[test]
    fn what_is_asked() {
        let check = |line: &str, expect: &str| assert_eq!(shown(&of(line).macros_argv()), expect, "{line}");
        check("gcc -c a.c -o a.o -MMD -MF a.d -g -O2", "-dM -v -E -g -O2 -x c /dev/null");
        check(
            "g++ -std=c++17 -DA -I inc -isystem /s -c a.cc",
            "-dM -v -E -std=c++17 -I inc -isystem /s -x c++ /dev/null",
        );
        check(
            "clang -pthread -x c++ -Xclang -fno-elide-type -c -- a.c",
            "-dM -v -E -Qunused-arguments -pthread -Xclang -fno-elide-type -x c++ /dev/null",
        );
        check(
            "gcc -m32 -lm -L/l -Wl,-z,now -static -c a.S",
            "-dM -v -E -m32 -static -x assembler-with-cpp /dev/null",
        );
        check("gcc -frandom-seed=a.o -ffile-prefix-map=/a=b -P -c a.m", "-dM -v -E -x objective-c /dev/null");
        assert_eq!(shown(&of("gcc -O1 -c a.c").questions_argv()), "-P -E -O1 -x c -");
    }

    #[test]
    fn what_the_unit_adds() {
        let unit =
            of("gcc -DA -D B=1 -UA -Wp,-DL=2,-UB -DC(x)=x -include a.h -imacros m.h -includeb.h -c a.c");
        let define = |text: &str| MacroFlag::Define(text.as_bytes().to_vec());
        let undefine = |text: &str| MacroFlag::Undefine(text.as_bytes().to_vec());
        let expect =
            [define("A"), define("B=1"), undefine("A"), define("C(x)=x"), define("L=2"), undefine("B")];
        assert_eq!(unit.macros, expect);
        assert_eq!(unit.imacros, [b"m.h".to_vec()]);
        assert_eq!(unit.includes, [b"a.h".to_vec(), b"b.h".to_vec()]);
    }

    #[test]
    fn what_shares_an_answer() {
        let check = |one: &str, two: &str, dialect: bool, search: bool| {
            let (one_of, two_of) = (of(one), of(two));
            assert_eq!(one_of.dialect_key() == two_of.dialect_key(), dialect, "{one} and {two}");
            assert_eq!(one_of.search_key(b"/w") == two_of.search_key(b"/w"), search, "{one} and {two}");
        };
        let base = "gcc -O2 -I/i -c a.c -o a.o";
        check(base, "gcc -O2 -DX=1 -include x.h -I/i -c b.c -o b.o -MD", true, true);
        check(base, "gcc -O2 -I/i -frandom-seed=b.o -x c -c b.cc", true, true);
        check(base, "gcc -O2 -I/j -c a.c", true, false);
        check(base, "gcc -O2 -I/i -isystem /s -c a.c", true, false);
        check(base, "gcc -O0 -I/i -c a.c", false, false);
        check(base, "gcc -O2 -I/i -c a.cc", false, false);
        check(base, "gcc -O2 -I/i -c a.S", false, false);
        check(base, "clang -O2 -I/i -c a.c", false, false);
        check("gcc -I a -I b -c a.c", "gcc -I b -I a -c a.c", true, false);
        check("gcc --sysroot=/a -c a.c", "gcc --sysroot=/b -c a.c", false, false);
    }

    #[test]
    fn the_directory_matters_to_relative_ones_only() {
        let check = |line: &str, env: &[(&str, &str)], expect: bool| {
            let found = Preprocessing::of(&compile(line, env)).unwrap();
            assert_eq!(found.search_key(b"/w") != found.search_key(b"/x"), expect, "{line} {env:?}");
        };
        check("gcc -I/i -c a.c", &[], false);
        check("gcc -I/i -c a.c", &[("CPATH", "/p:/q")], false);
        check("gcc -Ii -c a.c", &[], true);
        check("gcc -I /i -iquote . -c a.c", &[], true);
        check("gcc --sysroot=r -c a.c", &[], true);
        check("gcc --sysroot r -c a.c", &[], true);
        check("gcc --sysroot=/r --param x=1 -c a.c", &[], false);
        check("gcc -c a.c", &[("CPATH", "/p:")], true);
        check("gcc -c a.c", &[("C_INCLUDE_PATH", "p")], true);
    }

    #[test]
    fn variables_are_part_of_the_search() {
        let key =
            |env: &[(&str, &str)]| Preprocessing::of(&compile("gcc -c a.c", env)).unwrap().search_key(b"/w");
        assert_ne!(key(&[]), key(&[("CPATH", "/p")]));
        assert_ne!(key(&[("C_INCLUDE_PATH", "/p")]), key(&[("CPATH", "/p")]));
        assert_eq!(key(&[]), key(&[("LANG", "C")]));
    }

    #[test]
    fn what_is_not_scannable() {
        let check = |line: &str, scannable: bool| {
            assert_eq!(Preprocessing::of(&compile(line, &[])).is_ok(), scannable, "{line}");
        };
        check("gcc -c a.s", false);
        check("gcc -traditional-cpp -c a.S", false);
        check("gcc -fdirectives-only -c a.c", false);
        check("gcc -finput-charset=latin1 -c a.c", false);
        check("gcc -fexec-charset=IBM1047 -c a.c", false);
        check("gcc -finput-charset=UTF-8 -c a.c", true);
        check("g++ -fno-operator-names -c a.cc", false);
        check("clang -fms-compatibility -c a.c", false);
        check("clang -Xclang -fdollars-in-identifiers -c a.c", false);
        check("gcc -fms-extensions -c a.c", true);
    }
}
