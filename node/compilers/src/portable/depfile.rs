//! Dependency files without the places of one checkout.
//!
//! A compiler breaks the lines of a dependency file by the length of the names in it, so the file of another checkout is
//! not this one with other names. The neutral form holds the words, with marks for places, and which compiler's rule breaks the
//! lines. It is made only if the rule gives back the file as the compiler wrote it, byte for byte; then it gives the file of any
//! other checkout.
//!
//! ```text
//! neutral  = file                                     without a NUL: no place is named in it
//!          | rule phony targets dependencies phonies   always with a NUL
//! rule     = 1 (gcc) | 2 (clang)
//! phony    = 0 | 1: each on a line | 2: each after an empty line
//! the rest = count, then words: length, bytes; numbers are u32 little-endian
//! ```

use barn_protocol::Places;

use super::traces;
use crate::{depend::DEPENDENCIES_MAX, detect::Family};

/// How a compiler breaks lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// libcpp's `make_write`.
    Gcc = 1,
    /// clang's `outputDependencyFile`.
    Clang = 2,
}

/// The column after which gcc does not write (`deps_write`), and that of clang (`MaxColumns`).
const GCC_COLUMNS: usize = 72;
const CLANG_COLUMNS: usize = 75;

/// The words of a dependency file, escaped as they are in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Words {
    targets: Vec<Vec<u8>>,
    dependencies: Vec<Vec<u8>>,
    /// The targets without dependencies of `-MP`.
    phonies: Vec<Vec<u8>>,
    /// How these are set apart: see the module's grammar.
    phony: u8,
}

/// The neutral form of a dependency file that a compiler of this family wrote in `places`; `None` if it has none.
pub fn neutral(file: &[u8], family: Family, places: &Places) -> Option<Vec<u8>> {
    if file.contains(&0) {
        return None;
    }
    if !traces::holds_place(file, places) {
        return Some(file.to_vec());
    }
    let words = Words::read(file)?;
    // A file without a broken line is the same by both rules, until the names in it are longer.
    let rule = match family {
        Family::Gcc => Rule::Gcc,
        Family::Clang => Rule::Clang,
        Family::Cc | Family::Rustc | Family::Wrapper(_) | Family::Unknown => return None,
    };
    if words.compose(rule) != file {
        return None;
    }
    let marked = words.map(|word| Some(places.mark(word)))?;
    let mut neutral = vec![rule as u8, marked.phony];
    for list in marked.lists() {
        neutral.extend(number(list.len())?);
        for word in list {
            if traces::holds_place(word, places) {
                return None;
            }
            neutral.extend(number(word.len())?);
            neutral.extend_from_slice(word);
        }
    }
    Some(neutral)
}

/// The dependency file that the compiler would write in `places`; `None` if the neutral form is damaged or of other kinds of places.
pub fn composed(neutral: &[u8], places: &Places) -> Option<Vec<u8>> {
    if is_plain(neutral) {
        return Some(neutral.to_vec());
    }
    let (&rule, rest) = neutral.split_first()?;
    let rule = match rule {
        1 => Rule::Gcc,
        2 => Rule::Clang,
        _ => return None,
    };
    let (&phony, mut rest) = rest.split_first()?;
    let mut list = || -> Option<Vec<Vec<u8>>> {
        let count = take_number(&mut rest)?;
        // A word takes four bytes at least.
        if count > DEPENDENCIES_MAX || count > rest.len() {
            return None;
        }
        (0..count)
            .map(|_| {
                let length = take_number(&mut rest)?;
                let (word, left) = rest.split_at_checked(length)?;
                rest = left;
                Some(word.to_vec())
            })
            .collect()
    };
    let words = Words { targets: list()?, dependencies: list()?, phonies: list()?, phony };
    if !rest.is_empty() {
        return None;
    }
    Some(words.map(|word| places.unmark(word))?.compose(rule))
}

/// Whether a neutral form is the dependency file itself, in all places.
pub fn is_plain(neutral: &[u8]) -> bool {
    !neutral.contains(&0)
}

fn number(value: usize) -> Option<[u8; 4]> {
    Some(u32::try_from(value).ok()?.to_le_bytes())
}

fn take_number(rest: &mut &[u8]) -> Option<usize> {
    let (bytes, left) = rest.split_first_chunk::<4>()?;
    *rest = left;
    usize::try_from(u32::from_le_bytes(*bytes)).ok()
}

impl Words {
    /// The words of a file; what is read wrong does not compose again.
    fn read(file: &[u8]) -> Option<Self> {
        let mut words = Self::default();
        let mut rest = file;
        let mut past_colon = false;
        loop {
            rest = skip_blanks(rest);
            match rest {
                [] => return None,
                [b'\n', left @ ..] => {
                    words.phonies(left)?;
                    return past_colon.then_some(words);
                }
                _ => {}
            }
            let length = word_length(rest);
            let (word, left) = rest.split_at(length.max(1));
            rest = left;
            match word.strip_suffix(b":") {
                Some(target) if !past_colon => {
                    words.targets.push(target.to_vec());
                    past_colon = true;
                }
                _ if past_colon => words.dependencies.push(word.to_vec()),
                _ => words.targets.push(word.to_vec()),
            }
            if words.targets.len() + words.dependencies.len() > DEPENDENCIES_MAX {
                return None;
            }
        }
    }

    fn phonies(&mut self, lines: &[u8]) -> Option<()> {
        self.phony = match lines.first() {
            None => 0,
            Some(b'\n') => 2,
            Some(_) => 1,
        };
        for line in lines.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            self.phonies.push(line.strip_suffix(b":")?.to_vec());
        }
        Some(())
    }

    fn lists(&self) -> [&Vec<Vec<u8>>; 3] {
        [&self.targets, &self.dependencies, &self.phonies]
    }

    fn map(&self, each: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Option<Self> {
        let all = |list: &[Vec<u8>]| list.iter().map(|word| each(word)).collect::<Option<Vec<_>>>();
        Some(Self {
            targets: all(&self.targets)?,
            dependencies: all(&self.dependencies)?,
            phonies: all(&self.phonies)?,
            phony: self.phony,
        })
    }

    fn compose(&self, rule: Rule) -> Vec<u8> {
        let mut file = match rule {
            Rule::Gcc => self.rule_of_gcc(),
            Rule::Clang => self.rule_of_clang(),
        };
        file.push(b'\n');
        for phony in &self.phonies {
            if self.phony == 2 {
                file.push(b'\n');
            }
            file.extend_from_slice(phony);
            file.extend_from_slice(b":\n");
        }
        file
    }

    /// As `make_write_name` in libcpp's `mkdeps.cc`.
    fn rule_of_gcc(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut column = 0;
        let mut write = |out: &mut Vec<u8>, word: &[u8], colon: bool| {
            if column > 0 {
                if column + word.len() > GCC_COLUMNS {
                    out.extend_from_slice(b" \\\n");
                    column = 0;
                }
                column += 1;
                out.push(b' ');
            }
            column += word.len();
            out.extend_from_slice(word);
            if colon {
                column += 1;
                out.push(b':');
            }
        };
        for (index, word) in self.targets.iter().enumerate() {
            write(&mut out, word, index + 1 == self.targets.len());
        }
        self.dependencies.iter().for_each(|word| write(&mut out, word, false));
        out
    }

    /// As `outputDependencyFile` in clang's `DependencyFile.cpp`.
    fn rule_of_clang(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut column = 0;
        for word in &self.targets {
            if column == 0 {
                column = word.len();
            } else if column + word.len() + 2 > CLANG_COLUMNS {
                column = word.len() + 2;
                out.extend_from_slice(b" \\\n  ");
            } else {
                column += word.len() + 1;
                out.push(b' ');
            }
            out.extend_from_slice(word);
        }
        out.push(b':');
        column += 1;
        for word in &self.dependencies {
            let length = unescaped_length(word);
            if column + length + 1 + 2 > CLANG_COLUMNS {
                out.extend_from_slice(b" \\\n ");
                column = 2;
            }
            out.push(b' ');
            out.extend_from_slice(word);
            column += length + 1;
        }
        out
    }
}

fn skip_blanks(mut rest: &[u8]) -> &[u8] {
    loop {
        rest = match rest {
            [b' ', left @ ..] | [b'\\', b'\n', left @ ..] => left,
            _ => return rest,
        };
    }
}

/// The length of the word at the head of `rest`: up to a blank that no backslash escapes.
fn word_length(rest: &[u8]) -> usize {
    let mut at = 0;
    while at < rest.len() {
        match &rest[at..] {
            [b'\\', b'\n', ..] | [b' ' | b'\n', ..] => break,
            [b'\\', _, ..] => at += 2,
            _ => at += 1,
        }
    }
    at.min(rest.len())
}

/// How long a word is in clang's eyes: without what quotes it.
fn unescaped_length(word: &[u8]) -> usize {
    let mut length = 0;
    let mut rest = word;
    while let Some(left) = match rest {
        [] => None,
        [b'\\', b' ' | b'#', left @ ..] | [b'$', b'$', left @ ..] | [_, left @ ..] => Some(left),
    } {
        length += 1;
        rest = left;
    }
    length
}

#[cfg(test)]
mod tests {
    use barn_protocol::TreePath;
    use proptest::prelude::*;

    use super::*;

    fn places(root: &str, cwd: &str) -> Places {
        let path = |text: &str| TreePath::new(text).expect("a good path");
        Places::new(path(root), &path(cwd)).expect("plain names")
    }

    #[test]
    fn a_file_without_places_is_itself() {
        let places = places("/h/a/p", "/h/a/p");
        let file = b"x.o: x.c \\\n sub/y.h\n\nsub/y.h:\nodd";
        let neutral = neutral(file, Family::Gcc, &places).unwrap();
        assert!(is_plain(&neutral) && neutral == file);
        assert_eq!(composed(&neutral, &self::places("/b", "/c")).as_deref(), Some(&file[..]));
        assert_eq!(super::neutral(b"x.o: \0", Family::Gcc, &places), None);
    }

    #[test]
    fn what_no_rule_gives_has_no_neutral_form() {
        let places = places("/h/a/p", "/h/a/p");
        for file in
            ["x.o:  /h/a/p/x.c\n", "x.o: /h/a/p/x.c", "/h/a/p/x.c\n", "x.o: -L/h/a/p/x\n", "x: /h/a/p\ny\n"]
        {
            for family in [Family::Gcc, Family::Clang] {
                assert_eq!(neutral(file.as_bytes(), family, &places), None, "{file:?}");
            }
        }
    }

    #[test]
    fn damage_is_seen() {
        let places = places("/h/a/p", "/h/a/b");
        let good = neutral(b"/h/a/b/x.o: /h/a/p/x.c\n", Family::Gcc, &places).unwrap();
        assert_eq!(composed(&good, &self::places("/q", "/r")).as_deref(), Some(&b"/r/x.o: /q/x.c\n"[..]));
        assert_eq!(composed(&good, &self::places("/q", "/q/b")), None, "there is no such place");
        for end in 3..good.len() {
            assert_eq!(composed(&good[..end], &places), None, "{end}");
        }
        assert_eq!(composed(&[good.clone(), vec![0]].concat(), &places), None);
        assert_eq!(composed(&[9, 0], &places), None);
        assert_eq!(composed(&[1, 0, 255, 255, 255, 255], &places), None);
    }

    /// A file as a compiler writes it in the project at `root`.
    fn written(rule: Rule, root: &str, names: &[String], phony: u8) -> Vec<u8> {
        let at = |name: &String| format!("{root}/{name}").into_bytes();
        let dependencies: Vec<_> = names.iter().map(at).chain([b"/usr/include/a\\ b.h".to_vec()]).collect();
        let phonies = if phony == 0 { Vec::new() } else { dependencies[1..].to_vec() };
        Words { targets: vec![at(&"out/x.o".to_owned())], dependencies, phonies, phony }.compose(rule)
    }

    proptest! {
        #[test]
        fn another_checkout_gets_the_file_of_its_own_compiler(
            one in "/[a-z]{1,40}",
            other in "/[a-z]{1,40}/[a-z]{1,40}",
            names in proptest::collection::vec("[a-z]{1,12}(/[a-z]{1,12}){0,3}\\.h", 1..20),
            phony in 0..3_u8,
            is_gcc: bool,
        ) {
            let rule = if is_gcc { Rule::Gcc } else { Rule::Clang };
            let here = places(&one, &one);
            let there = places(&other, &other);
            let family = if is_gcc { Family::Gcc } else { Family::Clang };
            // A name of a file may hold the whole name of the root.
            if let Some(neutral) = neutral(&written(rule, &one, &names, phony), family, &here) {
                prop_assert_eq!(composed(&neutral, &there).unwrap(), written(rule, &other, &names, phony));
            }
        }
    }
}
