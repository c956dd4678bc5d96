//! What the compiler says, byte for byte, whoever says it.

use barn_tests::{
    Desk,
    Expect::{CacheOnly, Failed, Hit, Local, Unasked},
    Tree,
};

const TREE: Tree<'_> = &[
    (
        "warn.c",
        "#include \"warn.h\"\n#warning \"look out\"\nint f(int a, char *s) { int unused; \
         return TWICE(a) == a + (s == 7); }\n",
    ),
    ("warn.h", "#define TWICE(x) (x + x)\nstatic int never(void) { int n; return n; }\n"),
    ("error.c", "int f(void) { retrun 1; }\nint g(void) { return 2 }\n"),
    ("missing.c", "#include \"none.h\"\nint f;\n"),
    ("plus.cc", "#include <vector>\nint f() { std::vector<int> v; int unused; return v.size() < 1; }\n"),
    ("wrong.cc", "#include <map>\nstd::map<int, int> m; int f() { return m.find(\"x\"); }\n"),
    ("asm.c", "void f(void) { __asm__(\"no such instruction\"); }\n"),
    ("quote.c", "int ä(void) { int unused; return \"ü\"; }\n"),
    ("fatal.c", "#error this is wrong\n"),
    ("note.c", "#pragma message(\"hello\")\n_Pragma(\"GCC warning \\\"deprecated\\\"\") int x;\n"),
    ("out/", ""),
];

#[test]
fn warnings() {
    Desk::new().both(
        TREE,
        &[
            ("$B $CC -Wall -Wextra -c warn.c", Hit),
            ("$B $CC -w -c warn.c", Hit),
            ("$B $CC -Wall -Wextra -O2 -c \"$PWD/warn.c\" -o out/w.o", Hit),
            ("$B $CXX -Wall -Wextra -c plus.cc", Hit),
            ("$B $CC -c note.c", Hit),
            ("$B $CC -Wall -c quote.c", Hit),
            ("export LC_ALL=C.UTF-8; $B $CC -Wall -c quote.c", Hit),
            ("$B $CC -H -c warn.c", Hit),
            ("$B $CC -Wall -c warn.c 2>&1 >/dev/null | cat", Hit),
            ("$B $CC -Wall -c warn.c > both 2>&1", Hit),
            // The wrapper's own descriptors would become the compiler's.
            ("$B $CC -Wall -c warn.c 2>&-", Unasked),
            ("$B $CC -Wno-no-such-warning -Wall -c warn.c", Hit),
        ],
    );
}

#[test]
fn errors() {
    Desk::new().both(
        TREE,
        &[
            ("$B $CC -Wall -Werror -c warn.c", Failed),
            ("$B $CC -c error.c", Failed),
            ("touch error.o; $B $CC -c error.c", Failed),
            ("$B $CC -c error.c -MD -MF out/e.d", Failed),
            ("$B $CC -c missing.c", Local("dependency-run")),
            ("$B $CXX -c wrong.cc", Failed),
            ("$B $CC -c asm.c", Failed),
            ("$B $CC -c fatal.c", Local("dependency-run")),
        ],
    );
    Desk::new().table(
        TREE,
        &[
            ("$B gcc -fmax-errors=1 -c error.c", Failed),
            ("$B gcc -Wfatal-errors -c error.c", Failed),
            ("$B clang -ferror-limit=1 -c error.c", Failed),
        ],
    );
}

#[test]
fn formats() {
    let desk = Desk::new();
    desk.both(
        TREE,
        &[
            ("$B $CC -Wall -fdiagnostics-color=always -c warn.c", Hit),
            ("$B $CC -Wall -fdiagnostics-color=never -c warn.c", Hit),
            ("$B $CC -Wall -fdiagnostics-show-option -fmessage-length=40 -c warn.c", Hit),
            ("$B $CC -Wall -fno-diagnostics-show-option -c warn.c", Hit),
        ],
    );
    desk.table(
        TREE,
        &[
            ("$B gcc -Wall -fdiagnostics-format=json -c warn.c", Hit),
            ("$B gcc -Wall -fdiagnostics-format=json -c error.c", Failed),
            ("$B gcc -Wall -fdiagnostics-format=text -c warn.c", Hit),
            ("$B gcc -Wall -fdiagnostics-plain-output -c warn.c", Hit),
            ("$B gcc -Wall -fdiagnostics-parseable-fixits -fdiagnostics-generate-patch -c warn.c", Hit),
            ("export GCC_COLORS=warning=01\\;33; $B gcc -Wall -fdiagnostics-color=always -c warn.c", Hit),
            ("export GCC_EXTRA_DIAGNOSTIC_OUTPUT=fixits-v1; $B gcc -Wall -c warn.c", Hit),
            ("$B gcc -O2 -fopt-info-vec -c warn.c", Hit),
            ("$B gcc -O2 -fopt-info-vec=out/info -c warn.c", Local("extra-output-file")),
            ("$B gcc -fanalyzer -c warn.c", Hit),
            ("$B clang -Wall -fdiagnostics-format=msvc -c warn.c", Hit),
            ("$B clang -Wall -fcolor-diagnostics -c warn.c", Hit),
            ("$B clang -Wall -fansi-escape-codes -fcolor-diagnostics -c warn.c", Hit),
            ("$B clang -Weverything -c warn.c", Hit),
            ("$B clang -O2 -Rpass=inline -c warn.c", Hit),
            ("$B clang --serialize-diagnostics out/w.dia -Wall -c warn.c", Hit),
            ("$B clang --serialize-diagnostics out/e.dia -Wall -c error.c", Failed),
            ("$B clang -serialize-diagnostics out/w.dia -c note.c -o out/n.o", Hit),
        ],
    );
}

/// On a terminal the compilers colour their messages; `script` gives each run a terminal of its own.
///
/// What no flag carries is not held against barn: the hyperlinks that gcc writes on most terminals (turned off by
/// `GCC_URLS`), and the width at which gcc cuts the lines that it quotes.
#[test]
fn terminals() {
    let on_terminal = |terminal: &str, command: &str| {
        format!("export TERM={terminal} GCC_URLS=no; script -qec '{command}' /dev/null < /dev/null")
    };
    let desk = Desk::new();
    for compiler in ["gcc", "clang"] {
        let line = format!("$B {compiler} -Wall -c warn.c");
        let colourful = desk_output(&desk, &on_terminal("xterm", &line));
        assert!(colourful.contains("\x1b["), "{compiler} colours on a terminal: {colourful}");
        desk.table(
            TREE,
            &[
                (&on_terminal("xterm", &line), Hit),
                (&on_terminal("xterm-256color", &line), Hit),
                (&on_terminal("dumb", &line), Hit),
                (&on_terminal("xterm", &format!("{line} -fdiagnostics-color=never")), Hit),
                (&on_terminal("xterm", &format!("{line} -fdiagnostics-color=auto")), Hit),
                (&on_terminal("xterm", &format!("{line} 2>&1 | cat")), Hit),
                (&on_terminal("xterm", &format!("$B {compiler} -Wall -c error.c")), Failed),
            ],
        );
    }
    desk.table(
        TREE,
        &[
            (&on_terminal("xterm", "export GCC_COLORS=; $B gcc -Wall -c warn.c"), Hit),
            // Not with clang 14, which does not know it yet: barn takes the user's word for every version.
            (&on_terminal("xterm", "NO_COLOR=1 $B gcc -Wall -c warn.c"), Hit),
            (&on_terminal("xterm", "COLUMNS=30 $B clang -Wall -c warn.c"), Hit),
            // The flag for colours would be recorded in the object.
            (
                &on_terminal("xterm", "$B clang -Wall -frecord-command-line -c warn.c"),
                Local("recorded-command-line"),
            ),
        ],
    );
}

/// A colour state is never served the messages of another.
#[test]
fn colour_states_do_not_mix() {
    let desk = Desk::new();
    desk.lay(TREE);
    let terminal = "export TERM=xterm; script -qec '$B gcc -Wall -c warn.c' /dev/null < /dev/null";
    for (line, colours) in [("$B gcc -Wall -c warn.c 2>&1", false), (terminal, true)].repeat(2) {
        let messages = desk.sh(line).ok().out();
        assert_eq!(messages.contains("\x1b["), colours, "{line}: {messages}");
        assert!(messages.contains("look out"), "{messages}");
    }
}

/// Translated messages are cached for those who read them.
#[test]
fn languages_of_messages() {
    Desk::new().table(
        TREE,
        &[
            ("export LANG=de_DE.UTF-8; $B gcc -Wall -c warn.c", CacheOnly),
            ("export LANG=C.UTF-8; $B gcc -Wall -c warn.c", Hit),
            ("export LANG=en_US.ISO-8859-1; $B gcc -Wall -c quote.c", Hit),
        ],
    );
}

fn desk_output(desk: &Desk, line: &str) -> String {
    desk.lay(TREE);
    desk.sh(line).ok().out()
}
