//! Inputs found without running the compiler.
//!
//! ```text
//! Dialects ──▶ Unit ──▶ Scanner ◀──▶ Machine (Look, Files, Texts)
//!    ▲                     │
//!    │ Ask, stale          ├─ done ──▶ Gather ──▶ Inputs
//!    └─────────────────────┤
//!                          └─ undecided ──▶ DependencyRun
//! ```
//!
//! The scanner (`barn_scanner`) is pure; this is its view of the machine and of the compiler. What it cannot decide goes to
//! the compiler, counted as a fallback. An include that it finds nowhere goes there too, for then the compile fails,
//! or the scan is wrong; only the latter is counted.

use std::{collections::HashMap, sync::Arc, time::Duration};

use barn_compilers::Language;
use barn_protocol::Digest;
use barn_scanner::{Disk, File, Look as Seen, Question, Scan, Scanner, Text, Undecided, Unit};

use super::{
    FindInputs, Inputs, LOOKS_MAX, Unknown, dependency_run::DependencyRun, gather::Gather, path_of,
    texts::Texts,
};
use crate::{
    platform::{thread_cpu, tick_ns},
    requester::{
        Call,
        dialects::{Dialects, is_current, leads_as_before},
        files::Files,
        obstacle::Obstacle,
        sight::{FileId, Look, Nowhere, Place, Sight},
    },
    stats::Stats,
};

/// How often one scan may ask the compiler about built-ins; an answer may let a scan come to the next question.
const ASKS_MAX: usize = 16;
/// Time for the kernel's clock to move on, of which a tick lasts 10 ms at most: a file made just before a look cannot be
/// told from one that changed during it.
const TICK: Duration = Duration::from_millis(11);

/// The include scanner with all it knows.
pub struct IncludeScan {
    parts: Arc<Parts>,
    dialects: Dialects,
    otherwise: DependencyRun,
    stats: Arc<Stats>,
}

/// What scans share.
struct Parts {
    files: Arc<Files>,
    sight: Arc<Sight>,
    texts: Arc<Texts>,
    scanner: Scanner,
}

/// What came of one look.
enum Looked {
    Found(Box<Inputs>),
    /// The directories that are searched are no longer those that exist.
    Stale,
    Ask(Vec<Question>),
    Undecided(Undecided),
    Refused(Unknown),
}

impl IncludeScan {
    /// A finder that runs at most `at_once` compilers at a time, for what it must ask them.
    pub fn new(
        files: Arc<Files>,
        sight: Arc<Sight>,
        texts: Arc<Texts>,
        stats: Arc<Stats>,
        at_once: usize,
    ) -> Self {
        let otherwise = DependencyRun::new(files.clone(), sight.clone(), texts.clone(), at_once);
        let parts = Parts { files, sight, texts, scanner: Scanner::default() };
        Self { parts: Arc::new(parts), dialects: Dialects::new(at_once), otherwise, stats }
    }

    /// Scans until nothing changes meanwhile; the reason why the compiler has to be asked, if so.
    async fn scan(&self, call: &Arc<Call>) -> Result<Result<Inputs, Unknown>, Unknown> {
        let mut unit = self.dialects.unit(call).await?;
        let (mut looks, mut asks, mut renewed) = (0, 0, false);
        while looks < LOOKS_MAX && asks < ASKS_MAX {
            let began_ns = tick_ns();
            let (parts, known, asked) = (self.parts.clone(), call.clone(), unit.clone());
            let stats = self.stats.clone();
            let looked = tokio::task::spawn_blocking(move || {
                let before = thread_cpu();
                let looked = parts.look(&known, &asked);
                let used = thread_cpu().saturating_sub(before).as_micros();
                stats.count(|c| c.scans.microseconds += u64::try_from(used).unwrap_or(0));
                looked
            });
            match looked.await {
                Ok(Looked::Found(inputs)) if inputs.newest_ns < began_ns => return Ok(Ok(*inputs)),
                Ok(Looked::Found(_)) => {
                    looks += 1;
                    tokio::time::sleep(TICK).await;
                }
                Ok(Looked::Stale) if renewed => {
                    return Err(Unknown::new("scan-directories", "the directories searched change"));
                }
                Ok(Looked::Stale) => {
                    renewed = true;
                    unit = self.dialects.unit_again(call, &unit).await?;
                }
                Ok(Looked::Ask(questions)) => {
                    asks += 1;
                    unit = self.dialects.learn(call, &unit, questions).await?;
                }
                Ok(Looked::Undecided(why)) => return Err(Unknown::new(name_of(&why), why)),
                Ok(Looked::Refused(why)) => return Ok(Err(why)),
                Err(_) => return Err(Unknown::because(Obstacle::Internal, "the scan panicked")),
            }
        }
        let unsteady = || Unknown::because(Obstacle::Input, "files change while they are looked at");
        if asks < ASKS_MAX {
            Ok(Err(unsteady()))
        } else {
            Err(Unknown::new("scan-unsupported", "built-ins without end"))
        }
    }
}

impl FindInputs for IncludeScan {
    async fn find(&self, call: Arc<Call>) -> Result<Inputs, Unknown> {
        if call.compile.language == Language::Assembler {
            // It has no directives; what the assembler itself may read is looked for in its text.
            return self.otherwise.find(call).await;
        }
        self.stats.count(|c| c.scans.count += 1);
        let why = match self.scan(&call).await {
            Ok(found) => return found,
            Err(why) => why,
        };
        self.stats.count_named(|c| &mut c.scans.undecided, why.name);
        let asked = self.otherwise.find(call).await;
        // What the compiler refuses as well is an error of the user's.
        if asked.is_ok() {
            self.stats.count_named(|c| &mut c.fallbacks, why.name);
        }
        match asked {
            Ok(inputs) => Ok(Inputs { not_scanned: Some(why), ..inputs }),
            Err(unknown) => {
                let detail = format!("{}; not scanned: {}", unknown.detail, why.detail);
                Err(Unknown { detail, ..unknown })
            }
        }
    }
}

fn name_of(why: &Undecided) -> &'static str {
    match why {
        Undecided::Missing { .. } => "scan-missing",
        _ => "scan-unsupported",
    }
}

impl Parts {
    /// One scan in one view of the machine.
    fn look(&self, call: &Call, unit: &Unit) -> Looked {
        let mut look = Look::new(&self.sight, &self.files, &call.cwd);
        if !is_current(&unit.search, |directory| matches!(look.at(directory), Ok(Place::Directory(_)))) {
            return Looked::Stale;
        }
        let mut real = |directory: &[u8]| match look.at(directory) {
            Ok(Place::Directory(found)) => Some(look.directory_path(found).to_vec()),
            _ => None,
        };
        if !leads_as_before(&unit.search, &mut real) {
            return Looked::Stale;
        }
        let mut machine = Machine::new(&mut look, &self.texts, call);
        let scan = match self.scanner.scan(unit, &mut machine) {
            Ok(scan) => scan,
            Err(Undecided::Ask(questions)) => return Looked::Ask(questions),
            Err(why) => return Looked::Undecided(why),
        };
        let Machine { directories, named, .. } = machine;
        match self.gather(call, unit, &mut look, &scan, (&directories, &named)) {
            Ok(inputs) => Looked::Found(Box::new(inputs)),
            Err(why) => Looked::Refused(why),
        }
    }

    fn gather(
        &self,
        call: &Call,
        unit: &Unit,
        look: &mut Look<'_>,
        scan: &Scan,
        (directories, named): (&[Vec<u8>], &[Vec<u8>]),
    ) -> Result<Inputs, Unknown> {
        let mut gather = Gather::begin(call, look, &self.texts, &unit.search)?;
        let mut read: Vec<(&[u8], Arc<Text>)> = Vec::with_capacity(scan.opened.len());
        for (path, _, text) in &scan.opened {
            gather.take(path)?;
            read.push((path, text.clone()));
        }
        gather.precompiled(read.iter().skip(1).map(|(path, _)| *path))?;
        if let Some((source, text)) = read.first() {
            gather.precompiled_first(source, &text.flags, &unit.search)?;
        }
        for (path, text) in &read {
            gather.read(path, &text.flags)?;
        }
        for (path, _) in &scan.probed {
            gather.take(path)?;
        }
        for name in named {
            gather.named_by_text(name);
        }
        for (_, text) in &read {
            let literal = text.flags.includes.iter().map(|include| &include.name);
            literal.filter(|name| name.first() == Some(&b'/')).for_each(|name| gather.named_by_text(name));
        }
        for path in directories {
            gather.passed_over(path);
        }
        for path in &scan.absent {
            if !directories.contains(path) {
                gather.absent(path);
            }
        }
        gather.finish(&read)
    }
}

/// The machine as one scan sees it.
struct Machine<'l, 's> {
    look: &'l mut Look<'s>,
    texts: &'l Texts,
    /// Where the contents of files that were seen lie.
    seen: HashMap<Digest, FileId>,
    /// Directories at which a file was looked for.
    directories: Vec<Vec<u8>>,
    call: &'l Call,
    /// Absolute names that are not those of the command line.
    named: Vec<Vec<u8>>,
}

impl<'l, 's> Machine<'l, 's> {
    fn new(look: &'l mut Look<'s>, texts: &'l Texts, call: &'l Call) -> Self {
        Self { look, texts, seen: HashMap::new(), directories: Vec::new(), call, named: Vec::new() }
    }

    fn is_of_command_line(&self, name: &[u8]) -> bool {
        let compile = &self.call.compile;
        compile.source == name || compile.forced_includes.iter().any(|forced| forced == name)
    }

    fn file(&mut self, file: FileId) -> Seen {
        let texts = self.texts;
        let Ok(known) = self.look.known(file, |blob, contents| texts.read(blob, contents)) else {
            return Seen::Other;
        };
        self.seen.insert(known.blob.digest, file);
        Seen::File(File {
            digest: *known.blob.digest.as_bytes(),
            size: known.blob.size,
            identity: known.signature.identity(),
            mtime_ns: known.signature.mtime_ns(),
        })
    }
}

impl Disk for Machine<'_, '_> {
    fn look(&mut self, dir: &[u8], name: &[u8]) -> Seen {
        if name.first() == Some(&b'/') && !self.is_of_command_line(name) {
            self.named.push(name.to_vec());
        }
        match self.look.find(dir, name) {
            Ok(Place::File(file)) => self.file(file),
            Ok(Place::Directory(_)) => {
                let path = joined(dir, name);
                if !self.directories.contains(&path) {
                    self.directories.push(path);
                }
                Seen::Directory
            }
            Err(Nowhere::Absent) => Seen::Absent,
            Ok(Place::Special) | Err(_) => Seen::Other,
        }
    }

    fn text(&mut self, file: &File) -> Option<Arc<Text>> {
        let digest = Digest::from_bytes(file.digest);
        if let Some(text) = self.texts.get(&digest) {
            return Some(text);
        }
        let contents = std::fs::read(path_of(self.look.path(*self.seen.get(&digest)?))).ok()?;
        (Digest::of(&contents) == digest).then(|| self.texts.add(digest, &contents))
    }
}

/// The path that a compiler opens.
fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match (dir, name) {
        ([], _) | (_, [b'/', ..]) => name.to_vec(),
        ([.., b'/'], _) => [dir, name].concat(),
        _ => [dir, b"/", name].concat(),
    }
}
