//! The real machine: its files as a [`Disk`], its compilers as judges.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    dead_code,
    reason = "this is the outside world"
)]

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsStr,
    io::Write as _,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use barn_compilers::{
    Language,
    detect::Family,
    search::{SearchDirs, parse_search_dirs},
};
use barn_scanner::{Define, Dialect, Disk, File, Look, Questions, Scan, Scanner, Text, Undecided, Unit};

/// Files of this machine; every path is looked at once.
pub(crate) struct RealDisk {
    cwd: PathBuf,
    looks: HashMap<Vec<u8>, HashMap<Vec<u8>, Look>>,
    texts: HashMap<[u8; 32], Arc<Text>>,
    pub(crate) looked: usize,
}

impl RealDisk {
    pub(crate) fn new(cwd: &Path) -> Self {
        Self { cwd: cwd.to_owned(), looks: HashMap::new(), texts: HashMap::new(), looked: 0 }
    }

    fn see(&mut self, path: &Path) -> Look {
        let Ok(meta) = std::fs::metadata(path) else {
            return Look::Absent;
        };
        if meta.is_dir() {
            return Look::Directory;
        }
        let Ok(contents) = std::fs::read(path) else {
            return Look::Other;
        };
        let digest = *blake3::hash(&contents).as_bytes();
        let text = self.texts.entry(digest).or_insert_with(|| {
            let text = Text::parse(&contents);
            // What is kept on disk must be as good as what was read.
            Arc::new(Text::decode(&text.encode()).expect("what was encoded is decoded"))
        });
        assert!(text.bytes() > 0);
        Look::File(File {
            digest,
            size: meta.len(),
            identity: (meta.dev(), meta.ino()),
            mtime_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        })
    }
}

impl Disk for RealDisk {
    fn look(&mut self, dir: &[u8], name: &[u8]) -> Look {
        self.looked += 1;
        if let Some(&look) = self.looks.get(dir).and_then(|names| names.get(name)) {
            return look;
        }
        let path = self.cwd.join(OsStr::from_bytes(dir)).join(OsStr::from_bytes(name));
        let look = self.see(&path);
        self.looks.entry(dir.to_vec()).or_default().insert(name.to_vec(), look);
        look
    }

    fn text(&mut self, file: &File) -> Option<Arc<Text>> {
        self.texts.get(&file.digest).cloned()
    }
}

/// A compiler with flags, and a directory to run it in.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    pub(crate) program: String,
    pub(crate) family: Family,
    pub(crate) language: Language,
    /// All flags but those in `unit`.
    pub(crate) flags: Vec<String>,
    pub(crate) cwd: PathBuf,
}

impl Compiler {
    pub(crate) fn new(program: &str, language: Language, flags: &[&str], cwd: &Path) -> Self {
        let family = if program.contains("clang") { Family::Clang } else { Family::Gcc };
        Self {
            program: program.to_owned(),
            family,
            language,
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            cwd: cwd.to_owned(),
        }
    }

    fn x(&self) -> &'static str {
        match self.language {
            Language::C => "c",
            Language::Cxx => "c++",
            Language::ObjectiveC => "objective-c",
            Language::ObjectiveCxx => "objective-c++",
            Language::AssemblerWithCpp | Language::Assembler => "assembler-with-cpp",
        }
    }

    /// Runs it on `input`: whether it succeeded, and its output and messages.
    pub(crate) fn run(&self, extra: &[&str], input: &[u8]) -> (bool, Vec<u8>, Vec<u8>) {
        let mut child = Command::new(&self.program)
            .args(&self.flags)
            .args(["-x", self.x()])
            .args(extra)
            .current_dir(&self.cwd)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the compiler is installed");
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().expect("it ran");
        writer.join().expect("it wrote");
        (output.status.success(), output.stdout, output.stderr)
    }

    pub(crate) fn dialect(&self) -> Arc<Dialect> {
        let (_, out, _) = self.run(&["-dM", "-E", "-"], b"");
        Arc::new(Dialect::new(self.family, self.language, &out))
    }

    pub(crate) fn search(&self) -> Arc<SearchDirs> {
        let (_, _, err) = self.run(&["-v", "-E", "-"], b"");
        Arc::new(parse_search_dirs(&err).expect("it lists its directories"))
    }

    pub(crate) fn unit(&self, source: &str) -> Unit {
        Unit {
            dialect: self.dialect(),
            source: source.as_bytes().to_vec(),
            defines: Vec::new(),
            imacros: Vec::new(),
            includes: Vec::new(),
            search: self.search(),
        }
    }

    /// Scans `unit`, asking the compiler what the scanner asks; how often it asked.
    pub(crate) fn scan(
        &self,
        scanner: &Scanner,
        unit: &mut Unit,
        disk: &mut RealDisk,
    ) -> (Result<Scan, Undecided>, usize) {
        for asked in 0.. {
            match scanner.scan(unit, disk) {
                Err(Undecided::Ask(questions)) if asked < 4 => {
                    let questions = Questions::new(questions);
                    let (_, out, _) = self.run(&["-E", "-P", "-"], &questions.source);
                    let dialect = unit.dialect.with_answers(&questions, &out).expect("it answered");
                    unit.dialect = Arc::new(dialect);
                }
                result => return (result, asked),
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// The flags that say what is in `unit`.
    pub(crate) fn unit_flags(unit: &Unit) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("tests use plain names");
        let mut flags = Vec::new();
        for define in &unit.defines {
            flags.push(match define {
                Define::Define(define) => format!("-D{}", text(define)),
                Define::Undefine(name) => format!("-U{}", text(name)),
            });
        }
        for name in &unit.imacros {
            flags.extend(["-imacros".to_owned(), text(name)]);
        }
        for name in &unit.includes {
            flags.extend(["-include".to_owned(), text(name)]);
        }
        flags
    }

    /// What the compiler's own `-M` lists; `None` if it fails.
    pub(crate) fn listed(&self, unit: &Unit) -> Option<BTreeSet<PathBuf>> {
        let flags = Self::unit_flags(unit);
        let source = String::from_utf8(unit.source.clone()).expect("tests use plain names");
        let mut arguments: Vec<&str> = flags.iter().map(String::as_str).collect();
        arguments.extend(["-M", &source]);
        let (ok, out, _) = self.run(&arguments, b"");
        let files = barn_compilers::parse_depfile(&out).ok()?;
        ok.then(|| files.iter().map(|path| self.plain(path)).collect())
    }

    /// A path made absolute, with links followed.
    pub(crate) fn plain(&self, path: &[u8]) -> PathBuf {
        let path = self.cwd.join(OsStr::from_bytes(path));
        path.canonicalize().unwrap_or(path)
    }

    /// The files a scan says are opened, as [`Compiler::listed`] shows them.
    pub(crate) fn opened(&self, scan: &Scan) -> BTreeSet<PathBuf> {
        scan.opened.iter().map(|(path, ..)| self.plain(path)).collect()
    }
}
