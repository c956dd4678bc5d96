//! Small trees, one for every habit of compilers, judged by the compilers themselves.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "it looks at the real machine")]

mod real;

use std::collections::BTreeSet;

use barn_compilers::Language;
use barn_scanner::{Define, Scan, Scanner, Undecided, Unit};
use real::{Compiler, RealDisk};

const BOTH: [&str; 2] = ["gcc", "clang"];

/// A directory with these files; the first is the source.
struct Tree {
    dir: tempfile::TempDir,
    source: String,
}

impl Tree {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (path, contents) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, contents).unwrap();
        }
        Self { dir, source: files[0].0.to_owned() }
    }

    fn language(&self) -> Language {
        match self.source.rsplit('.').next().unwrap() {
            "cc" => Language::Cxx,
            "m" => Language::ObjectiveC,
            "S" => Language::AssemblerWithCpp,
            _ => Language::C,
        }
    }

    fn compiler(&self, program: &str, flags: &[&str]) -> Compiler {
        Compiler::new(program, self.language(), flags, self.dir.path())
    }

    fn scan(&self, program: &str, flags: &[&str]) -> Result<Scan, Undecided> {
        let compiler = self.compiler(program, flags);
        let mut unit = compiler.unit(&self.source);
        compiler.scan(&Scanner::default(), &mut unit, &mut RealDisk::new(self.dir.path())).0
    }
}

/// The scanner opens what the compiler lists, cold and from memory; gives the opened names under the tree.
fn check_unit(tree: &Tree, program: &str, flags: &[&str], change: &dyn Fn(&mut Unit)) -> Vec<String> {
    let compiler = tree.compiler(program, flags);
    let mut unit = compiler.unit(&tree.source);
    change(&mut unit);
    let listed = compiler.listed(&unit).expect("the compiler takes the unit");
    let scanner = Scanner::default();
    let mut names = Vec::new();
    for turn in ["cold", "warm"] {
        let mut disk = RealDisk::new(tree.dir.path());
        let scan = compiler.scan(&scanner, &mut unit, &mut disk).0.unwrap_or_else(|error| {
            panic!("{program} {flags:?} {turn}: {error:?}");
        });
        let opened = compiler.opened(&scan);
        // clang lists what is only probed, too.
        let probed = scan.probed.iter().map(|(path, _)| compiler.plain(path)).collect();
        let missing: Vec<_> =
            listed.difference(&opened).filter(|path| !BTreeSet::contains(&probed, *path)).collect();
        let surplus: Vec<_> = opened.difference(&listed).collect();
        assert!(
            missing.is_empty() && surplus.is_empty(),
            "{program} {flags:?} {turn}: -{missing:?} +{surplus:?}"
        );
        let root = tree.dir.path().canonicalize().unwrap();
        let inside = compiler.opened(&scan).into_iter();
        let inside = inside.filter_map(|path| Some(path.strip_prefix(&root).ok()?.display().to_string()));
        names = inside.filter(|name| *name != tree.source).collect();
    }
    names
}

/// Both compilers, and what is opened besides the source.
fn check(files: &[(&str, &str)], flags: &[&str], expect: &[&str]) {
    let tree = Tree::new(files);
    for program in BOTH {
        assert_eq!(check_unit(&tree, program, flags, &|_| ()), expect, "{program} {files:?}");
    }
}

/// Every condition that holds opens its own file.
fn check_conditions(suffix: &str, flags: &[&str], head: &str, conditions: &[&str]) {
    let mut source = format!("{head}\n");
    let names: Vec<String> = (0..conditions.len()).map(|at| format!("t{at}.h")).collect();
    for (condition, name) in conditions.iter().zip(&names) {
        source += &format!("#if {condition}\n#include \"{name}\"\n#endif\n");
    }
    let path = format!("a.{suffix}");
    let mut files = vec![(path.as_str(), source.as_str()), ("x/here.h", ""), ("here.h", "")];
    files.extend(names.iter().map(|name| (name.as_str(), "")));
    let tree = Tree::new(&files);
    for program in BOTH {
        check_unit(&tree, program, flags, &|_| ());
    }
}

#[test]
fn arithmetic() {
    check_conditions(
        "c",
        &[],
        "#define A 3\n#define EMPTY\n#define F(x) x\n",
        &[
            "A == 3",
            "A > 2 && A < 4",
            "-1 > 0u",
            "-1 < 0",
            "1 ? 2 : 0",
            "0 ? 1/0 : 1",
            "0 && 1/0 || 1",
            "(2 || 1/0)",
            "~0 == -1",
            "'a' == 97",
            "'\\xff' < 0",
            "'\\377' == -1",
            "'ab' == 24930",
            "L'a' == 97",
            "0x7fffffffffffffff + 1u == 0x8000000000000000",
            "18446744073709551615u == -1",
            "1 << 62 > 0",
            "-8 >> 1 == -4",
            "-7 / 2 == -3",
            "-7 % 2 == -1",
            "07 == 7 && 010 == 8",
            "0b11 == 3",
            "undefined_name",
            "!undefined_name",
            "F(A) EMPTY == 3",
            "(A) == F((3))",
            "1 == 1L && 1 == 1ull",
            "1 - 1 - 1 == -1",
            "2 * 3 + 4 == 10 && 2 + 3 * 4 == 14",
            "(1 | 2 ^ 3 & 4) == 3",
            "A != 3 || !A",
            "(1 ? -1 : 0u) > 0",
            "'\\\\' == 92",
            "'\\'' == 39",
            "'\\n' == 10",
            "+1 == - -1",
            "!!A == 1",
            "1 << -1 == 0",
            "4 >> -1",
            "1 << -1 || 1u << 64 || 1 << 0x100000001",
            "0x8000000000000000u >> 64",
            "-1 >> 64 == -1",
            "4 >> 0x100000001 == 2",
            "0xFFFFFFFFFFFFFFFFu > 0",
            "defined A && defined(F) && !defined B",
            "defined EMPTY",
        ],
    );
}

#[test]
fn words_of_cxx() {
    let conditions = [
        "true",
        "false",
        "true and not false",
        "1 xor 1",
        "compl 0 == -1",
        "1 bitand 3",
        "0 bitor 1",
        "1 not_eq 2",
        "false or true",
    ];
    check_conditions("cc", &["-std=c++17"], "", &conditions);
    let plain = ["true", "false", "and_is_a_name", "defined true"];
    check_conditions("c", &[], "", &plain);
    check_conditions("cc", &["-std=c++17"], "", &["1'000 == 1000", "0b1'1 == 3"]);
}

#[test]
fn probing() {
    let conditions = [
        "__has_include(\"here.h\")",
        "__has_include(<here.h>)",
        "__has_include(<gone.h>)",
        "defined __has_include",
        "defined(__has_include_next)",
        "HAS(<here.h>)",
        "HAS(\"here.h\")",
        "__has_include(HERE)",
        "__has_include(ANGLE)",
        "__has_include(STR(here.h))",
        "0 && __has_include(<gone2.h>)",
        "__has_include(<sub//here.h>)",
        "__has_include_next(<here.h>)",
    ];
    let head = "#define HAS(x) __has_include(x)\n#define HERE \"here.h\"\n#define ANGLE <here.h>\n#define STR(x) #x\n";
    check_conditions("c", &["-Ix"], head, &conditions);
}

#[test]
fn what_compilers_answer() {
    let conditions = [
        "__has_attribute(unused)",
        "__has_attribute(__unused__)",
        "__has_attribute(nonsense)",
        "defined __has_builtin && __has_builtin(__builtin_memcpy)",
        "ASK(__builtin_expect)",
        "__has_cpp_attribute(nodiscard) >= 201603L",
        "__has_cpp_attribute(gnu::unused)",
        "defined(__has_feature)",
        "defined __has_extension",
        "defined __is_identifier",
        "defined __has_nonsense",
        "__has_cpp_attribute(likely) == 201803",
    ];
    check_conditions("cc", &["-std=c++20"], "#define ASK(x) __has_builtin(x)\n", &conditions);
    let tree = Tree::new(&[
        ("a.c", "#ifdef __has_feature\n#if __has_feature(c_alignas)\n#include \"a.h\"\n#endif\n#endif\n"),
        ("a.h", ""),
    ]);
    assert_eq!(check_unit(&tree, "clang", &["-std=c11"], &|_| ()), ["a.h"]);
    assert_eq!(check_unit(&tree, "gcc", &["-std=c11"], &|_| ()), [""; 0]);
}

#[test]
fn groups() {
    check(
        &[
            (
                "a.c",
                "#if 0\n#include \"no.h\"\n# if 1\n#include \"no.h\"\n# else\n# endif\n#elif 1\n#include \"a.h\"\n\
                 #elif 1/0\n#else\n#include \"no.h\"\n#endif\n#ifndef X\n#include \"b.h\"\n#elif nonsense(\n#endif\n\
                 #ifndef X\n#if (\n#endif\n#bad\n#else\n#include \"c.h\"\n#endif",
            ),
            ("a.h", "#undef X\n"),
            ("b.h", "#define X"),
            ("c.h", ""),
        ],
        &[],
        &["a.h", "b.h", "c.h"],
    );
    let new = [
        (
            "a.c",
            "#if 0\n#elifdef A\n#include \"a.h\"\n#elifndef A\n#include \"b.h\"\n#else\n#include \"c.h\"\n#endif\n",
        ),
        ("a.h", ""),
        ("b.h", ""),
        ("c.h", ""),
    ];
    check(&new, &["-std=gnu17"], &["b.h"]);
    let tree = Tree::new(&new);
    assert_eq!(check_unit(&tree, "gcc", &["-std=c11"], &|_| ()), ["c.h"]);
    assert_eq!(check_unit(&tree, "clang", &["-std=c11"], &|_| ()), ["b.h"]);
}

#[test]
fn phases_of_translation() {
    check(
        &[
            (
                "a.c",
                "\u{feff}#inc\\\nlude \"a.h\"\r\n/* \n#include \"no.h\"\n*/ # /* x */ include /* y\n*/ \"b.h\" // c\\\n\
                 #include \"no.h\"\n%: include \"c.h\"\nchar *s = \"/*\"; char c = '\"';\n#include \"d.h\"\n\
                 #if 0\ndon't /* here\n#endif\n#include \"e.h\"\n#define X /* a\n b */ 1\n#if X\n#include \"f.h\"\n#endif",
            ),
            ("a.h", ""),
            ("b.h", ""),
            ("c.h", ""),
            ("d.h", ""),
            ("e.h", ""),
            ("f.h", ""),
        ],
        &[],
        &["a.h", "b.h", "c.h", "d.h", "e.h", "f.h"],
    );
    check(
        &[
            (
                "a.cc",
                "auto s = R\"x(\n#include \"no.h\"\n\")x\";\nint i = 1'000; /* ' */\n#include \"a.h\"\n\
                 auto t = u8R\"(/*)\";\n#include \"b.h\"\n",
            ),
            ("a.h", ""),
            ("b.h", ""),
        ],
        &["-std=c++17"],
        &["a.h", "b.h"],
    );
}

#[test]
fn assembler() {
    check(
        &[
            (
                "a.S",
                "# don't mind\n#include \"a.h\"\n// x\nmov $'a, %al # isn't\n#ifdef __ASSEMBLER__\n#include \"b.h\"\n#endif\n",
            ),
            ("a.h", "#define A 1\n"),
            ("b.h", ""),
        ],
        &[],
        &["a.h", "b.h"],
    );
}

#[test]
fn computed_names() {
    check(
        &[
            (
                "a.c",
                "#define A \"a.h\"\n#include A\n#define B(x) <x.h>\n#include B(b)\n#define S_(x) #x\n#define S(x) S_(x)\n\
                 #define DIR d\n#include S(DIR/c.h)\n#define J(a, b) a##b\n#include S(J(d, d).h)\n\
                 #define V(f, ...) S(f __VA_OPT__(no))\n#include V(e.h)\n#define G(f, ...) J(f, ## __VA_ARGS__)\n\
                 #ifndef AGAIN\n#define AGAIN\n#include __FILE__\n#endif\n",
            ),
            ("a.h", ""),
            ("b.h", ""),
            ("d/c.h", ""),
            ("dd.h", ""),
            ("e.h", ""),
        ],
        &["-I.", "-std=gnu2x"],
        &["a.h", "b.h", "d/c.h", "dd.h", "e.h"],
    );
}

#[test]
fn next_and_once() {
    let files = [
        (
            "a.c",
            "#include <x.h>\n#include \"w.h\"\n#include \"once.h\"\n#include \"sub/../once.h\"\n#include \"link.h\"\n",
        ),
        ("i/x.h", "#include_next <x.h>\n"),
        (
            "j/x.h",
            "#if __has_include_next(<x.h>)\n#include_next \"x.h\"\n#endif\n#ifdef ONCE\n#include \"no.h\"\n#endif\n",
        ),
        ("k/x.h", "#include \"y.h\"\n"),
        ("k/y.h", "#pragma once\n#include \"y.h\"\n"),
        ("w.h", "#ifndef W\n#define W\n#include \"w.h\"\n#endif\n"),
        ("once.h", "#pragma once\n#ifdef SEEN\n#include \"no.h\"\n#endif\n#define SEEN\n"),
        (
            "link.h",
            "#pragma push_macro(\"SEEN\")\n#undef SEEN\n#pragma pop_macro(\"SEEN\")\n#ifdef SEEN\n#include \"z.h\"\n#endif\n",
        ),
        ("z.h", ""),
        ("no.h", ""),
        ("sub/empty", ""),
    ];
    check(
        &files,
        &["-Ii", "-Ij", "-Ik"],
        &["i/x.h", "j/x.h", "k/x.h", "k/y.h", "link.h", "once.h", "w.h", "z.h"],
    );
}

/// gcc's `-M` passes over `_Pragma`, its compiles do not.
#[test]
fn pragmas_as_operators() {
    let tree = Tree::new(&[
        ("a.c", "#include \"once.h\"\n#include \"once.h\"\n#ifdef SEEN\n#include \"z.h\"\n#endif\n"),
        (
            "once.h",
            "int x; _Pragma(\"once\")\n#ifdef SEEN\n#error\n#endif\n#define SEEN\n_Pragma(\"push_macro(\\\"SEEN\\\")\")\n\
            #undef SEEN\n_Pragma (\"pop_macro(\\\"SEEN\\\")\")\n",
        ),
        ("z.h", ""),
    ]);
    assert_eq!(check_unit(&tree, "clang", &[], &|_| ()), ["once.h", "z.h"]);
    let scan = tree.scan("gcc", &["-nostdinc"]).unwrap();
    assert_eq!(scan.opened.len(), 3);
    assert!(tree.compiler("gcc", &["-nostdinc"]).run(&["-S", "-o", "-", "a.c"], b"").0);
}

/// What differs between the compilers.
#[test]
fn habits() {
    let again = "#pragma once\n#ifndef A\n#define A\n#include \"a.c\"\n#ifndef B\n#include \"x.h\"\n#endif\n#else\n#define B\n#endif\n";
    let tree = Tree::new(&[("a.c", again), ("x.h", "")]);
    assert_eq!(check_unit(&tree, "gcc", &[], &|_| ()), ["x.h"]);
    assert!(check_unit(&tree, "clang", &[], &|_| ()).is_empty());
    let tree = Tree::new(&[("a.c", "#if 0\n// x /*\n#endif\n#include \"x.h\"\n/**/\n"), ("x.h", "")]);
    assert_eq!(check_unit(&tree, "clang", &[], &|_| ()), ["x.h"]);
    assert!(tree.scan("gcc", &["-std=c89"]).unwrap_err().to_string().contains("line comments"));
}

/// Wide characters are as wide and as signed as the compiler's.
#[test]
fn wide_characters() {
    check_conditions("c", &["-fshort-wchar"], "", &["L'a' > -1"]);
    check_conditions("c", &[], "", &["L'a' > -1", "u'a' > -1"]);
}

/// A macro of the command line that may save macros is refused.
#[test]
fn pragmas_of_the_command_line() {
    let tree = Tree::new(&[("a.c", "")]);
    for program in BOTH {
        let compiler = tree.compiler(program, &[]);
        let mut unit = compiler.unit("a.c");
        unit.defines = vec![Define::Define(b"P=_Pragma(\"push_macro(\\\"A\\\")\")".to_vec())];
        let scan = compiler.scan(&Scanner::default(), &mut unit, &mut RealDisk::new(tree.dir.path())).0;
        assert!(scan.unwrap_err().to_string().contains("-D P="));
        unit.defines = vec![Define::Undefine(b"__COUNTER__".to_vec())];
        let scan = compiler.scan(&Scanner::default(), &mut unit, &mut RealDisk::new(tree.dir.path())).0;
        assert!(scan.unwrap_err().to_string().contains("#undef"));
    }
}

/// A macro may make a pragma of its argument.
#[test]
fn pragmas_made_by_macros() {
    let tree = Tree::new(&[
        ("a.c", "#include \"x.h\"\n#include \"x.h\"\n"),
        ("x.h", "#define P(x) _Pragma(#x)\nP( once )\n"),
    ]);
    for program in BOTH {
        assert!(tree.scan(program, &[]).unwrap_err().to_string().contains("x.h"), "{program}");
    }
}

#[test]
fn import() {
    check(
        &[
            (
                "a.m",
                "#import \"a.h\"\n#import \"a.h\"\n#include \"a.h\"\n#include \"b.h\"\n#import \"b.h\"\n",
            ),
            ("a.h", "#ifdef A\n#include \"no.h\"\n#endif\n#define A\n"),
            ("b.h", "#ifdef B\n#include \"no.h\"\n#endif\n#define B\n"),
            ("no.h", ""),
        ],
        &[],
        &["a.h", "b.h"],
    );
}

#[test]
fn search_order() {
    check(
        &[
            ("s/a.c", "#include \"x.h\"\n#include <x.h>\n#include \"y.h\"\n#include \"sub/z.h\"\n"),
            ("s/x.h", ""),
            ("q/x.h", ""),
            ("q/y.h", ""),
            ("i/x.h", ""),
            ("i/y.h", ""),
            ("i/sub/z.h", "#include \"x.h\"\n#include \"zz.h\"\n"),
            ("i/sub/zz.h", ""),
            ("x.h", "#error\n"),
        ],
        &["-iquote", "q", "-Ii"],
        &["i/sub/z.h", "i/sub/zz.h", "i/x.h", "q/x.h", "q/y.h", "s/x.h"],
    );
}

#[test]
fn flags_of_the_command_line() {
    let tree = Tree::new(&[
        (
            "s/a.c",
            "#if V == 2 && F(1) == 2 && defined P && !defined GONE\n#include \"b.h\"\n#endif\n#ifdef linux\n#endif\n",
        ),
        ("s/b.h", ""),
        ("pre.h", "#define P\n#include \"more.h\"\n"),
        ("more.h", "#ifndef M\n#error\n#endif\n"),
        ("m.h", "#define M\nthis is dropped\n"),
    ]);
    for program in BOTH {
        let opened = check_unit(&tree, program, &[], &|unit| {
            unit.defines = vec![
                Define::Define(b"V=1".to_vec()),
                Define::Undefine(b"V".to_vec()),
                Define::Define(b"V=2".to_vec()),
                Define::Define(b"F(x)=x+1".to_vec()),
                Define::Define(b"GONE".to_vec()),
                Define::Undefine(b"GONE".to_vec()),
            ];
            unit.includes = vec![b"pre.h".to_vec()];
            unit.imacros = vec![b"m.h".to_vec()];
        });
        assert_eq!(opened, ["m.h", "more.h", "pre.h", "s/b.h"]);
    }
}

#[test]
fn paths_in_vain_are_told() {
    let tree = Tree::new(&[
        ("s/a.c", "#include \"x.h\"\n#if __has_include(\"probed.h\") || __has_include(<gone.h>)\n#endif\n"),
        ("j/x.h", ""),
        ("j/probed.h", ""),
        ("i/empty", ""),
    ]);
    let scan = tree.scan("gcc", &["-Ii", "-Ij", "-nostdinc"]).unwrap();
    let mut absent: Vec<String> =
        scan.absent.iter().map(|path| String::from_utf8(path.clone()).unwrap()).collect();
    absent.retain(|path| !path.ends_with("stdc-predef.h"));
    absent.sort();
    assert_eq!(absent, ["i/gone.h", "i/probed.h", "i/x.h", "j/gone.h", "s/probed.h", "s/x.h"]);
    let probed: Vec<&[u8]> = scan.probed.iter().map(|(path, _)| path.as_slice()).collect();
    assert_eq!(probed, [b"j/probed.h"]);
}

fn check_refused(source: (&str, &str), flags: &[&str], reason: &str) {
    let tree = Tree::new(&[source]);
    for program in BOTH {
        match tree.scan(program, flags) {
            Err(error) => assert!(error.to_string().contains(reason), "{error} {source:?}"),
            Ok(_) => panic!("{source:?} was scanned"),
        }
    }
}

#[test]
fn what_is_not_decided() {
    check_refused(("a.c", "\n#include \"gone.h\"\n"), &[], "gone.h is included by a.c");
    check_refused(("a.c", "#if 1\n"), &[], "a.c:0: its conditional groups do not match");
    check_refused(("a.c", "\n#if 1/0\n#endif\n"), &[], "a.c:2: a condition");
    check_refused(("a.c", "#include \"a.c\"\n"), &[], "nested too deeply");
    check_refused(("a.c", "#error\n"), &[], "#error");
    check_refused(("a.c", "#define F(x) x\n#if F(1\n#endif\n"), &[], "do not end");
    check_refused(("a.c", "#define F(x) x\n#if F(1,2)\n#endif\n"), &[], "wrong number");
    check_refused(("a.c", "??=include <a.h>\n"), &[], "trigraphs");
    check_refused(("a.cc", "import <vector>;\n"), &["-std=c++20"], "modules");
    check_refused(("a.c", "#if __COUNTER__\n#endif\n"), &[], "__COUNTER__");
    check_refused(("a.c", "#embed \"a.c\"\n"), &[], "#embed");
    for name in ["__FILE__", "__INCLUDE_LEVEL__", "__has_include", "__has_attribute"] {
        check_refused(("a.c", &format!("#undef {name}\n")), &[], "#undef");
    }
    check_refused(("a.c", "# 3 \"b.c\" 1\n#if __INCLUDE_LEVEL__\n#endif\n"), &[], "__INCLUDE_LEVEL__");
    check_refused(("a.c", "#if 1 //**/ 2\n#endif\n"), &["-std=c89"], "`//*`");
    check_refused(("a.c", "%:define A\n"), &["-std=c89"], "digraphs");
    check_refused(("a.S", "%:define A\n"), &[], "digraphs");
    check_refused(("a.S", "#define A$ 1\n"), &[], "`$` in the name");
    check_refused(("a.S", "#define A B$\n#if A\n#endif\n"), &[], "`$` in a condition");
    check_refused(("a.c", "#if 0 || \\\n __LINE__\n#endif\n"), &[], "__LINE__");
    check_refused(("a.cc", "#if u8'a' > -1\n#endif\n"), &["-std=c++17"], "a condition");
    check_refused(("a.c", "#pragma include_alias(\"a.h\", \"b.h\")\n"), &[], "a directive");
    check_refused(("a.c", "_Pragma\n(\"once\")\n"), &[], "a macro may make a pragma");
    check_refused(("a.c", "#define F(x)\nF(_Pragma(\"once\"))\n"), &[], "a macro may make a pragma");
    check_refused(
        ("a.c", "#define P _Pragma(\"pop_macro(\\\"X\\\")\")\nP\n"),
        &[],
        "a macro may make a pragma",
    );
}
