//! What a compiler knows by itself under one set of flags.

use barn_compilers::{Language, detect::Family};

/// A built-in test whose answer only the compiler knows: `__has_builtin(x)`, `__has_attribute(x)`,
/// `__has_cpp_attribute(x)`, `__has_feature(x)` …, as spelled, without blanks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Question(pub Vec<u8>);

/// Predefined macros and answers of one compiler under one set of flags.
#[derive(Debug)]
pub struct Dialect {
    family: Family,
    language: Language,
}

impl Dialect {
    /// A dialect from what the compiler printed for `-dM -E` (its predefined macros, without the unit's `-D`, `-U`,
    /// `-include` and `-imacros`), run on an empty source in the unit's language with the unit's other flags.
    pub fn new(family: Family, language: Language, predefined: &[u8]) -> Self {
        let _ = predefined;
        Self { family, language }
    }

    /// The same dialect with the answers that `answers` holds for `questions`.
    #[must_use]
    pub fn with_answers(&self, questions: &Questions, answers: &[u8]) -> Option<Self> {
        let _ = (questions, answers, self.family, self.language);
        None
    }
}

/// A source for `-E -P` whose output answers questions.
#[derive(Debug)]
pub struct Questions {
    /// The questions, in order.
    pub asked: Vec<Question>,
    /// The source to preprocess.
    pub source: Vec<u8>,
}

impl Questions {
    /// The source that asks these.
    pub fn new(asked: Vec<Question>) -> Self {
        Self { asked, source: Vec::new() }
    }
}
