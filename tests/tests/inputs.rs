//! What a compile reads: hard cases for whoever must know it beforehand.

use barn_tests::{
    Desk,
    Expect::{self, Asked, AskedTwice, CacheOnly, Failed, Hit, Local},
    Tree,
};

const TREE: Tree<'_> = &[
    ("date.c", "const char *d = __DATE__ __TIME__;\n"),
    ("stamp.c", "const char *s = __TIMESTAMP__;\n"),
    ("commented.c", "/* __DATE__ */ const char *s = \"__TIME__\";\n"),
    (
        "file.c",
        "#include <assert.h>\n#include \"sub/f.h\"\nvoid f(int a) { assert(a); } const char *n = __FILE__;\n",
    ),
    ("sub/f.h", "static const char *h __attribute__((used)) = __FILE__;\n"),
    ("counter.c", "#if __COUNTER__ + __COUNTER__ == 1\n#include \"sub/f.h\"\n#endif\nint c = __COUNTER__;\n"),
    ("computed.c", "#define H \"sub/f.h\"\n#include H\nint c;\n"),
    ("one/n.h", "#define ONE 1\n#include_next <n.h>\n"),
    ("two/n.h", "#define TWO 2\n"),
    ("next.c", "#include <n.h>\nint n = ONE + TWO;\n"),
    ("forced.c", "int n = ONE;\n"),
    ("one/only.h", "#define ONE 1\n"),
    ("dots.c", "#include \"sub/../one/only.h\"\nint n = ONE;\n"),
    ("links/linked.h", "-> ../one/only.h"),
    ("dirlink", "-> one"),
    ("linked.c", "#include \"links/linked.h\"\n#include \"dirlink/../two/n.h\"\nint n = ONE + TWO;\n"),
    ("data.bin", "12345"),
    ("incbin.S", ".incbin \"data.bin\"\n"),
    ("incbin.c", "__asm__(\".incbin \\\"data.bin\\\"\");\n"),
    ("split.c", "__asm__(\".inc\" \"bin \\\"data.bin\\\"\");\n"),
    ("macro.c", "#define BIN(f) __asm__(\".incbin \\\"\" f \"\\\"\")\nBIN(\"data.bin\");\n"),
    ("pasted.S", "#define I .inc##bin\nI \"data.bin\"\n"),
    ("ainclude.S", ".include \"one.inc\"\n"),
    ("one.inc", ".long 1\n"),
    ("cpp.S", "#include \"one/only.h\"\n.long ONE\n"),
    ("line.c", "#line 7 \"generated.y\"\nint f(void) { int unused; return 0; }\n"),
    ("pragma.c", "#pragma GCC dependency \"one.inc\"\nint x;\n"),
    ("empty.c", ""),
    ("nonl.c", "int x;"),
    ("crlf.c", "#include \"one/only.h\"\r\nint x = ONE;\r\n"),
    ("trigraph.c", "??=include \"one/only.h\"\nint x = ONE;\n"),
    ("out/", ""),
];

#[test]
fn macros_of_time_and_place() {
    Desk::new().both(
        TREE,
        &[
            ("$B $CC -c stamp.c > /dev/null; rm -f stamp.o", Local("time-macros")),
            ("$B $CC -S date.c -o /dev/null", Local("special-output")),
            ("$B $CC -D__DATE__='\"then\"' -D__TIME__='\"now\"' -w -c date.c", Local("time-macros")),
            ("$B $CC -c commented.c", Hit),
            ("$B $CC -c file.c", Hit),
            ("$B $CC -c \"$PWD/file.c\"", Hit),
            ("cd sub; $B $CC -c ../file.c", Hit),
            ("$B $CC -c counter.c", Asked),
        ],
    );
    // clang 14 takes the time from the clock all the same.
    Desk::new().table(TREE, &[("export SOURCE_DATE_EPOCH=86400; $B gcc -c date.c", Local("time-macros"))]);
}

#[test]
fn ways_to_a_header() {
    Desk::new().both(
        TREE,
        &[
            ("$B $CC -c computed.c", Hit),
            ("$B $CC -Ione -Itwo -c next.c", Hit),
            ("$B $CC -isystem one -isystem two -c next.c", Hit),
            ("$B $CC -I one -idirafter two -c next.c", Hit),
            ("$B $CC -include one/only.h -c forced.c", Hit),
            ("$B $CC -imacros one/only.h -c forced.c", Hit),
            ("$B $CC -include one/only.h -include two/n.h -c forced.c", Hit),
            ("$B $CC -iquote one -include only.h -c forced.c", Hit),
            ("$B $CC -c dots.c", Hit),
            ("$B $CC -c linked.c", Hit),
            ("cd out; $B $CC -I../one -I.. -include only.h -c ../forced.c", Hit),
            ("$B $CC -I\"$PWD/one\" -I\"$PWD/sub/../two\" -c next.c", Hit),
            ("$B $CC -nostdinc -c dots.c", Hit),
            ("$B $CC -Wall -c line.c", Hit),
            ("echo 'line 7' > generated.y; seq 9 >> generated.y; $B $CC -Wall -c line.c", Hit),
            ("$B $CC -c empty.c", Hit),
            ("$B $CC -c nonl.c", Hit),
            ("$B $CC -c crlf.c", Hit),
            ("$B $CC -trigraphs -c trigraph.c", AskedTwice),
        ],
    );
    let root: Tree<'_> =
        &[("x.c", "#include <r.h>\nint r = R;\n"), ("root/usr/include/r.h", "#define R 1\n"), ("out/", "")];
    Desk::new().table(
        root,
        &[
            ("$B gcc --sysroot=root -c x.c", Hit),
            ("$B gcc --sysroot=root -isysroot \"$PWD/root\" -c x.c", Hit),
            ("$B clang --sysroot=root -c x.c", CacheOnly),
            ("$B clang -isysroot root -Iroot/usr/include -c x.c", CacheOnly),
        ],
    );
}

#[test]
fn files_of_the_assembler() {
    Desk::new().both(
        TREE,
        &[
            ("$B $CC -c incbin.S", Local("incbin")),
            ("$B $CC -c incbin.c", Local("incbin")),
            ("$B $CC -c split.c", Local("incbin")),
            ("$B $CC -c macro.c", Local("incbin")),
            ("$B $CC -c pasted.S || true", Local("incbin")),
            ("$B $CC -c ainclude.S", Local("assembler-include")),
            ("$B $CC -c cpp.S", Hit),
            ("$B $CC -x assembler-with-cpp -c cpp.S -o out/c.o -MD", Hit),
            ("$B $CC -c pragma.c", Local("pragma-dependency")),
        ],
    );
}

#[test]
fn objective_c() {
    let tree: Tree<'_> = &[
        ("x.m", "#import \"x.h\"\n#import \"x.h\"\n@interface A { int a; }\n- (int)get;\n@end\nint x = X;\n"),
        (
            "x.mm",
            "#import \"x.h\"\n@interface A { int a; }\n- (int)get;\n@end\ntemplate <class T> T t(T v) { return v; }\nint x = t(X);\n",
        ),
        ("x.h", "#define X 1\nstruct once;\n"),
        ("warn.m", "@interface B { int a; }\n- (int)get;\n@end\n@implementation B\n@end\n"),
    ];
    let lines: &[(&str, Expect)] = &[
        ("$B $CC -c x.m", Hit),
        ("$B $CC -c x.mm", Hit),
        ("$B $CC -x objective-c -c x.m -o y.o -MD", Hit),
        ("$B $CC -Wall -c warn.m", Hit),
    ];
    Desk::new().both(tree, lines);
}

#[test]
fn precompiled_headers_and_modules() {
    let tree: Tree<'_> = &[
        ("x.c", "#include \"all.h\"\nint x = ALL;\n"),
        ("all.h", "#define ALL 1\n"),
        ("import.cc", "import thing;\nint main() {}\n"),
        ("module.cc", "export module thing;\nexport int f() { return 1; }\n"),
        ("named.cc", "int module = 1;\n"),
    ];
    Desk::new().table(
        tree,
        &[
            ("gcc -x c-header all.h -o all.h.gch; $B gcc -c x.c; rm all.h.gch", Local("precompiled-header")),
            (
                "mkdir all.h.gch; gcc all.h -o all.h.gch/c; $B gcc -c x.c; rm -r all.h.gch",
                Local("precompiled-header"),
            ),
            (
                "clang -x c-header all.h -o all.pch; $B clang -include-pch all.pch -c x.c; rm all.pch",
                Local("precompiled-header"),
            ),
            (
                "clang -x c-header all.h -o all.h.pch; $B clang -include all.h -c x.c; rm all.h.pch",
                Local("precompiled-header"),
            ),
            ("$B g++ -std=c++20 -fmodules-ts -c module.cc; rm -rf gcm.cache", Local("modules")),
            ("$B g++ -std=c++20 -fmodules-ts -c import.cc", Local("modules")),
            ("$B clang++ -std=c++20 -fmodules -c named.cc", Local("modules")),
            ("$B g++ -std=c++17 -c named.cc", Hit),
        ],
    );
}

/// Probes: a header that is only asked about decides as much as one that is read.
#[test]
fn probed_headers() {
    let source = "#if __has_include(\"opt.h\") && __has_include(<sys/opt.h>)\nint both;\n\
                  #elif __has_include(\"opt.h\")\nint quoted;\n#else\nint none;\n#endif\n";
    let tree: Tree<'_> = &[
        ("x.c", source),
        ("inc/sys/none", ""),
        ("macro.c", "#define P <stdio.h>\n#if __has_include(P)\nint x;\n#endif\n"),
        ("next/a.h", "#if __has_include_next(<a.h>)\n#define N 1\n#else\n#define N 0\n#endif\n"),
        ("later/a.h", ""),
        ("n.c", "#include <a.h>\nint n = N;\n"),
        ("embed.c", "#ifdef __has_embed\nint e;\n#endif\n"),
    ];
    let desk = Desk::new();
    desk.both(
        tree,
        &[
            ("$B $CC -Iinc -c x.c", Hit),
            ("touch opt.h; $B $CC -Iinc -c x.c", Hit),
            ("touch opt.h inc/sys/opt.h; $B $CC -Iinc -c x.c", Hit),
            ("$B $CC -Inext -Ilater -c n.c", Hit),
            ("rm later/a.h; $B $CC -Inext -Ilater -c n.c", Hit),
            ("$B $CC -c macro.c", Hit),
            ("$B $CC -c embed.c", Hit),
        ],
    );
    desk.lay(tree);
    let symbol = |before: &str| desk.sh(&format!("{before}; $B gcc -Iinc -c x.c; nm x.o")).ok().out();
    for (before, name) in [
        ("true", "none"),
        ("touch opt.h", "quoted"),
        ("touch inc/sys/opt.h", "both"),
        ("rm inc/sys/opt.h", "quoted"),
        ("rm opt.h; touch inc/opt.h", "quoted"),
        ("rm inc/opt.h", "none"),
    ] {
        assert!(symbol(before).contains(name), "after {before}: {}", symbol("true"));
    }
}

/// Failing compiles are tried again each time: what was missing may be there now.
#[test]
fn errors_are_never_remembered() {
    let desk = Desk::new();
    desk.table(&[("x.c", "int x = Y;\n")], &[("$B gcc -c x.c", Failed)]);
    assert_ne!(desk.sh("$B gcc -include y.h -c x.c").status, 0);
    desk.write("y.h", "#define Y 1\n");
    desk.sh("$B gcc -include y.h -c x.c").ok();
}
