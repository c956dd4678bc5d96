//! Whether the texts of a unit can name the file that they are in.
//!
//! `__FILE__` and its kin give a text the path under which its file was found. What is made of that need not leave a trace that can
//! be searched (a constant expression may hash it), so a unit whose files have absolute names must not use them. An
//! identifier is written in one piece or pasted from identifiers; [`Words`] collects, over all texts of a unit, both the names
//! themselves and the words that are parts of them. Comments, strings and skipped groups count as well: a reader of
//! text cannot be fooled into overlooking a word that it does not try to leave out.
//!
//! That refuses units of which a header has `__FILE__` in a macro that is never used. For these the compiler is asked: in what its
//! preprocessor prints ([`preprocess_argv`]) every path that was used stands as a string ([`check_preprocessed`]).

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashSet},
    sync::{Arc, LazyLock},
};

use barn_protocol::Places;
use memchr::memmem;

use super::{Refusal, traces};
use crate::{compile::Compile, language::Language};

/// What gives a text the path of a file.
const LOCATORS: [&str; 6] = [
    "__FILE__",
    "__BASE_FILE__",
    "__builtin_FILE",
    "__builtin_source_location",
    "__PRETTY_FUNCTION__",
    "__FUNCSIG__",
];
/// What, in headers of the compiler and the C library, takes what a locator gives: with one of these a text could get at it.
const TAKERS: [&str; 7] = [
    "__ASSERT_FUNCTION",
    "__assert",
    "__assert_fail",
    "__assert_perror_fail",
    "__replacement_assert",
    "assert",
    "assert_perror",
];
/// How the macros of the standard library begin that are such.
const TAKERS_BEGIN: [&[u8]; 2] = [b"__glibcxx_", b"_GLIBCXX_"];
/// The class of the standard library whose default arguments tell where they are used.
const SOURCE_LOCATION: &[u8] = b"source_location";
/// Headers below `/usr` that use locators as arguments of what reports and ends, or to define what [`SOURCE_LOCATION`] names.
const REPORTERS: [&str; 8] = [
    "/assert.h",
    "/bits/c++config.h",
    "/debug/assertions.h",
    "/debug/macros.h",
    "/debug/string",
    "/pstl/pstl_config.h",
    "/source_location",
    "/version",
];
/// Parts of locators that a unit may have; English and C have some twenty.
const PARTS_MAX: usize = 64;

/// All words that are a part of a locator, and not the whole.
static PARTS: LazyLock<HashSet<&'static [u8]>> = LazyLock::new(|| {
    let parts = |locator: &'static str| {
        let bytes = locator.as_bytes();
        let ends = move |start: usize| (start + 1..=bytes.len()).map(move |end| &bytes[start..end]);
        (0..bytes.len()).flat_map(ends).filter(move |part| part.len() < bytes.len())
    };
    LOCATORS.iter().flat_map(|locator| parts(locator)).collect()
});

/// Where a text is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The project, the command line, or any other place that may hold anything.
    Anywhere,
    /// A header of the system's packages.
    System,
    /// A header of the compiler or C library that is known to do nothing else with a locator than to report it.
    Reporter,
}

/// What the words of texts say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    locator: bool,
    taker: bool,
    /// Whether a macro is defined by the word `assert`.
    asserts: bool,
    source_location: bool,
    parts: Arc<BTreeSet<&'static [u8]>>,
    /// The parts that stand beside a `##`.
    pasted: Arc<BTreeSet<&'static [u8]>>,
}

/// What the texts of a unit say together.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    parts: BTreeSet<&'static [u8]>,
}

impl Origin {
    /// The origin of a file outside the places, by its path.
    pub fn outside(path: &[u8]) -> Self {
        let is_packaged = path.starts_with(b"/usr/") && !path.starts_with(b"/usr/local/");
        let is_reporter = REPORTERS.iter().any(|name| path.ends_with(name.as_bytes()));
        match (is_packaged, is_reporter) {
            (false, _) => Self::Anywhere,
            (true, false) => Self::System,
            (true, true) => Self::Reporter,
        }
    }
}

impl Words {
    /// The words of a text.
    pub fn of(text: &[u8]) -> Self {
        let Some(text) = unfolded(text) else {
            return Self { locator: true, ..Self::default() };
        };
        let mut words = Self::default();
        let mut parts = BTreeSet::new();
        for word in words_of(&text) {
            if let Some(part) = PARTS.get(word) {
                parts.insert(*part);
                words.source_location |= word == SOURCE_LOCATION;
            } else {
                words.locator |= LOCATORS.iter().any(|locator| locator.as_bytes() == word);
                words.taker |= TAKERS.iter().any(|taker| taker.as_bytes() == word)
                    || TAKERS_BEGIN.iter().any(|begin| word.starts_with(begin));
            }
        }
        words.asserts = asserts(&text);
        words.pasted = Arc::new(beside_paste(&text));
        words.parts = Arc::new(parts);
        words
    }
}

impl Unit {
    /// Takes a text into account.
    ///
    /// # Errors
    /// When it can name the file that it is in.
    pub fn add(&mut self, words: &Words, origin: Origin) -> Result<(), Refusal> {
        let refused = match origin {
            Origin::Anywhere => words.locator || words.taker || words.source_location,
            Origin::System => words.locator || words.asserts || words.source_location,
            Origin::Reporter => false,
        };
        if refused {
            return Err(Refusal::new("it names the file that it is in; hint: `portable_paths`"));
        }
        let parts = if origin == Origin::Anywhere { &words.parts } else { &words.pasted };
        self.parts.extend(parts.iter());
        Ok(())
    }

    /// Looks whether a locator can be pasted from words of the texts.
    ///
    /// # Errors
    /// When one can.
    pub fn finish(&self) -> Result<(), Refusal> {
        let composed = LOCATORS.iter().find(|locator| self.composes(locator.as_bytes()));
        match composed {
            _ if self.parts.len() > PARTS_MAX => {
                Err(Refusal::new("its texts have too many parts of `__FILE__`"))
            }
            Some(locator) => {
                Err(Refusal::new(format!("its texts have words of which `{locator}` can be pasted")))
            }
            None => Ok(()),
        }
    }

    /// Whether the parts make up `locator`. They are all shorter.
    fn composes(&self, locator: &[u8]) -> bool {
        let mut reached = vec![false; locator.len() + 1];
        reached[0] = true;
        for at in 0..locator.len() {
            if !reached[at] {
                continue;
            }
            for part in self.parts.iter().filter(|part| locator[at..].starts_with(part)) {
                reached[at + part.len()] = true;
            }
        }
        reached[locator.len()]
    }
}

/// The arguments after `argv[0]` for a run that prints what the compiler proper reads, without the names of files in line markers;
/// `None` if the source is not preprocessed.
pub fn preprocess_argv(compile: &Compile) -> Option<Vec<Vec<u8>>> {
    if compile.language == Language::Assembler {
        return None;
    }
    let flags = [&b"-E"[..], b"-P", b"-w"].map(<[u8]>::to_vec);
    Some(flags.into_iter().chain(compile.dependency_args.iter().cloned()).collect())
}

/// Looks whether a preprocessed text names a place: an `__FILE__` that is used stands in it as the string that it is.
///
/// # Errors
/// When it does, or uses what the compiler proper replaces.
pub fn check_preprocessed(text: &[u8], places: &Places) -> Result<(), Refusal> {
    let locates = || words_of(text).any(|word| LOCATORS.iter().any(|locator| locator.as_bytes() == word));
    if traces::holds_place(text, places) || locates() {
        return Err(Refusal::new("it uses the path of a file; hint: `portable_paths`"));
    }
    Ok(())
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn words_of(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| !is_word(byte)).filter(|word| !word.is_empty())
}

/// The text without line continuations; `None` if compilers differ over what is one.
fn unfolded(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    let continues = |rest: &[u8]| {
        let blanks = rest.iter().take_while(|b| matches!(b, b' ' | b'\t' | 0x0b | 0x0c)).count();
        match &rest[blanks..] {
            [b'\n', ..] => Some(blanks + 1),
            [b'\r', b'\n', ..] => Some(blanks + 2),
            _ => None,
        }
    };
    let mut unfolded = Vec::new();
    let mut from = 0;
    for at in memchr::memchr2_iter(b'\\', b'/', text) {
        if at < from {
            continue;
        }
        // `??/` is a backslash to those who read trigraphs.
        let start = if text[at] == b'\\' {
            at
        } else if text[..at].ends_with(b"??") {
            at - 2
        } else {
            continue;
        };
        let rest = &text[at + 1..];
        if let Some(length) = continues(rest) {
            unfolded.extend_from_slice(&text[from..start.max(from)]);
            from = at + 1 + length;
        } else if rest.first() == Some(&b'\r') {
            return None;
        }
    }
    if from == 0 {
        return Some(Cow::Borrowed(text));
    }
    unfolded.extend_from_slice(&text[from..]);
    Some(Cow::Owned(unfolded))
}

/// Whether a macro is defined by the word `assert`.
fn asserts(text: &[u8]) -> bool {
    let word = b"assert".as_slice();
    memmem::find_iter(text, word).any(|at| {
        let line = &text[memchr::memrchr(b'\n', &text[..at]).map_or(0, |end| end + 1)..at];
        let is_whole = !text[..at].last().is_some_and(|b| is_word(*b))
            && !text.get(at + word.len()).is_some_and(|b| is_word(*b));
        let directive = line.trim_ascii_start().strip_prefix(b"#").map(<[u8]>::trim_ascii_start);
        is_whole && directive.is_some_and(|directive| directive.starts_with(b"define"))
    })
}

/// The parts of locators that stand beside `##`, in any of its spellings.
fn beside_paste(text: &[u8]) -> BTreeSet<&'static [u8]> {
    let mut found = BTreeSet::new();
    for paste in [&b"##"[..], b"%:%:", b"??=??="] {
        for at in memmem::find_iter(text, paste) {
            let before = text[..at].trim_ascii_end();
            let before = &before[before.iter().rposition(|&b| !is_word(b)).map_or(0, |at| at + 1)..];
            let after = text[at + paste.len()..].trim_ascii_start();
            let after = &after[..after.iter().position(|&b| !is_word(b)).unwrap_or(after.len())];
            found.extend([before, after].into_iter().filter_map(|word| PARTS.get(word).copied()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unit(texts: &[(&str, Origin)]) -> Result<(), Refusal> {
        let mut unit = Unit::default();
        for (text, origin) in texts {
            unit.add(&Words::of(text.as_bytes()), *origin)?;
        }
        unit.finish()
    }

    fn check(text: &str, is_clean: bool) {
        assert_eq!(unit(&[(text, Origin::Anywhere)]).is_ok(), is_clean, "{text:?}");
    }

    #[test]
    fn locators_are_seen_however_they_are_written() {
        check("int x; FILE *file; char *FILE__; static_assert(x);", true);
        // Its expansion can be made a string.
        check("int x = hash(STR(assert(0)));", false);
        check("int x = hash(STR(__glibcxx_requires_string(0)));", false);
        check("int x = hash(__FILE__);", false);
        check("__FI\\\nLE__", false);
        check("__FI\\  \t\nLE__", false);
        check("__FI\\\r\nLE__", false);
        check("__FI??/\nLE__", false);
        check("_\\\n_\\\nFILE_\\\n_", false);
        check("__FI\\\rLE__", false);
        check("x$__FILE__", false);
        check("\u{e4}__FILE__", false);
        check("std::source_location::current()", false);
        check("#define __assert_fail(a, b, c, d) hash(b)", false);
        check("__builtin_FILE()", false);
        check("auto n = __PRETTY_FUNCTION__;", false);
        check("my__FILE__ __FILE__s __FILE_NAME__", true);
    }

    #[test]
    fn locators_are_seen_in_pieces() {
        check("#define A __FI\n#define B LE__\nA##B", false);
        check("CAT(__FILE, __)", false);
        check("CAT(__, FILE) FILE__", false);
        check("_ FILE", false);
        check("__ FIL", true);
        check("FILE x; // E__", true);
        check("CAT(__builtin, _FILE)()", false);
        check("CAT(__builtin_source, _location)", false);
        let in_two = [("x __FI", Origin::Anywhere), ("y LE__", Origin::Anywhere)];
        assert!(unit(&in_two).is_err());
        // A system macro pastes what the project gives it.
        let pasting = ("#define M(x) __ ## x ## __\n#define N(x) CAT(__, x)", Origin::System);
        assert!(unit(&[pasting, ("M(FILE)", Origin::Anywhere)]).is_err());
        assert!(unit(&[pasting, ("M(FIL)", Origin::Anywhere)]).is_ok());
        assert!(unit(&[("__ x", Origin::System), ("FILE *f;", Origin::Anywhere)]).is_ok());
    }

    #[test]
    fn headers_of_the_compiler_may_report() {
        let text = "#define assert(x) __assert_fail(#x, __FILE__, __LINE__, __func__)";
        assert_eq!(Origin::outside(b"/usr/include/assert.h"), Origin::Reporter);
        for (other, origin) in [
            ("/usr/include/boost/assert.hpp", Origin::System),
            ("/usr/include/my_assert.h", Origin::System),
            ("/usr/local/include/assert.h", Origin::Anywhere),
            ("/opt/include/assert.h", Origin::Anywhere),
        ] {
            assert_eq!(Origin::outside(other.as_bytes()), origin, "{other}");
            assert!(unit(&[(text, origin)]).is_err());
        }
        let current = "void log(std::source_location at = std::source_location::current());";
        assert!(unit(&[(current, Origin::System)]).is_err());
        assert!(unit(&[("__glibcxx_assert(n < size());", Origin::System)]).is_ok());
        assert!(unit(&[(text, Origin::Reporter), ("f(x);", Origin::Anywhere)]).is_ok());
        assert!(unit(&[(" * assert(x);", Origin::System)]).is_ok());
        assert!(unit(&[("#define CHECK(x) \\\n assert(x)", Origin::System)]).is_err());
    }

    #[test]
    fn a_preprocessed_text_shows_what_was_used() {
        let path = |text: &str| barn_protocol::TreePath::new(text).expect("a good path");
        let places = Places::new(path("/h/a/p"), &path("/h/a/p")).expect("plain names");
        for (text, is_clean) in [
            ("int x; char *f = \"x.c\"; FILE *g;", true),
            ("char *f = \"/h/a/p/x.c\";", false),
            ("char *f = \"\\\"/h/a/p/x.c\\\"\";", false),
            ("char *f = __builtin_FILE();", false),
            ("f(__PRETTY_FUNCTION__);", false),
        ] {
            assert_eq!(check_preprocessed(text.as_bytes(), &places).is_ok(), is_clean, "{text}");
        }
    }

    proptest! {
        /// However a locator is cut and the cuts are filled, it is seen.
        #[test]
        fn cuts_do_not_hide_a_locator(
            which in 0..LOCATORS.len(),
            cuts in proptest::collection::vec((1..24_usize, 0..4_usize), 0..4),
        ) {
            let fills = ["\\\n", "\\ \r\n", " ## ", "); CAT("];
            let mut text = LOCATORS[which].to_owned();
            for (at, fill) in cuts {
                if text.is_char_boundary(at) && at < text.len() {
                    text.insert_str(at, fills[fill]);
                }
            }
            // A cut may fall into a fill and break a continuation.
            let whole = text.replace("\\\n", "").replace("\\ \r\n", "").replace(" ## ", "").replace("); CAT(", "");
            prop_assume!(whole == LOCATORS[which]);
            prop_assert!(unit(&[(&text, Origin::Anywhere)]).is_err(), "{:?}", text);
        }
    }
}
