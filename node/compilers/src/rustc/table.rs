//! What rustc's options mean for a compile: `rustc --help -v` and `rustc -C help` of 1.95.

/// What an option means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Part of the key, no files of its own.
    Neutral,
    /// Shapes messages only, with its value.
    Presentation,
    /// `--error-format`, `--json`.
    Messages,
    CodegenOption,
    CrateName,
    CrateType,
    Emit,
    Extern,
    NativeLibrary,
    OutDir,
    /// `-o`.
    Output,
    Print,
    /// Prints something and compiles nothing.
    Query,
    Search,
    Sysroot,
    Target,
    Test,
    Unstable,
    /// `-v`.
    Verbose,
    /// Prints the version and compiles nothing.
    Version,
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub(super) struct Option {
    /// With its dashes.
    pub(super) name: &'static str,
    /// Whether it takes a value.
    pub(super) valued: bool,
    /// What it means.
    pub(super) effect: Effect,
}

const fn valued(name: &'static str, effect: Effect) -> Option {
    Option { name, valued: true, effect }
}

const fn plain(name: &'static str, effect: Effect) -> Option {
    Option { name, valued: false, effect }
}

/// All options but `-Z`'s and `-C`'s, sorted.
pub(super) const OPTIONS: &[Option] = &[
    valued("--allow", Effect::Neutral),
    valued("--cap-lints", Effect::Neutral),
    valued("--cfg", Effect::Neutral),
    valued("--check-cfg", Effect::Neutral),
    valued("--codegen", Effect::CodegenOption),
    valued("--color", Effect::Presentation),
    valued("--crate-name", Effect::CrateName),
    valued("--crate-type", Effect::CrateType),
    valued("--deny", Effect::Neutral),
    valued("--diagnostic-width", Effect::Presentation),
    valued("--edition", Effect::Neutral),
    valued("--emit", Effect::Emit),
    valued("--error-format", Effect::Messages),
    valued("--explain", Effect::Query),
    valued("--extern", Effect::Extern),
    valued("--forbid", Effect::Neutral),
    valued("--force-warn", Effect::Neutral),
    plain("--help", Effect::Query),
    valued("--json", Effect::Messages),
    valued("--out-dir", Effect::OutDir),
    valued("--print", Effect::Print),
    valued("--remap-path-prefix", Effect::Neutral),
    valued("--remap-path-scope", Effect::Neutral),
    valued("--sysroot", Effect::Sysroot),
    valued("--target", Effect::Target),
    plain("--test", Effect::Test),
    plain("--verbose", Effect::Verbose),
    plain("--version", Effect::Version),
    valued("--warn", Effect::Neutral),
    valued("-A", Effect::Neutral),
    valued("-C", Effect::CodegenOption),
    valued("-D", Effect::Neutral),
    valued("-F", Effect::Neutral),
    valued("-L", Effect::Search),
    plain("-O", Effect::Neutral),
    plain("-V", Effect::Version),
    valued("-W", Effect::Neutral),
    valued("-Z", Effect::Unstable),
    plain("-g", Effect::Neutral),
    plain("-h", Effect::Query),
    valued("-l", Effect::NativeLibrary),
    valued("-o", Effect::Output),
    plain("-v", Effect::Verbose),
    plain("-vV", Effect::Version),
];

/// What `--print` tells from the compiler's own files and its arguments alone.
const ANSWERS: &[&str] = &[
    "cfg",
    "crate-name",
    "file-names",
    "host-tuple",
    "split-debuginfo",
    "sysroot",
    "target-libdir",
    "target-list",
];

/// Whether what is printed depends on the compiler and its arguments alone. With `=PATH` a file is written.
pub(super) fn is_answer(kind: &[u8]) -> bool {
    ANSWERS.iter().any(|known| known.as_bytes() == kind)
}

/// What a codegen option means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codegen {
    /// Part of the key, no files of its own.
    Neutral,
    /// Part of the output's names.
    ExtraFilename,
    /// A directory of the user's, of which only matters whether there is one.
    Incremental,
    LinkArg,
    LinkArgs,
    Linker,
    LinkerFlavor,
    /// Hands words or files to LLVM.
    PassThrough,
    /// Known with a plain value; else a path.
    PluginLto,
    /// Names an input.
    ProfileUse,
    SaveTemps,
    SplitDebuginfo,
    TargetCpu,
}

/// The codegen options, sorted, with dashes for underscores as rustc reads them.
pub(super) const CODEGEN: &[(&str, Codegen)] = &[
    ("ar", Codegen::Neutral),
    ("code-model", Codegen::Neutral),
    ("codegen-units", Codegen::Neutral),
    ("collapse-macro-debuginfo", Codegen::Neutral),
    ("control-flow-guard", Codegen::Neutral),
    ("debug-assertions", Codegen::Neutral),
    ("debuginfo", Codegen::Neutral),
    ("default-linker-libraries", Codegen::Neutral),
    ("dwarf-version", Codegen::Neutral),
    ("embed-bitcode", Codegen::Neutral),
    ("extra-filename", Codegen::ExtraFilename),
    ("force-frame-pointers", Codegen::Neutral),
    ("force-unwind-tables", Codegen::Neutral),
    ("incremental", Codegen::Incremental),
    ("inline-threshold", Codegen::Neutral),
    ("instrument-coverage", Codegen::Neutral),
    ("jump-tables", Codegen::Neutral),
    ("link-arg", Codegen::LinkArg),
    ("link-args", Codegen::LinkArgs),
    ("link-dead-code", Codegen::Neutral),
    ("link-self-contained", Codegen::Neutral),
    ("linker", Codegen::Linker),
    ("linker-features", Codegen::Neutral),
    ("linker-flavor", Codegen::LinkerFlavor),
    ("linker-plugin-lto", Codegen::PluginLto),
    ("llvm-args", Codegen::PassThrough),
    ("lto", Codegen::Neutral),
    ("metadata", Codegen::Neutral),
    ("no-prepopulate-passes", Codegen::Neutral),
    ("no-redzone", Codegen::Neutral),
    ("no-stack-check", Codegen::Neutral),
    ("no-vectorize-loops", Codegen::Neutral),
    ("no-vectorize-slp", Codegen::Neutral),
    ("opt-level", Codegen::Neutral),
    ("overflow-checks", Codegen::Neutral),
    ("panic", Codegen::Neutral),
    ("passes", Codegen::PassThrough),
    ("prefer-dynamic", Codegen::Neutral),
    ("profile-generate", Codegen::Neutral),
    ("profile-use", Codegen::ProfileUse),
    ("relocation-model", Codegen::Neutral),
    ("relro-level", Codegen::Neutral),
    ("remark", Codegen::PassThrough),
    ("rpath", Codegen::Neutral),
    ("save-temps", Codegen::SaveTemps),
    ("soft-float", Codegen::Neutral),
    ("split-debuginfo", Codegen::SplitDebuginfo),
    ("strip", Codegen::Neutral),
    ("symbol-mangling-version", Codegen::Neutral),
    ("target-cpu", Codegen::TargetCpu),
    ("target-feature", Codegen::Neutral),
    ("unsafe-allow-abi-mismatch", Codegen::Neutral),
];

/// Arguments of the linker that name no files, whole.
const LINK_ARGS: &[&str] =
    &["-no-pie", "-nodefaultlibs", "-pie", "-pthread", "-rdynamic", "-s", "-static", "-static-pie"];
/// The same for what stands behind `-Wl,`: the beginning of a word.
const LINK_WORDS: &[&str] = &[
    "--as-needed",
    "--build-id",
    "--copy-dt-needed-entries",
    "--disable-new-dtags",
    "--eh-frame-hdr",
    "--enable-new-dtags",
    "--export-dynamic",
    "--gc-sections",
    "--hash-style=",
    "--icf=",
    "--no-as-needed",
    "--no-undefined",
    "--strip-all",
    "--strip-debug",
    "--threads=",
    "-Bsymbolic",
    "-O",
    "-rpath=",
    "-soname=",
    "-z",
];
/// Words behind `-Wl,` that take the next one for a value.
const LINK_PAIRS: &[&str] = &["-rpath", "-soname", "-z"];

/// Whether an argument of the linker names no file.
pub(super) fn is_plain_link_arg(arg: &[u8]) -> bool {
    let Some(words) = arg.strip_prefix(b"-Wl,") else {
        return LINK_ARGS.iter().any(|known| known.as_bytes() == arg);
    };
    let mut words = words.split(|&byte| byte == b',');
    while let Some(word) = words.next() {
        if LINK_PAIRS.iter().any(|known| known.as_bytes() == word) {
            if words.next().is_none() {
                return false;
            }
        } else if !LINK_WORDS.iter().any(|known| word.starts_with(known.as_bytes())) {
            return false;
        }
    }
    true
}

/// The option at the head of `arg`, and what follows its name in the same argument.
pub(super) fn find(arg: &[u8]) -> std::option::Option<(Option, std::option::Option<&[u8]>)> {
    if arg.starts_with(b"--") {
        let name = arg.split(|&byte| byte == b'=').next().unwrap_or(arg);
        let option = named(name)?;
        return match (option.valued, arg.get(name.len() + 1..)) {
            (false, Some(_)) => None,
            (_, rest) => Some((option, rest)),
        };
    }
    if let Some(option) = named(arg) {
        return Some((option, None));
    }
    let option = named(arg.get(..2)?).filter(|option| option.valued)?;
    Some((option, Some(&arg[2..])))
}

fn named(name: &[u8]) -> std::option::Option<Option> {
    let at = OPTIONS.binary_search_by(|option| option.name.as_bytes().cmp(name)).ok()?;
    Some(OPTIONS[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted() {
        assert!(OPTIONS.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(CODEGEN.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn options_as_rustc_reads_them() {
        let check = |arg: &str, expect: std::option::Option<(Effect, std::option::Option<&str>)>| {
            let found = find(arg.as_bytes()).map(|(option, rest)| (option.effect, rest));
            let expect = expect.map(|(effect, rest)| (effect, rest.map(str::as_bytes)));
            assert_eq!(found, expect, "{arg}");
        };
        check("--emit=link", Some((Effect::Emit, Some("link"))));
        check("--emit", Some((Effect::Emit, None)));
        check("--test", Some((Effect::Test, None)));
        check("--test=x", None);
        check("-Cpanic=abort", Some((Effect::CodegenOption, Some("panic=abort"))));
        check("-C", Some((Effect::CodegenOption, None)));
        check("-g", Some((Effect::Neutral, None)));
        check("-gO", None);
        check("-vV", Some((Effect::Version, None)));
        check("--brand-new", None);
        check("-", None);
    }

    #[test]
    fn arguments_of_the_linker() {
        for arg in ["-Wl,-z,now", "-Wl,-rpath,/x,--as-needed", "-static", "-Wl,-O1", "-Wl,-soname=libx.so"] {
            assert!(is_plain_link_arg(arg.as_bytes()), "{arg}");
        }
        for arg in
            ["-Wl,-T,x.ld", "x.o", "-Wl,--version-script=x", "-Wl,-rpath", "@x", "-Wl,-z,now,x.o", "-Tx"]
        {
            assert!(!is_plain_link_arg(arg.as_bytes()), "{arg}");
        }
    }
}
