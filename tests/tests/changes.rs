//! What changes between two compiles, or during one: never an old result for new inputs.

use barn_tests::{Desk, Tree};

const TREE: Tree<'_> = &[
    ("x.c", "#include \"x.h\"\nint value = X;\n"),
    ("x.h", "#define X 1\n"),
    ("first/none", ""),
    ("second/s.h", "#define X 2\n"),
    ("s.c", "#include <s.h>\nint value = X;\n"),
    ("out/", ""),
];

/// A source that clang reads up to its middle, evaluates for some seconds, and then reads on; a dependency run is
/// through at once.
const SLOW: &str = "constexpr int spin(int n) { int s = 0; for (int i = 0; i < n; ++i) s ^= i; return s; }\n\
                    static_assert(spin(400000) >= 0);\n#include \"late.h\"\nint value = LATE;\n";
const SLOW_COMPILE: &str = "$B clang++ -std=c++17 -fconstexpr-steps=2000000000 -Ifirst -Isecond -c slow.cc";

/// Compiles, and holds the object against one made without barn. Whether it was a hit.
fn compiles_right(desk: &Desk, line: &str) -> bool {
    let (ran, counts) = desk.counted(line);
    ran.ok();
    let with_barn = objects(desk);
    desk.plain(line).ok();
    assert!(with_barn == objects(desk), "{line} gave another object: {counts:?}");
    assert_eq!(counts.total, 1, "{counts:?}");
    counts.hits == 1
}

fn objects(desk: &Desk) -> Vec<u8> {
    desk.sh("cat $(find . -name '*.o' | sort)").ok().stdout
}

/// Each step is a line of shell, and whether the compile after it may be a hit.
fn check(tree: Tree<'_>, compile: &str, steps: &[(&str, bool)]) {
    for (cc, cxx) in [("gcc", "g++"), ("clang", "clang++")] {
        let desk = Desk::new();
        desk.lay(tree);
        let line = format!("CC={cc} CXX={cxx}; {compile}");
        assert!(!compiles_right(&desk, &line), "{line}: a hit from nothing");
        for (step, may_hit) in steps {
            desk.sh(step).ok();
            assert_eq!(compiles_right(&desk, &line), *may_hit, "{line} after {step}");
        }
    }
}

#[test]
fn edits() {
    check(
        TREE,
        "$B $CC -g -c x.c",
        &[
            ("true", true),
            ("touch x.h x.c", true),
            ("touch -d 2001-01-01 x.h x.c", true),
            ("chmod 600 x.h", true),
            ("cp x.h new; mv new x.h", true),
            ("echo '#define X 3' > x.h", false),
            ("echo '#define X 4' > x.h", false),
            ("echo '#define X 3' > x.h", true),
            ("echo '/* a word */' >> x.h", false),
            ("echo '/* a word */' >> x.c", false),
            ("touch -d 2001-01-01 x.h; echo '#define X 5' > x.h; touch -d 2001-01-01 x.h", false),
        ],
    );
}

/// As fast as a script can: two edits may fall within one tick of the file system's clock.
#[test]
fn edits_within_a_second() {
    let desk = Desk::new();
    desk.lay(TREE);
    for cc in ["gcc", "clang"] {
        for number in 1000..1012 {
            desk.write("x.h", &format!("#define X {number}\n"));
            assert_eq!(value(&desk, &format!("$B {cc} -S x.c -o x.s")), number.to_string());
        }
        // The same sizes and times of change: the contents alone tell.
        desk.sh("touch -d 2001-01-01 x.h").ok();
        for number in 2000..2012 {
            desk.sh(&format!("printf '#define X {number}\n' > x.h; touch -d 2001-01-01 x.h")).ok();
            assert_eq!(value(&desk, &format!("$B {cc} -S x.c -o x.s")), number.to_string());
        }
    }
}

/// A header that shadows another one comes and goes as fast as a script can.
#[test]
fn shadows_within_a_second() {
    let desk = Desk::new();
    desk.lay(TREE);
    for cc in ["gcc", "clang"] {
        let line = format!("$B {cc} -Ifirst -Isecond -S s.c -o s.s");
        for _ in 0..8 {
            assert_eq!(value(&desk, &line), "2");
            desk.write("first/s.h", "#define X 3\n");
            assert_eq!(value(&desk, &line), "3");
            desk.sh("rm first/s.h").ok();
        }
    }
}

/// The number that the assembly has, which a line of shell writes.
fn value(desk: &Desk, line: &str) -> String {
    desk.sh("rm -f *.s").ok();
    desk.sh(line).ok();
    let text = desk.sh("cat *.s").ok().out();
    let long = text.lines().find_map(|line| line.trim().strip_prefix(".long\t"));
    long.unwrap_or_else(|| panic!("no number in {text}")).split('\t').next().unwrap().trim().to_owned()
}

#[test]
fn headers_that_come_and_go() {
    check(
        TREE,
        "$B $CC -Ifirst -Isecond -Ithird -c s.c",
        &[
            ("true", true),
            ("echo '#define X 3' > first/s.h", false),
            ("true", true),
            ("rm first/s.h", true),
            ("echo '#define X 4' > first/s.h", false),
            ("rm first/s.h; mkdir first/s.h", true),
            ("rmdir first/s.h; ln -s nowhere first/s.h", true),
            ("ln -sf ../second/s.h first/s.h", false),
            ("rm first/s.h; mv second third", false),
            ("mkdir second; cp third/s.h second", false),
        ],
    );
}

#[test]
fn headers_that_shadow_those_beside() {
    check(
        &[
            ("dir/x.c", "#include \"sub/h.h\"\nint value = X;\n"),
            ("dir/sub/h.h", "#include \"inner.h\"\n"),
            ("inc/inner.h", "#define X 1\n"),
        ],
        "$B $CC -Iinc -c dir/x.c",
        &[
            ("true", true),
            ("echo '#define X 2' > dir/sub/inner.h", false),
            ("rm dir/sub/inner.h", true),
            ("echo '#define X 3' > dir/inner.h", true),
        ],
    );
}

/// What is only asked for, and what gcc includes without being asked.
#[test]
fn headers_that_nobody_includes() {
    check(
        &[
            ("x.c", "#if __has_include(<probed.h>)\nint value = 2;\n#else\nint value = 1;\n#endif\n"),
            ("inc/none", ""),
        ],
        "$B $CC -Iinc -c x.c",
        &[
            ("true", true),
            ("touch inc/probed.h", false),
            ("rm inc/probed.h", true),
            ("mkdir inc/probed.h", true),
            ("rmdir inc/probed.h", true),
        ],
    );
    let desk = Desk::new();
    desk.lay(&[("x.c", "#ifdef OWN\nint value = 2;\n#else\nint value = 1;\n#endif\n"), ("inc/none", "")]);
    let line = "$B gcc -Iinc -c x.c";
    for (step, may_hit) in
        [("true", false), ("true", true), ("echo '#define OWN' > inc/stdc-predef.h", false)]
    {
        desk.sh(step).ok();
        assert_eq!(compiles_right(&desk, line), may_hit, "after {step}");
    }
}

#[test]
fn links_that_turn() {
    check(
        &[
            ("x.c", "#include \"current/x.h\"\nint value = X;\n"),
            ("v1/x.h", "#define X 1\n"),
            ("v2/x.h", "#define X 2\n"),
            ("current", "-> v1"),
        ],
        "$B $CC -c x.c",
        &[("true", true), ("ln -sfn v2 current", false), ("ln -sfn v1 current", true)],
    );
}

#[test]
fn generated_headers() {
    check(
        &[("x.c", "#include \"gen.h\"\nint value = X;\n"), ("template", "#define X 1\n")],
        "test -f gen.h || cp template gen.h; $B $CC -c x.c",
        &[("rm gen.h", true), ("rm gen.h; echo '#define X 2' > template", false), ("rm gen.h", true)],
    );
}

/// Precompiled headers are taken in the place of a header as soon as they are there.
#[test]
fn precompiled_headers_that_come_and_go() {
    let desk = Desk::new();
    desk.lay(TREE);
    let line = "$B gcc -c x.c";
    assert!(!compiles_right(&desk, line));
    assert!(compiles_right(&desk, line));
    // It says something else than the header beside it.
    desk.sh("cp x.h keep; echo '#define X 9' > x.h; gcc x.h; cp keep x.h; touch -d tomorrow x.h.gch").ok();
    assert!(!compiles_right(&desk, line), "the precompiled header was not seen");
    desk.sh("rm x.h.gch").ok();
    assert!(compiles_right(&desk, line));
    // gcc looks for one of the source as well.
    desk.sh("gcc -x c-header x.c -o x.c.gch").ok();
    assert!(!compiles_right(&desk, line), "the precompiled source was not seen");
    desk.sh("rm x.c.gch").ok();
    assert!(compiles_right(&desk, line));
}

/// Two checkouts at different paths that differ in one header.
#[test]
fn checkouts_do_not_share_what_differs() {
    let desk = Desk::new();
    desk.lay(&[
        ("a/x.c", "#include \"x.h\"\nint value = X;\n"),
        ("a/x.h", "#define X 1\n"),
        ("b/x.c", "#include \"x.h\"\nint value = X;\n"),
        ("b/x.h", "#define X 2\n"),
    ]);
    let value = |tree: &str| {
        desk.sh(&format!("cd {tree}; rm -f x.s; $B gcc -S x.c; grep long x.s")).ok().out().trim().to_owned()
    };
    for _ in 0..2 {
        assert_eq!((value("a"), value("b")), (".long\t1".to_owned(), ".long\t2".to_owned()));
    }
    // One tree moved to where the other was.
    desk.sh("mv a c; mv b a").ok();
    assert_eq!(value("a"), ".long\t2");
}

/// Waits until the slow compile runs, changes something, and compiles again: `after` is the value then.
fn check_change_during_compile(change: &str, undo: &str) {
    let desk = Desk::new();
    desk.lay(&[("slow.cc", SLOW), ("first/none", ""), ("second/late.h", "#define LATE 1\n")]);
    let mut during = desk.command(SLOW_COMPILE, true).spawn().unwrap();
    desk.await_running(1);
    desk.sh(change).ok();
    assert!(during.wait().unwrap().success(), "the compile failed");
    desk.sh(undo).ok();
    assert!(!compiles_right(&desk, SLOW_COMPILE), "kept although {change}");
}

#[test]
fn a_header_edited_during_its_compile() {
    check_change_during_compile("echo '#define LATE 2' > second/late.h", "true");
}

#[test]
fn a_header_edited_and_restored_during_its_compile() {
    check_change_during_compile(
        "echo '#define LATE 2' > second/late.h",
        "echo '#define LATE 1' > second/late.h",
    );
}

#[test]
fn a_header_that_appears_during_a_compile() {
    check_change_during_compile("echo '#define LATE 2' > first/late.h", "rm first/late.h");
}

#[test]
fn a_source_edited_during_its_compile() {
    check_change_during_compile("echo '// more' >> slow.cc", "true");
}

/// A compiler whose link is turned, and one replaced in place.
#[test]
fn compilers_that_change() {
    let desk = Desk::new();
    desk.lay(&[("x.c", "int x(void) { return __VERSION__[0]; }\n"), ("bin/", "")]);
    let hits_and_misses = |before: &str, name: &str| {
        desk.sh(before).ok();
        let line = format!("$B \"$PWD/bin/{name}\" -c x.c");
        let (ran, counts) = desk.counted(&line);
        ran.ok();
        let object = objects(&desk);
        desk.plain(&line).ok();
        assert!(object == objects(&desk), "another object after {before}");
        assert_eq!(counts.local, 0, "{counts:?}");
        (counts.hits, counts.misses)
    };
    assert_eq!(hits_and_misses("ln -s /usr/bin/gcc bin/cc", "cc"), (0, 1));
    assert_eq!(hits_and_misses("true", "cc"), (1, 0));
    assert_eq!(hits_and_misses("ln -sfn /usr/bin/clang bin/cc", "cc"), (0, 1));
    assert_eq!(hits_and_misses("ln -sfn /usr/bin/gcc bin/cc", "cc"), (1, 0));
    // The driver itself, a byte longer, as an upgrade would replace it. It looks for its parts beside itself.
    let copied = "mkdir lib; ln -s /usr/lib/gcc lib/gcc; cp /usr/bin/gcc bin/gcc";
    assert_eq!(hits_and_misses(copied, "gcc"), (0, 1));
    assert_eq!(hits_and_misses("true", "gcc"), (1, 0));
    assert_eq!(hits_and_misses("cp bin/gcc new; printf x >> new; mv new bin/gcc", "gcc"), (0, 1));
    assert_eq!(hits_and_misses("printf y >> bin/gcc", "gcc"), (0, 1));
    assert_eq!(hits_and_misses("true", "gcc"), (1, 0));
}
