//! Files beside the object: written where the compiler writes them, from the store too, or left to the compiler.

use barn_tests::{
    Expect::{CacheOnly, Failed, Hit, Local, Other},
    Group,
    Then::Hit as Again,
    Tree, both, clang, gcc,
};

const TREE: Tree<'_> = &[
    (
        "x.c",
        "#include \"x.h\"\n#include <assert.h>\nint f(int n) { int s = 0; assert(n > X); \
         for (int i = 0; i < n; i++) s += i; return s; }\n",
    ),
    ("x.h", "#define X 1\n"),
    ("t.cc", "struct T { virtual int f() { return 1; } }; int g(T& t) { return t.f(); }\n"),
    ("main.c", "int f(int); int main(void) { return f(3) == 3 ? 0 : 1; }\n"),
    ("list.txt", "fun:f\n"),
    ("out/", ""),
];

const RANDOM: &str = "without a seed gcc stamps notes and names sections with a random number";
const ADDRESSES: &str = "addresses, times and the names of temporary files are in it";

pub(crate) const GROUPS: &[Group] = &[
    Group {
        name: "debug_information",
        tree: TREE,
        cases: &[
            both("$B $CC -g -c x.c", Hit),
            both("$B $CC -g3 -O2 -gdwarf-4 -c x.c", Hit),
            both("$B $CC -g -c \"$PWD/x.c\"", Hit),
            both("cd out; $B $CC -g -c ../x.c", Hit),
        ],
    },
    Group {
        name: "split_debug_information",
        tree: TREE,
        cases: &[
            both("$B $CC -gsplit-dwarf -g -c x.c", Hit),
            both("$B $CC -gsplit-dwarf -g -c x.c -o out/x.o", Hit),
            both("$B $CC -gsplit-dwarf -c x.c -o out/two.dots.o", Hit),
            both("cd out; $B $CC -gsplit-dwarf -g -c ../x.c", Hit),
            both("$B $CC -gsplit-dwarf -g -S x.c", Local("extra-output-file")),
        ],
    },
    Group {
        name: "coverage",
        tree: TREE,
        cases: &[
            both("$B $CC --coverage -c x.c", Hit).unlike(RANDOM),
            gcc("$B gcc -frandom-seed=1 --coverage -c x.c", Hit),
            gcc("$B gcc -frandom-seed=1 --coverage -c x.c -o out/x.o", Hit),
            gcc("$B gcc -frandom-seed=1 -ftest-coverage -fprofile-arcs -O1 -c x.c -o out/x.o", Hit),
            clang("$B clang --coverage -c x.c", Hit),
            clang("$B clang --coverage -c x.c -o out/x.o", Hit),
            clang("$B clang -fprofile-instr-generate -fcoverage-mapping -c x.c", Hit),
        ],
    },
    Group {
        name: "profiles",
        tree: TREE,
        cases: &[
            gcc("$B gcc -frandom-seed=1 -fprofile-generate -c x.c", Hit),
            gcc("$B gcc -frandom-seed=1 -fprofile-arcs -fprofile-dir=out -c x.c", Local("profile-output")),
            gcc("$B gcc -fprofile-use -Wno-missing-profile -c x.c", Local("profile-input")),
            gcc(
                "gcc -O1 -frandom-seed=1 -fprofile-generate x.c main.c -o out/main; out/main; mv out/main-x.gcda x.gcda; \
                 rm -f out/*; $B gcc -O1 -frandom-seed=1 -fprofile-use -c x.c",
                Local("profile-input"),
            ),
            clang("$B clang -fprofile-generate -c x.c", Hit),
            clang("$B clang -fprofile-use=none.profdata -c x.c", Local("profile-input")),
        ],
    },
    Group {
        name: "stack_usage",
        tree: TREE,
        cases: &[
            both("$B $CC -fstack-usage -c x.c", Hit),
            both("$B $CC -fstack-usage -O2 -c x.c -o out/x.o", Hit),
            gcc("$B gcc -fcallgraph-info -c x.c -o out/x.o", Hit),
        ],
    },
    Group {
        name: "temporary_files",
        tree: TREE,
        cases: &[
            both("$B $CC -save-temps -c x.c", Local("save-temps")),
            both("$B $CC -save-temps=obj -c x.c -o out/x.o", Local("save-temps")),
        ],
    },
    Group {
        name: "listings",
        tree: TREE,
        cases: &[
            both("$B $CC -g -Wa,-a=out/x.lst -c x.c", Local("pass-through")).unlike(ADDRESSES),
            both("$B $CC -Wa,-adhln -c x.c", Local("pass-through")).unlike(ADDRESSES),
        ],
    },
    Group {
        name: "dumps",
        tree: TREE,
        cases: &[
            both("$B $CC -dM -E x.c > out/macros", Other),
            both("$B $CC -dD -c x.c", Local("dump")),
            gcc("$B gcc -fdump-tree-original -c x.c", Local("dump")),
            gcc("$B gcc -fdump-ipa-all -O1 -c x.c -o out/x.o", Local("dump")).unlike(ADDRESSES),
            gcc("$B gcc -fdump-lang-class -c t.cc", Local("dump")).unlike(ADDRESSES),
            // clang refuses it.
            clang("$B clang -fdump-tree-original -c x.c", Local("dump")),
            gcc("$B gcc -aux-info out/protos -c x.c", Local("extra-output-file")),
            gcc("$B gcc -fsave-optimization-record -O2 -c x.c", Local("optimization-record"))
                .unlike(ADDRESSES),
            clang("$B clang -fsave-optimization-record -O2 -c x.c", Local("optimization-record")),
            clang("$B clang -MJ out/x.json -c x.c", Local("extra-output-file")),
            clang("$B clang -ftime-trace -c x.c > /dev/null; rm -f *.json", Local("timing")),
            clang("$B clang --analyze x.c -o out/x.plist", Local("unusual-mode")),
            clang("$B clang -fembed-bitcode -c x.c", Local("embedded-source")),
        ],
    },
    Group {
        name: "link_time_optimisation",
        tree: TREE,
        cases: &[
            both("$B $CC -flto -O2 -c x.c", Hit).unlike(RANDOM),
            gcc("$B gcc -flto -frandom-seed=1 -O2 -c x.c", Hit),
            gcc("$B gcc -flto -ffat-lto-objects -frandom-seed=1 -c x.c", Hit),
            clang("$B clang -flto -O2 -c x.c", Hit),
            clang("$B clang -flto=thin -O2 -c x.c", Hit),
            clang("$B clang -flto -S x.c", Hit),
            clang("$B clang -emit-llvm -c x.c", Hit),
            clang("$B clang -emit-llvm -S x.c", Hit),
        ],
    },
    Group {
        name: "sanitizers",
        tree: TREE,
        cases: &[
            gcc("$B gcc -fsanitize=address,undefined -g -c x.c", Hit),
            gcc("$B gcc -fsanitize=thread -c x.c", Hit),
            // gcc has no such lists.
            gcc("$B gcc -fsanitize=address -fsanitize-ignorelist=list.txt -c x.c", Local("unknown-flag")),
            // clang reads lists of its own, which no dependency run names.
            clang("$B clang -fsanitize=address -g -c x.c", CacheOnly),
            clang("$B clang -fsanitize=undefined -c x.c", CacheOnly),
            clang(
                "$B clang -fsanitize=address -fsanitize-ignorelist=list.txt -c x.c",
                Local("extra-input-file"),
            ),
            clang(
                "$B clang -fsanitize=address -fsanitize-blacklist=list.txt -c x.c",
                Local("extra-input-file"),
            ),
            clang("$B clang -fsanitize-coverage=trace-pc-guard -c x.c", Hit),
        ],
    },
    Group {
        name: "maps_of_paths",
        tree: TREE,
        cases: &[
            both("$B $CC -g -ffile-prefix-map=\"$PWD\"=/src -c \"$PWD/x.c\"", Hit),
            both("$B $CC -g -fdebug-prefix-map=\"$PWD\"=. -c x.c", Hit),
            both("$B $CC -fmacro-prefix-map=\"$PWD\"=/src -c \"$PWD/x.c\"", Hit),
        ],
    },
    Group {
        name: "compilation_directory",
        tree: TREE,
        cases: &[
            // gcc does not know it.
            gcc("$B gcc -g -fdebug-compilation-dir=/src -c x.c", Failed),
            clang("$B clang -g -fdebug-compilation-dir=/src -c x.c", Hit),
            clang("$B clang -g -fdebug-compilation-dir . -c x.c", Hit),
            clang("$B clang -g -ffile-compilation-dir=. -c x.c", Hit),
            clang("$B clang -g -no-canonical-prefixes -c x.c", CacheOnly),
        ],
    },
    // A depfile, notes and object of one compile come back together or not at all.
    Group {
        name: "all_of_one_compile",
        tree: TREE,
        cases: &[
            both(
                "$B $CC -frandom-seed=1 -g -gsplit-dwarf --coverage -fstack-usage -MD -c x.c -o out/x.o; ls out",
                Hit,
            )
            .shows("x.d\nx.dwo\nx.gcno\nx.o\nx.su\n")
            .steps(&[("rm -r out; mkdir out", Again), ("rm out/x.su out/x.d; echo > out/x.gcno", Again)]),
            // One of them cannot be replaced, so the compiler is asked for all.
            both(
                "mkdir -p out/x.su; $B $CC -g -gsplit-dwarf -fstack-usage -MD -c x.c -o out/x.o",
                Local("special-output"),
            ),
        ],
    },
];
