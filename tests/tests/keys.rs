//! What gives a compile another key, and what cannot: with the real programs, and against what the compilers make.

use barn_tests::{Counts, Desk, Tree, snapshot};

const TREE: Tree<'_> = &[
    ("x.c", "#include \"x.h\"\n#include <y.h>\nint value(int a) { return a + X + Y + OWN; }\n"),
    ("x.h", "#define X 1\n"),
    ("inc/y.h", "#define Y 1\n"),
    ("quiet.c", "int quiet;\n"),
    ("loud.c", "int loud(int a) { int unused; return a; }\n"),
    ("out/", ""),
    ("tmp/", ""),
];

/// The compile that all others are held against. Variables are set in front of `$B`, flags are added behind `$F`.
const LINE: &str = "$B $CC -O1 -g -Wall -DOWN=1 -Iinc -MD -c x.c -o out/x.o";

/// What became of a compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    Direct,
    Searched,
    Missed,
}

fn came(counts: &Counts) -> Came {
    match (counts.hits, counts.direct, counts.misses) {
        (1, 1, 0) => Came::Direct,
        (1, 0, 0) => Came::Searched,
        (0, 0, 1) => Came::Missed,
        _ => panic!("no single compile: {counts:?}"),
    }
}

/// Runs a line with barn, holds all it says and writes against a run without, and says what became of it.
fn run(desk: &Desk, cc: &str, line: &str) -> Came {
    let line = format!("export CC={cc}; {line}");
    let clear = || desk.sh("rm -rf out tmp; mkdir out tmp").ok();
    clear();
    let plain = (desk.plain(&line), snapshot(&desk.at("")));
    clear();
    let (ran, counts) = desk.counted(&line);
    assert!((ran, snapshot(&desk.at(""))) == plain, "{line} gave something else: {counts:?}");
    came(&counts)
}

/// Each line after the first one was compiled, in turn, for either compiler.
fn check(lines: &[(&str, Came)]) {
    for cc in ["gcc", "clang"] {
        let desk = Desk::new();
        desk.lay(TREE);
        assert_eq!(run(&desk, cc, LINE), Came::Missed);
        for (line, expect) in lines {
            assert_eq!(run(&desk, cc, line), *expect, "{cc}: {line}");
        }
    }
}

/// The line with something in front and something behind.
fn with(before: &str, behind: &str) -> String {
    format!("{before} {LINE} {behind}")
}

#[test]
fn what_cannot_matter() {
    let lines = [
        with("", ""),
        with("export MAKEFLAGS='-j8 --jobserver-auth=3,4' MAKELEVEL=2;", ""),
        with("export TERM=xterm COLUMNS=40 COLORTERM=truecolor;", ""),
        with("export TMPDIR=$PWD/tmp;", ""),
        with("export HOME=/nowhere USER=nobody SECRET=1;", ""),
        with("touch x.c x.h inc/y.h;", ""),
        with("touch -d 2001-01-01 x.c x.h inc/y.h;", ""),
        with("cp -r inc copy; rm -r inc; mv copy inc;", ""),
        with("touch inc/other.h unrelated.h;", ""),
        with("chmod go= x.h inc/y.h;", ""),
        with("chmod +x x.h;", ""),
        with("umask 077; umask 022;", ""),
        with("", "-Inone"),
        with("", "-Inone -Inothing"),
        with("", "-Inothing -Inone"),
        with("", "-isystem none -iquote nothing -idirafter never"),
        with("printf '%s\\n' -Inone > flags;", "@flags"),
        "$B $CC -Ifirst/none -O1 -g -Wall -DOWN=1 -Iinc -Inone -MD -c x.c -Ilast -o out/x.o".to_owned(),
    ];
    check(&lines.each_ref().map(|line| (line.as_str(), Came::Direct)));
}

#[test]
fn what_matters() {
    let lines = [
        with("", "-O2"),
        with("", "-DMORE"),
        with("", "-DOWN=1"),
        with("", "-UMORE"),
        with("", "-Wextra"),
        with("", "-fno-common"),
        with("", "-std=c99"),
        with("", "-MT other"),
        with("", "-MF out/other.d"),
        with("", "-g3"),
        with("", "-I."),
        with("", "-Itmp"),
        with("", "-Wmissing-include-dirs"),
        with("", "-Wmissing-include-dirs -Inone"),
        with("", "-Wmissing-include-dirs -Inone -Inothing"),
        with("", "-Wmissing-include-dirs -Inothing -Inone"),
        with("export CPATH=tmp;", ""),
        with("export SOURCE_DATE_EPOCH=1;", ""),
        with("echo '#define X 2' > x.h;", ""),
        with("echo '#define Y 2' > inc/y.h;", ""),
        with(
            "printf '%s\\n' '#include \"x.h\"' '#include <y.h>' 'int value(int a) { return a + X + Y * OWN; }' > x.c;",
            "",
        ),
        with("mkdir -p deep; cp x.c x.h deep; cp -r inc deep; cd deep; mkdir -p out;", ""),
        LINE.replace("out/x.o", "out/z.o"),
        LINE.replace("-c x.c", "-c ./x.c"),
        LINE.replace("-c x.c", "-c $PWD/x.c"),
        LINE.replace("-c x.c", "-S x.c"),
        LINE.replace("-MD ", ""),
        LINE.replace("$B $CC", "$B /usr/bin/$CC"),
    ];
    check(&lines.each_ref().map(|line| (line.as_str(), Came::Missed)));
}

/// What is left out of the key because it is missing counts as soon as it is there.
#[test]
fn a_directory_that_was_missing_appears() {
    let with_none = with("", "-Inone");
    let in_front = LINE.replace("-Iinc", "-Inone -Iinc");
    check(&[
        (&with_none, Came::Direct),
        (&in_front, Came::Direct),
        (&format!("mkdir -p none; {in_front}"), Came::Missed),
        (&in_front, Came::Direct),
        (&format!("echo '#define Y 7' > none/y.h; {in_front}"), Came::Missed),
        (&with_none, Came::Missed),
        (&format!("rm -rf none; {in_front}"), Came::Direct),
        (&format!("ln -sfn nowhere none; {in_front}"), Came::Direct),
    ]);
}

fn on_terminal(line: &str) -> String {
    format!("export TERM=xterm GCC_URLS=no COLUMNS=70; script -qec '{line}' /dev/null < /dev/null")
}

#[test]
fn what_is_quiet_has_one_entry_for_terminals_and_none() {
    for cc in ["gcc", "clang"] {
        let (plain, wide) = ("$B $CC -Wall -c quiet.c -o out/q.o", "$B $CC -Wall -c quiet.c -o out/r.o");
        let desk = Desk::new();
        desk.lay(TREE);
        assert_eq!(run(&desk, cc, plain), Came::Missed);
        assert_eq!(run(&desk, cc, &on_terminal(plain)), Came::Direct, "{cc}: made without a terminal");
        assert_eq!(run(&desk, cc, &on_terminal(wide)), Came::Missed);
        assert_eq!(run(&desk, cc, wide), Came::Direct, "{cc}: made on a terminal");
        assert_eq!(
            run(&desk, cc, &on_terminal(wide).replace("=70", "=50")),
            Came::Direct,
            "{cc}: another width"
        );
        // Under an older state of the source, what is kept is found by a search.
        assert_eq!(run(&desk, cc, &format!("touch nothing.h; {}", on_terminal(plain))), Came::Direct);
    }
}

#[test]
fn what_says_something_is_kept_for_each() {
    for cc in ["gcc", "clang"] {
        let line = "$B $CC -Wall -c loud.c -o out/l.o";
        for lines in [[line.to_owned(), on_terminal(line)], [on_terminal(line), line.to_owned()]] {
            let desk = Desk::new();
            desk.lay(TREE);
            for expect in [Came::Missed, Came::Direct] {
                for line in &lines {
                    assert_eq!(run(&desk, cc, line), expect, "{cc}: {line}");
                }
            }
        }
    }
}
