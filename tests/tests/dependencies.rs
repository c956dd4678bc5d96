//! Depfiles: what is in them, where they go, what they are called.

use barn_tests::{
    Desk,
    Expect::{Failed, Hit, Local, Other},
    Tree,
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

#[test]
fn names_and_forms() {
    Desk::new().both(
        TREE,
        &[
            ("$B $CC -c x.c -MD", Hit),
            ("$B $CC -c x.c -MMD", Hit),
            ("$B $CC -c x.c -MD -MMD", Hit),
            ("$B $CC -c x.c -MMD -MD", Hit),
            ("$B $CC -c x.c -o out/x.o -MD", Hit),
            ("$B $CC -c x.c -o out/x.o -MMD -MF out/other.dep", Hit),
            ("$B $CC -c x.c -o out/x.o -MMD -MFout/other.dep", Hit),
            ("$B $CC -c x.c -o out/x.o -MD -MP -MF out/x.d", Hit),
            ("$B $CC -c x.c -o out/x.o -MD -MT target", Hit),
            ("$B $CC -c x.c -o out/x.o -MD -MT 'a b$(c)' -MT second", Hit),
            ("$B $CC -c x.c -o out/x.o -MD -MQ 'a b$(c)' -MQ second", Hit),
            ("$B $CC -c x.c -o out/x.o -MD -MP -MT one -MQ two -MF one.d", Hit),
            ("cd out; $B $CC -c ../x.c -MD", Hit),
            ("cd out; $B $CC -c \"$PWD/../x.c\" -MD", Hit),
            ("$B $CC -c x.c -o out/two.dots.o -MD", Hit),
            ("$B $CC -c x.c -o out/nodot -MD", Hit),
            ("$B $CC -c x.c -o out/.o -MD", Local("output-name")),
            ("$B $CC -S x.c -o out/x.s -MD", Hit),
            ("$B $CXX -c plus.cc -MD -MP", Hit),
            ("$B $CC -c cpp.S -MD", Hit),
        ],
    );
}

#[test]
fn forms_of_other_programs() {
    Desk::new().both(
        TREE,
        &[
            // The Linux kernel's, Makefile.am's and CMake's.
            ("$B $CC -Wp,-MMD,out/.x.o.d -nostdinc -D__KERNEL__ -Iinc -c -o out/x.o cpp.S", Hit),
            ("$B $CC -Wp,-MD,out/x.d -c -o out/x.o x.c", Hit),
            ("$B $CC -MT x.lo -MD -MP -MF out/x.Tpo -c x.c -fPIC -DPIC -o out/x.o", Hit),
            ("$B $CC -MD -MT out/x.c.o -MF out/x.c.o.d -o out/x.c.o -c \"$PWD/x.c\"", Hit),
            ("$B $CC -Wp,-MD,out/x.d -MF out/y.d -MD -c x.c", Local("dependency-format")),
            ("$B $CC -Wp,-MD,out/x.d,-MT,y -c x.c", Local("pass-through")),
        ],
    );
}

#[test]
fn depfiles_to_special_places() {
    Desk::new().both(
        TREE,
        &[
            ("$B $CC -c x.c -MD -MF /dev/null", Hit),
            ("$B $CC -c x.c -MMD -MF /dev/stdout", Local("special-output")),
            ("$B $CC -c x.c -MD -MF -", Local("special-output")),
            ("$B $CC -c x.c -MD -MF none/x.d", Local("output-directory")),
            ("ln -s out/real.d x.d; $B $CC -c x.c -MD", Hit),
            ("$B $CC -MM -MF out/x.d x.c", Other),
            ("$B $CC -M -MG x.c", Other),
            ("$B $CC -c x.c -MD -MG", Local("missing-headers")),
            ("$B $CC -fsyntax-only x.c -MD -MF x.d", Hit),
        ],
    );
    Desk::new().table(TREE, &[("$B gcc -c x.c -MF x.d", Failed), ("$B clang -c x.c -MF x.d", Hit)]);
}

/// A rule that changes its spelling must not be served the old depfile, nor one directory another's.
#[test]
fn depfiles_belong_to_their_command() {
    let desk = Desk::new();
    desk.lay(TREE);
    desk.sh("$B gcc -c x.c -o out/x.o -MD -MF out/x.d").ok();
    let second = desk.sh("$B gcc -c x.c -o out/y.o -MD -MF out/y.d; cat out/y.d").ok();
    assert!(second.out().starts_with("out/y.o: x.c"), "{}", second.out());
    desk.sh("mkdir two; cp -r x.c inc two").ok();
    let elsewhere = desk.sh("cd two; $B gcc -c ../x.c -o y.o -MD -MF y.d; cat y.d").ok();
    assert!(elsewhere.out().starts_with("y.o: ../x.c"), "{}", elsewhere.out());
}
