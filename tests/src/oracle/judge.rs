//! Holds scans against traces.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use barn_compilers::{
    Compile, Invocation, MacroFlag, Preprocessing, Request, classify, environment::Environment, guess,
};
use barn_scanner::{Define, Scan, Scanner, Undecided, Unit as Scanned};

use super::{
    asker::Asker,
    corpus::Unit,
    disk::{Library, Shelf},
    trace::{Trace, normal, trace},
};

/// How often a unit may come back with questions; each time it knows more.
const QUESTIONS_MAX: usize = 8;

/// Read by the C library for `__DATE__` and `__TIME__`. A unit with those is compiled where it is asked for and never kept.
const TIME_ZONE: &str = "/etc/localtime";

/// What became of one unit.
#[derive(Debug)]
pub enum Verdict {
    /// It does not compile.
    Skipped,
    /// The scan did not decide, for this reason.
    Undecided(String),
    /// Both have spoken.
    Judged(Box<Judgement>),
}

/// Scan and compile of one unit compared.
#[derive(Debug, Default)]
pub struct Judgement {
    /// Files that the compiler opened or found.
    pub touched: usize,
    /// Those of them that the scan does not name.
    pub missing: Vec<PathBuf>,
    /// Paths looked at in vain that the scan does not name.
    pub unforeseen: Vec<PathBuf>,
    /// Files that the scan names and the compiler did not touch.
    pub surplus: Vec<PathBuf>,
    /// The same scan, made again, said something else.
    pub unstable: bool,
    /// Paths that the scan names in another spelling.
    pub respelled: usize,
    /// How long the first scan took.
    pub cold: Duration,
    /// How long the same scan took when it was made again.
    pub warm: Duration,
}

impl Judgement {
    /// Whether the scan left nothing out.
    pub fn is_sound(&self) -> bool {
        self.missing.is_empty() && self.unforeseen.is_empty() && !self.unstable
    }
}

/// The scanner and all it has learned, as a node keeps it.
#[derive(Debug, Default)]
pub struct Court {
    scanner: Scanner,
    library: Library,
    asker: Asker,
}

impl Court {
    /// Compiles and scans one unit.
    pub fn judge(&self, unit: &Unit) -> Verdict {
        let scratch = tempfile::Builder::new().prefix("barn-oracle-").tempdir().unwrap();
        let scratch = scratch.path().canonicalize().unwrap();
        let args = unit.traced_args(&scratch);
        let Some(trace) = trace(unit.compiler, &args, &unit.cwd, &scratch).expect("strace can be run") else {
            return Verdict::Skipped;
        };
        match self.scan(unit) {
            Ok(scans) => {
                let mut judgement = compare(&unit.cwd, &trace, &scans.scan, &scans.missing_dirs);
                (judgement.cold, judgement.warm) = (scans.cold, scans.warm);
                judgement.unstable = !scans.stable;
                Verdict::Judged(Box::new(judgement))
            }
            Err(reason) => Verdict::Undecided(reason),
        }
    }

    /// Scans one unit twice.
    fn scan(&self, unit: &Unit) -> Result<Scans, String> {
        let (compile, parts) = understand(unit)?;
        let (dialect, search) = self
            .asker
            .ask(unit.compiler, &compile, &parts, &unit.cwd)
            .ok_or_else(|| "the compiler says nothing of itself".to_owned())?;
        let define = |flag: &MacroFlag| match flag {
            MacroFlag::Define(text) => Define::Define(text.clone()),
            MacroFlag::Undefine(name) => Define::Undefine(name.clone()),
        };
        let mut scanned = Scanned {
            dialect,
            source: compile.source.clone(),
            defines: parts.macros.iter().map(define).collect(),
            imacros: parts.imacros.clone(),
            includes: parts.includes.clone(),
            search,
        };
        let scan = |scanned: &Scanned| {
            let began = Instant::now();
            let scan = self.scanner.scan(scanned, &mut Shelf::new(&self.library, &unit.cwd));
            (scan, began.elapsed())
        };
        for _ in 0..QUESTIONS_MAX {
            match scan(&scanned) {
                (Ok(found), cold) => {
                    let (again, warm) = scan(&scanned);
                    let again = again.map_err(|error| format!("the second time: {error}"))?;
                    let stable = names(&found) == names(&again);
                    let missing_dirs = scanned.search.missing.clone();
                    return Ok(Scans { scan: found, missing_dirs, stable, cold, warm });
                }
                (Err(Undecided::Ask(questions)), _) => {
                    scanned.dialect = self
                        .asker
                        .learn(unit.compiler, &parts, &unit.cwd, &scanned.dialect, questions)
                        .ok_or_else(|| "the compiler does not answer".to_owned())?;
                }
                (Err(reason), _) => return Err(reason.to_string()),
            }
        }
        Err("always another question".to_owned())
    }
}

/// What barn makes of a unit's command line.
fn understand(unit: &Unit) -> Result<(Compile, Preprocessing), String> {
    let args: Vec<Vec<u8>> = unit.compile_args().into_iter().map(String::into_bytes).collect();
    let env = Environment::new();
    let invocation = classify(
        &Request {
            family: guess(unit.compiler.as_bytes()).family,
            program_name: unit.compiler.as_bytes(),
            args: &args,
            env: &env,
            cwd: unit.cwd.as_os_str().as_bytes(),
            pwd_names_cwd: false,
            stderr_is_terminal: false,
        },
        &|_: &[u8]| None,
    );
    let compile = match invocation {
        Invocation::Distributable(compile) | Invocation::CacheOnly(compile, _) => *compile,
        Invocation::Local(reason) => return Err(reason.to_string()),
        Invocation::Rust(_) | Invocation::RustQuestion(_) => return Err("rust".to_owned()),
        Invocation::Other(kind) => return Err(kind.name().to_owned()),
    };
    let parts = Preprocessing::of(&compile).map_err(|error| error.to_string())?;
    Ok((compile, parts))
}

/// Two scans of one unit.
struct Scans {
    scan: Scan,
    /// Directories that the compiler says are missing.
    missing_dirs: Vec<Vec<u8>>,
    /// Whether both said the same.
    stable: bool,
    cold: Duration,
    warm: Duration,
}

type Names<'a> = (BTreeSet<&'a [u8]>, BTreeSet<&'a [u8]>, BTreeSet<&'a [u8]>);

fn names(scan: &Scan) -> Names<'_> {
    let opened = scan.opened.iter().map(|(path, ..)| path.as_slice()).collect();
    let probed = scan.probed.iter().map(|(path, _)| path.as_slice()).collect();
    (opened, probed, scan.absent.iter().map(Vec::as_slice).collect())
}

fn compare(cwd: &Path, trace: &Trace, scan: &Scan, missing_dirs: &[Vec<u8>]) -> Judgement {
    let path = |bytes: &[u8]| normal(cwd, Path::new(OsStr::from_bytes(bytes)));
    let (opened, probed, absent) = names(scan);
    let named: BTreeSet<PathBuf> = opened.into_iter().chain(probed).map(path).collect();
    let vain: BTreeSet<PathBuf> =
        absent.into_iter().chain(missing_dirs.iter().map(Vec::as_slice)).map(path).collect();
    let mut found = Judgement { touched: trace.touched.len(), ..Judgement::default() };

    let unnamed = trace.touched.difference(&named).cloned().collect::<Vec<_>>();
    let untouched = named.difference(&trace.touched).cloned().collect::<Vec<_>>();
    // gcc shortens the names of system headers; what matters is that the file is there under both.
    let real = |path: &PathBuf| fs::canonicalize(path).ok();
    let (mut real_named, mut real_touched) = (BTreeSet::new(), BTreeSet::new());
    if !unnamed.is_empty() {
        real_named = named.iter().filter_map(real).collect();
        real_touched = unnamed.iter().filter_map(real).collect();
    }
    for path in unnamed {
        if path == Path::new(TIME_ZONE) && named.iter().any(|path| tells_time(path)) {
            continue;
        }
        match real(&path).is_some_and(|real| real_named.contains(&real)) {
            true => found.respelled += 1,
            false => found.missing.push(path),
        }
    }
    found.surplus = untouched;
    found.surplus.retain(|path| real(path).is_none_or(|real| !real_touched.contains(&real)));

    // A compiler that finds no directory looks for nothing in it: the scan names what it would have looked for.
    let above: BTreeSet<&Path> = vain.iter().flat_map(|path| path.ancestors().skip(1)).collect();
    let foreseen = |path: &Path, vain: &BTreeSet<PathBuf>| path.ancestors().any(|part| vain.contains(part));
    let unforeseen: Vec<_> = trace
        .absent
        .iter()
        .filter(|path| !above.contains(path.as_path()) && !foreseen(path, &vain))
        .cloned()
        .collect();
    if !unforeseen.is_empty() {
        let real_vain: BTreeSet<PathBuf> = vain.iter().filter_map(|path| resolved(path)).collect();
        for path in unforeseen {
            let named = |real: PathBuf| {
                foreseen(&real, &real_vain) || real_vain.iter().any(|vain| vain.starts_with(&real))
            };
            match resolved(&path).is_some_and(named) {
                true => found.respelled += 1,
                false => found.unforeseen.push(path),
            }
        }
    }
    found
}

/// Whether a file has macros of time, by the look of the node, which then says `time-macros`.
fn tells_time(path: &Path) -> bool {
    fs::read(path).is_ok_and(|text| barn_compilers::directives::scan(&text).time_macros)
}

/// A path at which nothing is, with the links of its deepest directory that exists followed.
fn resolved(path: &Path) -> Option<PathBuf> {
    path.ancestors().skip(1).find_map(|above| {
        let real = fs::canonicalize(above).ok()?;
        Some(real.join(path.strip_prefix(above).expect("it is above")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found to be wrong with a scan of these, when the compiler touched and missed those.
    fn check(touched: &[&str], absent: &[&str], opened: &[&str], vain: &[&str], expect: [&[&str]; 3]) {
        let set = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
        let trace = Trace { touched: set(touched), absent: set(absent) };
        let file = barn_scanner::File { digest: [0; 32], size: 0, identity: (0, 0), mtime_ns: 0 };
        let bytes = |path: &&str| path.as_bytes().to_vec();
        let scan = Scan {
            opened: Vec::new(),
            probed: opened.iter().map(|path| (bytes(path), file)).collect(),
            absent: vain.iter().map(bytes).collect(),
        };
        let found = compare(Path::new("/nowhere"), &trace, &scan, &[b"/nowhere/dir".to_vec()]);
        let shown =
            |paths: &[PathBuf]| -> Vec<String> { paths.iter().map(|p| p.display().to_string()).collect() };
        let shown = [shown(&found.missing), shown(&found.unforeseen), shown(&found.surplus)];
        assert_eq!(
            shown.each_ref().map(|paths| paths.iter().map(String::as_str).collect::<Vec<_>>()),
            expect
        );
    }

    #[test]
    fn what_the_scan_leaves_out_is_found() {
        check(&["/nowhere/a.h"], &["/x/a.h"], &["a.h"], &["/x/a.h"], [&[], &[], &[]]);
        check(&["/nowhere/a.h"], &[], &["./a.h"], &[], [&[], &[], &[]]);
        check(&["/nowhere/a.h", "/b.h"], &[], &["a.h"], &[], [&["/b.h"], &[], &[]]);
        check(&[], &["/x/a.h"], &["/b.h"], &["/y/a.h"], [&[], &["/x/a.h"], &["/b.h"]]);
    }

    #[test]
    fn the_time_zone_is_read_for_macros_of_time_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (dated, plain) =
            (file("dated.c", "const char *d = __DATE__;"), file("plain.c", "/* __DATE__ */"));
        check(&[TIME_ZONE, &dated], &[], &[&dated], &[], [&[], &[], &[]]);
        check(&[TIME_ZONE, &plain], &[], &[&plain], &[], [&[TIME_ZONE], &[], &[]]);
    }

    #[test]
    fn directories_answer_for_what_is_in_them() {
        // Left out of the search by the compiler, absent by the scan, and looked for instead of the file.
        check(&[], &["/nowhere/dir/a.h"], &[], &[], [&[], &[], &[]]);
        check(&[], &["/x/sub/a.h"], &[], &["/x/sub"], [&[], &[], &[]]);
        check(&[], &["/x/sub"], &[], &["/x/sub/a.h"], [&[], &[], &[]]);
        check(&[], &["/x/sub"], &[], &["/x/subordinate/a.h"], [&[], &["/x/sub"], &[]]);
    }
}
