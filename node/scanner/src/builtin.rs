//! Operators whose answers only the compiler knows.

use std::collections::BTreeSet;

use crate::{
    lex::Kind,
    load::{Tables, Tok},
};

/// Questions a unit asks a compiler at once; more are asked in the next round.
pub(crate) const QUESTIONS_MAX: usize = 4096;
/// Longest question, in bytes: names of attributes and built-ins are shorter.
pub(crate) const QUESTION_BYTES_MAX: usize = 256;

/// Operators every compiler in use knows, and the scanner evaluates.
pub(crate) fn is_include_test(name: &[u8]) -> bool {
    crate::parse::takes_header(name) && name != b"__has_embed"
}

/// Whether `name` may be an operator of the compiler's that `-dM` does not tell of.
pub(crate) fn is_operator(name: &[u8]) -> bool {
    name.starts_with(b"__has_") && !is_include_test(name)
        || name.starts_with(b"__is_target_")
        || matches!(name, b"__is_identifier" | b"__building_module")
}

/// Macros that compilers know without telling in `-dM`.
pub(crate) fn is_dynamic(name: &[u8]) -> bool {
    matches!(
        name,
        b"__LINE__"
            | b"__FILE__"
            | b"__FILE_NAME__"
            | b"__BASE_FILE__"
            | b"__INCLUDE_LEVEL__"
            | b"__COUNTER__"
            | b"__DATE__"
            | b"__TIME__"
            | b"__TIMESTAMP__"
    )
}

/// A guess at an answer, so that a scan whose questions are open goes about as far as it will with the answers: most
/// operators are asked about what the compiler has.
pub(crate) fn is_likely(question: &[u8], clang: bool) -> bool {
    let end = question.iter().position(|&byte| byte == b'(').unwrap_or(question.len());
    clang && !question.ends_with(b"(modules)")
        || matches!(
            &question[..end],
            b"__has_attribute" | b"__has_cpp_attribute" | b"__has_c_attribute" | b"__has_builtin"
        )
}

/// Whether a use of the operator is a question: not for those the scanner answers.
fn is_asked(name: &[u8]) -> bool {
    is_operator(name) && name != b"__has_embed"
}

/// The name under which an answer stands among the macros; no macro can be called so.
pub(crate) fn answer_name(question: &[u8]) -> Vec<u8> {
    [b"\x01", question].concat()
}

/// The questions spelled out in tokens: `__has_x(…)` with plain arguments, and the operators themselves.
pub(crate) fn literal_questions(tables: &Tables, tokens: &[Tok]) -> Box<[Box<[u8]>]> {
    let mut found: BTreeSet<Box<[u8]>> = BTreeSet::new();
    for (at, token) in tokens.iter().enumerate() {
        let name = tables.names.get(token.sym);
        if token.kind != Kind::Name || !is_operator(name) || found.len() == QUESTIONS_MAX {
            continue;
        }
        found.insert(name.into());
        if is_asked(name)
            && let Some(question) = spell_question(tables, name, &tokens[at + 1..])
        {
            found.insert(question.into());
        }
    }
    found.into_iter().collect()
}

/// `name(arguments)` without blanks, if the tokens that follow are its arguments.
pub(crate) fn spell_question(tables: &Tables, name: &[u8], tokens: &[Tok]) -> Option<Vec<u8>> {
    let words = &tables.words;
    if tokens.first()?.sym != words.open {
        return None;
    }
    let mut question = name.to_vec();
    let mut depth = 0;
    for token in tokens {
        question.extend_from_slice(tables.names.get(token.sym));
        if question.len() > QUESTION_BYTES_MAX {
            return None;
        }
        if token.sym == words.open {
            depth += 1;
        } else if token.sym == words.close {
            depth -= 1;
            if depth == 0 {
                // A name alone, perhaps with its scope, a string, or a builtin with a parenthesis: not a parameter's
                // value, but that is as harmless to ask as any.
                return Some(question);
            }
        }
    }
    None
}
