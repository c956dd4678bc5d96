//! What a compile reads: hard cases for whoever must know it beforehand; and never an old result for new inputs.

use barn_tests::{
    Expect::{Asked, AskedTwice, CacheOnly, Failed, Hit, Local},
    Group,
    Then::{Hit as Again, Miss},
    Tree, both, clang, gcc,
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
    ("embed.c", "const char d[] = {\n#embed \"data.bin\"\n};\n"),
    ("has_embed.c", "#ifdef __has_embed\nint e;\n#endif\n"),
    ("ainclude.S", ".include \"one.inc\"\n"),
    ("one.inc", ".long 1\n"),
    ("cpp.S", "#include \"one/only.h\"\n.long ONE\n"),
    ("line.c", "#line 7 \"generated.y\"\nint f(void) { int unused; return 0; }\n"),
    ("pragma.c", "#pragma GCC dependency \"one.inc\"\nint x;\n"),
    ("empty.c", ""),
    ("nonl.c", "int x;"),
    ("crlf.c", "#include \"one/only.h\"\r\nint x = ONE;\r\n"),
    ("trigraph.c", "??=include \"one/only.h\"\nint x = ONE;\n"),
    ("late.c", "int x = Y;\n"),
    ("out/", ""),
];

/// Something to edit.
const EDITED: Tree<'_> = &[("x.c", "#include \"x.h\"\nint value = X;\n"), ("x.h", "#define X 1\n")];

/// Headers that are only asked about decide as much as those that are read.
const PROBED: Tree<'_> = &[
    (
        "x.c",
        "#if __has_include(\"opt.h\") && __has_include(<sys/opt.h>)\nint both;\n\
         #elif __has_include(\"opt.h\")\nint quoted;\n#else\nint none;\n#endif\n",
    ),
    ("inc/sys/none", ""),
    ("own.c", "#ifdef OWN\nint own;\n#endif\n"),
    ("macro.c", "#define P <stdio.h>\n#if __has_include(P)\nint x;\n#endif\n"),
    ("next/a.h", "#if __has_include_next(<a.h>)\n#define N 1\n#else\n#define N 0\n#endif\n"),
    ("later/a.h", ""),
    ("n.c", "#include <a.h>\nint n = N;\n"),
];

const PRECOMPILED: Tree<'_> = &[
    ("x.c", "#include \"all.h\"\nint x = ALL;\n"),
    ("all.h", "#define ALL 1\n"),
    ("import.cc", "import thing;\nint main() {}\n"),
    ("module.cc", "export module thing;\nexport int f() { return 1; }\n"),
    ("named.cc", "int module = 1;\n"),
    ("out/", ""),
];

pub(crate) const GROUPS: &[Group] = &[
    Group {
        name: "macros_of_time",
        tree: TREE,
        cases: &[
            both("touch -d 2001-01-01 stamp.c; $B $CC -c stamp.c", Local("time-macros")),
            both("$B $CC -c date.c > /dev/null; rm -f date.o", Local("time-macros")),
            both("$B $CC -S date.c -o /dev/null", Local("special-output")),
            both("$B $CC -D__DATE__='\"then\"' -D__TIME__='\"now\"' -w -c date.c", Local("time-macros")),
            both("$B $CC -c commented.c", Hit),
            // clang 14 takes the time from the clock all the same.
            gcc("export SOURCE_DATE_EPOCH=86400; $B gcc -c date.c", Local("time-macros")),
        ],
    },
    Group {
        name: "macros_of_place",
        tree: TREE,
        cases: &[
            both("$B $CC -c file.c", Hit),
            both("$B $CC -c \"$PWD/file.c\"", Hit),
            both("cd sub; $B $CC -c ../file.c", Hit),
        ],
    },
    Group { name: "counter", tree: TREE, cases: &[both("$B $CC -c counter.c", Asked)] },
    Group {
        name: "probed_headers",
        tree: PROBED,
        cases: &[
            both("$B $CC -Iinc -c x.c", Hit).steps(&[
                ("touch opt.h", Miss),
                ("touch inc/sys/opt.h", Miss),
                ("rm inc/sys/opt.h", Again),
                ("rm opt.h; touch inc/opt.h", Miss),
                ("rm inc/opt.h", Again),
                ("mkdir opt.h", Again),
            ]),
            // What gcc includes without being asked.
            gcc("$B gcc -Iinc -c own.c", Hit).steps(&[("echo '#define OWN' > inc/stdc-predef.h", Miss)]),
            clang("$B clang -Iinc -c own.c", Hit).steps(&[("echo '#define OWN' > inc/stdc-predef.h", Again)]),
            both("$B $CC -Inext -Ilater -c n.c", Hit).steps(&[("rm later/a.h", Miss)]),
            both("$B $CC -c macro.c", Hit),
        ],
    },
    Group {
        name: "shadowing_headers",
        tree: &[
            ("first/none", ""),
            ("second/s.h", "#define X 2\n"),
            ("s.c", "#include <s.h>\nint value = X;\n"),
            ("dir/x.c", "#include \"sub/h.h\"\nint value = X;\n"),
            ("dir/sub/h.h", "#include \"inner.h\"\n"),
            ("inc/inner.h", "#define X 1\n"),
        ],
        cases: &[
            both("$B $CC -Ifirst -Isecond -Ithird -c s.c", Hit).steps(&[
                ("echo '#define X 3' > first/s.h", Miss),
                ("true", Again),
                ("rm first/s.h", Again),
                ("echo '#define X 4' > first/s.h", Miss),
                ("rm first/s.h; mkdir first/s.h", Again),
                ("rmdir first/s.h; ln -s nowhere first/s.h", Again),
                ("ln -sf ../second/s.h first/s.h", Miss),
                ("rm first/s.h; mv second third", Miss),
                ("mkdir second; cp third/s.h second", Miss),
            ]),
            both("$B $CC -Iinc -c dir/x.c", Hit).steps(&[
                ("echo '#define X 2' > dir/sub/inner.h", Miss),
                ("rm dir/sub/inner.h", Again),
                ("echo '#define X 3' > dir/inner.h", Again),
            ]),
        ],
    },
    Group { name: "include_of_a_macro", tree: TREE, cases: &[both("$B $CC -c computed.c", Hit)] },
    Group {
        name: "include_next",
        tree: TREE,
        cases: &[
            both("$B $CC -Ione -Itwo -c next.c", Hit),
            both("$B $CC -I\"$PWD/one\" -I\"$PWD/sub/../two\" -c next.c", Hit),
        ],
    },
    Group {
        name: "forced_includes",
        tree: TREE,
        cases: &[
            both("$B $CC -include one/only.h -c forced.c", Hit),
            both("$B $CC -imacros one/only.h -c forced.c", Hit),
            both("$B $CC -include one/only.h -include two/n.h -c forced.c", Hit),
            both("cd out; $B $CC -I../one -I.. -include only.h -c ../forced.c", Hit),
            // Failing compiles are tried again each time: what was missing may be there now.
            both("$B $CC -c late.c $([ -e y.h ] && echo -include y.h)", Failed),
        ],
    },
    Group {
        name: "search_directories",
        tree: TREE,
        cases: &[
            both("$B $CC -isystem one -isystem two -c next.c", Hit),
            both("$B $CC -I one -idirafter two -c next.c", Hit),
            both("$B $CC -iquote one -include only.h -c forced.c", Hit),
            both("$B $CC -nostdinc -c dots.c", Hit),
        ],
    },
    Group {
        name: "system_roots",
        tree: &[
            ("x.c", "#include <r.h>\nint r = R;\n"),
            ("root/usr/include/r.h", "#define R 1\n"),
            ("out/", ""),
        ],
        cases: &[
            gcc("$B gcc --sysroot=root -c x.c", Hit).looks_around(),
            gcc("$B gcc --sysroot=root -isysroot \"$PWD/root\" -c x.c", Hit).looks_around(),
            clang("$B clang --sysroot=root -c x.c", CacheOnly),
            clang("$B clang -isysroot root -Iroot/usr/include -c x.c", CacheOnly),
        ],
    },
    Group {
        name: "incbin",
        tree: TREE,
        cases: &[
            both("$B $CC -c incbin.S", Local("incbin")),
            both("$B $CC -c incbin.c", Local("incbin")),
            both("$B $CC -c split.c", Local("incbin")),
            both("$B $CC -c macro.c", Local("incbin")),
            both("$B $CC -c pasted.S || true", Local("incbin")),
        ],
    },
    Group {
        name: "embed",
        tree: TREE,
        cases: &[
            // gcc 12 and clang 14 refuse it as an unknown directive.
            both("$B $CC -c embed.c", Local("dependency-run")),
            both("$B $CC -c has_embed.c", Hit),
        ],
    },
    Group {
        name: "generated_headers",
        tree: &[("x.c", "#include \"gen.h\"\nint value = X;\n"), ("template", "#define X 1\n")],
        cases: &[both("test -f gen.h || cp template gen.h; $B $CC -c x.c", Hit).steps(&[
            ("rm gen.h", Again),
            ("rm gen.h; echo '#define X 2' > template", Miss),
            ("rm gen.h", Again),
        ])],
    },
    Group {
        name: "links_and_dots",
        tree: TREE,
        cases: &[
            both("$B $CC -c dots.c", Hit),
            both("$B $CC -c linked.c", Hit).steps(&[
                ("echo '#define ONE 3' > two/only.h; ln -sf ../two/only.h links/linked.h", Miss),
                ("ln -sf ../one/only.h links/linked.h", Again),
                (
                    "mkdir -p v2/v3; mkdir v2/two; echo '#define TWO 5' > v2/two/n.h; ln -sfn v2/v3 dirlink",
                    Miss,
                ),
                ("ln -sfn one dirlink", Again),
            ]),
        ],
    },
    Group {
        name: "precompiled_headers",
        tree: PRECOMPILED,
        cases: &[
            both("$B $CC -x c-header -c all.h -o out/all.pch", Local("precompiled-header"))
                .unlike("gcc's hold what happened to be in memory, clang's the time"),
            both("$B $CC -c all.h", Local("precompiled-header"))
                .unlike("gcc's hold what happened to be in memory, clang's the time"),
            gcc("gcc all.h; $B gcc -c x.c; rm all.h.gch", Local("precompiled-header")),
            gcc(
                "mkdir all.h.gch; gcc all.h -o all.h.gch/c; $B gcc -c x.c; rm -r all.h.gch",
                Local("precompiled-header"),
            ),
            clang(
                "clang -x c-header all.h -o all.pch; $B clang -include-pch all.pch -c x.c; rm all.pch",
                Local("precompiled-header"),
            ),
            clang(
                "clang -x c-header all.h -o all.h.pch; $B clang -include all.h -c x.c; rm all.h.pch",
                Local("precompiled-header"),
            ),
        ],
    },
    Group {
        name: "modules",
        tree: PRECOMPILED,
        cases: &[
            gcc("$B g++ -std=c++20 -fmodules-ts -c module.cc; rm -rf gcm.cache", Local("modules")),
            gcc("$B g++ -std=c++20 -fmodules-ts -c import.cc", Local("modules")),
            clang(
                "$B clang++ -std=c++20 -fmodules-ts --precompile -x c++-module module.cc -o out/m.pcm; rm -f out/*",
                Local("modules"),
            ),
            clang("$B clang++ -std=c++20 -c import.cc", Local("dependency-run")),
            clang("$B clang++ -std=c++20 -fmodules -c named.cc", Local("modules")),
            both("$B $CXX -std=c++17 -c named.cc", Hit),
        ],
    },
    Group {
        name: "edits",
        tree: EDITED,
        cases: &[both("$B $CC -g -c x.c", Hit).steps(&[
            ("echo '#define X 3' > x.h", Miss),
            // Within the same second, as fast as a shell can, and with the same size.
            ("echo '#define X 4' > x.h", Miss),
            ("echo '#define X 5' > x.h", Miss),
            ("echo '#define X 3' > x.h", Again),
            ("touch -d 2001-01-01 x.h; echo '#define X 6' > x.h; touch -d 2001-01-01 x.h", Miss),
        ])],
    },
    Group {
        name: "edits_of_comments",
        tree: EDITED,
        // The text goes into the key: with `-g` lines count, and warnings quote them.
        cases: &[both("$B $CC -g -c x.c", Hit)
            .steps(&[("echo '/* a word */' >> x.h", Miss), ("echo '/* a word */' >> x.c", Miss)])],
    },
    Group {
        name: "touched_headers",
        tree: EDITED,
        cases: &[both("$B $CC -g -c x.c", Hit).steps(&[
            ("touch x.h x.c", Again),
            ("touch -d 2001-01-01 x.h x.c", Again),
            ("chmod 600 x.h", Again),
            ("cp x.h new; mv new x.h", Again),
        ])],
    },
    Group {
        name: "objective_c",
        tree: &[
            (
                "x.m",
                "#import \"x.h\"\n#import \"x.h\"\n@interface A { int a; }\n- (int)get;\n@end\nint x = X;\n",
            ),
            (
                "x.mm",
                "#import \"x.h\"\n@interface A { int a; }\n- (int)get;\n@end\n\
                 template <class T> T t(T v) { return v; }\nint x = t(X);\n",
            ),
            ("x.h", "#define X 1\nstruct once;\n"),
            ("warn.m", "@interface B { int a; }\n- (int)get;\n@end\n@implementation B\n@end\n"),
        ],
        cases: &[
            both("$B $CC -c x.m", Hit),
            both("$B $CC -c x.mm", Hit),
            both("$B $CC -x objective-c -c x.m -o y.o -MD", Hit),
            both("$B $CC -Wall -c warn.m", Hit),
        ],
    },
    Group {
        name: "assembler_with_includes",
        tree: TREE,
        cases: &[
            both("$B $CC -c cpp.S", Hit).steps(&[("echo '#define ONE 2' > one/only.h", Miss)]),
            both("$B $CC -x assembler-with-cpp -c cpp.S -o out/c.o -MD", Hit),
            both("$B $CC -c ainclude.S", Local("assembler-include")),
        ],
    },
    Group {
        name: "odd_texts",
        tree: TREE,
        cases: &[
            both("$B $CC -Wall -c line.c", Hit),
            both("echo 'line 7' > generated.y; seq 9 >> generated.y; $B $CC -Wall -c line.c", Hit),
            both("$B $CC -c pragma.c", Local("pragma-dependency")),
            both("$B $CC -c empty.c", Hit),
            both("$B $CC -c nonl.c", Hit),
            both("$B $CC -c crlf.c", Hit),
            both("$B $CC -trigraphs -c trigraph.c", AskedTwice),
        ],
    },
];
