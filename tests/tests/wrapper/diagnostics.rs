//! What the compiler says, byte for byte, whoever says it.

use barn_tests::{
    Expect::{CacheOnly, Failed, Hit, Local, Unasked},
    Group,
    Then::{Hit as Again, Miss},
    Tree, both, clang, gcc,
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
    ("quiet.c", "int quiet;\n"),
    ("note.c", "#pragma message(\"hello\")\n_Pragma(\"GCC warning \\\"deprecated\\\"\") int x;\n"),
    // Runs a line on a terminal of its own. The hyperlinks that gcc writes on most terminals no flag carries.
    (
        "tty",
        "#!/bin/sh\nTERM=$1 GCC_URLS=no; export TERM GCC_URLS B CC\nexec script -qec \"$2\" /dev/null < /dev/null\n",
    ),
    ("out/", ""),
];

pub(crate) const GROUPS: &[Group] = &[
    Group {
        name: "warnings",
        tree: TREE,
        cases: &[
            both("$B $CC -Wall -Wextra -c warn.c", Hit).shows("unused variable"),
            both("$B $CC -w -c warn.c", Hit),
            both("$B $CC -Wall -Wextra -O2 -c \"$PWD/warn.c\" -o out/w.o", Hit),
            both("$B $CXX -Wall -Wextra -c plus.cc", Hit),
            both("$B $CC -c note.c", Hit),
            both("$B $CC -Wall -c quote.c", Hit),
            both("export LC_ALL=C.UTF-8; $B $CC -Wall -c quote.c", Hit),
            both("$B $CC -H -c warn.c", Hit),
            both("$B $CC -Wall -c warn.c 2>&1 >/dev/null | cat", Hit),
            both("$B $CC -Wall -c warn.c > both 2>&1", Hit),
            // The wrapper's own descriptors would become the compiler's.
            both("$B $CC -Wall -c warn.c 2>&-", Unasked),
            both("$B $CC -Wno-no-such-warning -Wall -c warn.c", Hit),
            both("$B $CC -Wall -fdiagnostics-show-option -fmessage-length=40 -c warn.c", Hit),
            both("$B $CC -Wall -fno-diagnostics-show-option -c warn.c", Hit),
            gcc("$B gcc -Wall -fdiagnostics-plain-output -c warn.c", Hit),
            gcc("$B gcc -Wall -fdiagnostics-parseable-fixits -fdiagnostics-generate-patch -c warn.c", Hit),
            gcc("export GCC_EXTRA_DIAGNOSTIC_OUTPUT=fixits-v1; $B gcc -Wall -c warn.c", Hit),
            gcc("$B gcc -O2 -fopt-info-vec -c warn.c", Hit),
            gcc("$B gcc -O2 -fopt-info-vec=out/info -c warn.c", Local("extra-output-file")),
            gcc("$B gcc -fanalyzer -c warn.c", Hit),
            clang("$B clang -Weverything -c warn.c", Hit),
            clang("$B clang -O2 -Rpass=inline -c warn.c", Hit),
            // Translated messages are cached for those who read them.
            gcc("export LANG=de_DE.UTF-8; $B gcc -Wall -c warn.c", CacheOnly),
            gcc("export LANG=en_US.ISO-8859-1; $B gcc -Wall -c quote.c", Hit),
        ],
    },
    Group {
        name: "errors",
        tree: TREE,
        cases: &[
            both("$B $CC -c error.c", Failed),
            both("touch error.o; $B $CC -c error.c", Failed),
            both("$B $CC -c error.c -MD -MF out/e.d", Failed),
            both("$B $CC -c missing.c", Local("dependency-run")),
            both("$B $CXX -c wrong.cc", Failed),
            both("$B $CC -c asm.c", Failed),
            both("$B $CC -c fatal.c", Local("dependency-run")),
            gcc("$B gcc -fmax-errors=1 -c error.c", Failed),
            gcc("$B gcc -Wfatal-errors -c error.c", Failed),
            clang("$B clang -ferror-limit=1 -c error.c", Failed),
        ],
    },
    Group {
        name: "warnings_as_errors",
        tree: TREE,
        cases: &[
            both("$B $CC -Wall -Werror -c warn.c", Failed).shows("[-Werror"),
            both("$B $CC -Wall -Werror -c quiet.c", Hit),
            both("$B $CC -Wall -Werror -Wno-error -c warn.c", Hit).shows("unused variable"),
            both("$B $CC -Wall -Werror=format -c warn.c", Hit).shows("unused variable"),
            both("$B $CC -Werror=unused-variable -c warn.c", Failed).shows("error: unused variable"),
        ],
    },
    Group {
        name: "colours",
        tree: TREE,
        cases: &[
            both("$B $CC -Wall -fdiagnostics-color=always -c warn.c", Hit).shows("\x1b["),
            both("$B $CC -Wall -fdiagnostics-color=never -c warn.c", Hit),
            both("./tty xterm '$B $CC -Wall -c warn.c'", Hit).shows("\x1b["),
            both("./tty xterm-256color '$B $CC -Wall -c warn.c'", Hit),
            both("./tty dumb '$B $CC -Wall -c warn.c'", Hit),
            both("./tty xterm '$B $CC -Wall -c warn.c -fdiagnostics-color=never'", Hit),
            both("./tty xterm '$B $CC -Wall -c warn.c -fdiagnostics-color=auto'", Hit),
            both("./tty xterm '$B $CC -Wall -c warn.c 2>&1 | cat'", Hit),
            both("./tty xterm '$B $CC -Wall -c error.c'", Failed).shows("\x1b["),
            gcc("export GCC_COLORS=warning=01\\;33; $B gcc -Wall -fdiagnostics-color=always -c warn.c", Hit),
            gcc("./tty xterm 'export GCC_COLORS=; $B gcc -Wall -c warn.c'", Hit),
            // Not with clang 14, which does not know it yet: barn takes the user's word for every version.
            gcc("./tty xterm 'NO_COLOR=1 $B gcc -Wall -c warn.c'", Hit),
            clang("./tty xterm 'COLUMNS=30 $B clang -Wall -c warn.c'", Hit),
            clang("$B clang -Wall -fcolor-diagnostics -c warn.c", Hit),
            clang("$B clang -Wall -fansi-escape-codes -fcolor-diagnostics -c warn.c", Hit),
            // The flag for colours would be recorded in the object.
            clang(
                "./tty xterm '$B clang -Wall -frecord-command-line -c warn.c'",
                Local("recorded-command-line"),
            ),
        ],
    },
    // A terminal is never served plain messages, nor a file coloured ones; where nothing is said, one entry serves both.
    Group {
        name: "colour_states",
        tree: TREE,
        cases: &[
            both("./tty $([ -e plain ] && echo dumb || echo xterm) '$B $CC -Wall -c warn.c'", Hit)
                .shows("\x1b[")
                .steps(&[("touch plain", Miss), ("rm plain", Again), ("touch plain", Again)]),
            both("./tty $([ -e plain ] && echo dumb || echo xterm) '$B $CC -Wall -c quiet.c'", Hit)
                .steps(&[("touch plain", Again), ("rm plain", Again)]),
            both("$([ -e on ] && echo ./tty xterm || echo sh -c) '$B $CC -Wall -c quiet.c'", Hit)
                .steps(&[("touch on", Again), ("rm on", Again)]),
        ],
    },
    Group {
        name: "serialized",
        tree: TREE,
        cases: &[
            // gcc does not know it.
            gcc("$B gcc --serialize-diagnostics out/w.dia -Wall -c warn.c", Local("unknown-flag")),
            clang("$B clang --serialize-diagnostics out/w.dia -Wall -c warn.c", Hit),
            clang("$B clang --serialize-diagnostics out/e.dia -Wall -c error.c", Failed),
            clang("$B clang -serialize-diagnostics out/w.dia -c note.c -o out/n.o", Hit),
        ],
    },
    Group {
        name: "formats",
        tree: TREE,
        cases: &[
            gcc("$B gcc -Wall -fdiagnostics-format=json -c warn.c", Hit).shows("\"kind\": \"warning\""),
            gcc("$B gcc -Wall -fdiagnostics-format=json -c error.c", Failed),
            gcc("$B gcc -Wall -fdiagnostics-format=text -c warn.c", Hit),
            // gcc 13 knows it; gcc 12 refuses it.
            gcc("$B gcc -Wall -fdiagnostics-format=sarif-stderr -c warn.c", Local("dependency-run")),
            clang("$B clang -Wall -fdiagnostics-format=msvc -c warn.c", Hit),
            clang("$B clang -Wall -fdiagnostics-format=json -c warn.c", Local("dependency-run")),
            clang("$B clang -Wall -fdiagnostics-format=sarif -c warn.c", Local("dependency-run")),
        ],
    },
];
