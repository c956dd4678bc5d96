//! The compiler's own list of inputs, mended by a textual search.

use std::{
    collections::HashSet, ffi::OsString, os::unix::ffi::OsStringExt as _, process::Stdio, sync::Arc,
    time::Duration,
};

use barn_compilers::{
    Directives, dependency_argv,
    directives::{Include, IncludeKind},
    parse_depfile,
    search::{SearchDirs, candidates, parse_search_dirs},
};
use barn_scanner::Text;
use tokio::{io::AsyncReadExt as _, process::Command, sync::Semaphore};

use super::{
    FindInputs, Inputs, LOOKS_MAX, Unknown,
    gather::{Gather, directory_of, forced, predef},
    texts::Texts,
};
use crate::{
    platform::tick_ns,
    requester::{
        Call,
        files::Files,
        obstacle::Obstacle,
        sight::{Look, Nowhere, Place, Sight},
    },
};

/// Longest dependency run; preprocessing the largest units takes some ten seconds on a loaded machine.
const RUN_MAX: Duration = Duration::from_secs(120);
/// Largest answer of a dependency run, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// The compiler's own dependency run, mended by a textual search.
pub struct DependencyRun {
    files: Arc<Files>,
    sight: Arc<Sight>,
    texts: Arc<Texts>,
    /// Dependency runs at once: they compete with compiles for this machine's cores.
    running: Semaphore,
}

impl DependencyRun {
    /// A finder that runs at most `at_once` compilers at a time.
    pub fn new(files: Arc<Files>, sight: Arc<Sight>, texts: Arc<Texts>, at_once: usize) -> Self {
        Self { files, sight, texts, running: Semaphore::new(at_once) }
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
        if files.is_empty() {
            // Not even the source: gcc writes to `/dev/stdout`, which may be a file in its place.
            return Err(failed(format!("the compiler lists nothing for {}", call.source_name())));
        }
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
            let (call, files, sight, texts) =
                (call.clone(), self.files.clone(), self.sight.clone(), self.texts.clone());
            let find = move || {
                let mut look = Look::new(&sight, &files, &call.cwd);
                Finder::begin(&call, &mut look, &texts, &search)?.find(&opened)
            };
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

/// Finds what the compiler probed for besides what it lists.
struct Finder<'a, 's> {
    gather: Gather<'a, 's>,
    call: &'a Call,
    search: &'a SearchDirs,
    /// Paths at which nothing was seen.
    in_vain: HashSet<Vec<u8>>,
}

impl<'a, 's> Finder<'a, 's> {
    fn begin(
        call: &'a Call,
        look: &'a mut Look<'s>,
        texts: &'a Texts,
        search: &'a SearchDirs,
    ) -> Result<Self, Unknown> {
        let gather = Gather::begin(call, look, texts, search)?;
        Ok(Self { gather, call, search, in_vain: HashSet::new() })
    }

    fn find(mut self, opened: &[Vec<u8>]) -> Result<Inputs, Unknown> {
        let mut read: Vec<(&[u8], Arc<Text>)> = Vec::with_capacity(opened.len());
        for path in opened {
            let digest = self.gather.take(path)?;
            let text = self.gather.text(path, digest)?;
            self.check(path, &text.flags)?;
            read.push((path, text));
        }
        self.gather.precompiled(opened.iter().skip(1).map(Vec::as_slice))?;
        if let Some((source, text)) = read.first() {
            self.gather.precompiled_first(source, &text.flags, self.search)?;
        }
        for (path, text) in &read {
            self.gather.read(path, &text.flags)?;
            for include in &text.flags.includes {
                self.probe(directory_of(path), include)?;
            }
        }
        for name in &self.call.compile.forced_includes {
            self.probe(b"", &forced(name))?;
        }
        self.probe(b"", &predef())?;
        self.gather.finish(&read)
    }

    /// Refuses what a list of what was opened does not tell.
    fn check(&mut self, path: &[u8], directives: &Directives) -> Result<(), Unknown> {
        let reasons =
            [(directives.embed, Obstacle::Embed), (directives.computed_probe, Obstacle::ComputedProbe)];
        if let Some((_, obstacle)) = reasons.iter().find(|(present, _)| *present) {
            return Err(Unknown::because(*obstacle, format_args!("in {}", String::from_utf8_lossy(path))));
        }
        if directives.computed_include || directives.trigraphs {
            self.gather.incomplete();
        }
        Ok(())
    }

    /// Notes where one include is looked for in vain, and takes what is only probed for.
    fn probe(&mut self, including: &[u8], include: &Include) -> Result<(), Unknown> {
        let only_probed = matches!(include.kind, IncludeKind::HasInclude | IncludeKind::HasIncludeNext);
        let next = matches!(include.kind, IncludeKind::IncludeNext | IncludeKind::HasIncludeNext);
        for candidate in candidates(include, including, self.search) {
            if self.in_vain.contains(&candidate) {
                continue;
            }
            match self.gather.look().at(&candidate) {
                Ok(Place::File(file)) if self.gather.notice_twin(file).is_ok() => {}
                Err(Nowhere::Absent) => {
                    self.gather.absent(&candidate);
                    self.in_vain.insert(candidate);
                    continue;
                }
                _ => {
                    self.gather.passed_over(&candidate);
                    self.in_vain.insert(candidate);
                    continue;
                }
            }
            if only_probed {
                self.gather.take(&candidate)?;
            }
            // `#include_next` goes on where the includer was found, which is not known here.
            if !next {
                break;
            }
        }
        Ok(())
    }
}
