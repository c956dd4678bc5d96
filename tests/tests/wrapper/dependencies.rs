//! Depfiles: what is in them, where they go, what they are called.

use barn_tests::{
    Expect::{Failed, Hit, Local, Other},
    Group,
    Then::Miss,
    Tree, both, clang, gcc,
};

const TREE: Tree<'_> = &[
    ("x.c", "#include <stddef.h>\n#include \"inc/a b.h\"\n#include \"inc/$dollar#.h\"\nsize_t x = A;\n"),
    ("inc/a b.h", "#include \"deep.h\"\n#define A 1\n"),
    ("inc/$dollar#.h", "\n"),
    ("inc/deep.h", "\n"),
    ("plus.cc", "#include <cstddef>\n#include \"inc/deep.h\"\nstd::size_t y;\n"),
    ("cpp.S", "#include \"inc/deep.h\"\n"),
    ("out/", ""),
];

pub(crate) const GROUPS: &[Group] = &[
    Group {
        name: "flags",
        tree: TREE,
        cases: &[
            both("$B $CC -c x.c -MD", Hit),
            both("$B $CC -c x.c -MMD", Hit),
            both("$B $CC -c x.c -MD -MMD", Hit),
            both("$B $CC -c x.c -MMD -MD", Hit),
            both("$B $CC -c x.c -o out/x.o -MMD -MF out/other.dep", Hit),
            both("$B $CC -c x.c -o out/x.o -MMD -MFout/other.dep", Hit),
            both("$B $CC -c x.c -o out/x.o -MD -MP -MF out/x.d", Hit),
            both("$B $CC -c x.c -o out/x.o -MD -MT target", Hit),
            both("$B $CC -c x.c -o out/x.o -MD -MT 'a b$(c)' -MT second", Hit),
            both("$B $CC -c x.c -o out/x.o -MD -MQ 'a b$(c)' -MQ second", Hit),
            both("$B $CC -c x.c -o out/x.o -MD -MP -MT one -MQ two -MF one.d", Hit),
            both("$B $CC -MM -MF out/x.d x.c", Other),
            both("$B $CC -M -MG x.c", Other),
            both("$B $CC -c x.c -MD -MG", Local("missing-headers")),
            gcc("$B gcc -c x.c -MF x.d", Failed),
            clang("$B clang -c x.c -MF x.d", Hit),
        ],
    },
    Group {
        name: "special_places",
        tree: TREE,
        cases: &[
            both("$B $CC -c x.c -MD -MF /dev/null", Hit),
            both("$B $CC -c x.c -MMD -MF /dev/stdout | cat", Local("special-output")),
            both("$B $CC -c x.c -MD -MF -", Local("special-output")),
            both("$B $CC -c x.c -MD -MF none/x.d", Local("output-directory")),
            both("ln -s out/real.d x.d; $B $CC -c x.c -MD", Hit),
        ],
    },
    Group {
        name: "through_the_preprocessor",
        tree: TREE,
        cases: &[
            // The Linux kernel's, Makefile.am's and CMake's.
            both("$B $CC -Wp,-MMD,out/.x.o.d -nostdinc -D__KERNEL__ -Iinc -c -o out/x.o cpp.S", Hit),
            both("$B $CC -Wp,-MD,out/x.d -c -o out/x.o x.c", Hit),
            both("$B $CC -MT x.lo -MD -MP -MF out/x.Tpo -c x.c -fPIC -DPIC -o out/x.o", Hit),
            both("$B $CC -MD -MT out/x.c.o -MF out/x.c.o.d -o out/x.c.o -c \"$PWD/x.c\"", Hit),
            both("$B $CC -Wp,-MD,out/x.d -MF out/y.d -MD -c x.c", Local("dependency-format")),
            both("$B $CC -Wp,-MD,out/x.d,-MT,y -c x.c", Local("pass-through")),
        ],
    },
    // A rule that changes its spelling must not be served the old depfile, nor one directory another's.
    Group {
        name: "targets",
        tree: TREE,
        cases: &[
            both(
                "[ -e name ] || echo a > name; $B $CC -c x.c -o out/$(cat name).o -MD -MF out/$(cat name).d",
                Hit,
            )
            .steps(&[("echo b > name", Miss)]),
            both(
                "[ -e in ] || ln -s . in; cd $(readlink in); \
                 $B $CC -c \"$OLDPWD/x.c\" -I\"$OLDPWD\" -o y.o -MD -MF y.d",
                Hit,
            )
            .steps(&[("ln -sfn out in", Miss)]),
        ],
    },
    Group {
        name: "default_names",
        tree: TREE,
        cases: &[
            both("$B $CC -c x.c -o out/x.o -MD", Hit),
            both("cd out; $B $CC -c ../x.c -MD", Hit),
            both("cd out; $B $CC -c \"$PWD/../x.c\" -MD", Hit),
            both("$B $CC -c x.c -o out/two.dots.o -MD", Hit),
            both("$B $CC -c x.c -o out/nodot -MD", Hit),
            both("$B $CC -c x.c -o out/.o -MD", Local("output-name")),
            both("$B $CC -S x.c -o out/x.s -MD", Hit),
            both("$B $CXX -c plus.cc -MD -MP", Hit),
            both("$B $CC -c cpp.S -MD", Hit),
        ],
    },
];
