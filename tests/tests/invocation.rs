//! The forms of a command line, and the ways to a compiler.

use barn_tests::{
    Compare, Desk,
    Expect::{CacheOnly, Failed, Hit, Local, Other, Unasked},
    Tree,
};

const TREE: Tree<'_> = &[
    ("x.c", "#include \"x.h\"\nint x(int a) { int unused; return a + X; }\n"),
    ("x.h", "#define X 1\n"),
    ("inc/y.h", "#define Y 2\n"),
    ("y.c", "#include \"y.h\"\nint y = Y;\n"),
    ("main.c", "int x(int);\nint main(void) { return x(0); }\n"),
    ("plus.cc", "#include \"x.h\"\nnamespace { struct S { int v = X; }; }\nint plus() { return S().v; }\n"),
    ("noext", "int noext;\n"),
    ("pre.i", "# 1 \"x.c\"\nint pre;\n"),
    ("pre.ii", "# 1 \"x.cc\"\nclass Pre {} pre;\n"),
    ("pre.mi", "# 1 \"x.m\"\nint pre;\n"),
    ("pre.mii", "# 1 \"x.mm\"\nclass Pre {} pre;\n"),
    ("cpp.S", "#include \"x.h\"\n.globl cpp\ncpp: .long X\n"),
    ("plain.s", ".globl plain\nplain: .long 1\n"),
    ("out/", ""),
];

#[test]
fn plain_compiles() {
    Desk::new().both(
        TREE,
        &[
            ("$B $CC -c x.c", Hit),
            ("$B $CC -c x.c -o out/x.o", Hit),
            ("$B $CC -oout/x.o -c x.c", Hit),
            ("$B $CC -Wall -O2 -g -c -o x.o x.c", Hit),
            ("$B $CC -c \"$PWD/x.c\" -o \"$PWD/out/x.o\" -Wall", Hit),
            ("cd out && $B $CC -c ../x.c", Hit),
            ("$B $CC -c ./inc/../x.c", Hit),
            ("$B $CC -S x.c", Hit),
            ("$B $CC -S -o - x.c", Local("special-output")),
            ("$B $CXX -c plus.cc -Wall", Hit),
            ("$B $CXX -c x.c", Hit),
            ("$B $CC -c plus.cc", Hit),
            ("$B $CC -c cpp.S", Hit),
            ("$B $CC -c plain.s", Local("not-preprocessed")),
            ("umask 077; $B $CC -c x.c -o out/private.o", Hit),
            ("umask 002; $B $CC -c x.c -o out/group.o", Hit),
        ],
    );
}

#[test]
fn existing_outputs() {
    Desk::new().both(
        TREE,
        &[
            ("touch x.o; $B $CC -c x.c", Hit),
            ("touch x.o; chmod 600 x.o; $B $CC -c x.c", Hit),
            ("touch x.o; chmod 755 x.o; $B $CC -c x.c", Hit),
            ("ln -s out/real.o x.o; $B $CC -c x.c", Hit),
            ("touch out/real.o; ln -s out/real.o x.o; $B $CC -c x.c", Hit),
            ("touch out/a.o; ln out/a.o out/b.o; $B $CC -c x.c -o out/a.o", Hit),
            ("mkdir x.o; $B $CC -c x.c", Local("special-output")),
            ("mkfifo x.o; cat x.o > got & $B $CC -S x.c -o x.o; wait", Local("special-output")),
        ],
    );
}

#[test]
fn other_than_compiles() {
    Desk::new().both(
        TREE,
        &[
            ("$B $CC --version", Other),
            ("$B $CC -dumpmachine", Other),
            ("$B $CC -print-search-dirs", Other),
            ("$B $CC -v", Other),
            ("$B $CC -### -c x.c 2>/dev/null", Other),
            ("$B $CC -E x.c", Other),
            ("$B $CC -E x.c -o x.i", Other),
            ("$B $CC -M x.c", Other),
            ("$B $CC -MM x.c", Other),
            ("$B $CC", Other),
            ("$B $CC -c", Other),
            ("$CC -c x.c; $CC -c main.c; $B $CC x.o main.o -o main", Other),
            ("$B $CC -c nothing.o", Other),
        ],
    );
}

#[test]
fn several_steps_or_sources() {
    Desk::new().both(
        TREE,
        &[
            ("$B $CC x.c main.c -o main", Local("compile-and-link")),
            ("$B $CC -shared -fPIC x.c -o libx.so", Local("compile-and-link")),
            ("$B $CC -c x.c main.c", Local("multiple-sources")),
            ("$B $CC -c x.c main.c -o x.o", Local("multiple-sources")),
            ("$B $CC -c x.c out/none.o", Local("extra-inputs")),
            ("$B $CC -c -S x.c", Local("conflicting-modes")),
            ("$B $CC -fsyntax-only -Wall x.c", Local("no-output")),
            ("$B $CC -c x.c -o out/a.o -o out/b.o", Local("repeated-output")),
        ],
    );
}

#[test]
fn standard_input_and_devices() {
    Desk::new().both(
        TREE,
        &[
            ("echo 'int x;' | $B $CC -xc -c -o x.o -", Local("standard-input")),
            ("echo 'int x;' | $B $CC -xc -c -o x.o /dev/stdin", Local("standard-input")),
            ("$B $CC -xc -c /dev/null -o x.o", Local("standard-input")),
            ("$B $CC -c x.c -o /dev/null", Local("special-output")),
            ("$B $CC -S x.c -o /dev/stdout", Local("special-output")),
            ("$B $CC -c x.c -o out/", Local("special-output")),
        ],
    );
}

#[test]
fn what_is_not_there() {
    Desk::new().both(
        TREE,
        &[
            ("$B $CC -c none.c", Local("source")),
            ("$B $CC -c x.c -o none/x.o", Local("output-directory")),
            ("$B $CC -c out", Other),
            ("$B $CC -xc -c out -o x.o", Local("source")),
            ("$B $CC -c x.c -Inone", Hit),
            ("$B $CC -c x.c -include none.h", Local("dependency-run")),
            ("chmod 400 x.h; $B $CC -c x.c", Hit),
            ("mkdir gone; cd gone; rmdir ../gone; $B $CC -c ../x.c", Unasked),
        ],
    );
}

#[test]
fn languages() {
    Desk::new().both(
        TREE,
        &[
            ("$B $CC -x c -c noext", Hit),
            ("$B $CC -xc++ -c noext -o n.o", Hit),
            ("$B $CC -x c++ -c x.c", Hit),
            ("$B $CC -x c -x none -c x.c", Hit),
            ("$B $CC -x assembler-with-cpp -c cpp.S", Hit),
            ("$B $CC -x assembler -c plain.s", Local("not-preprocessed")),
            ("$B $CC -x klingon -c x.c", Local("language")),
            ("$B $CC -c pre.i", Local("preprocessed-source")),
            ("$B $CXX -c pre.ii", Local("preprocessed-source")),
            ("$B $CC -c pre.mi", Local("preprocessed-source")),
            ("$B $CXX -c pre.mii", Local("preprocessed-source")),
            ("$B $CC -x cpp-output -c pre.i", Local("preprocessed-source")),
            ("$B $CC -c noext", Other),
            ("$B $CC -x", Other),
        ],
    );
    // gcc's precompiled headers hold what happened to be in memory.
    Desk::new().both_of(
        Compare::Names,
        TREE,
        &[
            ("$B $CC -x c-header -c x.h -o out/x.gch", Local("precompiled-header")),
            ("$B $CC -c x.h", Local("precompiled-header")),
        ],
    );
}

#[test]
fn response_files() {
    Desk::new().both(
        &[
            ("x.c", "#include S\nint x = X;\n"),
            ("a b.h", "#define X 1\n"),
            ("flags", "-c x.c @more -o 'x y.o'\n"),
            ("more", "\"-DS=\\\"a b.h\\\"\" -I . '-DQ=\"'\n"),
            ("loop", "-c x.c @loop"),
        ],
        &[
            ("$B $CC @flags", Hit),
            ("$B $CC @./flags -O1", Hit),
            ("$B $CC -c x.c '-DS=\"a b.h\"' @none", Local("extra-inputs")),
            ("$B $CC @none", Other),
            ("printf -- '-DX=1 \\\\' > odd; $B $CC '-DS=\"a b.h\"' -c x.c @odd", Local("response-file")),
        ],
    );
    Desk::new().table(&[("x.c", ""), ("loop", "-c x.c @loop")], &[("$B gcc @loop", Local("response-file"))]);
}

#[test]
fn arguments_for_other_programs() {
    Desk::new().both(
        TREE,
        &[
            ("$B $CC -Wp,-DX2=1 -c x.c", Hit),
            ("$B $CC -Wp,-MMD,out/x.d -c x.c", Hit),
            ("$B $CC -Wp,-MD,out/x.d -c x.c -o out/x.o", Hit),
            ("$B $CC -Wa,--noexecstack -c x.c", Hit),
            ("$B $CC -Wl,-z,now -lm -c x.c", Hit),
            ("$B $CC -pipe -pthread -c x.c", Hit),
            ("$B $CC -Wp,-v -c x.c", Local("pass-through")),
            ("$B $CC -march=x86-64-v2 -c x.c", Hit),
            ("$B $CC -march=native -c x.c", Local("native-cpu")),
            ("$B $CC -mtune=native -c x.c", Local("native-cpu")),
            ("$B $CC -fno-such-flag-at-all -c x.c", Local("unknown-flag")),
            ("$B $CC -c x.c -o", Local("malformed-arguments")),
            ("$B $CC -v -c x.c 2>/dev/null", Local("verbose")),
        ],
    );
    let desk = Desk::new();
    desk.table(
        TREE,
        &[
            ("$B gcc -Xassembler --warn -c x.c", Local("pass-through")),
            ("$B gcc -Xpreprocessor -DX3 -c x.c", Local("pass-through")),
            ("$B clang -Xclang -fno-common -c x.c", Hit),
            ("$B clang -Xclang -dump-tokens -c x.c", Local("pass-through")),
            ("$B clang -c -- x.c", Hit),
            ("$B clang -mllvm -inline-threshold=10 -c x.c", Local("pass-through")),
            ("$B clang -fplugin=none.so -c x.c", Local("plugin")),
            ("$B gcc -fplugin=none -c x.c", Local("plugin")),
            ("$B gcc -B out -c x.c", Local("specs")),
            ("$B gcc -specs=none -c x.c", Local("specs")),
            ("$B gcc -wrapper /usr/bin/env -c x.c", Local("specs")),
            ("$B clang --target=i386-linux-gnu -c main.c", CacheOnly),
            ("$B clang -m32 -c main.c", CacheOnly),
            ("$B gcc -m32 -c main.c", Hit),
        ],
    );
}

#[test]
fn environment() {
    Desk::new().both(
        TREE,
        &[
            ("CPATH=inc $B $CC -c y.c", Hit),
            ("export C_INCLUDE_PATH=inc; $B $CC -c y.c", Hit),
            ("export CPLUS_INCLUDE_PATH=inc; $B $CXX -xc++ -c y.c", Hit),
            ("export CPATH=$PWD/inc:; $B $CC -Wall -c y.c", Hit),
            ("export LANG=C.UTF-8; $B $CC -Wall -c x.c", Hit),
            ("export SOURCE_DATE_EPOCH=1; $B $CC -c x.c", Hit),
            ("export TMPDIR=$PWD/out; $B $CC -c x.c", Hit),
            ("export DEPENDENCIES_OUTPUT=out/deps; $B $CC -c x.c", Local("environment")),
            ("export LD_LIBRARY_PATH=out; $B $CC -c x.c", Local("loader-environment")),
            ("export BARN_DISABLE=1; $B $CC -c x.c -Wall", Unasked),
            ("unset HOME; $B $CC -c x.c -Wall", Hit),
        ],
    );
    Desk::new().table(
        TREE,
        &[
            ("export GCC_COMPARE_DEBUG=-gtoggle; $B gcc -c x.c", Local("environment")),
            ("export COMPILER_PATH=out; $B gcc -c x.c", Local("environment")),
            ("export GCC_COMPARE_DEBUG=; $B clang -c x.c", Hit),
            // binutils comes with German messages, which no toolchain carries.
            ("export LC_ALL=de_DE.UTF-8; $B gcc -Wall -c x.c", CacheOnly),
            ("export LC_ALL=de_DE.UTF-8; $B clang -Wall -c x.c", Hit),
            ("unset PATH; $B /usr/bin/gcc -c x.c -Wall", Local("relative-search-path")),
            ("unset PATH; $B /usr/bin/clang -c x.c -Wall", Hit),
        ],
    );
}

#[test]
fn awkward_names() {
    Desk::new().both(
        TREE,
        &[
            ("mkdir 'a b'; cp x.c x.h 'a b'; cd 'a b'; $B $CC -g -c x.c -MD", Hit),
            ("cp x.c 'it'\\''s \"x\" $.c'; $B $CC -Wall -c 'it'\\''s \"x\" $.c' -o 'q \"o.o'", Hit),
            ("cp x.c \"$(printf 'a\\nb.c')\"; $B $CC -Wall -c \"$(printf 'a\\nb.c')\" -o nl.o", Hit),
            ("cp x.c \"$(printf 'a\\377.c')\"; $B $CC -Wall -g -c \"$(printf 'a\\377.c')\"", Hit),
            ("mkdir \"$(printf 'd\\377')\"; cp x.[ch] d*; cd d*; $B $CC -Wall -g -c x.c", Hit),
            ("cp x.c ./-dash.c; $B $CC -c ./-dash.c -o ./-dash.o", Hit),
            ("cp x.c 'pre:post#%.c'; $B $CC -c 'pre:post#%.c' -MD", Hit),
            ("cp x.c two.dots.c; $B $CC -c two.dots.c -MD", Hit),
            ("cp x.c .c.c; $B $CC -c .c.c", Hit),
            ("d=$(seq -s/ 1 40); mkdir -p $d; cp x.c x.h $d; cd $d; $B $CC -g -c x.c", Hit),
            ("$B $CC -c x.c $(seq -f -DMACRO%g 1 5000)", Hit),
            ("seq -f -DMACRO%g 1 5000 > args; $B $CC -c x.c @args", Hit),
            (
                "seq -f -DA_LONG_NAME_FOR_A_MACRO_%g 1 40000 > args; $B $CC -c x.c @args",
                Local("too-many-arguments"),
            ),
        ],
    );
}

#[test]
fn through_links_and_other_directories() {
    Desk::new().both(
        TREE,
        &[
            ("PATH=$M:$PATH $CC -Wall -c x.c", Hit),
            ("PATH=$M:$PATH; export PATH; $CXX -c plus.cc", Hit),
            (
                "PATH=$M:$PATH; export PATH; $CC x.c main.c -o main && ./main; echo $?",
                Local("compile-and-link"),
            ),
            ("${B:+$B --} $CC -c x.c", Hit),
            ("$B /usr/bin/$CC -Wall -c x.c", Hit),
            ("cd out; ln -s /usr/bin/$CC cc; cd ../inc; $B ../out/cc -Wall -c ../x.c", Local("layout")),
            ("ln -s /usr/bin/$CC my-$CC; $B ./my-$CC -Wall -c x.c", Hit),
            ("ln -s /usr/bin/$CC cc; $B ./cc -Wall -c x.c", Hit),
            ("mkdir real; cp x.c x.h real; ln -s real link; cd link; $B $CC -g -c x.c", CacheOnly),
            ("mkdir real; cp x.c x.h real; ln -s real link; $B $CC -g -c link/x.c -o link/x.o", Hit),
        ],
    );
}

/// By the names that a distribution gives them; `cc` and `c++` are its alternatives.
#[test]
fn names_of_compilers() {
    Desk::new().table(
        TREE,
        &[
            ("$B cc -Wall -c x.c", Hit),
            ("$B c++ -Wall -c plus.cc", Hit),
            ("$B gcc-12 -Wall -c x.c", Hit),
            ("$B x86_64-linux-gnu-gcc -Wall -c x.c", Hit),
            ("$B clang-14 -Wall -c x.c", Hit),
            ("$B clang++-14 -c plus.cc", Hit),
            ("PATH=$M:$PATH; export PATH; cc -Wall -c x.c", Hit),
            ("PATH=$M:$PATH; export PATH; c++ -c plus.cc", Hit),
            ("$B cpp x.c -o out/x.i", Other),
            ("$B gcc-ar rc out/lib.a x.c", Local("unknown-compiler")),
        ],
    );
}

#[test]
fn compilers_behind_other_programs() {
    let tree: Tree<'_> = &[
        ("x.c", "int x(int a) { int unused; return a; }\n"),
        ("bin/gcc", "#!/bin/sh\nexec /usr/bin/gcc -DSCRIPT \"$@\"\n"),
        ("bin/mycc", "#!/bin/sh\nexec /usr/bin/gcc \"$@\"\n"),
        ("bin/lie", "-> /usr/bin/env"),
        ("notes.txt", "no program\n"),
    ];
    Desk::new().table(
        tree,
        &[
            ("$B bin/gcc -Wall -c x.c", Local("compiler-is-script")),
            ("PATH=$PWD/bin:$PATH; export PATH; $B gcc -Wall -c x.c", Local("compiler-is-script")),
            ("$B bin/mycc -Wall -c x.c", Local("unknown-compiler")),
            // A file that is really called so is asked what it is.
            ("cp bin/mycc bin/cc; $B bin/cc -Wall -c x.c", Local("compiler-is-script")),
            ("cp /bin/true bin/cc; $B bin/cc -Wall -c x.c", Local("unknown-compiler")),
            (
                "mkdir lib; ln -s /usr/lib/gcc lib/gcc; cp $(readlink -f /usr/bin/gcc) bin/cc; \
                 $B bin/cc -Wall -c x.c",
                Hit,
            ),
            ("$B ccache gcc -Wall -c x.c", Local("compiler-wrapper")),
            ("ln -s /usr/bin/ccache bin/cc; $B bin/cc -Wall -c x.c", Local("compiler-wrapper")),
            ("PATH=/usr/lib/ccache:$PATH; export PATH; $B gcc -Wall -c x.c", Local("compiler-wrapper")),
            ("export CCACHE_DISABLE=1; ccache ${B:-env} gcc -Wall -c x.c", Hit),
            ("$B bin/lie true", Local("unknown-compiler")),
            ("$B /bin/echo -c x.c", Local("unknown-compiler")),
            // Masquerade, and a script that calls barn again: no endless round.
            ("PATH=$PWD/bin:$M:$PATH; export PATH; $B gcc -Wall -c x.c", Local("compiler-is-script")),
        ],
    );
}

/// What is no Rust compiler of a known form passes through unchanged.
#[test]
fn strange_rustcs_are_left_alone() {
    let tree: Tree<'_> = &[
        ("x.rs", "pub fn x() { let unused = 1; }\n"),
        ("bin/rustc", "#!/bin/sh\necho \"rustc $*\"; echo warning >&2; touch libx.rlib; exit 3\n"),
    ];
    let known = "--crate-name x --crate-type lib --emit=dep-info,metadata x.rs";
    Desk::new().table(
        tree,
        &[
            ("$B bin/rustc --crate-type lib x.rs", Local("crate-outputs")),
            (&format!("$B bin/rustc {known}"), Local("rust-compiler")),
            ("PATH=$M:$PWD/bin:$PATH; export PATH; rustc --crate-type lib x.rs", Local("crate-outputs")),
            ("PATH=$PWD/bin:$PATH; export PATH; $B rustc - < x.rs", Local("standard-input")),
        ],
    );
}

/// Autoconf's probes fail by the thousand; each must look as without barn.
#[test]
fn failing_probes() {
    let tree: Tree<'_> = &[
        ("conftest.c", "#include <no/such/header.h>\nint main(void) { return 0; }\n"),
        ("decl.c", "int main(void) { return no_such_thing; }\n"),
        ("size.c", "static int test[1 - 2 * !(sizeof(long) == 3)];\nint main(void) { return test[0]; }\n"),
    ];
    Desk::new().both(
        tree,
        &[
            ("$B $CC -c -g -O2 conftest.c 5>log >&5", Local("dependency-run")),
            ("$B $CC -c -g -O2 decl.c", Failed),
            ("$B $CC -c -g -O2 size.c", Failed),
            ("$B $CC -E decl.c", Other),
            ("$B $CC -o conftest decl.c -lnone", Local("compile-and-link")),
        ],
    );
}
