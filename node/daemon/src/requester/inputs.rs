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
    files::{Files, Signature},
    layout::{Found, Kind, Layout, LayoutError},
    manifest::ABSENT_MAX,
    obstacle::Obstacle,
};
use crate::blobs::Sources;

/// Longest dependency run; preprocessing the largest units takes some ten seconds on a loaded machine.
const RUN_MAX: Duration = Duration::from_secs(120);
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
    /// What `stat` said of each file.
    pub witnesses: Vec<(PathBuf, Signature)>,
    /// Absolute paths that are probed in vain.
    pub absent: Vec<Vec<u8>>,
    /// Whether `absent` is known to be all of them, so that a manifest may be made.
    pub complete: bool,
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
        let (opened, search) = self.ask(&call).await?;
        let (files, scans) = (self.files.clone(), self.scans.clone());
        tokio::task::spawn_blocking(move || Finder::new(&call, &files, &scans).find(&opened, &search))
            .await
            .map_err(|_| Unknown::because(Obstacle::Internal, "the search for inputs panicked"))?
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
    witnesses: Vec<(PathBuf, Signature)>,
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
        for (path, directives) in &scanned {
            self.line_files(directives)?;
            let slash = path.iter().rposition(|&b| b == b'/');
            let including = slash.map_or(&b""[..], |slash| &path[..=slash]);
            for include in &directives.includes {
                self.probe(including, include, search)?;
            }
        }
        for name in &self.call.compile.forced_includes {
            let include = Include { kind: IncludeKind::Include, form: Form::Quote, name: name.clone() };
            self.probe(b"", &include, search)?;
        }
        if self.absent.len() > ABSENT_MAX {
            self.complete = false;
            self.absent.clear();
        }
        Ok(Inputs {
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
            if self.layout.walk(cwd, path_of(directory)).is_err() {
                self.absent.insert(absolute(cwd, directory));
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
        self.sources.insert(digest, (host.clone(), size));
        self.witnesses.push((host.clone(), known.signature));
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
            for candidate in precompiled_candidates(path) {
                let whole = absolute(&self.call.cwd, &candidate);
                if path_of(&whole).exists() {
                    return Err(Unknown::because(Obstacle::PrecompiledHeader, path_of(&whole).display()));
                }
                self.absent.insert(whole);
            }
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
                if !path_of(&whole).is_file() {
                    self.absent.insert(whole);
                    continue;
                }
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

fn absolute(cwd: &Path, path: &[u8]) -> Vec<u8> {
    cwd.join(path_of(path)).into_os_string().into_vec()
}
