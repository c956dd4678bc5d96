//! The forms of a command line, and the ways to a compiler.

use barn_tests::{
    Expect::{CacheOnly, Failed, Failures, Hit, Hits, Local, Other, Unasked},
    Group,
    Then::{Hit as Again, Miss},
    Tree, both, clang, gcc,
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

pub(crate) const GROUPS: &[Group] = &[
    Group {
        name: "ways_in",
        tree: TREE,
        cases: &[
            both("$B $CC -Wall -c x.c", Hit),
            both("$B $CXX -Wall -c plus.cc", Hit),
            both("${B:+$B --} $CC -c x.c", Hit),
            both("PATH=$M:$PATH $CC -Wall -c x.c", Hit),
            both("PATH=$M:$PATH; export PATH; $CXX -c plus.cc", Hit),
            both(
                "PATH=$M:$PATH; export PATH; $CC x.c main.c -o main && ./main; echo $?",
                Local("compile-and-link"),
            ),
            gcc("PATH=$M:$PATH; export PATH; cc -Wall -c x.c", Hit),
            gcc("PATH=$M:$PATH; export PATH; c++ -c plus.cc", Hit),
            both("mkdir gone; cd gone; rmdir ../gone; $B $CC -c ../x.c", Unasked),
            both("unset HOME; $B $CC -c x.c -Wall", Hit),
            both("export BARN_DISABLE=1; $B $CC -c x.c -Wall", Unasked),
        ],
    },
    Group {
        name: "languages",
        tree: TREE,
        cases: &[
            both("$B $CC -x c -c noext", Hit),
            both("$B $CC -xc++ -c noext -o n.o", Hit),
            both("$B $CC -x c++ -c x.c", Hit),
            both("$B $CXX -c x.c", Hit),
            both("$B $CC -c plus.cc", Hit),
            both("$B $CC -x c -x none -c x.c", Hit),
            both("$B $CC -x assembler-with-cpp -c cpp.S", Hit),
            both("$B $CC -x klingon -c x.c", Local("language")),
            both("$B $CC -c noext", Other),
            both("$B $CC -x", Other),
        ],
    },
    Group {
        name: "preprocessed_sources",
        tree: TREE,
        cases: &[
            both("$B $CC -c pre.i", Local("preprocessed-source")),
            both("$B $CXX -c pre.ii", Local("preprocessed-source")),
            both("$B $CC -c pre.mi", Local("preprocessed-source")),
            both("$B $CXX -c pre.mii", Local("preprocessed-source")),
            both("$B $CC -x cpp-output -c pre.i", Local("preprocessed-source")),
        ],
    },
    Group {
        name: "assembler_sources",
        tree: TREE,
        cases: &[
            both("$B $CC -c cpp.S", Hit),
            both("$B $CC -c plain.s", Local("not-preprocessed")),
            both("$B $CC -x assembler -c plain.s", Local("not-preprocessed")),
        ],
    },
    Group {
        name: "assembly",
        tree: TREE,
        cases: &[
            both("$B $CC -S x.c", Hit),
            both("$B $CXX -S plus.cc -o out/p.s", Hit),
            both("$B $CC -c -S x.c", Local("conflicting-modes")),
        ],
    },
    Group {
        name: "no_compiles",
        tree: TREE,
        cases: &[
            both("$B $CC -E x.c", Other),
            both("$B $CC -E x.c -o x.i", Other),
            both("$B $CC -M x.c", Other),
            both("$B $CC -MM x.c", Other),
            both("$B $CC --version", Other),
            both("$B $CC -dumpmachine", Other),
            both("$B $CC -print-search-dirs", Other),
            both("$B $CC -v", Other),
            both("$B $CC -### -c x.c 2>/dev/null", Other),
            both("$B $CC -v -c x.c 2>/dev/null", Local("verbose")),
            gcc("$B cpp x.c -o out/x.i", Other),
        ],
    },
    Group {
        name: "compile_and_link",
        tree: TREE,
        cases: &[
            both("$B $CC x.c main.c -o main", Local("compile-and-link")),
            both("$B $CC -shared -fPIC x.c -o libx.so", Local("compile-and-link")),
            both("$CC -c x.c; $CC -c main.c; $B $CC x.o main.o -o main", Other),
        ],
    },
    Group {
        name: "several_sources",
        tree: TREE,
        cases: &[
            both("$B $CC -c x.c main.c", Local("multiple-sources")),
            both("$B $CC -c x.c main.c -o x.o", Local("multiple-sources")),
            both("$B $CC -c x.c out/none.o", Local("extra-inputs")),
        ],
    },
    Group {
        name: "standard_input",
        tree: TREE,
        cases: &[
            both("echo 'int x;' | $B $CC -xc -c -o x.o -", Local("standard-input")),
            both("echo 'int x;' | $B $CC -xc -c -o x.o /dev/stdin", Local("standard-input")),
            both("$B $CC -xc -c /dev/null -o x.o", Local("standard-input")),
        ],
    },
    Group {
        name: "missing_inputs",
        tree: TREE,
        cases: &[
            both("$B $CC", Other),
            both("$B $CC -c", Other),
            both("$B $CC -c nothing.o", Other),
            both("$B $CC -c none.c", Local("source")),
            both("$B $CC -c out", Other),
            both("$B $CC -xc -c out -o x.o", Local("source")),
            both("$B $CC -c x.c -Inone", Hit),
            both("$B $CC -c x.c -include none.h", Local("dependency-run")),
            both("chmod 400 x.h; $B $CC -c x.c", Hit),
        ],
    },
    Group {
        name: "outputs",
        tree: TREE,
        cases: &[
            both("$B $CC -c x.c -o none/x.o", Local("output-directory")),
            both("$B $CC -c x.c -o /dev/null", Local("special-output")),
            both("$B $CC -S -o - x.c", Local("special-output")),
            // Only ever a pipe: a file there clang replaces, by renaming over `/dev/stdout`.
            both("$B $CC -S x.c -o /dev/stdout | cat", Local("special-output")),
            both("$B $CC -c x.c -o out/", Local("special-output")),
            both("$B $CC -c x.c -o out/a.o -o out/b.o", Local("repeated-output")),
            both("$B $CC -c x.c -o", Local("malformed-arguments")),
            both("umask 077; $B $CC -c x.c -o out/private.o", Hit),
            both("umask 002; $B $CC -c x.c -o out/group.o", Hit),
            both("touch x.o; chmod 600 x.o; $B $CC -c x.c", Hit),
            both("touch x.o; chmod 755 x.o; $B $CC -c x.c", Hit),
            both("ln -s out/real.o x.o; $B $CC -c x.c", Hit),
            both("touch out/real.o; ln -s out/real.o x.o; $B $CC -c x.c", Hit),
            both("touch out/a.o; ln out/a.o out/b.o; $B $CC -c x.c -o out/a.o", Hit),
            both("mkdir x.o; $B $CC -c x.c", Local("special-output")),
            both("mkfifo x.o; cat x.o > got & $B $CC -S x.c -o x.o; wait", Local("special-output")),
        ],
    },
    Group {
        name: "syntax_only",
        tree: TREE,
        cases: &[
            both("$B $CC -c -fsyntax-only -Wall x.c", Local("no-output")),
            both("$B $CC -c -fsyntax-only x.c -MD", Hit),
            both("$B $CC -c -fsyntax-only x.c -MD -MF x.dep", Hit),
            clang("$B clang -fsyntax-only -Wall x.c", Local("no-output")),
            clang("$B clang -fsyntax-only x.c -MD", Hit),
            // gcc gets ready to link, and calls the depfile `a-x.d`.
            gcc("$B gcc -fsyntax-only -Wall x.c", Local("compile-and-link")),
            gcc("$B gcc -fsyntax-only x.c -MD", Local("compile-and-link")),
        ],
    },
    Group {
        name: "response_files",
        tree: &[
            ("x.c", "#include S\nint x = X;\n"),
            ("a b.h", "#define X 1\n"),
            ("flags", "-c x.c @more -o 'x y.o'\n"),
            ("more", "\"-DS=\\\"a b.h\\\"\" -I . '-DQ=\"'\n"),
        ],
        cases: &[
            both("$B $CC @flags", Hit),
            both("$B $CC @./flags -O1", Hit),
            both("$B $CC -c x.c '-DS=\"a b.h\"' @none", Local("extra-inputs")),
            both("$B $CC @none", Other),
            both("printf -- '-DX=1 \\\\' > odd; $B $CC '-DS=\"a b.h\"' -c x.c @odd", Local("response-file")),
            // clang goes round until it is killed.
            gcc("echo '-c x.c @loop' > loop; $B gcc @loop", Local("response-file")),
        ],
    },
    Group {
        name: "arguments_for_other_programs",
        tree: TREE,
        cases: &[
            both("$B $CC -Wp,-DX2=1 -c x.c", Hit),
            both("$B $CC -Wp,-MMD,out/x.d -c x.c", Hit),
            both("$B $CC -Wp,-v -c x.c", Local("pass-through")),
            both("$B $CC -Wa,--noexecstack -c x.c", Hit),
            both("$B $CC -Wl,-z,now -lm -c x.c", Hit),
            both("$B $CC -pipe -pthread -c x.c", Hit),
            both("$B $CC -fno-such-flag-at-all -c x.c", Local("unknown-flag")),
            gcc("$B gcc -Xassembler --warn -c x.c", Local("pass-through")),
            gcc("$B gcc -Xpreprocessor -DX3 -c x.c", Local("pass-through")),
            gcc("$B gcc -fplugin=none -c x.c", Local("plugin")),
            gcc("$B gcc -B out -c x.c", Local("specs")),
            gcc("$B gcc -specs=none -c x.c", Local("specs")),
            gcc("$B gcc -wrapper /usr/bin/env -c x.c", Local("specs")),
            gcc("$B gcc -m32 -c main.c", Hit),
            clang("$B clang -Xclang -fno-common -c x.c", Hit),
            clang("$B clang -Xclang -dump-tokens -c x.c", Local("pass-through")),
            clang("$B clang -c -- x.c", Hit),
            clang("$B clang -mllvm -inline-threshold=10 -c x.c", Local("pass-through")),
            clang("$B clang -fplugin=none.so -c x.c", Local("plugin")),
            clang("$B clang --target=i386-linux-gnu -c main.c", CacheOnly),
            clang("$B clang -m32 -c main.c", CacheOnly),
        ],
    },
    Group {
        name: "environment",
        tree: TREE,
        cases: &[
            both("CPATH=inc $B $CC -c y.c", Hit),
            both("export CPATH=$PWD/inc:; $B $CC -Wall -c y.c", Hit),
            both("export C_INCLUDE_PATH=inc; $B $CC -c y.c", Hit),
            both("export CPLUS_INCLUDE_PATH=inc; $B $CXX -xc++ -c y.c", Hit),
            both("export LANG=C.UTF-8; $B $CC -Wall -c x.c", Hit),
            both("export SOURCE_DATE_EPOCH=1; $B $CC -c x.c", Hit),
            both("export TMPDIR=$PWD/out; $B $CC -c x.c", Hit),
            both("export DEPENDENCIES_OUTPUT=out/deps; $B $CC -c x.c", Local("environment")),
            both("export LD_LIBRARY_PATH=out; $B $CC -c x.c", Local("loader-environment")),
            both("export LD_LIBRARY_PATH=$PWD/out; $B $CC -Wall -c x.c", Hit),
            both(
                "cp /lib/*/libc.so.6 out; export LD_LIBRARY_PATH=$PWD/out; $B $CC -c x.c",
                Local("loader-environment"),
            ),
            gcc("export GCC_COMPARE_DEBUG=-gtoggle; $B gcc -c x.c", Local("environment")),
            gcc("export COMPILER_PATH=out; $B gcc -c x.c", Local("environment")),
            // It is a variable of gcc alone.
            clang("export GCC_COMPARE_DEBUG=-gtoggle; $B clang -c x.c", Hit),
            // binutils comes with German messages, which no toolchain carries.
            gcc("export LC_ALL=de_DE.UTF-8; $B gcc -Wall -c x.c", CacheOnly),
            clang("export LC_ALL=de_DE.UTF-8; $B clang -Wall -c x.c", Hit),
            gcc("unset PATH; $B /usr/bin/gcc -c x.c -Wall", Local("relative-search-path")),
            clang("unset PATH; $B /usr/bin/clang -c x.c -Wall", Hit),
        ],
    },
    Group {
        name: "processors",
        tree: TREE,
        cases: &[
            both("$B $CC -march=x86-64-v2 -c x.c", Hit),
            both("$B $CC -march=native -c x.c", Local("native-cpu")),
            both("$B $CC -mtune=native -c x.c", Local("native-cpu")),
        ],
    },
    Group {
        name: "relative_and_absolute_paths",
        tree: TREE,
        cases: &[
            both("$B $CC -c x.c -o out/x.o", Hit),
            both("$B $CC -oout/x.o -c x.c", Hit),
            both("$B $CC -c \"$PWD/x.c\" -o \"$PWD/out/x.o\" -Wall", Hit),
            both("cd out && $B $CC -c ../x.c", Hit),
            both("$B $CC -c ./inc/../x.c", Hit),
            both("mkdir real; cp x.c x.h real; ln -s real link; cd link; $B $CC -g -c x.c", CacheOnly),
            both("mkdir real; cp x.c x.h real; ln -s real link; $B $CC -g -c link/x.c -o link/x.o", Hit),
        ],
    },
    Group {
        name: "awkward_paths",
        tree: TREE,
        cases: &[
            both("mkdir 'a b'; cp x.c x.h 'a b'; cd 'a b'; $B $CC -g -c x.c -MD", Hit),
            both("cp x.c 'it'\\''s \"x\" $.c'; $B $CC -Wall -c 'it'\\''s \"x\" $.c' -o 'q \"o.o'", Hit),
            both("cp x.c \"$(printf 'a\\nb.c')\"; $B $CC -Wall -c \"$(printf 'a\\nb.c')\" -o nl.o", Hit),
            both(
                "mkdir \"$(printf 'd\\ne')\"; cp x.[ch] d*; $B $CC -g -c d*/x.c -o \"$(printf 'd\\ne/x.o')\"",
                Hit,
            ),
            both("cp x.c \"$(printf 'a\\377.c')\"; $B $CC -Wall -g -c \"$(printf 'a\\377.c')\"", Hit),
            both("mkdir \"$(printf 'd\\377')\"; cp x.[ch] d*; cd d*; $B $CC -Wall -g -c x.c", Hit),
            both("cp x.c ./-dash.c; $B $CC -c ./-dash.c -o ./-dash.o", Hit),
            both("cp x.c 'pre:post#%.c'; $B $CC -c 'pre:post#%.c' -MD", Hit),
            both("cp x.c two.dots.c; $B $CC -c two.dots.c -MD", Hit),
            both("cp x.c .c.c; $B $CC -c .c.c", Hit),
            both("d=$(seq -s/ 1 40); mkdir -p $d; cp x.c x.h $d; cd $d; $B $CC -g -c x.c", Hit),
        ],
    },
    Group {
        name: "long_command_lines",
        tree: TREE,
        cases: &[
            both("$B $CC -c x.c $(seq -f -DMACRO%g 1 5000)", Hit),
            both("seq -f -DMACRO%g 1 5000 > args; $B $CC -c x.c @args", Hit),
            both(
                "seq -f -DA_LONG_NAME_FOR_A_MACRO_%g 1 40000 > args; $B $CC -c x.c @args",
                Local("too-many-arguments"),
            ),
        ],
    },
    Group {
        name: "compilers_behind_links",
        tree: TREE,
        cases: &[
            both("$B /usr/bin/$CC -Wall -c x.c", Hit),
            both("ln -s /usr/bin/$CC my-$CC; $B ./my-$CC -Wall -c x.c", Hit).looks_around(),
            both("ln -s /usr/bin/$CC cc; $B ./cc -Wall -c x.c", Hit).looks_around(),
            both("cd out; ln -s /usr/bin/$CC cc; cd ../inc; $B ../out/cc -Wall -c ../x.c", Local("layout")),
            // By the names that a distribution gives them; `cc` and `c++` are its alternatives.
            gcc("$B cc -Wall -c x.c", Hit),
            gcc("$B c++ -Wall -c plus.cc", Hit),
            gcc("$B gcc-12 -Wall -c x.c", Hit),
            gcc("$B x86_64-linux-gnu-gcc -Wall -c x.c", Hit),
            clang("$B clang-14 -Wall -c x.c", Hit),
            clang("$B clang++-14 -c plus.cc", Hit),
        ],
    },
    Group {
        name: "compilers_behind_programs",
        tree: &[
            ("x.c", "int x(int a) { int unused; return a; }\n"),
            ("bin/gcc", "#!/bin/sh\nexec /usr/bin/gcc -DSCRIPT \"$@\"\n"),
            ("bin/clang", "#!/bin/sh\nexec /usr/bin/clang -DSCRIPT \"$@\"\n"),
            ("bin/mycc", "#!/bin/sh\nexec /usr/bin/gcc \"$@\"\n"),
            ("bin/lie", "-> /usr/bin/env"),
        ],
        cases: &[
            both("$B bin/$CC -Wall -c x.c", Local("compiler-is-script")),
            both("PATH=$PWD/bin:$PATH; export PATH; $B $CC -Wall -c x.c", Local("compiler-is-script")),
            // Masquerade, and a script that calls barn again: no endless round.
            both("PATH=$PWD/bin:$M:$PATH; export PATH; $B $CC -Wall -c x.c", Local("compiler-is-script")),
            both("$B ccache $CC -Wall -c x.c", Local("compiler-wrapper")),
            both("PATH=/usr/lib/ccache:$PATH; export PATH; $B $CC -Wall -c x.c", Local("compiler-wrapper")),
            both("export CCACHE_DISABLE=1; ccache ${B:-env} $CC -Wall -c x.c", Hit),
            gcc("ln -s /usr/bin/ccache bin/cc; $B bin/cc -Wall -c x.c", Local("compiler-wrapper")),
            gcc("$B bin/mycc -Wall -c x.c", Local("unknown-compiler")),
            // A file that is really called so is asked what it is.
            gcc("cp bin/mycc bin/cc; $B bin/cc -Wall -c x.c", Local("compiler-is-script")),
            gcc("cp /bin/true bin/cc; $B bin/cc -Wall -c x.c", Local("unknown-compiler")),
            gcc("$B bin/lie true", Local("unknown-compiler")),
            gcc("$B /bin/echo -c x.c", Local("unknown-compiler")),
            gcc("$B gcc-ar rc out.a x.c", Local("unknown-compiler")),
        ],
    },
    Group {
        name: "compiler_upgraded_in_place",
        tree: &[
            ("x.c", "int x(void) { return __VERSION__[0]; }\n"),
            ("bin/", ""),
            ("lib/gcc", "-> /usr/lib/gcc"),
            ("lib/llvm-14/lib", "-> /usr/lib/llvm-14/lib"),
            ("lib/llvm-14/bin/", ""),
        ],
        cases: &[
            // The driver looks for its parts beside itself.
            gcc("[ -e bin/cc ] || cp /usr/bin/gcc bin/cc; $B \"$PWD/bin/cc\" -c x.c", Hit)
                .looks_around()
                .steps(&[
                    ("true", Again),
                    ("cp bin/cc new; printf x >> new; mv new bin/cc", Miss),
                    ("printf y >> bin/cc", Miss),
                    ("true", Again),
                ]),
            clang(
                "[ -e lib/llvm-14/bin/clang ] || cp /usr/lib/llvm-14/bin/clang lib/llvm-14/bin; \
                 $B \"$PWD/lib/llvm-14/bin/clang\" -c x.c",
                Hit,
            )
            .looks_around()
            .steps(&[
                ("true", Again),
                ("cd lib/llvm-14/bin; cp clang new; printf x >> new; mv new clang", Miss),
                ("printf y >> lib/llvm-14/bin/clang", Miss),
                ("true", Again),
            ]),
            // A link that is turned, as by update-alternatives.
            gcc("[ -e bin/cc ] || ln -s /usr/bin/gcc bin/cc; $B \"$PWD/bin/cc\" -c x.c", Hit)
                .looks_around()
                .steps(&[("ln -sfn /usr/bin/clang bin/cc", Miss), ("ln -sfn /usr/bin/gcc bin/cc", Again)]),
        ],
    },
    Group {
        name: "parallel",
        tree: TREE,
        cases: &[both("for n in $(seq 100); do $B $CC -DN=$n -c x.c -o out/$n.o & done; wait", Hits(100))],
    },
    Group {
        name: "autoconf_probes",
        tree: &[
            ("conftest.c", "#include <no/such/header.h>\nint main(void) { return 0; }\n"),
            ("decl.c", "int main(void) { return no_such_thing; }\n"),
            (
                "size.c",
                "static int test[1 - 2 * !(sizeof(long) == 3)];\nint main(void) { return test[0]; }\n",
            ),
        ],
        cases: &[
            both("$B $CC -c -g -O2 conftest.c 5>log >&5", Local("dependency-run")),
            both("$B $CC -c -g -O2 decl.c", Failed),
            both("$B $CC -c -g -O2 size.c", Failed),
            both("$B $CC -E decl.c", Other),
            both("$B $CC -o conftest decl.c -lnone", Local("compile-and-link")),
            both(
                "for n in $(seq 40); do echo \"char f$n(); int main() { return g$n(1)->x; }\" > conftest.c; \
                 $B $CC -c conftest.c; echo $?; rm -f conftest.*; done",
                Failures(40),
            ),
        ],
    },
];
