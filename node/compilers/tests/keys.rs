//! What of a command line and its environment becomes part of an action's key, and what cannot.

use std::collections::BTreeMap;

use barn_compilers::{Compile, Environment, Family, Invocation, Request, Shown, classify};
use proptest::{collection::vec, prelude::*, sample::select};

/// Where the test's directories are missing.
const MISSING: &[u8] = b"gone";

fn words(line: &str) -> Vec<Vec<u8>> {
    line.split(' ').filter(|word| !word.is_empty()).map(|word| word.as_bytes().to_vec()).collect()
}

fn compile_of(family: Family, args: &[Vec<u8>], env: &Environment, terminal: bool) -> Option<Compile> {
    let request = Request {
        family,
        program_name: if family == Family::Gcc { b"gcc" } else { b"clang" },
        args,
        env,
        cwd: b"/work",
        pwd_names_cwd: true,
        stderr_is_terminal: terminal,
    };
    let response = |name: &[u8]| (name == b"flags").then(|| b"-O2 -Iinc\n'-DTEXT=\"a b\"'".to_vec());
    match classify(&request, &response) {
        Invocation::Distributable(compile) | Invocation::CacheOnly(compile, _) => Some(*compile),
        _ => None,
    }
}

#[track_caller]
fn compile(family: Family, line: &str) -> Compile {
    compile_of(family, &words(line), &BTreeMap::new(), false).unwrap_or_else(|| panic!("{line}: no compile"))
}

/// What of a compile goes into its key, toolchain, directory and inputs apart.
type Keyed = (Vec<Vec<u8>>, Environment, Option<Vec<u8>>, Vec<(Vec<u8>, bool)>);

fn keyed(compile: &Compile, shown: Shown) -> Keyed {
    let argv = compile.essential_argv(shown, |directory| directory.starts_with(MISSING));
    let sides = compile.side_outputs.iter().map(|side| (side.path.clone(), side.optional)).collect();
    (argv, compile.env.clone(), compile.output.clone(), sides)
}

fn families() -> impl Strategy<Value = Family> {
    select(vec![Family::Gcc, Family::Clang])
}

/// Variables with which compilers, build systems and shells are surrounded, and any others.
fn idle_variable() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let known = select(vec![
        "MAKEFLAGS",
        "MFLAGS",
        "MAKELEVEL",
        "TERM",
        "COLORTERM",
        "COLUMNS",
        "LINES",
        "TMPDIR",
        "HOME",
        "PATH",
        "USER",
        "SHLVL",
        "OLDPWD",
        "NINJA_STATUS",
        "CCACHE_DIR",
        "LC_NUMERIC",
        "LC_TIME",
        "TZ",
        "DISPLAY",
        "LIBRARY_PATH",
    ]);
    let name = prop_oneof![known.prop_map(str::to_owned), "X[A-Z_]{1,8}"];
    (name, vec(1_u8..=255, 0..12)).prop_map(|(name, value)| (name.into_bytes(), value))
}

/// A flag for a directory that is not there, as one word or two.
fn missing_directory() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let name = select(vec!["-I", "-isystem", "-iquote", "-idirafter"]);
    (name, any::<bool>(), "gone[a-z/]{0,4}").prop_map(|(name, joined, directory)| {
        if joined { words(&format!("{name}{directory}")) } else { words(&format!("{name} {directory}")) }
    })
}

/// Flags of an ordinary compile, in groups that belong together.
fn groups(line: &str) -> Vec<Vec<Vec<u8>>> {
    line.split(" | ").map(words).collect()
}

const ORDINARY: &str =
    "-O2 | -g | -Wall | -Iinc | -isystem sys | -DX=1 | -MD | -MF x.d | -c | x.c | -o x.o | -std=c99";

proptest! {
    #[test]
    fn variables_off_the_list_do_not_count(
        family in families(), idle in vec(idle_variable(), 0..6), terminal in any::<bool>()
    ) {
        let args = words("-O2 -c x.c");
        let plain = compile_of(family, &args, &BTreeMap::new(), false).expect("a compile");
        let env: Environment = idle.into_iter().collect();
        let other = compile_of(family, &args, &env, terminal).expect("a compile");
        prop_assert_eq!(keyed(&plain, Shown::Plain), keyed(&other, Shown::Plain));
        if !terminal {
            prop_assert_eq!(keyed(&plain, Shown::AsAsked), keyed(&other, Shown::AsAsked));
        }
    }

    #[test]
    fn variables_on_the_list_count(
        family in families(),
        name in select(vec![
            "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "OBJC_INCLUDE_PATH", "OBJCPLUS_INCLUDE_PATH", "LANG",
            "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "SOURCE_DATE_EPOCH",
        ]),
        values in (vec(1_u8..=255, 0..4), vec(1_u8..=255, 0..4)),
    ) {
        let with = |value: &[u8]| {
            let env = [(name.as_bytes().to_vec(), value.to_vec())].into();
            keyed(&compile_of(family, &words("-c x.c"), &env, false).expect("a compile"), Shown::AsAsked)
        };
        prop_assert_eq!(values.0 == values.1, with(&values.0) == with(&values.1));
        prop_assert_ne!(with(&values.0), keyed(&compile(family, "-c x.c"), Shown::AsAsked));
    }

    /// Wherever they are put, and however many: for directories that are not there.
    #[test]
    fn directories_that_are_missing_do_not_count(
        family in families(),
        missing in vec((missing_directory(), any::<prop::sample::Index>()), 0..6),
        terminal in any::<bool>(),
    ) {
        let env = [(b"TERM".to_vec(), b"xterm".to_vec())].into();
        let plain = compile_of(family, &groups(ORDINARY).concat(), &env, terminal).expect("a compile");
        let mut all = groups(ORDINARY);
        for (flag, at) in missing {
            all.insert(at.index(all.len() + 1), flag);
        }
        let other = compile_of(family, &all.concat(), &env, terminal).expect("a compile");
        for shown in [Shown::AsAsked, Shown::Plain] {
            prop_assert_eq!(keyed(&plain, shown), keyed(&other, shown));
        }
        prop_assert_eq!(&other.argv[..other.presentation.len()], &other.presentation[..]);
    }

    /// Every byte of every argument counts, as do their order and number.
    #[test]
    fn every_byte_of_an_argument_counts(
        family in families(), word in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(), new in 1_u8..=255
    ) {
        let args = groups(ORDINARY).concat();
        let own = keyed(&compile_of(family, &args, &BTreeMap::new(), false).expect("a compile"), Shown::AsAsked);
        let at = word.index(args.len());
        let mut changed = args.clone();
        let place = byte.index(changed[at].len());
        changed[at][place] = new;
        let mut longer = args.clone();
        longer[at].push(new);
        let mut fewer = args.clone();
        fewer.remove(at);
        let mut turned = args.clone();
        turned.rotate_left(at);
        for other in [changed, longer, fewer, turned] {
            // What is no compile any more has no key.
            if let Some(compile) = compile_of(family, &other, &BTreeMap::new(), false) {
                let all_kept = compile.silent_directories.iter().all(|(_, name)| !name.starts_with(MISSING));
                prop_assert!(all_kept && (keyed(&compile, Shown::AsAsked) == own) == (other == args));
            }
        }
    }

    /// A terminal, whatever its kind and width, adds flags and takes nothing away.
    #[test]
    fn terminals_have_one_plain_form(
        family in families(), term in "(xterm|dumb|linux|vt100)?", columns in "[0-9]{0,3}", auto in any::<bool>()
    ) {
        let args = words(if auto { "-Wall -fdiagnostics-color=auto -Igone -c x.c" } else { "-Wall -c x.c -Igone" });
        let env: Environment = [("TERM", term), ("COLUMNS", columns)]
            .map(|(name, value)| (name.as_bytes().to_vec(), value.into_bytes()))
            .into();
        let none = compile_of(family, &args, &env, false).expect("a compile");
        let some = compile_of(family, &args, &env, true).expect("a compile");
        prop_assert_eq!(keyed(&none, Shown::AsAsked), keyed(&some, Shown::Plain));
        let shown = some.essential_argv(Shown::AsAsked, |_| false);
        let mut rest = shown.iter().filter(|word| !some.presentation.contains(word));
        prop_assert!(args.iter().all(|word| rest.next() == Some(word)) && rest.next().is_none());
    }
}

#[test]
fn directories_that_somebody_asks_about_are_kept() {
    let check = |line: &str, kept: bool| {
        for family in [Family::Gcc, Family::Clang] {
            let Some(compile) = compile_of(family, &words(line), &BTreeMap::new(), false) else { continue };
            let argv = compile.essential_argv(Shown::AsAsked, |_| true);
            assert_eq!(argv == compile.argv, kept, "{family}: {line}");
        }
    };
    check("-c x.c -Igone", false);
    check("-c x.c -I gone -Wall -Wextra -Werror", false);
    check("-c x.c -Igone -Wmissing-include-dirs", true);
    check("-Werror=missing-include-dirs -Igone -c x.c", true);
    check("-Wno-error=missing-include-dirs -Igone -c x.c", true);
    check("-Weverything -Igone -c x.c", true);
    check("-c x.c -I=gone", true);
    check("-c x.c -I$gone", true);
    check("-c x.S -Igone", true);
    check("-c x.c -Fgone", true);
    check("-c x.c -include gone", true);
    check("-frecord-gcc-switches -Igone -c x.c", true);
}

#[test]
fn response_files_are_what_they_hold() {
    for family in [Family::Gcc, Family::Clang] {
        let args =
            [words("@flags -c x.c"), vec![b"-O2".to_vec(), b"-Iinc".to_vec(), b"-DTEXT=\"a b\"".to_vec()]];
        let held = compile_of(family, &args[0], &BTreeMap::new(), false).expect("a compile");
        let written = [&args[1][..], &words("-c x.c")].concat();
        let written = compile_of(family, &written, &BTreeMap::new(), false).expect("a compile");
        assert_eq!(keyed(&held, Shown::AsAsked), keyed(&written, Shown::AsAsked));
    }
}
