//! What a compiler knows by itself under one set of flags.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use barn_compilers::{Language, detect::Family};

/// A built-in test whose answer only the compiler knows: `__has_builtin(x)`, `__has_attribute(x)`,
/// `__has_cpp_attribute(x)`, `__has_feature(x)` …, as spelled, without blanks. The operator alone asks whether the
/// compiler knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Question(pub Vec<u8>);

/// What a compiler said to a [`Question`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Value(i64),
    /// It refused the question: a unit that really asks it does not compile.
    Refused,
}

/// Predefined macros and answers of one compiler under one set of flags.
#[derive(Clone, Debug)]
pub struct Dialect {
    pub(crate) family: Family,
    pub(crate) language: Language,
    /// Name, and what follows it.
    pub(crate) predefined: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) answers: BTreeMap<Vec<u8>, Answer>,
    /// No two dialects of a process have the same.
    pub(crate) id: u64,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

fn next_id() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Dialect {
    /// A dialect from what the compiler printed for `-dM -E` (its predefined macros, without the unit's `-D`, `-U`,
    /// `-include` and `-imacros`), run on an empty source in the unit's language with the unit's other flags.
    pub fn new(family: Family, language: Language, predefined: &[u8]) -> Self {
        let lines = predefined.split(|&byte| byte == b'\n');
        let predefined =
            lines.filter_map(|line| definition(line.strip_suffix(b"\r").unwrap_or(line))).collect();
        Self { family, language, predefined, answers: BTreeMap::new(), id: next_id() }
    }

    /// The same dialect with the answers that `answers` holds for `questions`: what the compiler printed for
    /// [`Questions::source`]. A question it printed nothing for counts as one it refuses. `None` if nothing of it is
    /// an answer.
    #[must_use]
    pub fn with_answers(&self, questions: &Questions, answers: &[u8]) -> Option<Self> {
        let mut known = self.answers.clone();
        let given: BTreeMap<usize, i64> = answers.split(|&byte| byte == b'\n').filter_map(answer).collect();
        // The last line of the source is always printed, unless the compiler did not run at all.
        given.get(&questions.asked.len())?;
        for (at, question) in questions.asked.iter().enumerate() {
            let answer = given.get(&at).map_or(Answer::Refused, |&value| Answer::Value(value));
            known.insert(question.0.clone(), answer);
        }
        Some(Self { answers: known, id: next_id(), ..self.clone() })
    }

    pub(crate) fn macro_text(&self, name: &[u8]) -> Option<&[u8]> {
        self.predefined.iter().find(|(known, _)| known == name).map(|(_, text)| text.trim_ascii())
    }
}

/// `#define NAME rest`.
fn definition(line: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let line = line.strip_prefix(b"#define ")?;
    let end = line.iter().position(|&byte| !crate::lex::continues_name(byte)).unwrap_or(line.len());
    (end > 0).then(|| (line[..end].to_vec(), line[end..].to_vec()))
}

/// `barn_answer_3 201907L`.
fn answer(line: &[u8]) -> Option<(usize, i64)> {
    let line = std::str::from_utf8(line).ok()?.trim().strip_prefix(MARK)?;
    let (number, value) = line.split_once(' ')?;
    let value = value.trim().trim_end_matches(['L', 'l', 'U', 'u']);
    Some((number.parse().ok()?, value.parse().ok()?))
}

/// Begins every line of an answer.
const MARK: &str = "barn_answer_";

/// A source for `-E -P` whose output answers questions.
#[derive(Debug)]
pub struct Questions {
    /// The questions, in order.
    pub asked: Vec<Question>,
    /// The source to preprocess.
    pub source: Vec<u8>,
}

impl Questions {
    /// The source that asks these. The compiler may complain about some and exit with an error; what it prints holds
    /// the answers to the others.
    pub fn new(asked: Vec<Question>) -> Self {
        let mut source = Vec::new();
        for (at, question) in asked.iter().enumerate() {
            ask(&mut source, at, &question.0);
        }
        source.extend_from_slice(format!("{MARK}{} 1\n", asked.len()).as_bytes());
        Self { asked, source }
    }
}

/// Most values are 0 or 1, told by `#if` alone; the others are dates, which compilers print in place of the operator.
/// Whatever goes wrong with one question stays between its lines.
fn ask(source: &mut Vec<u8>, at: usize, question: &[u8]) {
    let end = question.iter().position(|&byte| byte == b'(').unwrap_or(question.len());
    let operator = String::from_utf8_lossy(&question[..end]).into_owned();
    let whole = String::from_utf8_lossy(question).into_owned();
    let lines = if end == question.len() {
        format!("#ifdef {operator}\n{MARK}{at} 1\n#else\n{MARK}{at} 0\n#endif\n")
    } else {
        format!(
            "#ifdef {operator}\n#if {whole} == 0\n{MARK}{at} 0\n#elif {whole} == 1\n{MARK}{at} 1\n#else\n\
             {MARK}{at} {whole}\n#endif\n#else\n{MARK}{at} 0\n#endif\n"
        )
    };
    source.extend_from_slice(lines.as_bytes());
}
