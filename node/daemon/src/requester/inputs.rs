//! What a compile will read, found before it runs.
//!
//! [`FindInputs`] is the one interface; [`DependencyRun`] is today's way: the compiler's own `-M` run names
//! what is opened, and a textual scan of those files for `#include` and `__has_include` names what is only probed.
//! A probed file that exists is shipped too (else the remote compile would exit 0 with a symbol missing); a probed
//! path at which nothing is goes into the include manifest. What neither can tell (`.incbin`, `#embed`, computed
//! probes, modules, precompiled headers) makes the compile local, with the reason.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ffi::OsString,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use barn_compilers::{
    Compile, Directives, Language, dependency_argv,
    directives::{Form, Include, IncludeKind},
    parse_depfile,
    search::{SearchDirs, candidates, parse_search_dirs, precompiled_candidates},
};
use barn_protocol::{Digest, Entry, Tree};
use tokio::{io::AsyncReadExt as _, process::Command, sync::Semaphore};

use super::{
    Call,
    files::{Files, Known, Signature},
    layout::{Found, Kind, Layout, LayoutError},
    manifest::{ABSENT_MAX, difference},
    obstacle::Obstacle,
};
use crate::{blobs::Sources, platform::tick_ns};

/// Longest dependency run; preprocessing the largest units takes some ten seconds on a loaded machine.
const RUN_MAX: Duration = Duration::from_secs(120);
/// How often the inputs are looked for again because a file changed meanwhile; it is saved once, as a rule.
const LOOKS_MAX: usize = 3;
/// What gcc includes before the first line of every source, if it finds it.
const PREDEF: &[u8] = b"stdc-predef.h";
/// Largest answer of a dependency run, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Scanned files remembered; their directives take about 2 KB each.
const SCANS_MAX: usize = 65_536;

/// Everything a compile will read.
#[derive(Debug)]
pub struct Inputs {
    /// The input tree, with directories and links as they are.
    pub tree: Tree,
    /// Where its blobs lie.
    pub sources: Sources,
    /// What was learned of each file.
    pub witnesses: Vec<(PathBuf, Known)>,
    /// Absolute paths that are probed in vain.
    pub absent: Vec<Vec<u8>>,
    /// Whether `absent` is known to be all of them, so that a manifest may be made.
    pub complete: bool,
    /// When the newest of all files and links that were looked at changed, in nanoseconds since 1970.
    pub newest_ns: i128,
}

impl Inputs {
    /// What is no longer as it was found; a compile that ran since may have seen either. `None` when all is the same.
    pub fn changed(&self, files: &Files) -> Option<String> {
        let changed = self.witnesses.iter().find(|(path, known)| !files.holds(path, known));
        match changed {
            Some((path, _)) => Some(format!("{} has changed", path.display())),
            None => difference(&self.tree, &self.absent, |_, _| true),
        }
    }
}

/// Why the inputs cannot be told; the compile is then local.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// The stable name counted in `barn stats`.
    pub name: &'static str,
    /// What it is about, for `barn explain`.
    pub detail: String,
}

impl Unknown {
    /// An obstacle concerning `detail`.
    pub fn because(obstacle: Obstacle, detail: impl std::fmt::Display) -> Self {
        Self::new(obstacle.name(), detail)
    }

    /// The reason `name`, of another list, concerning `detail`.
    pub fn new(name: &'static str, detail: impl std::fmt::Display) -> Self {
        Self { name, detail: detail.to_string() }
    }
}

impl From<LayoutError> for Unknown {
    fn from(error: LayoutError) -> Self {
        Self::new("layout", error)
    }
}

/// A way to find the inputs of a compile.
pub trait FindInputs: Send + Sync {
    /// What `call` will read.
    fn find(&self, call: Arc<Call>) -> impl Future<Output = Result<Inputs, Unknown>> + Send;
}

/// The compiler's own dependency run, mended by a textual scan.
pub struct DependencyRun {
    files: Arc<Files>,
    scans: Arc<Scans>,
    /// Dependency runs at once: they compete with compiles for this machine's cores.
    running: Semaphore,
}

impl DependencyRun {
    /// A finder that runs at most `at_once` compilers at a time.
    pub fn new(files: Arc<Files>, at_once: usize) -> Self {
        Self { files, scans: Arc::default(), running: Semaphore::new(at_once) }
    }

    async fn ask(&self, call: &Call) -> Result<(Vec<Vec<u8>>, SearchDirs), Unknown> {
        let argv = dependency_argv(&call.compile)
            .ok_or_else(|| Unknown::because(Obstacle::NotPreprocessed, "the source includes nothing"))?;
        let _running = self.running.acquire().await.expect("the semaphore is never closed");
        let failed = |detail: String| Unknown::because(Obstacle::DependencyRun, detail);
        let mut child = Command::new(&call.program)
            .arg0(OsString::from_vec(call.argv0.clone()))
            // In front: behind a `--` it would be the name of a source.
            .arg("-v")
            .args(argv.into_iter().map(OsString::from_vec))
            .current_dir(&call.cwd)
            .env_clear()
            .envs(
                call.env.iter().map(|(n, v)| (OsString::from_vec(n.clone()), OsString::from_vec(v.clone()))),
            )
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
            return Err(failed("its output was lost".to_owned()));
        };
        let (mut stdout, mut stderr) = (stdout.take(ANSWER_BYTES_MAX), stderr.take(ANSWER_BYTES_MAX));
        let all =
            async { tokio::join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err), child.wait()) };
        let (read_out, read_err, status) =
            tokio::time::timeout(RUN_MAX, all).await.map_err(|_| failed("it takes too long".to_owned()))?;
        let status = read_out.and(read_err).and(status).map_err(|error| failed(error.to_string()))?;
        if !status.success() {
            return Err(failed(format!("the compiler cannot list what {} includes", call.source_name())));
        }
        let files = parse_depfile(&out).map_err(|error| failed(error.to_string()))?;
        let search = parse_search_dirs(&err)
            .ok_or_else(|| failed("the compiler does not say where it searches".to_owned()))?;
        Ok((files, search))
    }
}

impl FindInputs for DependencyRun {
    async fn find(&self, call: Arc<Call>) -> Result<Inputs, Unknown> {
        for _ in 0..LOOKS_MAX {
            let began_ns = tick_ns();
            let (opened, search) = self.ask(&call).await?;
            let (call, files, scans) = (call.clone(), self.files.clone(), self.scans.clone());
            let find = move || Finder::new(&call, &files, &scans).find(&opened, &search);
            let inputs = tokio::task::spawn_blocking(find)
                .await
                .map_err(|_| Unknown::because(Obstacle::Internal, "the search for inputs panicked"))??;
            // What changed since may have another list of includes than the one the compiler saw.
            if inputs.newest_ns < began_ns {
                return Ok(inputs);
            }
        }
        Err(Unknown::because(Obstacle::Input, "files change while they are looked at"))
    }
}

/// Directives by the digest of the file they are in.
#[derive(Default)]
struct Scans(Mutex<HashMap<Digest, Arc<Directives>>>);

impl Scans {
    fn get(&self, digest: &Digest) -> Option<Arc<Directives>> {
        self.0.lock().expect("no panic while held").get(digest).cloned()
    }

    fn add(&self, digest: Digest, directives: Directives) -> Arc<Directives> {
        let directives = Arc::new(directives);
        let mut scans = self.0.lock().expect("no panic while held");
        if scans.len() >= SCANS_MAX {
            scans.clear();
        }
        scans.insert(digest, directives.clone());
        directives
    }
}

/// Collects the inputs of one compile.
struct Finder<'a> {
    call: &'a Call,
    files: &'a Files,
    scans: &'a Scans,
    layout: Layout,
    sources: Sources,
    witnesses: Vec<(PathBuf, Known)>,
    newest_ns: i128,
    /// What `stat` said of the files taken, by their size.
    by_size: HashMap<u64, Vec<Signature>>,
    /// A file that has the contents of another one.
    twin: Option<PathBuf>,
    /// Real paths of the files that were taken.
    taken: HashMap<PathBuf, Digest>,
    absent: BTreeSet<Vec<u8>>,
    /// Candidates at which a file was seen.
    present: HashSet<Vec<u8>>,
    complete: bool,
}

impl<'a> Finder<'a> {
    fn new(call: &'a Call, files: &'a Files, scans: &'a Scans) -> Self {
        Self {
            call,
            files,
            scans,
            layout: Layout::default(),
            sources: Sources::new(),
            witnesses: Vec::new(),
            newest_ns: 0,
            by_size: HashMap::new(),
            twin: None,
            taken: HashMap::new(),
            absent: BTreeSet::new(),
            present: HashSet::new(),
            complete: true,
        }
    }

    fn find(mut self, opened: &[Vec<u8>], search: &SearchDirs) -> Result<Inputs, Unknown> {
        if self.call.compile.time_macros {
            return Err(Unknown::because(Obstacle::TimeMacros, "in a -D flag"));
        }
        self.directories(&self.call.compile, search)?;
        let mut scanned = Vec::with_capacity(opened.len());
        for path in opened {
            let digest = self.take(path)?;
            let directives = self.directives(path, digest)?;
            self.check(path, &directives)?;
            scanned.push((path, directives));
        }
        self.precompiled(opened)?;
        if let Some((source, directives)) = scanned.first() {
            self.precompiled_first(source, directives, search)?;
        }
        for (path, directives) in &scanned {
            self.line_files(directives)?;
            for include in &directives.includes {
                self.probe(directory_of(path), include, search)?;
            }
        }
        for name in &self.call.compile.forced_includes {
            self.probe(b"", &forced(name), search)?;
        }
        let predef = Include { kind: IncludeKind::Include, form: Form::Angle, name: PREDEF.to_vec() };
        self.probe(b"", &predef, search)?;
        self.twins(&scanned)?;
        if self.absent.len() > ABSENT_MAX {
            self.complete = false;
            self.absent.clear();
        }
        Ok(Inputs {
            newest_ns: self.newest_ns.max(self.layout.newest_link_ns()),
            tree: self.layout.finish(),
            sources: self.sources,
            witnesses: self.witnesses,
            absent: self.absent.into_iter().collect(),
            complete: self.complete,
        })
    }

    /// The directories that must be there: working directory, those searched, those written to.
    fn directories(&mut self, compile: &Compile, search: &SearchDirs) -> Result<(), Unknown> {
        let cwd = &self.call.cwd;
        self.layout.walk(cwd, Path::new("."))?;
        if let Some(pwd) = compile.env.get(b"PWD".as_slice()) {
            self.layout.walk(cwd, path_of(pwd))?;
        }
        let named = compile.include_directories.iter().chain(&search.quote).chain(&search.angle);
        for directory in named {
            match self.layout.walk(cwd, path_of(directory)) {
                Ok(Found { kind: Kind::Directory, .. }) => {}
                // It may become a directory, and no tree or list of the absent tells.
                Ok(_) => self.complete = false,
                Err(_) => {
                    self.absent.insert(absolute(cwd, directory));
                }
            }
        }
        self.absent.extend(search.missing.iter().map(|directory| absolute(cwd, directory)));
        Ok(())
    }

    /// Takes the file at `path` into the tree.
    fn take(&mut self, path: &[u8]) -> Result<Digest, Unknown> {
        let Found { real, kind } = self.layout.walk(&self.call.cwd, path_of(path))?;
        if kind != Kind::File {
            return Err(Unknown::because(Obstacle::SpecialInput, format_args!("{real} is no regular file")));
        }
        let host = super::layout::host_path(&real);
        if let Some(digest) = self.taken.get(&host) {
            return Ok(*digest);
        }
        let scans = self.scans;
        let on_read = |blob: &barn_protocol::action::Blob, contents: &[u8]| {
            if scans.get(&blob.digest).is_none() {
                scans.add(blob.digest, barn_compilers::scan(contents));
            }
        };
        let known = self
            .files
            .known(&host, on_read)
            .map_err(|error| Unknown::because(Obstacle::Input, format_args!("{real}: {error}")))?;
        let (digest, size) = (known.blob.digest, known.blob.size);
        self.layout.add(real, Entry::File { digest, size, executable: known.executable })?;
        if self.sources.insert(digest, (host.clone(), size)).is_some() {
            self.twin = Some(host.clone());
        }
        self.newest_ns = self.newest_ns.max(known.signature.changed_ns());
        self.by_size.entry(size).or_default().push(known.signature);
        self.witnesses.push((host.clone(), known));
        self.taken.insert(host, digest);
        Ok(digest)
    }

    fn directives(&self, path: &[u8], digest: Digest) -> Result<Arc<Directives>, Unknown> {
        if let Some(known) = self.scans.get(&digest) {
            return Ok(known);
        }
        let changed =
            || Unknown::because(Obstacle::Input, format_args!("{} changes", String::from_utf8_lossy(path)));
        let contents = std::fs::read(self.call.cwd.join(path_of(path))).map_err(|_| changed())?;
        if Digest::of(&contents) != digest {
            return Err(changed());
        }
        Ok(self.scans.add(digest, barn_compilers::scan(&contents)))
    }

    /// Refuses what neither the dependency run nor the scan can tell.
    fn check(&mut self, path: &[u8], directives: &Directives) -> Result<(), Unknown> {
        let language = self.call.compile.language;
        let cxx = matches!(language, Language::Cxx | Language::ObjectiveCxx);
        let reasons = [
            (directives.incbin, Obstacle::Incbin),
            (directives.assembler_include, Obstacle::AssemblerInclude),
            (directives.embed, Obstacle::Embed),
            (directives.time_macros, Obstacle::TimeMacros),
            (directives.pragma_dependency, Obstacle::PragmaDependency),
            (directives.pragma_pch, Obstacle::PrecompiledHeader),
            (directives.modules && cxx, Obstacle::Modules),
            (directives.module_import, Obstacle::Modules),
            (directives.computed_probe, Obstacle::ComputedProbe),
        ];
        if let Some((_, obstacle)) = reasons.iter().find(|(present, _)| *present) {
            return Err(Unknown::because(*obstacle, format_args!("in {}", String::from_utf8_lossy(path))));
        }
        if directives.computed_include || directives.trigraphs {
            self.complete = false;
        }
        Ok(())
    }

    /// A precompiled header beside a header would be taken in its place.
    fn precompiled(&mut self, opened: &[Vec<u8>]) -> Result<(), Unknown> {
        for path in opened.iter().skip(1).chain(&self.call.compile.forced_includes) {
            self.precompiled_at(path)?;
        }
        Ok(())
    }

    /// gcc takes two files for one that is to be read once, by `#pragma once` or `#import`, when their contents and
    /// times of change are the same; clang, when they are links to one another.
    fn twins(&self, scanned: &[(&Vec<u8>, Arc<Directives>)]) -> Result<(), Unknown> {
        let Some(twin) = &self.twin else { return Ok(()) };
        let imports = |include: &Include| include.kind == IncludeKind::Import;
        let imported = scanned.iter().any(|(_, directives)| directives.includes.iter().any(imports));
        let contents = std::fs::read(twin).unwrap_or_default();
        if imported || contents.windows(4).any(|word| word == b"once") {
            return Err(Unknown::because(Obstacle::IdenticalFiles, twin.display()));
        }
        Ok(())
    }

    /// A file may not have been opened just because it is like one that was.
    fn notice_twin(&mut self, path: &Path, size: u64, signature: &Signature) {
        let alike = self.by_size.get(&size).is_some_and(|taken| !taken.contains(signature));
        if alike
            && let Ok(known) = self.files.known(path, |_, _| ())
            && self.sources.contains_key(&known.blob.digest)
        {
            self.twin = Some(path.to_owned());
        }
    }

    /// gcc takes a precompiled header for the first include of a unit, though the header itself may be elsewhere.
    fn precompiled_first(
        &mut self,
        source: &[u8],
        directives: &Directives,
        search: &SearchDirs,
    ) -> Result<(), Unknown> {
        let forced: Vec<Include> =
            self.call.compile.forced_includes.iter().map(|name| forced(name)).collect();
        let own = directives.includes.iter().map(|include| (directory_of(source), include));
        for (including, include) in own.chain(forced.iter().map(|include| (&b""[..], include))) {
            for candidate in candidates(include, including, search) {
                self.precompiled_at(&candidate)?;
                if path_of(&absolute(&self.call.cwd, &candidate)).is_file() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn precompiled_at(&mut self, header: &[u8]) -> Result<(), Unknown> {
        for candidate in precompiled_candidates(header) {
            let whole = absolute(&self.call.cwd, &candidate);
            if path_of(&whole).exists() {
                return Err(Unknown::because(Obstacle::PrecompiledHeader, path_of(&whole).display()));
            }
            self.absent.insert(whole);
        }
        Ok(())
    }

    /// Takes the files that warnings would quote because a `#line` names them.
    fn line_files(&mut self, directives: &Directives) -> Result<(), Unknown> {
        for line_file in &directives.line_files {
            let whole = absolute(&self.call.cwd, line_file);
            if path_of(&whole).is_file() {
                self.take(line_file)?;
            } else {
                self.absent.insert(whole);
            }
        }
        Ok(())
    }

    /// Notes where one include is looked for in vain, and takes what is only probed for.
    fn probe(&mut self, including: &[u8], include: &Include, search: &SearchDirs) -> Result<(), Unknown> {
        let only_probed = matches!(include.kind, IncludeKind::HasInclude | IncludeKind::HasIncludeNext);
        let next = matches!(include.kind, IncludeKind::IncludeNext | IncludeKind::HasIncludeNext);
        for candidate in candidates(include, including, search) {
            let whole = absolute(&self.call.cwd, &candidate);
            if self.absent.contains(&whole) {
                continue;
            }
            if !self.present.contains(&whole) {
                let Some(meta) = std::fs::metadata(path_of(&whole)).ok().filter(|meta| meta.is_file()) else {
                    self.absent.insert(whole);
                    continue;
                };
                let signature = Signature::of(&meta);
                self.newest_ns = self.newest_ns.max(signature.changed_ns());
                self.notice_twin(path_of(&whole), meta.len(), &signature);
                self.present.insert(whole);
            }
            if only_probed {
                self.take(&candidate)?;
            }
            // `#include_next` goes on where the includer was found, which is not known here.
            if !next {
                break;
            }
        }
        Ok(())
    }
}

fn path_of(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// The directory of an including file as the compiler has it: up to the last slash.
fn directory_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&b| b == b'/').map_or(b"", |slash| &path[..=slash])
}

/// What `-include` asks for.
fn forced(name: &[u8]) -> Include {
    Include { kind: IncludeKind::Include, form: Form::Quote, name: name.to_vec() }
}

fn absolute(cwd: &Path, path: &[u8]) -> Vec<u8> {
    cwd.join(path_of(path)).into_os_string().into_vec()
}

#[cfg(test)]
#[path = "inputs_tests.rs"]
mod tests;
