//! Command lines and what becomes of them.

use std::collections::BTreeMap;

use barn_compilers::{
    Compile, Environment, Family, Invocation, Request, SideKind, classify, dependency_argv,
};

fn words(line: &str) -> Vec<Vec<u8>> {
    line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect()
}

fn no_files(_: &[u8]) -> Option<Vec<u8>> {
    None
}

fn run(family: Family, line: &str, env: &Environment, terminal: bool) -> Invocation {
    let args = words(line);
    let (program, args) = args.split_first().expect("a program");
    let request = Request {
        family,
        program_name: program,
        args,
        env,
        cwd: b"/work",
        pwd_names_cwd: true,
        stderr_is_terminal: terminal,
    };
    classify(&request, &no_files)
}

fn plain(family: Family, line: &str) -> Invocation {
    run(family, line, &BTreeMap::new(), false)
}

/// `ok`, `cache NAME`, `local NAME` or `other NAME`.
fn verdict(invocation: &Invocation) -> String {
    match invocation {
        Invocation::Distributable(_) => "ok".to_owned(),
        Invocation::CacheOnly(_, reason) => format!("cache {}", reason.kind.name()),
        Invocation::Local(reason) => format!("local {}", reason.kind.name()),
        Invocation::Rust(_) | Invocation::RustQuestion(_) => "rust".to_owned(),
        Invocation::Other(kind) => format!("other {}", kind.name()),
    }
}

fn check(family: Family, cases: &[(&str, &str)]) {
    for (line, expect) in cases {
        assert_eq!(verdict(&plain(family, line)), *expect, "{family}: {line}");
    }
}

fn both(cases: &[(&str, &str)]) {
    check(Family::Gcc, cases);
    let clang: Vec<(String, &str)> = cases
        .iter()
        .map(|(line, expect)| {
            let line = line.replacen("g++", "clang++", 1).replacen("gcc", "clang", 1);
            (line, *expect)
        })
        .collect();
    for (line, expect) in &clang {
        assert_eq!(verdict(&plain(Family::Clang, line)), *expect, "clang: {line}");
    }
}

#[track_caller]
fn compile(family: Family, line: &str) -> Compile {
    match plain(family, line) {
        Invocation::Distributable(compile) | Invocation::CacheOnly(compile, _) => *compile,
        other => panic!("{line}: {other:?}"),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn ordinary_compiles() {
    both(&[
        ("gcc -c x.c", "ok"),
        ("gcc -c x.c -o x.o", "ok"),
        ("gcc -ox.o -c x.c", "ok"),
        ("gcc -S x.c", "ok"),
        ("gcc -c -fsyntax-only x.c", "ok"),
        ("gcc -S -fsyntax-only x.c", "ok"),
        ("gcc -O2 -g -Wall -Wextra -Werror -std=gnu11 -fPIC -DNDEBUG -Iinc -isystem sys -c x.c", "ok"),
        ("g++ -c x.cc -std=c++20 -fno-exceptions -fvisibility=hidden -MD -MF x.d -MT x.o", "ok"),
        ("gcc -D X=1 -U Y -I inc -include pre.h -imacros m.h -c x.c", "ok"),
        ("gcc -x c -c weird.suffix", "ok"),
        ("gcc -xc++ -c x.c", "ok"),
        ("gcc -x c++ -x none -c x.c", "ok"),
        ("gcc -c x.m", "ok"),
        ("gcc -c x.mm", "ok"),
        ("gcc -c x.S -D__ASSEMBLY__", "ok"),
        ("gcc -x assembler-with-cpp -c x.s", "ok"),
        ("gcc -c x.c -lfoo -Lbar -Wl,--as-needed -pthread -shared", "ok"),
        ("gcc -c x.c -Wa,--noexecstack -pipe", "ok"),
        ("gcc -Wp,-MMD,.x.o.d -nostdinc -c x.c -o x.o", "ok"),
        ("gcc -Wp,-D_FORTIFY_SOURCE=2,-UX -c x.c", "ok"),
        ("gcc -march=x86-64-v3 -mtune=generic -mno-sse -m64 -c x.c", "ok"),
        ("gcc -c x.c --param max-inline-insns-single=100 --param=foo=1", "ok"),
        ("gcc -ffile-prefix-map=/a=/b -fdebug-prefix-map=/c=d -fmacro-prefix-map=x=y -c x.c", "ok"),
        ("gcc -frandom-seed=x -flto=auto -fno-fat-lto-objects -c x.c", "ok"),
        ("gcc -gsplit-dwarf -fstack-usage --coverage -c x.c", "ok"),
        ("gcc -fdiagnostics-format=json -c x.c", "ok"),
        ("gcc -MD -MF /dev/null -c x.c", "ok"),
        ("gcc -MP -MMD -MQ x.o -c x.c", "ok"),
    ]);
}

#[test]
fn what_is_no_compile() {
    both(&[
        ("gcc", "other no-input"),
        ("gcc -O2", "other no-input"),
        ("gcc -v", "other query"),
        ("gcc --version", "other query"),
        ("gcc -dumpversion", "other query"),
        ("gcc -dumpmachine -c x.c", "other query"),
        ("gcc -print-file-name=libgcc.a", "other query"),
        ("gcc -print-search-dirs", "other query"),
        ("gcc --help=optimizers", "other query"),
        ("gcc -### -c x.c", "other query"),
        ("gcc -E x.c", "other preprocess"),
        ("gcc -c -E -dM x.c", "other preprocess"),
        ("gcc -M x.c", "other preprocess"),
        ("gcc -MM -MD -c x.c", "other preprocess"),
        ("gcc -E -", "other preprocess"),
        ("gcc -o prog x.o y.o -lm", "other link"),
        ("gcc -shared -o l.so x.o --brand-new", "other link"),
        ("gcc -c notes.txt", "other link"),
    ]);
}

#[test]
fn shapes_that_stay_local() {
    both(&[
        ("gcc x.c -o prog", "local compile-and-link"),
        ("gcc x.c y.o -o prog", "local compile-and-link"),
        ("gcc -c x.c y.c", "local multiple-sources"),
        ("gcc -c x.c y.o", "local extra-inputs"),
        ("gcc -c -S x.c", "local conflicting-modes"),
        ("gcc -x c -c -", "local standard-input"),
        ("gcc -c -", "local standard-input"),
        ("gcc -x c -c /dev/stdin", "local standard-input"),
        ("gcc -c x.c -o -", "local special-output"),
        ("gcc -c x.c -o /dev/null", "local special-output"),
        ("gcc -c x.c -o dir/", "local special-output"),
        ("gcc -MD -MF - -c x.c", "local special-output"),
        ("gcc -MD -MF /dev/stdout -c x.c", "local special-output"),
        ("gcc -c x.c -o a.o -o b.o", "local repeated-output"),
        ("gcc -MD -c x.c -o out/.hidden", "local output-name"),
        ("gcc -c x.i", "local preprocessed-source"),
        ("gcc -c x.mii", "local preprocessed-source"),
        ("gcc -x cpp-output -c x.c", "local preprocessed-source"),
        ("gcc -fpreprocessed -c x.c", "local preprocessed-source"),
        ("gcc -c x.h", "local precompiled-header"),
        ("gcc -x c++-header -c x.hpp -o x.hpp.gch", "local precompiled-header"),
        ("gcc -c x.f90", "local language"),
        ("gcc -x cuda -c x.c", "local language"),
        ("gcc -x nonsense -c x.c", "local language"),
        ("gcc -c x.c -o", "local malformed-arguments"),
        ("gcc -v -c x.c", "local verbose"),
        ("gcc -S -gsplit-dwarf x.c", "local extra-output-file"),
        ("gcc -c -fsyntax-only -fstack-usage x.c", "local extra-output-file"),
    ]);
}

#[test]
fn flags_that_stay_local() {
    both(&[
        ("gcc -c x.c --brand-new-flag", "local unknown-flag"),
        ("gcc -c x.c -fbrand-new-flag=file", "local unknown-flag"),
        ("gcc -c x.c -gbrand-new", "local unknown-flag"),
        ("gcc -c x.c -imysterious dir", "local unknown-flag"),
        ("gcc -c x.c -march=native", "local native-cpu"),
        ("gcc -c x.c -mtune=native", "local native-cpu"),
        ("gcc -c x.c -mcpu=native", "local native-cpu"),
        ("gcc -c x.c -fplugin=p.so", "local plugin"),
        ("gcc -c x.c -fplugin-arg-p-x=1", "local plugin"),
        ("gcc -c x.c -specs=f", "local specs"),
        ("gcc -c x.c -B/opt/bin", "local specs"),
        ("gcc -c x.c -wrapper gdb,--args", "local specs"),
        ("gcc -c x.c -fprofile-use", "local profile-input"),
        ("gcc -c x.c -fprofile-use=x.profdata", "local profile-input"),
        ("gcc -c x.c -fauto-profile=x", "local profile-input"),
        ("gcc -c x.c --coverage -fprofile-dir=d", "local profile-output"),
        ("gcc -c x.c -save-temps=obj", "local save-temps"),
        ("gcc -c x.c -fsave-optimization-record", "local optimization-record"),
        ("gcc -c x.c -ftime-report", "local timing"),
        ("gcc -c x.c -time", "local timing"),
        ("gcc -c x.c -fdump-tree-all", "local dump"),
        ("gcc -c x.c -dA", "local dump"),
        ("gcc -c x.c -dumpbase y", "local dump-name"),
        ("gcc -c x.c -MD -MG", "local missing-headers"),
        ("gcc -c x.c -fmodules", "local modules"),
        ("gcc -c x.c -fmodules-ts", "local modules"),
        ("gcc -c x.c -fpch-preprocess", "local precompiled-header"),
        ("gcc -c x.c -Wa,-adhln=x.lst", "local pass-through"),
        ("gcc -c x.c -Xassembler --noexecstack", "local pass-through"),
        ("gcc -c x.c -Xpreprocessor -DX", "local pass-through"),
        ("gcc -c x.c -Wp,-I,dir", "local pass-through"),
        ("gcc -c x.c -Wp,-MD,x.d,-MP", "local pass-through"),
        ("gcc -c x.c -Wp,-MD,x.d -MMD", "local dependency-format"),
        ("gcc -c x.c -MF y.d -Wp,-MD,x.d", "local dependency-format"),
        ("gcc -c x.c -mllvm -stats", "local pass-through"),
        ("gcc -c x.c -fdiagnostics-format=sarif-file", "local extra-output-file"),
        ("gcc -c x.c -fdiagnostics-add-output=sarif", "local extra-output-file"),
    ]);
}

#[test]
fn gcc_alone() {
    check(
        Family::Gcc,
        &[
            ("gcc -fsyntax-only x.c -MD", "local compile-and-link"),
            ("gcc -c x.c --sysroot=/sdk", "ok"),
            ("gcc -c x.c -isysroot /sdk", "ok"),
            ("gcc -c x.c -fsanitize=address,undefined", "ok"),
            ("gcc -c x.c -fcallgraph-info=su,da", "ok"),
            ("gcc -c x.c -fopt-info-vec", "ok"),
            ("gcc -c x.c -fopt-info-vec=vec.txt", "local extra-output-file"),
            ("gcc -c x.c -frecord-gcc-switches", "ok"),
            ("gcc -c x.c -fmodulo-sched", "ok"),
            ("gcc -c -- x.c", "local unknown-flag"),
            ("gcc -c x.c -Xclang -fno-x", "local unknown-flag"),
            ("gcc -c x.c -aux-info f", "local extra-output-file"),
            ("gcc -c x.c -no-canonical-prefixes", "cache canonical-prefix"),
            ("gcc -c x.s", "cache plain-assembler"),
            ("g++ -c x.CC", "other link"),
            ("c99-gcc -c x.c", "ok"),
            ("cpp x.c", "other preprocess"),
        ],
    );
}

#[test]
fn clang_alone() {
    check(
        Family::Clang,
        &[
            ("clang -fsyntax-only x.c -MD", "ok"),
            ("clang -c -- x.c", "ok"),
            ("clang -c x.c --serialize-diagnostics x.dia", "ok"),
            ("clang -c x.c -Xclang -fno-spell-checking", "ok"),
            ("clang -c x.c -Xclang -load", "local pass-through"),
            ("clang -c x.c -Xclang -mlink-bitcode-file", "local pass-through"),
            ("clang -c x.c -Xclang -fbuiltin-module-map", "local pass-through"),
            ("clang -c x.c -Rpass=inline -Qunused-arguments", "ok"),
            ("clang -c x.c -fdebug-compilation-dir .", "ok"),
            ("clang -c x.c -emit-llvm", "ok"),
            ("clang -c x.c --target=aarch64-linux-gnu", "cache cross-target"),
            ("clang -c x.c -m32", "cache cross-target"),
            ("clang -c x.c --sysroot=/sdk", "cache sysroot"),
            ("clang -c x.c -isysroot /sdk", "cache sysroot"),
            ("clang -c x.c -fsanitize=address", "cache sanitizer-list"),
            ("clang -c x.c -fsanitize=address -fsanitize-ignorelist=l", "local extra-input-file"),
            ("clang -c x.c -arch arm64 -arch x86_64", "local cross-target"),
            ("clang -c x.c -include-pch x.pch", "local precompiled-header"),
            ("clang -c x.c -fno-integrated-as", "local external-assembler"),
            ("clang -c x.c -fcallgraph-info", "local unknown-flag"),
            ("clang -c x.c -ftime-trace", "local timing"),
            ("clang -c x.c -MJ x.json", "local extra-output-file"),
            ("clang -c x.c -fbasic-block-sections=labels", "ok"),
            ("clang -c x.c -fbasic-block-sections=list=f", "local extra-input-file"),
            ("clang -MV -MD -c x.c", "local dependency-format"),
            ("clang -c x.c --config f", "local specs"),
            ("clang -cc1 -c x.c", "local unknown-flag"),
            ("clang --analyze x.c", "local unusual-mode"),
            ("clang -c x.c -gembed-source", "local embedded-source"),
            ("clang -c x.c -working-directory=d", "local working-directory"),
            ("clang-cl -c x.c", "local unsupported-driver"),
            ("clang++ -c x.CC", "ok"),
        ],
    );
}

#[test]
fn other_families() {
    check(Family::Rustc, &[("rustc x.rs", "local crate-outputs")]);
    check(Family::Cc, &[("cc -c x.c", "local unknown-compiler")]);
    check(Family::Unknown, &[("tcc -c x.c", "local unknown-compiler")]);
}

#[test]
fn the_reason_names_the_flag() {
    for (line, expect) in [
        ("gcc -c x.c --brand-new", ": --brand-new"),
        ("gcc -c x.c -march=native", ": -march=native"),
        ("gcc -c x.c -Wa,-a,-b", ": -Wa,-a,-b"),
        ("gcc -c - -x c", ": -"),
    ] {
        let Invocation::Local(reason) = plain(Family::Gcc, line) else { panic!("{line} is local") };
        assert!(reason.to_string().ends_with(expect), "{reason}");
    }
}

fn names(family: Family, line: &str, output: Option<&str>, sides: &[&str]) {
    let compile = compile(family, line);
    assert_eq!(compile.output.as_deref().map(text).as_deref(), output, "{line}");
    let found: Vec<String> = compile.side_outputs.iter().map(|side| text(&side.path)).collect();
    assert_eq!(found, sides, "{line}");
}

#[test]
fn outputs_are_named() {
    names(Family::Gcc, "gcc -c dir/x.c", Some("x.o"), &[]);
    names(Family::Gcc, "gcc -c a.b.c", Some("a.b.o"), &[]);
    names(Family::Gcc, "gcc -x c -c dir/noext", Some("noext.o"), &[]);
    names(Family::Gcc, "gcc -S dir/x.c", Some("x.s"), &[]);
    names(Family::Gcc, "gcc -c -fsyntax-only x.c -o x.o", None, &[]);
    names(Family::Gcc, "gcc -c x.c -o out/foo.c.o -MD", Some("out/foo.c.o"), &["out/foo.c.d"]);
    names(Family::Gcc, "gcc -c dir/x.c -MMD", Some("x.o"), &["x.d"]);
    names(Family::Gcc, "gcc -c -fsyntax-only dir/x.c -MMD", None, &["x.d"]);
    names(Family::Clang, "clang -fsyntax-only dir/x.c -MMD", None, &["x.d"]);
    names(Family::Gcc, "gcc -c x.c -o y.o -MD -MF deps/z", Some("y.o"), &["deps/z"]);
    names(Family::Gcc, "gcc -c x.c -o y.o -MF z.d", Some("y.o"), &[]);
    names(Family::Gcc, "gcc -c x.c -MD -MF /dev/null", Some("x.o"), &[]);
    names(Family::Gcc, "gcc -c x.c -Wp,-MMD,.x.o.d", Some("x.o"), &[".x.o.d"]);
    names(
        Family::Gcc,
        "gcc -c x.c -o d/y.o -gsplit-dwarf -fstack-usage --coverage -fcallgraph-info",
        Some("d/y.o"),
        &["d/y.dwo", "d/y.su", "d/y.gcno", "d/y.ci"],
    );
    names(Family::Clang, "clang -c x.c -emit-llvm", Some("x.bc"), &[]);
    names(Family::Clang, "clang -S x.c -emit-llvm", Some("x.ll"), &[]);
    names(Family::Clang, "clang -c x.c --serialize-diagnostics d.dia", Some("x.o"), &["d.dia"]);
}

#[test]
fn depfiles_are_described() {
    let system = |line| compile(Family::Gcc, line).depfile.map(|depfile| depfile.system_headers);
    assert_eq!(system("gcc -c x.c"), None);
    assert_eq!(system("gcc -MD -c x.c"), Some(true));
    assert_eq!(system("gcc -MMD -c x.c"), Some(false));
    assert_eq!(system("gcc -MD -MMD -c x.c"), Some(false));
    assert_eq!(system("gcc -MMD -MD -c x.c"), Some(false));
    assert_eq!(system("gcc -Wp,-MD,x.d -c x.c"), Some(true));
    let side = &compile(Family::Gcc, "gcc -MD -c x.c").side_outputs[0];
    assert_eq!((side.kind, side.optional), (SideKind::Depfile, false));
}

#[test]
fn dependency_runs() {
    let check = |family, line: &str, expect: &str| {
        let argv = dependency_argv(&compile(family, line)).expect("preprocessed");
        assert_eq!(argv, words(expect), "{line}");
    };
    check(Family::Gcc, "gcc -c x.c", "-E -w -MD -MF /dev/stdout -o /dev/null x.c");
    check(
        Family::Gcc,
        "gcc -O2 -MD -MP -MF x.d -MT y -Iinc -o x.o -fstack-usage -x c -c x.y --coverage -include p.h",
        "-E -w -MD -MF /dev/stdout -o /dev/null -O2 -Iinc -x c x.y -include p.h",
    );
    check(
        Family::Gcc,
        "gcc -Wp,-MMD,x.d -Wp,-DX -fdiagnostics-color=always -c x.c",
        "-E -w -MD -MF /dev/stdout -o /dev/null -Wp,-DX x.c",
    );
    check(Family::Clang, "clang --serialize-diagnostics x.dia -emit-llvm -c -- x.c", "-M -- x.c");
    let assembler = compile(Family::Gcc, "gcc -c x.s");
    assert_eq!(dependency_argv(&assembler), None);
}

#[test]
fn facts_for_the_node() {
    let compile = compile(
        Family::Gcc,
        "g++ -Ia -I b -isystem c -iquote d -include e.h -imacros f.h -DT=__TIME__ -c x.c",
    );
    assert_eq!(compile.include_directories, words("a b c d"));
    assert_eq!(compile.forced_includes, words("e.h f.h"));
    assert!(compile.time_macros);
    assert_eq!(compile.language.name(), "c++");
    assert_eq!(compile.source, b"x.c");
}

fn env(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

#[test]
fn colours() {
    let argv =
        |family, line: &str, pairs: &[(&str, &str)], terminal| match run(family, line, &env(pairs), terminal)
        {
            Invocation::Distributable(compile) => {
                compile.argv.iter().map(|arg| text(arg)).collect::<Vec<_>>().join(" ")
            }
            other => verdict(&other),
        };
    let xterm: &[(&str, &str)] = &[("TERM", "xterm")];
    let gcc = |line: &str| argv(Family::Gcc, line, xterm, true);
    assert_eq!(gcc("gcc -c x.c"), "-fdiagnostics-color=always -c x.c");
    assert_eq!(gcc("gcc -c x.c -fdiagnostics-color=never"), "-c x.c -fdiagnostics-color=never");
    assert_eq!(
        gcc("gcc -fdiagnostics-color=auto -c x.c"),
        "-fdiagnostics-color=auto -fdiagnostics-color=always -c x.c"
    );
    assert_eq!(argv(Family::Gcc, "gcc -c x.c", xterm, false), "-c x.c");
    assert_eq!(argv(Family::Gcc, "gcc -c x.c", &[("TERM", "dumb")], true), "-c x.c");
    let clang = |line: &str, pairs: &[(&str, &str)]| argv(Family::Clang, line, pairs, true);
    assert_eq!(clang("clang -c -- x.c", xterm), "-fcolor-diagnostics -c -- x.c");
    assert_eq!(
        clang("clang -c x.c", &[("TERM", "xterm"), ("COLUMNS", "60")]),
        "-fcolor-diagnostics -fmessage-length=60 -c x.c"
    );
    assert_eq!(clang("clang -c x.c -frecord-command-line", xterm), "local recorded-command-line");
    assert_eq!(
        argv(Family::Clang, "clang -c x.c -frecord-command-line", xterm, false),
        "-c x.c -frecord-command-line"
    );
}

#[test]
fn environments() {
    let check = |pairs: &[(&str, &str)], expect: &str| {
        let invocation = run(Family::Gcc, "gcc -c x.c", &env(pairs), false);
        assert_eq!(verdict(&invocation), expect, "{pairs:?}");
    };
    check(&[("PWD", "/work"), ("HOME", "/root"), ("PATH", "/bin")], "ok");
    check(&[("PWD", "/link")], "cache logical-directory");
    check(&[("DEPENDENCIES_OUTPUT", "x")], "local environment");
    check(&[("GCC_EXEC_PREFIX", "/opt/")], "local environment");
    let compile = run(Family::Gcc, "gcc -c x.c", &env(&[("LANG", "C"), ("SECRET", "x")]), false);
    let Invocation::Distributable(compile) = compile else { panic!("distributable") };
    assert_eq!(compile.env, env(&[("LANG", "C")]));
}

#[test]
fn response_files() {
    let files = |path: &[u8]| match path {
        b"args" => Some(b"-O2 \"-DX=a b\"\n-o x.o @more".to_vec()),
        b"more" => Some(b"-MD".to_vec()),
        b"odd" => Some(b"trailing\\".to_vec()),
        _ => None,
    };
    let env = BTreeMap::new();
    let run = |line: &str| {
        let args = words(line);
        let request = Request {
            family: Family::Gcc,
            program_name: b"gcc",
            args: &args,
            env: &env,
            cwd: b"/work",
            pwd_names_cwd: false,
            stderr_is_terminal: false,
        };
        classify(&request, &files)
    };
    let Invocation::Distributable(compile) = run("-c @args x.c") else { panic!("distributable") };
    let expect: Vec<Vec<u8>> =
        [&b"-c"[..], b"-O2", b"-DX=a b", b"-o", b"x.o", b"-MD", b"x.c"].map(<[u8]>::to_vec).to_vec();
    assert_eq!(compile.argv, expect);
    assert_eq!(compile.side_outputs[0].path, b"x.d");
    assert_eq!(verdict(&run("-c x.c @odd")), "local response-file");
    assert_eq!(verdict(&run("-c x.c @missing")), "local extra-inputs");
}
