//! Files beside the object: written where the compiler writes them, from the store too, or left to the compiler.

use barn_tests::{
    Compare, Desk,
    Expect::{CacheOnly, Hit, Local, Other},
    Tree,
};

const TREE: Tree<'_> = &[
    (
        "x.c",
        "#include \"x.h\"\n#include <assert.h>\nint f(int n) { int s = 0; assert(n > X); \
         for (int i = 0; i < n; i++) s += i; return s; }\n",
    ),
    ("x.h", "#define X 1\n"),
    ("t.cc", "struct T { virtual int f() { return 1; } }; int g(T& t) { return t.f(); }\n"),
    ("list.txt", "fun:f\n"),
    ("out/", ""),
];

#[test]
fn debug_information() {
    Desk::new().both(
        TREE,
        &[
            ("$B $CC -g -c x.c", Hit),
            ("$B $CC -g3 -O2 -gdwarf-4 -c x.c", Hit),
            ("$B $CC -gsplit-dwarf -g -c x.c", Hit),
            ("$B $CC -gsplit-dwarf -g -c x.c -o out/x.o", Hit),
            ("$B $CC -gsplit-dwarf -c x.c -o out/two.dots.o", Hit),
            ("cd out; $B $CC -gsplit-dwarf -g -c ../x.c", Hit),
            ("$B $CC -gsplit-dwarf -g -S x.c", Local("extra-output-file")),
            ("$B $CC -g -c \"$PWD/x.c\"", Hit),
            ("cd out; $B $CC -g -c ../x.c", Hit),
        ],
    );
}

#[test]
fn maps_of_paths() {
    Desk::new().both(
        TREE,
        &[
            ("$B $CC -g -ffile-prefix-map=\"$PWD\"=/src -c \"$PWD/x.c\"", Hit),
            ("$B $CC -g -fdebug-prefix-map=\"$PWD\"=. -c x.c", Hit),
            ("$B $CC -fmacro-prefix-map=\"$PWD\"=/src -c \"$PWD/x.c\"", Hit),
        ],
    );
    Desk::new().table(
        TREE,
        &[
            ("$B clang -g -fdebug-compilation-dir=/src -c x.c", Hit),
            ("$B clang -g -fdebug-compilation-dir . -c x.c", Hit),
            ("$B clang -g -ffile-compilation-dir=. -c x.c", Hit),
            ("$B clang -g -no-canonical-prefixes -c x.c", CacheOnly),
        ],
    );
}

#[test]
fn coverage_and_profiles() {
    let desk = Desk::new();
    desk.table(
        TREE,
        &[
            // Without a seed gcc stamps notes and objects with a random number.
            ("$B gcc -frandom-seed=1 --coverage -c x.c", Hit),
            ("$B gcc -frandom-seed=1 --coverage -c x.c -o out/x.o", Hit),
            ("$B gcc -frandom-seed=1 -ftest-coverage -fprofile-arcs -O1 -c x.c -o out/x.o", Hit),
            ("$B gcc -frandom-seed=1 -fprofile-generate -c x.c", Hit),
            ("$B gcc -frandom-seed=1 -fprofile-arcs -fprofile-dir=out -c x.c", Local("profile-output")),
            ("$B gcc -fprofile-use -Wno-missing-profile -c x.c", Local("profile-input")),
            ("$B clang --coverage -c x.c", Hit),
            ("$B clang --coverage -c x.c -o out/x.o", Hit),
            ("$B clang -fprofile-generate -c x.c", Hit),
            ("$B clang -fprofile-instr-generate -fcoverage-mapping -c x.c", Hit),
            ("$B clang -fprofile-use=none.profdata -c x.c", Local("profile-input")),
        ],
    );
    desk.both_of(Compare::Names, TREE, &[("$B $CC --coverage -c x.c", Hit)]);
}

#[test]
fn link_time_optimisation() {
    let desk = Desk::new();
    desk.table(
        TREE,
        &[
            ("$B gcc -flto -frandom-seed=1 -O2 -c x.c", Hit),
            ("$B gcc -flto -ffat-lto-objects -frandom-seed=1 -c x.c", Hit),
            ("$B clang -flto -O2 -c x.c", Hit),
            ("$B clang -flto=thin -O2 -c x.c", Hit),
            ("$B clang -flto -S x.c", Hit),
            ("$B clang -emit-llvm -c x.c", Hit),
            ("$B clang -emit-llvm -S x.c", Hit),
        ],
    );
    // gcc names its sections after a random seed.
    desk.table_of(Compare::Names, TREE, &[("$B gcc -flto -O2 -c x.c", Hit)]);
}

#[test]
fn analyses() {
    let desk = Desk::new();
    desk.both(
        TREE,
        &[
            ("$B $CC -fstack-usage -c x.c", Hit),
            ("$B $CC -fstack-usage -O2 -c x.c -o out/x.o", Hit),
            ("$B $CC -save-temps -c x.c", Local("save-temps")),
            ("$B $CC -save-temps=obj -c x.c -o out/x.o", Local("save-temps")),
            ("$B $CC -dM -E x.c > out/macros", Other),
            ("$B $CC -dD -c x.c", Local("dump")),
        ],
    );
    desk.table(
        TREE,
        &[
            ("$B gcc -fcallgraph-info -c x.c -o out/x.o", Hit),
            ("$B gcc -fdump-tree-original -c x.c", Local("dump")),
            ("$B gcc -aux-info out/protos -c x.c", Local("extra-output-file")),
            ("$B clang -fsave-optimization-record -O2 -c x.c", Local("optimization-record")),
            ("$B clang -MJ out/x.json -c x.c", Local("extra-output-file")),
            ("$B clang -ftime-trace -c x.c > /dev/null; rm -f *.json", Local("timing")),
            ("$B clang --analyze x.c -o out/x.plist", Local("unusual-mode")),
            ("$B clang -fembed-bitcode -c x.c", Local("embedded-source")),
        ],
    );
    desk.table_of(
        // Addresses, times, the names of temporary files: no two runs of gcc write the same.
        Compare::Names,
        TREE,
        &[
            ("$B gcc -g -Wa,-a=out/x.lst -c x.c", Local("pass-through")),
            ("$B gcc -fdump-ipa-all -O1 -c x.c -o out/x.o", Local("dump")),
            ("$B gcc -fdump-lang-class -c t.cc", Local("dump")),
            ("$B gcc -fsave-optimization-record -O2 -c x.c", Local("optimization-record")),
        ],
    );
}

#[test]
fn sanitizers() {
    let desk = Desk::new();
    desk.table(
        TREE,
        &[
            ("$B gcc -fsanitize=address,undefined -g -c x.c", Hit),
            ("$B gcc -fsanitize=thread -c x.c", Hit),
            // clang reads lists of its own, which no dependency run names.
            ("$B clang -fsanitize=address -g -c x.c", CacheOnly),
            ("$B clang -fsanitize=undefined -c x.c", CacheOnly),
            ("$B clang -fsanitize=address -fsanitize-ignorelist=list.txt -c x.c", Local("extra-input-file")),
            ("$B clang -fsanitize-coverage=trace-pc-guard -c x.c", Hit),
        ],
    );
}

/// A depfile, notes and object of one compile come back together or not at all.
#[test]
fn all_of_one_compile_come_back() {
    let desk = Desk::new();
    desk.lay(TREE);
    let line = "$B gcc -frandom-seed=1 -g -gsplit-dwarf --coverage -fstack-usage -MD -c x.c -o out/x.o";
    desk.sh(line).ok();
    desk.sh("rm -r out; mkdir out").ok();
    let (_, counts) = desk.counted(line);
    assert_eq!(counts.hits, 1, "{counts:?}");
    let names = desk.sh("ls out").ok().out();
    assert_eq!(names, "x.d\nx.dwo\nx.gcno\nx.o\nx.su\n");
    // One of them cannot be replaced, so the compiler is asked for all.
    desk.sh("rm -r out; mkdir -p out out/x.su; chmod 500 out").ok();
    let plain = desk.plain(line);
    desk.sh("chmod 700 out; rm -r out; mkdir -p out out/x.su").ok();
    let refused = desk.sh(line);
    assert_eq!(refused.status, desk.plain(line).status, "{}{}", refused.err(), plain.err());
}
