//! What changes between two compiles, or during one: never an old result for new inputs.
//!
//! The plain cases are in the tables (`wrapper/inputs.rs`); these need more than one line of shell.

use barn_tests::{Desk, Tree};

const TREE: Tree<'_> = &[
    ("x.c", "#include \"x.h\"\nint value = X;\n"),
    ("x.h", "#define X 1\n"),
    ("first/none", ""),
    ("second/s.h", "#define X 2\n"),
    ("s.c", "#include <s.h>\nint value = X;\n"),
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
    // clang adds a comment.
    let number = long.and_then(|long| long.split_whitespace().next());
    number.unwrap_or_else(|| panic!("no number in {text}")).to_owned()
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

/// Failing compiles are tried again each time: what was missing may be there now.
#[test]
fn errors_are_never_remembered() {
    let desk = Desk::new();
    desk.lay(&[("x.c", "int x = Y;\n")]);
    for _ in 0..2 {
        assert_ne!(desk.sh("$B gcc -include y.h -c x.c").status, 0);
        assert_ne!(desk.sh("$B gcc -c x.c").status, 0);
    }
    desk.write("y.h", "#define Y 1\n");
    assert!(!compiles_right(&desk, "$B gcc -include y.h -c x.c"));
}
