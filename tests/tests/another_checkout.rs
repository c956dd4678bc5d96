//! The same project in another place: another home, another path. What one checkout compiled the other has, byte for byte what
//! its own compiler would have written; and never what only looks the same.

use std::{
    fs,
    path::{Path, PathBuf},
};

use barn_tests::{Counts, Desk, Ran, Snapshot, oracle::of_workspace, snapshot};

/// Units compiled by one line of shell, which may take two minutes.
const UNITS_PER_LINE: usize = 8;

/// Two people's checkouts, by their paths below the desk's directory, and their homes.
const PLACES: [(&str, &str); 2] = [("ann/src/tool", "ann"), ("home/robert/checkouts/tool-2", "home/robert")];
/// What names a checkout's own path in the texts of a tree.
const OWN: &str = "@ROOT@";

const TREE: &[(&str, &str)] = &[
    (".git", "gitdir: elsewhere\n"),
    (
        "src/x.c",
        "#include <stdio.h>\n#include <lib.h>\n#include \"a.h\"\n#include \"gen.h\"\n\
         int unused(void) { int left; return LIB + A + GEN; }\nint main(void) { puts(\"the answer\"); return 0; }\n",
    ),
    (
        "src/x.cc",
        "#include <map>\n#include <string>\n#include <vector>\n#include <lib.h>\n#include \"a.h\"\n\
         std::map<std::string, std::vector<int>> all;\nint f() { auto g = [](int n) { return n + A + LIB; }; return g(1); }\n",
    ),
    ("src/x.S", "#include \"a.h\"\n.globl f\nf: .long A\n"),
    ("src/a.h", "#define A 1\n"),
    ("include/lib.h", "#include \"deep/directory/with/a/name/that/is/long.h\"\n#define LIB 2\n"),
    ("include/deep/directory/with/a/name/that/is/long.h", "#include \"../with/it.h\"\n"),
    ("include/deep/directory/with/a/name/that/with/it.h", ""),
    ("out/gen.h", "#define GEN 3\n"),
];

/// How projects are built: by make from the source's directory, by make from the top, by cmake with make and with ninja, with a
/// build directory outside.
const MAKE: &str =
    "cd src; $B $CC -O2 -Wall -I../include -I../out -c $X -o ../out/x.o -MD -MP -MF ../out/x.d";
const TOP: &str = "$B $CC -O1 -Iinclude -Iout -MMD -MF out/x.d -c src/$X -o out/x.o";
const CMAKE: &str = "cd out; $B $CC -I$R/include -I$R/out -isystem $R/third -O2 -MD -MT part/x.o -MF part.d -o x.o -c $R/src/$X";
const NINJA: &str = "cd out; $B $CC -I$R/include -I. -O1 -fPIC -MD -MP -MT $R/out/x.o -MF $R/out/x.d -o $R/out/x.o -c $R/src/$X";
const APART: &str = "mkdir -p $R-build/out; cd $R-build; cp $R/out/gen.h .; \
                     $B $CC -I$R/include -I$R-build -O1 -MD -MF $R/out/x.d -o $R/out/x.o -c $R/src/$X";

/// Two checkouts at one desk.
struct Pair {
    desk: Desk,
}

impl Pair {
    fn new(tree: &[(&str, &str)]) -> Self {
        let pair = Self { desk: Desk::new() };
        pair.lay(tree);
        pair
    }

    /// Makes both checkouts hold this tree.
    fn lay(&self, tree: &[(&str, &str)]) {
        self.desk.lay(&[]);
        for which in 0..2 {
            fs::create_dir_all(self.root(which).join("third")).unwrap();
            tree.iter().for_each(|(path, text)| self.write(which, path, text));
        }
    }

    fn root(&self, which: usize) -> PathBuf {
        self.desk.at(PLACES[which].0)
    }

    fn write(&self, which: usize, path: &str, text: &str) {
        let path = self.root(which).join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text.replace(OWN, self.root(which).to_str().unwrap())).unwrap();
    }

    /// A line of shell in a checkout, whose path is in `$R`.
    fn line(&self, which: usize, line: &str) -> String {
        let (root, home) = (self.root(which), self.desk.at(PLACES[which].1));
        format!("export HOME={}; R={}; cd $R; {line}", home.display(), root.display())
    }

    /// Compiles, and holds everything that was written and said against what the bare compiler writes and says here.
    fn compiles_right(&self, which: usize, line: &str) -> Counts {
        let line = self.line(which, line);
        let (ran, counts) = self.desk.counted(&line);
        let ran = ran.ok();
        let written = self.outputs(which);
        let plain = self.desk.plain(&line).ok();
        assert_eq!(ran, plain, "{line}");
        assert_same(&written, &self.outputs(which), &format!("{line}: {}", self.explained()));
        assert_eq!(counts.total, 1, "{line}: {counts:?}");
        counts
    }

    fn outputs(&self, which: usize) -> Snapshot {
        let mut found = snapshot(&self.root(which).join("out"));
        found.retain(|path, _| path.extension().is_some_and(|ending| ending != "h"));
        found
    }

    fn explained(&self) -> String {
        self.desk.barn(&["explain"]).out()
    }

    /// Ann compiles, then Robert. Whether he had a hit.
    fn shares(&self, line: &str) -> bool {
        let first = self.compiles_right(0, line);
        assert_eq!((first.hits, first.misses), (0, 1), "{line}: {}", self.explained());
        let second = self.compiles_right(1, line);
        assert_eq!(second.hits + second.misses, 1, "{line}");
        second.hits == 1
    }
}

fn assert_same(one: &Snapshot, other: &Snapshot, what: &str) {
    let paths: Vec<&Path> = one.keys().chain(other.keys()).map(PathBuf::as_path).collect();
    for path in paths {
        let text =
            |side: &Snapshot| side.get(path).map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned());
        assert!(
            one.get(path) == other.get(path),
            "{}: {:?}, not {:?}\n{what}",
            path.display(),
            text(one),
            text(other)
        );
    }
}

/// The compilers, with the source that each compiles.
const COMPILERS: [(&str, &str); 4] = [("gcc", "x.c"), ("g++", "x.cc"), ("clang", "x.c"), ("clang++", "x.cc")];

fn with(compiler: (&str, &str), line: &str) -> String {
    format!("CC={}; X={}; {line}", compiler.0, compiler.1)
}

#[test]
fn whoever_compiles_it_second_has_it() {
    let pair = Pair::new(TREE);
    for compiler in COMPILERS {
        for line in [MAKE, TOP, CMAKE, NINJA, APART] {
            let line = with(compiler, line);
            assert!(pair.shares(&line), "{line}: {}", pair.explained());
            assert!(pair.explained().contains("of any checkout"), "without a scan: {}", pair.explained());
            // And his own again.
            assert_eq!(pair.compiles_right(1, &line).hits, 1);
            assert_eq!(pair.compiles_right(0, &line).hits, 1);
        }
    }
    for line in [
        "$B gcc -O2 -S -Iinclude -Iout src/x.c -o out/x.s",
        "$B gcc -c src/x.S -o out/x.o",
        "$B clang -c $R/src/x.S -o out/x.o",
    ] {
        assert!(pair.shares(line), "{line}: {}", pair.explained());
    }
}

#[test]
fn what_only_one_manifest_knew_is_found_by_a_scan() {
    let pair = Pair::new(TREE);
    let line = with(COMPILERS[0], CMAKE);
    // An unused directory that appears makes the manifest worthless, not the compile.
    pair.write(0, "third/x.txt", "");
    assert!(pair.shares(&line));
    pair.write(1, "third/stdio.h", "#include_next <stdio.h>\n");
    assert_eq!(pair.compiles_right(1, &line).hits, 0);
    fs::remove_file(pair.root(1).join("third/stdio.h")).unwrap();
    assert_eq!(pair.compiles_right(1, &line).hits, 1);
}

/// What is done to his checkout.
type Change<'a> = &'a dyn Fn(&Pair);

#[test]
fn trees_that_differ_have_nothing_in_common() {
    let pair = Pair::new(TREE);
    let changes: &[(&str, Change<'_>)] = &[
        ("a header", &|pair| pair.write(1, "src/a.h", "#define A 11\n")),
        ("a generated header", &|pair| pair.write(1, "out/gen.h", "#define GEN 33\n")),
        ("a header that shadows", &|pair| pair.write(1, "include/gen.h", "#define GEN 22\n")),
        ("a header that one has", &|pair| pair.write(1, "src/gen.h", "#define GEN 44\n")),
        ("a header of the system", &|pair| {
            pair.write(1, "include/stdio.h", "#include_next <stdio.h>\nint his;\n")
        }),
        ("the source", &|pair| pair.write(1, "src/x.c", "#include \"a.h\"\nint f(void) { return A + 5; }\n")),
    ];
    for cc in ["gcc", "clang"] {
        for line in [MAKE, CMAKE, NINJA] {
            let line = with((cc, "x.c"), line);
            for (what, change) in changes {
                pair.lay(TREE);
                change(&pair);
                let first = pair.compiles_right(0, &line);
                assert_eq!(first.hits + first.misses, 1);
                let second = pair.compiles_right(1, &line);
                // The same as an earlier one of his own, perhaps, never as hers.
                assert_eq!(second.hits + second.misses, 1);
                let objects = [0, 1].map(|which| fs::read(pair.root(which).join("out/x.o")).unwrap());
                assert!(objects[0] != objects[1], "{what}: {line}");
            }
        }
    }
}

/// Ann compiles, then edits what Robert's compile reads of her checkout though his own has the same. He must get what his compiler
/// gives. `prepare` is done in each checkout; the line is the same for both, `@HER@` in it and in the tree is her root.
fn never_stale(tree: &[(&str, &str)], prepare: impl Fn(&Pair, usize), line: &str) {
    for cc in ["gcc", "clang"] {
        let pair = Pair::new(TREE);
        let her = pair.root(0).display().to_string();
        for which in 0..2 {
            tree.iter().for_each(|(path, text)| pair.write(which, path, &text.replace("@HER@", &her)));
            prepare(&pair, which);
        }
        let line = format!("CC={cc}; {}", line.replace("@HER@", &her));
        pair.compiles_right(0, &line);
        pair.write(0, "src/a.h", "#define A 77\n");
        let second = pair.compiles_right(1, &line);
        assert_eq!(second.hits, 0, "{line}: {}", pair.explained());
        pair.write(0, "src/a.h", "#define A 78\n");
        assert_eq!(pair.compiles_right(1, &line).hits, 0, "{line}: {}", pair.explained());
    }
}

#[test]
fn headers_outside_the_project_count_as_they_are() {
    let tree: &[(&str, &str)] =
        &[("src/o.c", "#include \"../../shared.h\"\nint f(void) { return SHARED; }\n")];
    let line = "cd src; $B $CC -c o.c -o ../out/o.o -MD -MF ../out/o.d";
    let lay = |pair: &Pair, which: usize, text: &str| {
        fs::write(pair.root(which).parent().unwrap().join("shared.h"), text).unwrap();
    };
    for (cc, here, there) in [("gcc", "1", "1"), ("gcc", "1", "2"), ("clang", "1", "2")] {
        let pair = Pair::new(TREE);
        tree.iter().for_each(|(path, text)| (0..2).for_each(|which| pair.write(which, path, text)));
        lay(&pair, 0, &format!("#define SHARED {here}\n"));
        lay(&pair, 1, &format!("#define SHARED {there}\n"));
        assert!(!pair.shares(&format!("CC={cc}; {line}")));
    }
    // Named in full on the command line it is the same for both, until it changes.
    let pair = Pair::new(TREE);
    let outside = pair.desk.at("common");
    fs::create_dir(&outside).unwrap();
    pair.write(0, "src/o.c", "#include <common.h>\nint f(void) { return COMMON; }\n");
    pair.write(1, "src/o.c", "#include <common.h>\nint f(void) { return COMMON; }\n");
    let line = format!("$B gcc -I{} -c src/o.c -o out/o.o", outside.display());
    fs::write(outside.join("common.h"), "#define COMMON 1\n").unwrap();
    assert!(pair.shares(&line));
    fs::write(outside.join("common.h"), "#define COMMON 2\n").unwrap();
    assert_eq!(pair.compiles_right(1, &line).hits, 0);
}

#[test]
fn ways_into_her_checkout_are_no_ways_in_his() {
    let uses_a = "\nint f(void) { return A; }\n";
    let plain = "$B $CC -c src/o.c -o out/o.o -MD -MF out/o.d";
    let nothing = |_: &Pair, _: usize| ();
    // An absolute name in a text, and the same made by a macro.
    never_stale(&[("src/o.c", &format!("#include \"@HER@/src/a.h\"{uses_a}"))], nothing, plain);
    let made = format!("#define STR(x) #x\n#define NAME(x) STR(x/src/a.h)\n#include NAME(TOP){uses_a}");
    never_stale(&[("src/o.c", &made)], nothing, "$B $CC -DTOP=$(dirname @HER@)/tool -c src/o.c -o out/o.o");
    let angle = format!("#define NAME <TOP/tool/src/a.h>\n#include NAME{uses_a}");
    never_stale(&[("src/o.c", &angle)], nothing, "$B $CC -DTOP=$(dirname @HER@) -c src/o.c -o out/o.o");
    // Links: an absolute one, one that climbs out and comes back, one outside.
    let through_link = format!("#include \"l.h\"{uses_a}");
    let link = |pair: &Pair, which: usize, target: &str| {
        std::os::unix::fs::symlink(target, pair.root(which).join("src/l.h")).unwrap();
    };
    let absolute =
        |pair: &Pair, which: usize| link(pair, which, pair.root(0).join("src/a.h").to_str().unwrap());
    never_stale(&[("src/o.c", &through_link)], absolute, plain);
    // Both lie equally deep from a common directory.
    let relative = |pair: &Pair, which: usize| {
        let top = pair.desk.at("");
        let up = "../".repeat(pair.root(which).strip_prefix(&top).unwrap().components().count() + 1);
        link(pair, which, &format!("{up}{}/src/a.h", PLACES[0].0));
    };
    never_stale(&[("src/o.c", &through_link)], relative, plain);
    let outside = |pair: &Pair, which: usize| {
        if which == 0 {
            std::os::unix::fs::symlink(PLACES[0].0, pair.desk.at("hers")).unwrap();
        }
    };
    let by_angle = format!("#include <a.h>{uses_a}");
    let top = "$(dirname $(dirname $(dirname @HER@)))";
    never_stale(
        &[("lib/o.c", &by_angle)],
        outside,
        &format!("$B $CC -I{top}/hers/src -c lib/o.c -o out/o.o"),
    );
    // Ways around by `..`, and the environment.
    never_stale(
        &[("lib/o.c", &by_angle)],
        nothing,
        "$B $CC -I$(dirname @HER@)/../src/tool/src -c lib/o.c -o out/o.o",
    );
    never_stale(&[("lib/o.c", &by_angle)], nothing, "export CPATH=@HER@/src; $B $CC -c lib/o.c -o out/o.o");
    never_stale(&[("lib/o.c", &by_angle)], nothing, "$B $CC -I@HER@/src -c lib/o.c -o out/o.o");
}

const HASH: &str =
    "constexpr unsigned hash(const char *s) { unsigned h = 5381; while (*s) h = h * 33 + *s++; return h; }\n";

#[test]
fn objects_that_depend_on_the_path_are_his_own() {
    let sources = [
        ("__FILE__", format!("{HASH}unsigned h = hash(__FILE__);\n")),
        (
            "pasted",
            format!(
                "{HASH}#define CAT_(a, b) a##b\n#define CAT(a, b) CAT_(a, b)\nunsigned h = hash(CAT(__FI, LE__));\n"
            ),
        ),
        ("split", format!("{HASH}unsigned h = hash(__FI\\\nLE__);\n")),
        ("base", format!("{HASH}unsigned h = hash(__BASE_FILE__);\n")),
        ("builtin", format!("{HASH}unsigned h = hash(__builtin_FILE());\n")),
        ("length", "unsigned h = sizeof(__FILE__);\n".to_owned()),
        ("string", "const char *h = __FILE__;\n".to_owned()),
        ("assert", "#include <cassert>\nvoid f(int n) { assert(n); }\n".to_owned()),
        (
            "taken",
            format!(
                "{HASH}extern void g(unsigned);\n#include <cassert>\n#define __assert_fail(a, b, c, d) g(hash(b))\nvoid f(int n) {{ assert(n); }}\n"
            ),
        ),
        (
            "lambda",
            format!(
                "{HASH}template <class T> constexpr unsigned of(T) {{ return hash(__PRETTY_FUNCTION__); }}\nunsigned h = of([] {{}});\n"
            ),
        ),
        (
            "stringized",
            "#include <cassert>\n#define S_(x) #x\n#define S(x) S_(x)\nunsigned h = sizeof(S(assert(0)));\n"
                .to_owned(),
        ),
        ("wide", "const wchar_t *h = L\"\" __FILE__;\n".to_owned()),
        ("initializer", "struct S { S(); };\nnamespace { S s; }\n".to_owned()),
        ("warning", "int f() { int left; return 0; }\n".to_owned()),
        (
            "location",
            format!(
                "#include <source_location>\n{HASH}unsigned h = hash(std::source_location::current().file_name());\n"
            ),
        ),
    ];
    for cxx in ["g++", "clang++"] {
        let pair = Pair::new(TREE);
        for (name, source) in &sources {
            (0..2).for_each(|which| pair.write(which, &format!("src/{name}.cc"), source));
            if *name == "location" && cxx == "clang++" {
                continue;
            }
            let absolute = format!("$B {cxx} -std=c++20 -Wall -O2 -c $R/src/{name}.cc -o out/o.o");
            let shared = pair.shares(&absolute);
            // These may be the same after all, and then they are.
            let may_be_shared = *name == "initializer" || (*name == "lambda" && cxx == "g++");
            assert!(!shared || may_be_shared, "{absolute}: {}", pair.explained());
            // By a relative path they depend on nothing.
            let relative = format!("$B {cxx} -std=c++20 -Wall -O2 -c src/{name}.cc -o out/o.o");
            assert!(pair.shares(&relative), "{relative}: {}", pair.explained());
        }
    }
}

#[test]
fn debug_information_is_his_own() {
    let pair = Pair::new(TREE);
    for compiler in COMPILERS {
        for line in [MAKE, CMAKE] {
            let line = with(compiler, &line.replace("$CC", "$CC -g"));
            assert!(!pair.shares(&line), "{line}");
        }
    }
    let own_map = with(COMPILERS[0], &MAKE.replace("$CC", "$CC -g -ffile-prefix-map=$R=/x"));
    assert!(pair.shares(&own_map), "{}", pair.explained());
    let part = with(COMPILERS[0], &MAKE.replace("$CC", "$CC -g -ffile-prefix-map=$(dirname $R)=/x"));
    assert!(!pair.shares(&part));
}

/// A project that asks for it.
fn opted_in() -> Pair {
    let pair = Pair::new(TREE);
    (0..2).for_each(|which| pair.write(which, "barn.toml", "[project]\nportable_paths = true\n"));
    pair
}

/// What `portable_paths` stands for, said to the bare compiler.
fn mapped(pair: &Pair, which: usize, line: &str) -> Ran {
    let build = if line.contains("-build") { " -ffile-prefix-map=$R-build=/barn/build" } else { "" };
    let line = line.replace("$B $CC", &format!("$CC -ffile-prefix-map=$R=/barn/root{build}"));
    pair.desk.plain(&pair.line(which, &line)).ok()
}

#[test]
fn portable_paths_make_all_of_it_the_same() {
    let pair = opted_in();
    let source = format!("{HASH}unsigned h = hash(__FILE__);\nint main() {{ return 0; }}\n");
    (0..2).for_each(|which| pair.write(which, "src/h.cc", &source));
    for (cc, file) in
        [("gcc", "x.c"), ("clang", "x.c"), ("g++", "h.cc"), ("clang++", "h.cc"), ("g++", "x.cc")]
    {
        for line in [MAKE, CMAKE, NINJA, APART] {
            for debug in ["-g", "-g -gsplit-dwarf", "-g3 -gdwarf-4"] {
                // g++ numbers such pairs at random.
                if debug.contains("split") && (line != MAKE || file != "x.c") {
                    continue;
                }
                let line = with((cc, file), &line.replace("-O", &format!("{debug} -O")));
                let mut objects = Vec::new();
                for which in 0..2 {
                    let (ran, counts) = pair.desk.counted(&pair.line(which, &line));
                    let ran = ran.ok();
                    assert_eq!(counts.hits, which as u64, "{line}: {}", pair.explained());
                    let written = pair.outputs(which);
                    assert_eq!(ran, mapped(&pair, which, &line), "{line}");
                    assert_same(&written, &pair.outputs(which), &line);
                    objects.push(fs::read(pair.root(which).join("out/x.o")).unwrap());
                }
                assert!(objects[0] == objects[1], "{line}");
            }
        }
    }
}

/// Compiles in both checkouts of a project that asks for portable paths, and holds what comes of it against the bare compiler's, told
/// the same in its own words. Whether he had hers.
fn shares_mapped(pair: &Pair, lines: [&str; 2]) -> bool {
    let mut hits = 0;
    for (which, line) in lines.into_iter().enumerate() {
        let (ran, counts) = pair.desk.counted(&pair.line(which, line));
        let ran = ran.ok();
        hits = counts.hits;
        let written = pair.outputs(which);
        assert_eq!(ran, mapped(pair, which, line), "{line}");
        assert_same(&written, &pair.outputs(which), line);
    }
    hits == 1
}

#[test]
fn what_maps_do_not_reach_is_his_own() {
    let pair = opted_in();
    let lambda = format!(
        "{HASH}template <class T> constexpr unsigned of(T) {{ return hash(__PRETTY_FUNCTION__); }}\nunsigned h = of([] {{}});\n"
    );
    // A directory beside hers, whose name begins like that of her checkout.
    let beside = pair.root(0).with_file_name("tool-common");
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("beside.h"), "constexpr const char *here = __FILE__;\n").unwrap();
    for which in 0..2 {
        pair.write(which, "src/lambda.cc", &lambda);
        pair.write(which, "src/beside.cc", &format!("#include <beside.h>\n{HASH}unsigned h = hash(here);\n"));
    }
    let one = |line: &str| shares_mapped(&pair, [line, line]);
    assert!(!one("$B clang++ -c $R/src/lambda.cc -o $R/out/o.o"), "{}", pair.explained());
    assert!(one("$B g++ -c $R/src/lambda.cc -o $R/out/o.o"), "{}", pair.explained());
    for cxx in ["g++", "clang++"] {
        let line = format!("CC={cxx}; $B $CC -I{} -c src/beside.cc -o out/o.o", beside.display());
        assert!(!one(&line), "{line}: {}", pair.explained());
        // Her build directory's name begins like that of her checkout, his does not.
        let line = |directory: &str| {
            format!(
                "CC={cxx}; mkdir -p {directory}; cd {directory}; $B $CC -g -I$R/include -I$R/out -c $R/src/x.cc -o $R/out/x.o"
            )
        };
        let lines = [line("$R-build"), line("$R-build")];
        assert!(shares_mapped(&pair, [&lines[0], &lines[1]]), "{}", pair.explained());
    }
}

#[test]
fn what_tells_a_file_by_its_number_is_his_own() {
    let pair = Pair::new(TREE);
    let text =
        "int f(int n) {\n  int s = 0;\n#pragma omp target map(tofrom : s)\n  s += n;\n  return s;\n}\n";
    (0..2).for_each(|which| pair.write(which, "src/omp.c", text));
    assert!(!pair.shares("$B clang -fopenmp -c src/omp.c -o out/o.o"), "{}", pair.explained());
    let objects = [0, 1].map(|which| fs::read(pair.root(which).join("out/o.o")).unwrap());
    assert!(objects[0] != objects[1], "the compiler no longer does this: it may be shared");
}

#[test]
fn what_appears_or_lies_outside_in_one_checkout_counts() {
    let probes = "#if __has_include(\"../../maybe.h\")\nint f(void) { return 1; }\n#else\nint f(void) { return 2; }\n#endif\n";
    let data = "__asm__(\".data\\n.globl f\\nf: .incbin \\\"src/data.bin\\\"\");\n";
    for cc in ["gcc", "clang"] {
        let pair = Pair::new(TREE);
        for which in 0..2 {
            pair.write(which, "src/probes.c", probes);
            pair.write(which, "src/data.c", data);
            pair.write(which, "src/data.bin", &format!("of {which}"));
        }
        fs::write(pair.root(1).parent().unwrap().join("maybe.h"), "").unwrap();
        let line = format!("$B {cc} -c src/probes.c -o out/o.o");
        assert!(!pair.shares(&line), "{line}: {}", pair.explained());
        let line = format!("$B {cc} -c src/data.c -o out/o.o");
        for which in 0..2 {
            assert_eq!(pair.compiles_right(which, &line).hits, 0, "{line}: {}", pair.explained());
        }
    }
}

#[test]
fn a_debugger_is_told_where_the_sources_are() {
    let pair = opted_in();
    for (cc, line) in [("gcc", MAKE), ("clang", MAKE), ("gcc", CMAKE), ("clang", CMAKE)] {
        let line = with((cc, "x.c"), &line.replace("-O2", "-g"));
        pair.desk.sh(&pair.line(0, &line)).ok();
        let (ran, counts) = pair.desk.counted(&pair.line(1, &line));
        ran.ok();
        assert_eq!(counts.hits, 1, "{line}");
        // Hers is gone; the object that came from there must lead to his.
        let list = |map: &str| {
            let line =
                format!("gcc out/x.o -o out/x && cd / && gdb -nx -batch {map} -ex 'list main' $R/out/x");
            pair.desk.plain(&pair.line(1, &line)).out()
        };
        assert!(!list("").contains("the answer"), "{line}");
        let told = list("-ex \"set substitute-path /barn/root $R\"");
        assert!(told.contains("the answer"), "{line}: {told}");
    }
}

/// A real C library (some of whose headers have `__FILE__` in macros that are not used), and units of C++ that each take in a part of the standard library.
fn lay_real(pair: &Pair) -> (Vec<String>, Vec<String>) {
    let zstd = of_workspace("zstd-sys").unwrap().join("zstd/lib");
    let headers = [
        "algorithm",
        "array",
        "atomic",
        "bitset",
        "chrono",
        "complex",
        "deque",
        "exception",
        "filesystem",
        "fstream",
        "functional",
        "future",
        "iostream",
        "list",
        "map",
        "memory",
        "mutex",
        "numeric",
        "optional",
        "random",
        "ratio",
        "regex",
        "set",
        "sstream",
        "string",
        "thread",
        "tuple",
        "unordered_map",
        "variant",
        "vector",
    ];
    let mut sources = (Vec::new(), Vec::new());
    for which in 0..2 {
        let root = pair.root(which);
        let copy = format!("cp -r {} {}", zstd.display(), root.join("zstd").display());
        pair.desk.plain(&copy).ok();
        pair.write(which, "src/common.hpp", "template <class T> T twice(T t) { return t + t; }\n");
        for header in headers {
            let text = format!(
                "#include <{header}>\n#include \"common.hpp\"\nint {header}_() {{ return twice(21); }}\n"
            );
            pair.write(which, &format!("src/{header}.cc"), &text);
        }
    }
    let of = |path: &Path| path.strip_prefix(pair.root(0)).unwrap().display().to_string();
    for part in ["common", "compress", "decompress", "dictBuilder"] {
        let entries = fs::read_dir(pair.root(0).join("zstd").join(part)).unwrap();
        let units = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "c"));
        sources.0.extend(units.map(|path| of(&path)));
    }
    sources.1.extend(headers.map(|header| format!("src/{header}.cc")));
    sources
}

/// Builds all units in a checkout.
fn build(pair: &Pair, which: usize, compiler: &str, units: &[String], flags: &str) -> (Vec<Vec<u8>>, Counts) {
    let objects = |unit: &String| format!("out/{}.o", unit.replace('/', "_"));
    let one = |unit: &String| {
        let object = objects(unit);
        format!("$B {compiler} {flags} -MD -MF {object}.d -c SOURCE{unit} -o {object}")
    };
    let source = if flags.contains("$R") { "$R/" } else { "" };
    let lines: Vec<String> = units.iter().map(|unit| one(unit).replace("SOURCE", source)).collect();
    let before = pair.desk.counts();
    for some in lines.chunks(UNITS_PER_LINE) {
        pair.desk.sh(&pair.line(which, &some.join(" && "))).ok();
    }
    let counts = pair.desk.counts().since(&before);
    let read = |unit: &String| fs::read(pair.root(which).join(objects(unit))).unwrap();
    (units.iter().map(read).collect(), counts)
}

fn hits_of_a_second_person(pair: &Pair, compilers: [&str; 2], flags: &str) {
    let (c, cxx) = lay_real(pair);
    assert!(c.len() >= 25 && cxx.len() >= 25);
    for (compiler, units) in compilers.into_iter().zip([c, cxx]) {
        let (hers, _) = build(pair, 0, compiler, &units, flags);
        let (his, counts) = build(pair, 1, compiler, &units, flags);
        assert!(hers == his, "{compiler} {flags}");
        let share = counts.hits * 100 / units.len() as u64;
        println!("{compiler} {flags}: {} hits of {}", counts.hits, units.len());
        assert!(share >= 99, "{compiler} {flags}: {counts:?}: {}", pair.explained());
    }
}

#[test]
fn a_second_person_has_ninety_nine_hits_in_a_hundred() {
    for compilers in [["gcc", "g++"], ["clang", "clang++"]] {
        hits_of_a_second_person(&Pair::new(TREE), compilers, "-O0 -Isrc -Izstd -Izstd/common");
    }
}

#[test]
fn and_so_with_absolute_paths() {
    for compilers in [["gcc", "g++"], ["clang", "clang++"]] {
        hits_of_a_second_person(
            &Pair::new(TREE),
            compilers,
            "-O0 -DNDEBUG -I$R/src -I$R/zstd -I$R/zstd/common",
        );
    }
}

#[test]
fn and_so_with_debug_information_where_paths_are_portable() {
    for (compilers, flags) in [
        (["gcc", "g++"], "-O0 -g -I$R/src -I$R/zstd -I$R/zstd/common"),
        (["clang", "clang++"], "-O0 -g -Isrc -Izstd -Izstd/common"),
    ] {
        hits_of_a_second_person(&opted_in(), compilers, flags);
    }
}
