//! What a command line says of places: which arguments are paths in them, and which could write them where nobody looks.

use barn_protocol::{Places, TreePath};

use super::{Refusal, names::POSITION_FREE, traces};
use crate::compile::{Compile, SideKind};
use crate::detect::Family;
use crate::environment::Environment;
use crate::flags::{self, Effect, Found};
use crate::language::Language;

/// What the root is called in the objects of projects with `portable_paths`.
const MAPPED_ROOT: &str = "/barn/root";
/// What the working directory outside the root is called in them.
const MAPPED_BUILD: &str = "/barn/build";
/// Variables with directories that are searched.
const SEARCH_VARIABLES: [&str; 5] =
    ["CPATH", "CPLUS_INCLUDE_PATH", "C_INCLUDE_PATH", "OBJCPLUS_INCLUDE_PATH", "OBJC_INCLUDE_PATH"];
/// Flags whose directories hold system headers, which gcc calls by their real paths if these are shorter.
const SYSTEM_DIRECTORIES: [&[u8]; 6] =
    [b"-isystem", b"-idirafter", b"-cxx-isystem", b"-isystem-after", b"-stdlib++-isystem", b"-iframework"];
/// What may be said to the assembler.
const ASSEMBLER: [&[u8]; 9] = [
    b"--32",
    b"--64",
    b"--x32",
    b"-W",
    b"--no-warn",
    b"--warn",
    b"--fatal-warnings",
    b"--noexecstack",
    b"--execstack",
];
/// Flags, by their beginnings, that neither `-f` nor `-g` begins and that change code, warnings or macros only.
const NEUTRAL: [&[u8]; 31] = [
    b"-O",
    b"-W",
    b"-w",
    b"-m",
    b"-std=",
    b"--std=",
    b"-ansi",
    b"-pedantic",
    b"--pedantic",
    b"-pipe",
    b"-pthread",
    b"-p",
    b"-U",
    b"-undef",
    b"-nostdinc",
    b"-trigraphs",
    b"-traditional-cpp",
    b"-C",
    b"-P",
    b"-H",
    b"-A",
    b"-Q",
    b"--param",
    b"-R",
    b"-stdlib=",
    b"--stdlib=",
    b"-rtlib=",
    b"--rtlib=",
    b"-unwindlib=",
    b"--unwindlib=",
    b"--sysroot",
];

/// A command line that shows no place but in paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spelled {
    /// The arguments after `argv[0]`, with marks for places.
    pub argv: Vec<Vec<u8>>,
    /// Whether names of files that texts can get at could hold a place: a source or directory is given by an absolute path, and no
    /// prefix map takes the places out of all of them.
    pub names_files: bool,
    /// Whether a directory of system headers lies in a place, so that links in it could make names longer or shorter.
    pub system_directory: bool,
}

/// The flags that take the places out of what a compile writes; none for a language that has no names of files.
pub fn prefix_maps(language: Language, places: &Places) -> Vec<Vec<u8>> {
    if language == Language::Assembler {
        return Vec::new();
    }
    let map = |old: &[u8], new: &str| [b"-ffile-prefix-map=", old, b"=", new.as_bytes()].concat();
    let build = places.build().map(|build| map(build.as_bytes(), MAPPED_BUILD));
    let root = map(places.root().as_bytes(), MAPPED_ROOT);
    // Of several that match, the last one counts; the name of one place may begin with that of the other.
    let is_longer = |build: &TreePath| build.as_bytes().len() > places.root().as_bytes().len();
    if places.build().is_some_and(is_longer) {
        [root].into_iter().chain(build).collect()
    } else {
        build.into_iter().chain([root]).collect()
    }
}

/// Reads a compile's command line as to the places in it; `args` are those of its arguments that matter, without `argv[0]`.
///
/// # Errors
/// When it may show a place where that cannot be found.
pub fn judge(compile: &Compile, args: &[Vec<u8>], places: &Places) -> Result<Spelled, Refusal> {
    check_environment(&compile.env, places)?;
    let mut walk = Walk {
        places,
        argv: Vec::with_capacity(args.len()),
        absolute: false,
        system_directory: false,
        debug: false,
        debug_maps: Vec::new(),
        macro_maps: Vec::new(),
    };
    walk.all(compile.family, args)?;
    if walk.debug && !walk.covers(&walk.debug_maps) {
        return Err(Refusal::new("debug information names the working directory; hint: `portable_paths`"));
    }
    // clang has names of files in those of functions, which no map reaches.
    let is_mapped = compile.family != Family::Clang && walk.covers(&walk.macro_maps);
    let names_files = walk.absolute && !is_mapped;
    Ok(Spelled { argv: walk.argv, names_files, system_directory: walk.system_directory })
}

fn check_environment(env: &Environment, places: &Places) -> Result<(), Refusal> {
    for (name, value) in env {
        let shown = || String::from_utf8_lossy(name).into_owned();
        if name == b"PWD" || traces::holds_place(value, places) {
            return Err(Refusal::new(format!("the variable {} names a place", shown())));
        }
        let searched = SEARCH_VARIABLES.iter().any(|variable| variable.as_bytes() == name);
        if searched && value.split(|&b| b == b':').any(|part| part.first() != Some(&b'/')) {
            return Err(Refusal::new(format!("the variable {} has a relative directory", shown())));
        }
    }
    Ok(())
}

struct Walk<'a> {
    places: &'a Places,
    argv: Vec<Vec<u8>>,
    absolute: bool,
    system_directory: bool,
    debug: bool,
    /// What prefix maps replace in debug information, and in macros.
    debug_maps: Vec<Vec<u8>>,
    macro_maps: Vec<Vec<u8>>,
}

impl Walk<'_> {
    fn all(&mut self, family: Family, args: &[Vec<u8>]) -> Result<(), Refusal> {
        let mut at = 0;
        let mut flags_ended = false;
        while let Some(arg) = args.get(at) {
            if flags_ended || arg.len() < 2 || arg[0] != b'-' {
                self.source_path(b"", arg);
                at += 1;
                continue;
            }
            let Found::Known { effect, value, length } = flags::find(family, &args[at..]) else {
                return Err(Refusal::of(arg, "is not known"));
            };
            flags_ended = effect == Effect::EndOfFlags;
            self.flag(effect, value, &args[at..at + length])?;
            at += length;
        }
        Ok(())
    }

    fn flag(&mut self, effect: Effect, value: &[u8], args: &[Vec<u8>]) -> Result<(), Refusal> {
        let flag = &args[0];
        let unreadable = || Err(Refusal::of(flag, "writes what cannot be searched"));
        match effect {
            Effect::IncludeDirectory => {
                self.include_directory(value, args)?;
                self.path(value, args, true);
            }
            Effect::ForcedInclude => self.path(value, args, true),
            Effect::Output | Effect::DepfilePath | Effect::DepfileShape => self.path(value, args, false),
            Effect::PreprocessorList => self.preprocessor_list(value, args)?,
            Effect::Produce(_)
            | Effect::Language
            | Effect::Define
            | Effect::Depfile(_)
            | Effect::Color(_)
            | Effect::MessageLength
            | Effect::Processor
            | Effect::DiagnosticsFormat
            | Effect::OptimizationInfo
            | Effect::Linker
            | Effect::EndOfFlags
            | Effect::Side(SideKind::StackUsage | SideKind::CallGraph) => self.plain(args)?,
            Effect::Side(SideKind::SplitDwarf) => {
                self.debug = true;
                self.plain(args)?;
            }
            Effect::AssemblerList => {
                if !value.split(|&b| b == b',').all(|word| ASSEMBLER.contains(&word)) {
                    return unreadable();
                }
                self.plain(args)?;
            }
            Effect::Neutral => self.neutral(args)?,
            Effect::Side(_)
            | Effect::SerializedDiagnostics
            | Effect::RecordsCommandLine
            | Effect::EmitLlvm
            | Effect::Frontend
            | Effect::CacheOnly(_)
            | Effect::Local(_)
            | Effect::Preprocess
            | Effect::Query
            | Effect::Verbose => return unreadable(),
        }
        Ok(())
    }

    /// A path that the compiler may write down as it is spelled.
    fn source_path(&mut self, flag: &[u8], path: &[u8]) {
        self.absolute |= self.places.place_of(path).is_some();
        self.argv.push([flag, &self.places.mark(path)].concat());
    }

    /// The value of a flag, which is a path.
    fn path(&mut self, value: &[u8], args: &[Vec<u8>], is_read: bool) {
        let joined = &args[0][..args[0].len() - if args.len() == 1 { value.len() } else { 0 }];
        if args.len() == 2 {
            self.argv.push(joined.to_vec());
        }
        let before = if args.len() == 2 { &b""[..] } else { joined };
        if is_read {
            self.source_path(before, value);
        } else {
            self.argv.push([before, &self.places.mark(value)].concat());
        }
    }

    /// Arguments that must name no place.
    fn plain(&mut self, args: &[Vec<u8>]) -> Result<(), Refusal> {
        if let Some(arg) = args.iter().find(|arg| traces::holds_place(arg, self.places)) {
            return Err(Refusal::of(arg, "names a place"));
        }
        self.argv.extend_from_slice(args);
        Ok(())
    }

    fn include_directory(&mut self, directory: &[u8], args: &[Vec<u8>]) -> Result<(), Refusal> {
        if !SYSTEM_DIRECTORIES.iter().any(|flag| args[0].starts_with(flag)) {
            return Ok(());
        }
        let in_place = self.places.place_of(directory).is_some();
        let is_normal = directory.first() == Some(&b'/')
            && !directory[1..].split(|&b| b == b'/').any(|part| matches!(part, b"" | b"." | b".."));
        self.system_directory |= in_place;
        // Outside, the name of a place plays no part in it.
        let is_outside = directory.first() == Some(&b'/') && !in_place;
        if is_normal || is_outside {
            Ok(())
        } else {
            Err(Refusal::of(directory, "is a directory of system headers and not spelled in full"))
        }
    }

    /// `-Wp,-MMD,FILE` or macros.
    fn preprocessor_list(&mut self, list: &[u8], args: &[Vec<u8>]) -> Result<(), Refusal> {
        let mut pieces = list.splitn(2, |&b| b == b',');
        if let (Some(flag @ (b"-MD" | b"-MMD")), Some(path)) = (pieces.next(), pieces.next()) {
            self.argv.push([b"-Wp,", flag, b",", &self.places.mark(path)].concat());
            return Ok(());
        }
        self.plain(args)
    }

    fn neutral(&mut self, args: &[Vec<u8>]) -> Result<(), Refusal> {
        let flag = args[0].as_slice();
        let named = |prefix: &[u8]| {
            let rest = flag.strip_prefix(prefix)?;
            let name = rest.split(|&b| b == b'=').next().unwrap_or(rest);
            Some(name.strip_prefix(b"no-").unwrap_or(name))
        };
        match (named(b"-f"), named(b"-g")) {
            (Some(b"file-prefix-map" | b"debug-prefix-map" | b"macro-prefix-map"), _) => {
                self.prefix_map(flag)
            }
            (Some(name), _) if is_position_free(name) => self.plain(args),
            (_, Some(name)) if !name.starts_with(b"z") => {
                self.debug |= name != b"0";
                self.plain(args)
            }
            (None, None) if NEUTRAL.iter().any(|known| flag.starts_with(known)) => self.plain(args),
            _ => Err(Refusal::of(flag, "is not among the flags that cannot show a place")),
        }
    }

    fn prefix_map(&mut self, flag: &[u8]) -> Result<(), Refusal> {
        let mut parts = flag.split(|&b| b == b'=');
        let (Some(name), Some(old), Some(new), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::of(flag, "is no prefix map that is read in one way only"));
        };
        // What is left of a place when a part of its name is replaced differs from place to place.
        let is_place = self.places.paths().any(|place| place == old);
        let is_part = !is_place && self.places.paths().any(|place| place.starts_with(old));
        if is_part || traces::holds_place(new, self.places) {
            return Err(Refusal::of(flag, "maps a part of a place"));
        }
        self.argv.push([name, b"=", &self.places.mark(old), b"=", new].concat());
        if name != b"-fmacro-prefix-map" {
            self.debug_maps.push(old.to_vec());
        }
        if name != b"-fdebug-prefix-map" {
            self.macro_maps.push(old.to_vec());
        }
        Ok(())
    }

    /// Whether these maps take every place out. The last that matches counts, so it must not be one of which the name is only the
    /// beginning of another's.
    fn covers(&self, maps: &[Vec<u8>]) -> bool {
        let of = |path: &[u8]| maps.iter().rfind(|old| path.starts_with(old));
        self.places.paths().all(|place| of(place).is_some_and(|old| old == place))
    }
}

fn is_position_free(name: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 4] = [b"builtin-", b"inline-limit-", b"template-depth-", b"call-used-"];
    POSITION_FREE.binary_search_by(|known| known.as_bytes().cmp(name)).is_ok()
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use barn_protocol::TreePath;

    use super::*;
    use crate::{Invocation, Request, classify};

    fn places(root: &str, cwd: &str) -> Places {
        let path = |text: &str| TreePath::new(text).expect("a good path");
        Places::new(path(root), &path(cwd)).expect("plain names")
    }

    fn compile(words: &str, env: &[(&str, &str)]) -> Compile {
        let mut words = words.split(' ').map(|word| word.as_bytes().to_vec());
        let program = words.next().expect("a compiler");
        let args: Vec<Vec<u8>> = words.collect();
        let family = if program.starts_with(b"clang") { Family::Clang } else { Family::Gcc };
        let env =
            env.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect();
        let request = Request {
            family,
            program_name: &program,
            args: &args,
            env: &env,
            cwd: b"/h/a/p/build",
            pwd_names_cwd: false,
            stderr_is_terminal: false,
        };
        match classify(&request, &|_: &[u8]| None) {
            Invocation::Distributable(compile) | Invocation::CacheOnly(compile, _) => *compile,
            other => panic!("{other:?}"),
        }
    }

    /// What becomes of a command line in the project `/h/a/p`, run in its folder `build`; marks are written `R:` and `C:`.
    fn judged(words: &str, env: &[(&str, &str)], places: &Places) -> Result<Spelled, Refusal> {
        let compile = compile(words, env);
        judge(&compile, &compile.argv, places)
    }

    fn check(words: &str, expect: Result<(&str, bool), &str>) {
        let found = judged(words, &[], &places("/h/a/p", "/h/a/p/build"));
        let shown = found.map(|spelled| {
            let argv = spelled.argv.join(b" ".as_slice());
            let argv = String::from_utf8(argv).expect("text").replace("\0R", "R:").replace("\0C", "C:");
            (argv, spelled.names_files)
        });
        match (&shown, expect) {
            (Ok((argv, names)), Ok((expected, named))) => {
                assert_eq!((argv.as_str(), *names), (expected, named), "{words}")
            }
            (Err(why), Err(expected)) => assert!(why.to_string().contains(expected), "{words}: {why}"),
            _ => panic!("{words}: {shown:?}"),
        }
    }

    #[test]
    fn relative_command_lines_are_as_they_are() {
        for words in [
            "-O2 -Wall -Iinclude -I../src -DX=1 -c ../src/x.c -o x.o -MD -MF x.d -MT x.o -MP",
            "-std=c++17 -fno-rtti -fvisibility=hidden -m64 -pthread -g0 -isystem /opt/inc -c x.cc -o x.o",
            "-I /h/a/p2/include -c x.c",
            "-Wp,-MMD,dir/.x.o.d -Wa,--noexecstack -c x.S",
        ] {
            check(&format!("gcc {words}"), Ok((words, false)));
            check(&format!("clang {words}"), Ok((words, false)));
        }
    }

    #[test]
    fn paths_in_places_are_marked() {
        check(
            "gcc -I/h/a/p/include -isystem /h/a/p/sys -c /h/a/p/x.c -o /h/a/p/build/x.o -MD -MT /h/a/p/build/x.o",
            Ok(("-IR:/include -isystem R:/sys -c R:/x.c -o R:/build/x.o -MD -MT R:/build/x.o", true)),
        );
        check("gcc -c x.c -o /h/a/p/x.o -MMD -MF/h/a/p/x.d", Ok(("-c x.c -o R:/x.o -MMD -MFR:/x.d", false)));
        check("gcc -c x.c -Wp,-MD,/h/a/p/x.d", Ok(("-c x.c -Wp,-MD,R:/x.d", false)));
        check("gcc -include /h/a/p/c.h -c x.c", Ok(("-include R:/c.h -c x.c", true)));
        check("clang -c -- /h/a/p/x.c", Ok(("-c -- R:/x.c", true)));
    }

    #[test]
    fn what_could_hide_a_place_is_refused() {
        for flag in
            ["--coverage", "-flto", "-fprofile-arcs", "-fdebug-compilation-dir=.", "-frecord-gcc-switches"]
        {
            let family = if flag.contains("compilation") { "clang" } else { "gcc" };
            check(&format!("{family} {flag} -c x.c"), Err("`-"));
        }
        for flag in
            ["-emit-llvm", "-fcoverage-mapping -fprofile-instr-generate", "--serialize-diagnostics x.dia"]
        {
            check(&format!("clang {flag} -c x.c"), Err("`-"));
        }
        check("clang -funique-internal-linkage-names -c x.c", Err("is not among"));
        check("gcc -g -gz -c x.c", Err("is not among"));
        check("gcc -Wa,--compress-debug-sections -c x.c", Err("cannot be searched"));
        check("gcc -DDATA=\"/h/a/p/data\" -c x.c", Err("names a place"));
        check("gcc -isystem ../sys -c x.c", Err("not spelled in full"));
        check("gcc -isystem /h/a/p/build/../sys -c x.c", Err("not spelled in full"));
        let places = places("/h/a/p", "/h/a/p/build");
        for (name, value) in [("CPATH", "/h/a/p/include"), ("C_INCLUDE_PATH", "/opt::/usr"), ("CPATH", "x")] {
            assert!(judged("gcc -c x.c", &[(name, value)], &places).is_err(), "{name}={value}");
        }
        judged("gcc -c x.c", &[("CPATH", "/opt/include"), ("LANG", "C")], &places).unwrap();
    }

    #[test]
    fn debug_information_needs_a_map_of_every_place() {
        let no_map = Err("names the working directory");
        for flag in ["-g", "-ggdb3", "-g1", "-gsplit-dwarf", "-gdwarf-4"] {
            check(&format!("gcc {flag} -c x.c"), no_map);
        }
        check("gcc -g -fmacro-prefix-map=/h/a/p=x -c x.c", no_map);
        check("gcc -g -fdebug-prefix-map=/h/a/p=. -c x.c", Ok(("-g -fdebug-prefix-map=R:=. -c x.c", false)));
        check(
            "gcc -ffile-prefix-map=/h/a/p=. -c /h/a/p/x.c",
            Ok(("-ffile-prefix-map=R:=. -c R:/x.c", false)),
        );
        check(
            "gcc -fdebug-prefix-map=/h/a/p=. -c /h/a/p/x.c",
            Ok(("-fdebug-prefix-map=R:=. -c R:/x.c", true)),
        );
        for part in ["/h/a", "/h/a/", "/", "/h/a/p=/h/a/p"] {
            check(&format!("gcc -g -ffile-prefix-map={part}=x -c x.c"), Err("map"));
        }
    }

    #[test]
    fn the_maps_of_a_project_cover_its_places() {
        for (root, cwd) in [
            ("/h/a/p", "/h/a/p/build"),
            ("/h/a/p", "/tmp/b"),
            ("/h/a/p", "/h/a"),
            ("/h/a/p", "/h/a/p-build"),
            ("/h/a/p-src", "/h/a/p"),
        ] {
            let places = places(root, cwd);
            let maps = prefix_maps(Language::C, &places);
            let maps = String::from_utf8(maps.join(b" ".as_slice())).expect("text");
            let spelled = judged(&format!("gcc {maps} -g -c {root}/x.c"), &[], &places).unwrap();
            assert!(!spelled.names_files, "{root} {cwd}");
            let spelled = judged(&format!("clang {maps} -g -c {root}/x.c"), &[], &places).unwrap();
            assert!(spelled.names_files, "names of lambdas");
        }
        // The map of the root would take hold of the name of the build directory.
        let places = places("/h/a/p", "/h/a/p-b");
        let maps = |one: &str, other: &str| {
            judged(
                &format!("gcc -ffile-prefix-map={one}=/1 -ffile-prefix-map={other}=/2 -g -c x.c"),
                &[],
                &places,
            )
        };
        assert!(maps("/h/a/p", "/h/a/p-b").is_ok());
        assert!(maps("/h/a/p-b", "/h/a/p").is_err());
        assert!(prefix_maps(Language::Assembler, &places).is_empty());
    }
}
