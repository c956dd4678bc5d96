//! What holds for every command line.

use std::collections::BTreeMap;

use barn_compilers::{Environment, Family, Invocation, Request, classify, dependency_argv};
use proptest::prelude::*;

fn request<'a>(family: Family, args: &'a [Vec<u8>], env: &'a Environment, terminal: bool) -> Request<'a> {
    Request {
        family,
        program_name: b"cc",
        args,
        env,
        cwd: b"/work",
        pwd_names_cwd: false,
        stderr_is_terminal: terminal,
    }
}

fn no_files(_: &[u8]) -> Option<Vec<u8>> {
    None
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::Gcc), Just(Family::Clang)]
}

/// Arguments of the kinds build systems write, and some they do not.
fn argument() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "-c",
        "-S",
        "-E",
        "-o",
        "x.o",
        "x.c",
        "y.cc",
        "-",
        "--",
        "-x",
        "c++",
        "-I",
        "inc",
        "-MD",
        "-MMD",
        "-MF",
        "-MP",
        "-Wp,-MD,d",
        "-Wp,-DX",
        "-Wall",
        "-O2",
        "-g",
        "-gsplit-dwarf",
        "-fPIC",
        "-fdiagnostics-color=auto",
        "-include",
        "-Xclang",
        "-march=native",
        "--coverage",
        "-fsanitize=address",
        "--sysroot",
        "-emit-llvm",
        "-D",
        "@file",
        "-v",
    ]);
    prop_oneof![
        6 => known.prop_map(|arg| arg.as_bytes().to_vec()),
        1 => "-[fgmWdMO-][a-z=,-]{0,12}".prop_map(String::into_bytes),
        1 => any::<Vec<u8>>(),
    ]
}

fn is_subsequence(short: &[Vec<u8>], long: &[Vec<u8>]) -> bool {
    let mut long = long.iter();
    short.iter().all(|wanted| long.any(|arg| arg == wanted))
}

fn compile_of(invocation: Invocation) -> Option<Box<barn_compilers::Compile>> {
    match invocation {
        Invocation::Distributable(compile) | Invocation::CacheOnly(compile, _) => Some(compile),
        Invocation::Rust(_) | Invocation::RustQuestion(_) | Invocation::Local(_) | Invocation::Other(_) => {
            None
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_of_the_user_is_dropped(
        family in family(),
        args in prop::collection::vec(argument(), 0..12),
        terminal: bool,
    ) {
        let env = BTreeMap::from([(b"TERM".to_vec(), b"xterm".to_vec())]);
        let invocation = classify(&request(family, &args, &env, terminal), &no_files);
        if let Some(compile) = compile_of(invocation) {
            prop_assert!(is_subsequence(&args, &compile.argv));
            prop_assert_eq!(compile.argv.len(), args.len() + compile.presentation.len());
            if let Some(argv) = dependency_argv(&compile) {
                // What asks for the list comes first.
                let asking = if family == Family::Clang { 1 } else { 7 };
                prop_assert!(is_subsequence(&argv[asking..], &args));
                prop_assert!(argv.contains(&compile.source));
            }
        }
    }

    #[test]
    fn an_unknown_flag_is_never_distributed(
        family in family(),
        mut args in prop::collection::vec(argument(), 0..8),
        at: prop::sample::Index,
    ) {
        args.insert(at.index(args.len() + 1), b"-zzz-unknown".to_vec());
        args.insert(at.index(args.len()), b"--zzz-unknown".to_vec());
        let env = BTreeMap::new();
        if let Some(compile) = compile_of(classify(&request(family, &args, &env, false), &no_files)) {
            // Only as some other flag's value, or after `--`.
            let value = compile.argv.windows(2).any(|pair| {
                pair[1].starts_with(b"--zzz") && pair[0].starts_with(b"-") && !pair[0].starts_with(b"-zzz")
            });
            prop_assert!(value || compile.argv.contains(&b"--".to_vec()), "{:?}", compile.argv);
        }
    }

    #[test]
    fn a_compile_with_one_unknown_flag_is_local(family in family(), name in "[a-z-]{3,20}") {
        let args = [b"-c".to_vec(), format!("--zz{name}").into_bytes(), b"x.c".to_vec()];
        let env = BTreeMap::new();
        let invocation = classify(&request(family, &args, &env, false), &no_files);
        prop_assert!(matches!(invocation, Invocation::Local(_)), "{:?}", invocation);
    }
}
