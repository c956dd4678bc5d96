//! Questions to the Rust compiler (`-vV`, `--print=cfg`), which cargo and build scripts ask again and again: answered from
//! memory.
//!
//! An answer rests on the compiler's files, the arguments and a few variables; it is forgotten when the node ends. The
//! first time the wrapper asks the compiler itself.

use std::{
    collections::HashMap,
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};

use barn_compilers::{Environment, RustQuestion};
use barn_protocol::{Digest, canonical::Canonical, keys::domain};
use barn_wrapper::messages::{Compile, Compiled, Ended, Request};

use super::call::rust_tool;
use crate::{
    requester::{Answer, Done, Requester, local::LocalWork, story::Story},
    toolchain::tools::{self, Tools},
};

/// Most answers remembered, then all are forgotten. cargo asks two questions for each target and set of flags, and build
/// scripts mostly the same one.
const ANSWERS_MAX: usize = 256;
/// Longest answer remembered, in bytes of both streams. The list of all targets has 6,000.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The answers remembered. Shared by all requests.
#[derive(Debug, Default)]
pub struct Answers(Mutex<HashMap<Digest, Arc<Said>>>);

/// What the compiler wrote.
#[derive(Debug)]
struct Said {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// A question with the compiler it is put to.
#[derive(Debug)]
pub(in crate::requester) struct Question {
    argv: Vec<Vec<u8>>,
    call: tools::RustCall,
    asked: RustQuestion,
    key: Digest,
}

/// Understands a question; `None` if its answer cannot be remembered.
pub(in crate::requester) fn understand_question(
    request: &Request,
    program: PathBuf,
    asked: RustQuestion,
    env: &Environment,
    tools: &Tools,
) -> Option<Question> {
    let is_plain = !request.stdout_is_terminal && !request.stderr_is_terminal;
    if !is_plain || (asked.reads_stdin && !request.stdin_is_null) {
        return None;
    }
    let call = rust_tool(program, &request.cwd, env);
    let key = key(&call, &asked, tools)?;
    Some(Question { argv: request.argv.clone(), call, asked, key })
}

fn key(call: &tools::RustCall, asked: &RustQuestion, tools: &Tools) -> Option<Digest> {
    let tool = tools.rust(call).ok()?;
    let mut key = Canonical::new(domain::RUST_QUESTION);
    key.digest(&tool.digest).bytes(tool.program.as_os_str().as_encoded_bytes());
    key.sequence(&asked.args, |key, arg| {
        key.bytes(arg);
    });
    key.number(asked.env.len() as u64);
    for (name, value) in &asked.env {
        key.bytes(name).bytes(value);
    }
    Some(key.finish())
}

impl Answers {
    fn get(&self, key: &Digest) -> Option<Arc<Said>> {
        self.lock().get(key).cloned()
    }

    fn put(&self, key: Digest, said: Said) {
        let mut table = self.lock();
        if table.len() >= ANSWERS_MAX {
            table.clear();
        }
        table.insert(key, Arc::new(said));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Said>>> {
        self.0.lock().expect("no panic while the table is held")
    }
}

impl Requester {
    /// Answers a question, or lets the wrapper put it to the compiler.
    pub(in crate::requester) fn answer_question(
        self: &Arc<Self>,
        question: Question,
        mut story: Story,
    ) -> Answer {
        self.stats.count(|c| c.requests.other += 1);
        let Some(said) = self.answers.get(&question.key) else {
            return Answer::Compile(Box::new(Asking { requester: self.clone(), question, story }));
        };
        story.tell("no compile (query): answered from memory".to_owned());
        story.end("hit");
        let done = Done { stdout: said.stdout.clone(), stderr: said.stderr.clone(), outputs: Vec::new() };
        Answer::Done(done, self.writers.claim([]), None)
    }
}

/// A compiler that is being asked.
struct Asking {
    requester: Arc<Requester>,
    question: Question,
    story: Story,
}

impl LocalWork for Asking {
    fn order(&self) -> Compile {
        Compile { argv: self.question.argv.clone(), outputs: Vec::new() }
    }

    fn finished(self: Box<Self>, compiled: &Compiled, _: Vec<File>) {
        let Self { requester, question, mut story } = *self;
        let Question { call, asked, key: name, .. } = question;
        let is_short = compiled.stdout.len() + compiled.stderr.len() <= ANSWER_BYTES_MAX;
        let is_good = compiled.ended == Ended::Exited(0) && !compiled.truncated && is_short;
        // The compiler may have been replaced meanwhile.
        if is_good && key(&call, &asked, &requester.tools) == Some(name) {
            let said = Said { stdout: compiled.stdout.clone(), stderr: compiled.stderr.clone() };
            requester.answers.put(name, said);
        }
        story.tell("no compile (query): the compiler was asked".to_owned());
        story.end("uncached");
    }

    fn lost(self: Box<Self>) {
        self.story.end("uncached");
    }
}
