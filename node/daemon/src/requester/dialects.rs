//! What compilers know by themselves, asked once per toolchain and flag set.
//!
//! ```text
//! flags, directories, toolchain ──▶ FlagSet ──▶ search directories
//!                                      │
//! flags, toolchain, what was printed ──▶ Shared ──▶ Dialect ──learn──▶ Dialect with more answers
//! ```
//!
//! One run of the compiler on an empty source prints predefined macros and search directories; everybody who wants the same
//! waits for it. Flag sets that differ in their directories alone share one dialect, and so share what is asked later:
//! a scan that meets a built-in test it has no answer for names it, [`Dialects::learn`] asks the compiler, and every
//! unit after that has the grown dialect.
//!
//! The toolchain's digest is part of every key, so a changed compiler is asked anew and old answers go as unused ones do.
//! Where includes are searched depends on which directories exist: [`is_current`] says whether an answer still
//! holds, [`Dialects::unit_again`] replaces one that does not.
//!
//! What goes wrong: a compiler that refuses the flags, or hangs, is an [`Unknown`]; it is remembered for
//! [`FAILURE_KEPT`], so that a build full of such units does not ask for each.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    process::Stdio,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use barn_compilers::{
    MacroFlag, Preprocessing,
    search::{SearchDirs, parse_search_dirs},
};
use barn_protocol::Digest;
use barn_scanner::{Define, Dialect, Question, Questions, Unit};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    sync::{Mutex, Semaphore},
};

use super::{Call, inputs::Unknown, obstacle::Obstacle};

/// Longest run; an empty source takes some 20 ms, on a loaded machine some hundred.
const RUN_MAX: Duration = Duration::from_secs(30);
/// Largest answer of a run, in bytes, on each of its streams; the macros of a unit take 20 KB.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// How long a compiler is not asked again after it failed.
const FAILURE_KEPT: Duration = Duration::from_secs(10);
/// Flag sets remembered. A recursive build has one per directory and language, of 1 KB; they share a few dialects of
/// 100 KB.
const FLAG_SETS_MAX: usize = 1024;
/// Questions in one run: the answers to all must fit into [`ANSWER_BYTES_MAX`].
const QUESTIONS_MAX: usize = 4096;

/// The answers of all compilers of this machine.
pub struct Dialects {
    sets: std::sync::Mutex<HashMap<Digest, Arc<FlagSet>>>,
    shared: std::sync::Mutex<HashMap<Digest, Weak<Shared>>>,
    /// Counts uses, to tell what was unused longest.
    clock: AtomicU64,
    /// Runs at once: they compete with compiles for this machine's cores.
    running: Semaphore,
}

/// One set of flags and directories.
#[derive(Default)]
struct FlagSet {
    /// Held while the compiler is asked.
    answer: Mutex<Option<Answer>>,
    used: AtomicU64,
}

#[derive(Clone)]
enum Answer {
    Known(Arc<Shared>, Arc<SearchDirs>),
    Failed(Unknown, Instant),
}

/// The dialect of all sets with the same flags.
struct Shared {
    /// Held while the compiler is asked more.
    dialect: Mutex<Arc<Dialect>>,
}

impl Dialects {
    /// Nothing known; at most `at_once` compilers are asked at a time.
    pub fn new(at_once: usize) -> Self {
        Self {
            sets: std::sync::Mutex::default(),
            shared: std::sync::Mutex::default(),
            clock: AtomicU64::new(0),
            running: Semaphore::new(at_once),
        }
    }

    /// What is to be scanned for `call`. The search directories may be out of date ([`is_current`]).
    ///
    /// # Errors
    /// If a flag forbids a scan, or the compiler cannot be asked.
    pub async fn unit(&self, call: &Call) -> Result<Unit, Unknown> {
        self.find(call, None).await
    }

    /// As [`Dialects::unit`], when the directories of `stale` are no longer those that exist: asks the compiler again,
    /// unless that has been done since.
    ///
    /// # Errors
    /// As [`Dialects::unit`].
    pub async fn unit_again(&self, call: &Call, stale: &Unit) -> Result<Unit, Unknown> {
        self.find(call, Some(&stale.search)).await
    }

    /// `unit` with a dialect that knows the answers to `questions`, or one that has learned something else meanwhile.
    ///
    /// # Errors
    /// If the compiler cannot be asked, or does not answer.
    pub async fn learn(&self, call: &Call, unit: &Unit, questions: Vec<Question>) -> Result<Unit, Unknown> {
        if questions.len() > QUESTIONS_MAX {
            return Err(failed(format!("{} built-ins are too many to ask for", questions.len())));
        }
        let parts = preprocessing(call)?;
        let set = self.set(key(call, &parts.search_key(cwd_of(call))));
        let known = match &*set.answer.lock().await {
            Some(Answer::Known(shared, _)) => Some(shared.clone()),
            _ => None,
        };
        let Some(shared) = known else {
            // Forgotten meanwhile: there is nobody to share with.
            let dialect = self.grown(call, &parts, &unit.dialect, questions).await?;
            return Ok(Unit { dialect, ..unit.clone() });
        };
        let mut current = shared.dialect.lock().await;
        if Arc::ptr_eq(&current, &unit.dialect) {
            *current = self.grown(call, &parts, &unit.dialect, questions).await?;
        }
        Ok(Unit { dialect: current.clone(), ..unit.clone() })
    }

    async fn find(&self, call: &Call, stale: Option<&Arc<SearchDirs>>) -> Result<Unit, Unknown> {
        let parts = preprocessing(call)?;
        let set = self.set(key(call, &parts.search_key(cwd_of(call))));
        let mut answer = set.answer.lock().await;
        let usable = match &*answer {
            Some(Answer::Known(_, search)) => stale.is_none_or(|stale| !Arc::ptr_eq(stale, search)),
            Some(Answer::Failed(_, since)) => since.elapsed() < FAILURE_KEPT,
            None => false,
        };
        if !usable {
            *answer = Some(match self.ask(call, &parts).await {
                Ok((shared, search)) => Answer::Known(shared, search),
                Err(unknown) => Answer::Failed(unknown, Instant::now()),
            });
        }
        let answer = answer.clone();
        match answer {
            Some(Answer::Known(shared, search)) => {
                let dialect = shared.dialect.lock().await.clone();
                Ok(unit(call, parts, dialect, search))
            }
            Some(Answer::Failed(unknown, _)) => Err(unknown),
            None => unreachable!("it has just been asked"),
        }
    }

    /// Asks for macros and directories.
    async fn ask(
        &self,
        call: &Call,
        parts: &Preprocessing,
    ) -> Result<(Arc<Shared>, Arc<SearchDirs>), Unknown> {
        let (status, macros, listing) = self.run(call, parts.macros_argv(), Vec::new()).await?;
        if !status.success() {
            return Err(failed(format!("the compiler says: {}", complaint(&listing))));
        }
        let mut search = parse_search_dirs(&listing)
            .ok_or_else(|| failed("the compiler does not say where it searches".to_owned()))?;
        // clang calls a directory that it leaves out by the name of the other one.
        let paths = parts.env.iter().flat_map(|(_, paths)| paths.split(|&byte| byte == b':'));
        let named = call.compile.include_directories.iter().map(Vec::as_slice).chain(paths);
        for directory in named.map(|directory| if directory.is_empty() { b"." } else { directory }) {
            let known =
                search.present().chain(search.missing.iter().map(Vec::as_slice)).any(|d| d == directory);
            if !known {
                search.duplicates.push(directory.to_vec());
            }
        }
        let real = |directory| {
            let real = std::fs::canonicalize(call.cwd.join(OsStr::from_bytes(directory))).ok()?;
            Some(real.into_os_string().into_vec())
        };
        search.real = search.present().map(real).collect();
        let text = Digest::of(&macros);
        let key = key(call, &[parts.dialect_key().as_slice(), text.as_bytes()].concat());
        let fresh = || Arc::new(Dialect::new(call.compile.family, call.compile.language, &macros));
        Ok((self.share(key, fresh), Arc::new(search)))
    }

    /// Asks for the answers to `questions`.
    async fn grown(
        &self,
        call: &Call,
        parts: &Preprocessing,
        dialect: &Dialect,
        questions: Vec<Question>,
    ) -> Result<Arc<Dialect>, Unknown> {
        let questions = Questions::new(questions);
        // It may refuse a question and answer the others.
        let (_, answers, _) = self.run(call, parts.questions_argv(), questions.source.clone()).await?;
        let grown = dialect.with_answers(&questions, &answers);
        grown.map(Arc::new).ok_or_else(|| failed("the compiler does not answer for its built-ins".to_owned()))
    }

    /// Runs the compiler with these arguments on this input; how it ended, its standard output and error.
    async fn run(&self, call: &Call, argv: Vec<Vec<u8>>, input: Vec<u8>) -> Result<Said, Unknown> {
        let _running = self.running.acquire().await.expect("the semaphore is never closed");
        let pair = |(name, value): (&Vec<u8>, &Vec<u8>)| (os(name), os(value));
        let mut child = Command::new(&call.program)
            .arg0(os(&call.argv0))
            .args(argv.iter().map(|arg| os(arg)))
            .current_dir(&call.cwd)
            .env_clear()
            .envs(call.env.iter().map(pair))
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let mut group = Group::of(&child);
        let ran = tokio::time::timeout(RUN_MAX, converse(&mut child, input));
        let said = ran
            .await
            .map_err(|_| failed("it takes too long".to_owned()))?
            .map_err(|error| failed(error.to_string()))?;
        group.0 = None;
        Ok(said)
    }

    /// The set with this key, new if need be.
    fn set(&self, key: Digest) -> Arc<FlagSet> {
        let mut sets = self.sets.lock().expect("no panic while held");
        if sets.len() >= FLAG_SETS_MAX && !sets.contains_key(&key) {
            let mut used: Vec<u64> = sets.values().map(|set| set.used.load(Ordering::Relaxed)).collect();
            let (_, median, _) = used.select_nth_unstable(FLAG_SETS_MAX / 2);
            let median = *median;
            sets.retain(|_, set| set.used.load(Ordering::Relaxed) > median);
        }
        let set = sets.entry(key).or_default();
        set.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        set.clone()
    }

    /// The shared dialect with this key, or a new one.
    fn share(&self, key: Digest, fresh: impl FnOnce() -> Arc<Dialect>) -> Arc<Shared> {
        let mut all = self.shared.lock().expect("no panic while held");
        if let Some(shared) = all.get(&key).and_then(Weak::upgrade) {
            return shared;
        }
        all.retain(|_, shared| shared.strong_count() > 0);
        let shared = Arc::new(Shared { dialect: Mutex::new(fresh()) });
        all.insert(key, Arc::downgrade(&shared));
        shared
    }
}

/// Whether a compiler would search the same directories now: those it searches are there, those it left out because
/// they were missing are still missing. `dir_exists` is given paths as the compiler spells them, some relative to the
/// working directory. If it is not so even of a new answer, something there is neither a directory nor nothing.
pub fn is_current(search: &SearchDirs, mut dir_exists: impl FnMut(&[u8]) -> bool) -> bool {
    let mut searched = search.quote.iter().chain(&search.angle).chain(&search.frameworks);
    searched.all(|dir| dir_exists(dir)) && !search.missing.iter().any(|dir| dir_exists(dir))
}

/// Whether the directories lie where they lay when the compiler was asked: of two that are the same it leaves one out,
/// and links may have been turned round since.
pub fn leads_as_before(search: &SearchDirs, mut real: impl FnMut(&[u8]) -> Option<Vec<u8>>) -> bool {
    search.present().zip(&search.real).all(|(directory, before)| real(directory) == *before)
}

/// Kills a compiler with all that it started, unless disarmed.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| id.try_into().ok()).map(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = killpg(pid, Signal::SIGKILL);
        }
    }
}

/// How a compiler ended, its standard output and error.
type Said = (std::process::ExitStatus, Vec<u8>, Vec<u8>);

/// Feeds `child` and reads what it says until it ends.
async fn converse(child: &mut Child, input: Vec<u8>) -> std::io::Result<Said> {
    let lost = || std::io::Error::other("its streams were lost");
    let mut stdin = child.stdin.take().ok_or_else(lost)?;
    let mut stdout = child.stdout.take().ok_or_else(lost)?.take(ANSWER_BYTES_MAX);
    let mut stderr = child.stderr.take().ok_or_else(lost)?.take(ANSWER_BYTES_MAX);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let feed = async move {
        // A compiler that ends without reading all says why in other ways.
        let _ = stdin.write_all(&input).await;
    };
    let ((), out_read, err_read, status) =
        tokio::join!(feed, stdout.read_to_end(&mut out), stderr.read_to_end(&mut err), child.wait());
    let status = out_read.and(err_read).and(status)?;
    Ok((status, out, err))
}

fn preprocessing(call: &Call) -> Result<Preprocessing, Unknown> {
    Preprocessing::of(&call.compile).map_err(|why| Unknown::because(Obstacle::NotScannable, why))
}

fn unit(call: &Call, parts: Preprocessing, dialect: Arc<Dialect>, search: Arc<SearchDirs>) -> Unit {
    let define = |flag| match flag {
        MacroFlag::Define(text) => Define::Define(text),
        MacroFlag::Undefine(name) => Define::Undefine(name),
    };
    Unit {
        dialect,
        source: call.compile.source.clone(),
        defines: parts.macros.into_iter().map(define).collect(),
        imacros: parts.imacros,
        includes: parts.includes,
        search,
    }
}

/// A key of `flags` that no other compiler has.
fn key(call: &Call, flags: &[u8]) -> Digest {
    let mut key = Vec::with_capacity(flags.len() + 256);
    let asked = call.asked();
    for field in [asked.as_bytes().as_slice(), call.program.as_os_str().as_bytes(), &call.argv0, flags] {
        key.extend_from_slice(&(field.len() as u64).to_le_bytes());
        key.extend_from_slice(field);
    }
    Digest::of(&key)
}

fn cwd_of(call: &Call) -> &[u8] {
    call.cwd.as_os_str().as_bytes()
}

fn os(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

fn failed(detail: String) -> Unknown {
    Unknown::because(Obstacle::Dialect, detail)
}

/// The line of a compiler's output that says what is wrong, or the last one.
fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let error = text.lines().find(|line| line.contains("error:")).or_else(|| text.lines().last());
    error.unwrap_or_default().chars().take(200).collect()
}

#[cfg(test)]
#[path = "dialects_tests.rs"]
mod tests;
