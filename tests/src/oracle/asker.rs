//! Asks compilers what they know by themselves, once per flag set.

use std::{
    collections::HashMap,
    ffi::OsString,
    io::{self, Write as _},
    os::unix::ffi::OsStringExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use barn_compilers::{
    Compile, Preprocessing,
    search::{SearchDirs, parse_search_dirs},
};
use barn_scanner::{Dialect, Question, Questions};

/// The compiler's name and the key of its flags.
type Key = (String, Vec<u8>);

/// What was asked so far.
#[derive(Debug, Default)]
pub struct Asker {
    dialects: Mutex<HashMap<Key, Arc<Dialect>>>,
    searches: Mutex<HashMap<Key, Arc<SearchDirs>>>,
}

impl Asker {
    /// The dialect and search directories of a compile in `cwd`; `None` if the compiler does not tell.
    pub fn ask(
        &self,
        program: &str,
        compile: &Compile,
        parts: &Preprocessing,
        cwd: &Path,
    ) -> Option<(Arc<Dialect>, Arc<SearchDirs>)> {
        let dialect_key = (program.to_owned(), parts.dialect_key());
        let search_key = (program.to_owned(), parts.search_key(cwd.as_os_str().as_encoded_bytes()));
        let dialect = self.dialects.lock().unwrap().get(&dialect_key).cloned();
        let search = self.searches.lock().unwrap().get(&search_key).cloned();
        if let (Some(dialect), Some(search)) = (dialect, search) {
            return Some((dialect, search));
        }
        let output = run(program, parts.macros_argv(), cwd, b"").ok().filter(|o| o.status.success())?;
        let search = Arc::new(parse_search_dirs(&output.stderr)?);
        self.searches.lock().unwrap().insert(search_key, search.clone());
        let fresh = || Arc::new(Dialect::new(compile.family, compile.language, &output.stdout));
        let mut dialects = self.dialects.lock().unwrap();
        Some((dialects.entry(dialect_key).or_insert_with(fresh).clone(), search))
    }

    /// The dialect with the answers to `questions`, which later units share.
    pub fn learn(
        &self,
        program: &str,
        parts: &Preprocessing,
        cwd: &Path,
        dialect: &Dialect,
        questions: Vec<Question>,
    ) -> Option<Arc<Dialect>> {
        let questions = Questions::new(questions);
        let output = run(program, parts.questions_argv(), cwd, &questions.source).ok()?;
        let grown = Arc::new(dialect.with_answers(&questions, &output.stdout)?);
        let key = (program.to_owned(), parts.dialect_key());
        self.dialects.lock().unwrap().insert(key, grown.clone());
        Some(grown)
    }
}

fn run(program: &str, argv: Vec<Vec<u8>>, cwd: &Path, input: &[u8]) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(argv.into_iter().map(OsString::from_vec))
        .current_dir(cwd)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // A few questions fit into the pipe.
    child.stdin.take().expect("it is piped").write_all(input)?;
    child.wait_with_output()
}
