//! Where an include is looked for.
//!
//! A header that is only probed by `__has_include` is in no dependency list. The node finds such names with
//! [`crate::directives`], asks [`candidates`] for the paths a compiler would try, ships those that exist
//! and records those that do not. The answer may hold paths the compiler would not try (all directories
//! for `#include_next`), never fewer.

use crate::directives::{Form, Include, IncludeKind};

/// The directories one compile searches, in order, as the compiler prints them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchDirs {
    /// For `"name"` only, after the including file's own directory.
    pub quote: Vec<Vec<u8>>,
    /// For both forms, after `quote`.
    pub angle: Vec<Vec<u8>>,
    /// Framework directories among the above (Objective-C on Apple's systems).
    pub frameworks: Vec<Vec<u8>>,
    /// Directories that were named but do not exist: one that appears changes the search.
    pub missing: Vec<Vec<u8>>,
    /// Directories that were named and left out, as they are the same as others. If one is a link, it may lead elsewhere
    /// later.
    pub duplicates: Vec<Vec<u8>>,
    /// Where all the above but the missing really lay, in order, as seen by whoever asked.
    pub real: Vec<Option<Vec<u8>>>,
}

impl SearchDirs {
    /// All directories that are there: those searched, and duplicates of them.
    pub fn present(&self) -> impl Iterator<Item = &[u8]> {
        let all = self.quote.iter().chain(&self.angle).chain(&self.frameworks).chain(&self.duplicates);
        all.map(Vec::as_slice)
    }
}

/// Reads what `gcc -E -v` or `clang -E -v` wrote to standard error, run with `LC_ALL=C`. `None` if the
/// lists are not in it.
pub fn parse_search_dirs(stderr: &[u8]) -> Option<SearchDirs> {
    enum Part {
        Before,
        Quote,
        Angle,
    }
    let mut dirs = SearchDirs::default();
    let mut part = Part::Before;
    for line in stderr.split(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match (&part, line) {
            (Part::Before, b"#include \"...\" search starts here:") => part = Part::Quote,
            (Part::Before, line) => {
                dirs.missing.extend(ignored(line, b"nonexistent"));
                dirs.duplicates.extend(ignored(line, b"duplicate"));
            }
            (Part::Quote, b"#include <...> search starts here:") => part = Part::Angle,
            (_, b"End of search list.") => return Some(dirs),
            (_, line) => {
                let directory = line.strip_prefix(b" ")?;
                if let Some(framework) = directory.strip_suffix(b" (framework directory)") {
                    dirs.frameworks.push(framework.to_vec());
                } else if matches!(part, Part::Quote) {
                    dirs.quote.push(directory.to_vec());
                } else {
                    dirs.angle.push(directory.to_vec());
                }
            }
        }
    }
    None
}

/// The paths at which a compiler would look for `include`, first match first.
///
/// `including_dir` is the directory of the including file as the compiler has it: the part of its path up to
/// the last slash, empty for a file named without one.
pub fn candidates<'a>(
    include: &'a Include,
    including_dir: &'a [u8],
    dirs: &'a SearchDirs,
) -> impl Iterator<Item = Vec<u8>> + 'a {
    let name = include.name.as_slice();
    let absolute = name.starts_with(b"/");
    let own = include.form == Form::Quote && !is_next(include.kind);
    let quote = if include.form == Form::Quote { dirs.quote.as_slice() } else { &[] };
    let searched = quote.iter().chain(&dirs.angle).map(|directory| join(directory, name));
    let frameworks = dirs.frameworks.iter().flat_map(|directory| in_framework(directory, name));
    let itself = absolute.then(|| name.to_vec());
    let beside = (own && !absolute).then(|| join(including_dir, name));
    let rest = (!absolute).then(|| searched.chain(frameworks)).into_iter().flatten();
    itself.into_iter().chain(beside).chain(rest)
}

/// The precompiled headers that a compiler would take in place of the header at `path`. gcc tries the first
/// for any header, clang both for those of `-include`. If one exists the compile is to be local
/// ([`crate::ReasonKind::PrecompiledHeader`]).
pub fn precompiled_candidates(path: &[u8]) -> [Vec<u8>; 2] {
    [[path, b".gch"].concat(), [path, b".pch"].concat()]
}

fn is_next(kind: IncludeKind) -> bool {
    matches!(kind, IncludeKind::IncludeNext | IncludeKind::HasIncludeNext)
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        [] => name.to_vec(),
        [.., b'/'] => [directory, name].concat(),
        _ => [directory, b"/", name].concat(),
    }
}

/// `<Foundation/NSObject.h>` is in `Foundation.framework/Headers` or `PrivateHeaders`.
fn in_framework(directory: &[u8], name: &[u8]) -> Vec<Vec<u8>> {
    let Some(slash) = name.iter().position(|&byte| byte == b'/') else {
        return Vec::new();
    };
    let (framework, header) = (&name[..slash], &name[slash + 1..]);
    ["Headers", "PrivateHeaders"]
        .map(|part| join(directory, &[framework, b".framework/", part.as_bytes(), b"/", header].concat()))
        .to_vec()
}

fn ignored(line: &[u8], why: &[u8]) -> Option<Vec<u8>> {
    let quoted = line.strip_prefix(b"ignoring ")?.strip_prefix(why)?.strip_prefix(b" directory \"")?;
    Some(quoted.strip_suffix(b"\"")?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(paths: &[&str]) -> Vec<Vec<u8>> {
        paths.iter().map(|path| path.as_bytes().to_vec()).collect()
    }

    fn example() -> SearchDirs {
        SearchDirs {
            quote: bytes(&["q"]),
            angle: bytes(&["i", "/usr/include"]),
            frameworks: bytes(&["/Library/Frameworks"]),
            missing: bytes(&["gone"]),
            duplicates: bytes(&["twice"]),
            real: Vec::new(),
        }
    }

    #[test]
    fn search_lists_are_read() {
        let text = b"clang -cc1 version 14.0.6\nignoring nonexistent directory \"gone\"\n\
            ignoring duplicate directory \"twice\"\n  as it is a non-system directory that duplicates a system directory\n\
            #include \"...\" search starts here:\n q\n#include <...> search starts here:\n i\n /usr/include\n \
            /Library/Frameworks (framework directory)\nEnd of search list.\nCOMPILER_PATH=/x\n";
        assert_eq!(parse_search_dirs(text), Some(example()));
        assert_eq!(parse_search_dirs(b"gcc: error: no input files\n"), None);
        assert_eq!(parse_search_dirs(b"#include \"...\" search starts here:\n x\n"), None);
    }

    fn check(kind: IncludeKind, form: Form, name: &str, from: &str, expect: &[&str]) {
        let include = Include { kind, form, name: name.as_bytes().to_vec() };
        let found: Vec<_> = candidates(&include, from.as_bytes(), &example()).collect();
        assert_eq!(found, bytes(expect), "{name}");
    }

    #[test]
    fn candidates_in_order() {
        use Form::{Angle, Quote};
        use IncludeKind::{HasInclude, Include, IncludeNext};
        check(Include, Quote, "a.h", "src", &["src/a.h", "q/a.h", "i/a.h", "/usr/include/a.h"]);
        check(Include, Quote, "a.h", "", &["a.h", "q/a.h", "i/a.h", "/usr/include/a.h"]);
        check(HasInclude, Angle, "a.h", "src", &["i/a.h", "/usr/include/a.h"]);
        check(IncludeNext, Quote, "a.h", "src", &["q/a.h", "i/a.h", "/usr/include/a.h"]);
        check(Include, Quote, "/abs.h", "src", &["/abs.h"]);
        check(
            Include,
            Angle,
            "A/b.h",
            "",
            &[
                "i/A/b.h",
                "/usr/include/A/b.h",
                "/Library/Frameworks/A.framework/Headers/b.h",
                "/Library/Frameworks/A.framework/PrivateHeaders/b.h",
            ],
        );
    }
}
