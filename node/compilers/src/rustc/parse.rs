//! One walk over the arguments.

use super::table::{self, CODEGEN, Codegen, Effect};
use super::{Extern, Linker, SearchDir, SearchKind};
use crate::reason::{Reason, ReasonKind};

/// Crates of the sysroot that are named without a path.
const SYSROOT_CRATES: &[&[u8]] = &[b"alloc", b"core", b"proc_macro", b"std", b"test"];
/// Linkers that compile C too, and so know where this machine's libraries lie.
const DRIVER_FLAVORS: &[&[u8]] = &[b"gcc", b"gnu-cc", b"gnu-lld-cc"];
/// Targets for which rustc calls the `cc` of this machine when it is one of them itself.
const CC_TARGETS: &[&[u8]] =
    &[b"aarch64-unknown-linux-gnu", b"riscv64gc-unknown-linux-gnu", b"x86_64-unknown-linux-gnu"];

/// `--emit`: a kind, and a path if one is given.
pub(super) type Emit = (Vec<u8>, Option<Vec<u8>>);

/// What is asked for in the place of a compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Query {
    /// Known from the compiler's own files and its arguments.
    OfCompiler,
    /// Anything else.
    Other,
}

/// What the arguments say.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) query: Option<Query>,
    pub(super) local: Option<Reason>,
    pub(super) source: Option<Vec<u8>>,
    pub(super) crate_name: Option<Vec<u8>>,
    pub(super) crate_types: Vec<Vec<u8>>,
    pub(super) test: bool,
    pub(super) emits: Vec<Emit>,
    pub(super) out_dir: Option<Vec<u8>>,
    pub(super) extra_filename: Vec<u8>,
    pub(super) externs: Vec<Extern>,
    pub(super) search: Vec<SearchDir>,
    pub(super) extra_inputs: Vec<Vec<u8>>,
    pub(super) json: bool,
    /// `-v`.
    pub(super) verbose: Option<Reason>,
    /// The processor of this machine is compiled for.
    pub(super) native_cpu: Option<Reason>,
    pub(super) key_args: Vec<Vec<u8>>,
    pub(super) presentation: Vec<Vec<u8>>,
    target: Option<Vec<u8>>,
    linker: Option<Vec<u8>>,
    flavor: Option<Vec<u8>>,
    link_args: Vec<Vec<u8>>,
}

/// Reads the arguments, `@file`s expanded and rustc's own name left out.
pub(super) fn parse(args: &[Vec<u8>]) -> Parsed {
    let mut parsed = Parsed::default();
    let mut rest = args;
    while let Some((arg, after)) = rest.split_first() {
        rest = after;
        if !arg.starts_with(b"-") || arg == b"-" {
            parsed.source(arg);
            continue;
        }
        let Some((option, value)) = table::find(arg) else {
            parsed.refuse(ReasonKind::UnknownFlag, arg);
            continue;
        };
        let mut taken = vec![arg.clone()];
        let value = match (option.valued, value) {
            (true, None) => {
                let Some((next, after)) = rest.split_first() else {
                    parsed.refuse(ReasonKind::MalformedArguments, arg);
                    break;
                };
                rest = after;
                taken.push(next.clone());
                next.clone()
            }
            (_, value) => value.unwrap_or_default().to_vec(),
        };
        parsed.option(option.effect, &value, taken);
    }
    parsed
}

impl Parsed {
    fn refuse(&mut self, kind: ReasonKind, detail: &[u8]) {
        self.local.get_or_insert_with(|| Reason::new(kind, detail));
    }

    fn ask(&mut self, query: Query) {
        self.query = self.query.max(Some(query));
    }

    fn source(&mut self, arg: &[u8]) {
        if self.source.replace(arg.to_vec()).is_some() {
            self.refuse(ReasonKind::MultipleSources, arg);
        }
        self.key_args.push(arg.to_vec());
    }

    fn option(&mut self, effect: Effect, value: &[u8], taken: Vec<Vec<u8>>) {
        match effect {
            Effect::Neutral => {}
            Effect::Presentation => return self.presentation.extend(taken),
            Effect::Messages => self.json |= value == b"json",
            Effect::CodegenOption => return self.codegen(value, taken),
            Effect::CrateName => self.crate_name = Some(value.to_vec()),
            Effect::CrateType => self.crate_types.extend(split(value)),
            Effect::Emit => self.emits.extend(split(value).map(|emit| key_value(&emit))),
            Effect::Extern => self.external(value),
            // With a path it would be no name of a library in the directories searched.
            Effect::NativeLibrary if value.contains(&b'/') => {
                self.refuse(ReasonKind::LinkerArgument, value);
            }
            Effect::NativeLibrary => {}
            Effect::OutDir => self.out_dir = Some(value.to_vec()),
            Effect::Output => self.refuse(ReasonKind::CrateOutputs, b"-o"),
            Effect::Version => self.ask(Query::OfCompiler),
            Effect::Print if table::is_answer(value) => self.ask(Query::OfCompiler),
            Effect::Print | Effect::Query => self.ask(Query::Other),
            Effect::Search => self.search(value),
            Effect::Sysroot => self.refuse(ReasonKind::OtherSysroot, value),
            Effect::Target => {
                if value.ends_with(b".json") {
                    self.extra_inputs.push(value.to_vec());
                }
                self.target = Some(value.to_vec());
            }
            Effect::Test => self.test = true,
            Effect::Unstable => self.refuse(ReasonKind::UnstableFlag, value),
            Effect::Verbose => self.verbose = Some(Reason::new(ReasonKind::Verbose, *b"-v")),
        }
        self.key_args.extend(taken);
    }

    fn external(&mut self, value: &[u8]) {
        let (name, path) = key_value(value);
        // `priv,noprelude:name`
        let name = name.rsplit(|&byte| byte == b':').next().unwrap_or_default().to_vec();
        match path {
            Some(path) => self.externs.push(Extern { name, path }),
            None if SYSROOT_CRATES.contains(&name.as_slice()) => {}
            None => self.refuse(ReasonKind::CrateSearch, value),
        }
    }

    fn search(&mut self, value: &[u8]) {
        let kinds: [(&[u8], SearchKind); 4] = [
            (b"dependency=", SearchKind::Crates),
            (b"native=", SearchKind::Native),
            (b"framework=", SearchKind::Native),
            (b"all=", SearchKind::All),
        ];
        let found = kinds.iter().find_map(|(prefix, kind)| Some((*kind, value.strip_prefix(*prefix)?)));
        let (kind, path) = found.unwrap_or((SearchKind::All, value));
        // There the source finds crates that no argument names.
        if path.starts_with(b"crate=") {
            self.refuse(ReasonKind::CrateSearch, value);
        }
        if path.starts_with(b"@") {
            self.refuse(ReasonKind::UnknownFlag, value);
        }
        self.search.push(SearchDir { kind, path: path.to_vec() });
    }

    fn codegen(&mut self, option: &[u8], taken: Vec<Vec<u8>>) {
        let (name, value) = key_value(option);
        let name: Vec<u8> = name.iter().map(|&byte| if byte == b'_' { b'-' } else { byte }).collect();
        let known = CODEGEN.binary_search_by(|(known, _)| known.as_bytes().cmp(&name));
        let Ok(at) = known else {
            if name == b"help" {
                self.ask(Query::Other);
            }
            return self.refuse(ReasonKind::UnknownFlag, &[b"-C ", option].concat());
        };
        let value = value.unwrap_or_default();
        match CODEGEN[at].1 {
            Codegen::Neutral => {}
            Codegen::ExtraFilename => self.extra_filename = value,
            Codegen::Incremental => return self.key_args.push(b"-Cincremental".to_vec()),
            Codegen::LinkArg => self.link_args.push(value),
            Codegen::LinkArgs => {
                let words = value.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
                self.link_args.extend(words.map(<[u8]>::to_vec));
            }
            Codegen::Linker => self.linker = Some(value),
            Codegen::LinkerFlavor => self.flavor = Some(value),
            Codegen::PluginLto if matches!(value.as_slice(), b"" | b"yes" | b"no" | b"y" | b"n") => {}
            Codegen::PluginLto | Codegen::PassThrough => self.refuse(ReasonKind::PassThrough, option),
            Codegen::ProfileUse => self.extra_inputs.push(value),
            Codegen::SaveTemps => self.refuse(ReasonKind::SaveTemps, option),
            Codegen::SplitDebuginfo if value == b"off" => {}
            Codegen::SplitDebuginfo => self.refuse(ReasonKind::ExtraOutputFile, option),
            Codegen::TargetCpu if value == b"native" => {
                self.native_cpu = Some(Reason::new(ReasonKind::NativeCpu, option));
            }
            Codegen::TargetCpu => {}
        }
        self.key_args.extend(taken);
    }

    /// The linker of a crate that needs one.
    ///
    /// # Errors
    /// When it is not known, or told what may name files.
    pub(super) fn linker(&self) -> Result<Linker, Reason> {
        if let Some(flavor) = self.flavor.as_deref().filter(|flavor| !DRIVER_FLAVORS.contains(flavor)) {
            return Err(Reason::new(ReasonKind::Linker, flavor));
        }
        let program = match (&self.linker, &self.target) {
            (Some(program), _) => program.clone(),
            (None, None) => b"cc".to_vec(),
            (None, Some(target)) if CC_TARGETS.contains(&target.as_slice()) => b"cc".to_vec(),
            (None, Some(target)) => return Err(Reason::new(ReasonKind::Linker, target.clone())),
        };
        let mut linker = Linker { program, uses: Vec::new(), directories: Vec::new() };
        let mut args = self.link_args.iter();
        while let Some(arg) = args.next() {
            if let Some(name) = arg.strip_prefix(b"-fuse-ld=").filter(|name| !name.contains(&b'/')) {
                linker.uses.push([b"ld.", name].concat());
            } else if arg == b"-L" || arg == b"-l" {
                let value =
                    args.next().ok_or_else(|| Reason::new(ReasonKind::LinkerArgument, arg.clone()))?;
                if arg == b"-L" {
                    linker.directories.push(value.clone());
                }
            } else if let Some(directory) = arg.strip_prefix(b"-L") {
                linker.directories.push(directory.to_vec());
            } else if !arg.starts_with(b"-l") && !table::is_plain_link_arg(arg) {
                return Err(Reason::new(ReasonKind::LinkerArgument, arg.clone()));
            }
        }
        Ok(linker)
    }
}

fn split(list: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    list.split(|&byte| byte == b',').map(<[u8]>::to_vec)
}

fn key_value(text: &[u8]) -> Emit {
    match text.iter().position(|&byte| byte == b'=') {
        Some(at) => (text[..at].to_vec(), Some(text[at + 1..].to_vec())),
        None => (text.to_vec(), None),
    }
}
