//! Languages: from a suffix, or from `-x`.

use crate::detect::{Driver, Family};

/// The language of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Language {
    /// C.
    C,
    /// C++.
    Cxx,
    /// Objective-C.
    ObjectiveC,
    /// Objective-C++.
    ObjectiveCxx,
    /// Assembler that passes through the preprocessor (`.S`).
    AssemblerWithCpp,
    /// Plain assembler (`.s`).
    Assembler,
}

impl Language {
    /// The stable name, as in `barn stats --json`.
    pub fn name(self) -> &'static str {
        match self {
            Language::C => "c",
            Language::Cxx => "c++",
            Language::ObjectiveC => "objective-c",
            Language::ObjectiveCxx => "objective-c++",
            Language::AssemblerWithCpp | Language::Assembler => "assembler",
        }
    }
}

/// What an input is to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Source(Language),
    Preprocessed,
    Header,
    /// A compiler input in a language not supported here.
    Foreign,
    /// Something for the linker, or nothing known.
    Linker,
}

impl Kind {
    /// Whether the compiler proper, not the linker, takes it.
    pub(crate) fn is_compiled(self) -> bool {
        self != Kind::Linker
    }
}

/// Suffixes both families agree on.
const COMMON: &[(&str, Kind)] = &[
    ("c", Kind::Source(Language::C)),
    ("cc", Kind::Source(Language::Cxx)),
    ("cp", Kind::Source(Language::Cxx)),
    ("cxx", Kind::Source(Language::Cxx)),
    ("cpp", Kind::Source(Language::Cxx)),
    ("CPP", Kind::Source(Language::Cxx)),
    ("c++", Kind::Source(Language::Cxx)),
    ("C", Kind::Source(Language::Cxx)),
    ("m", Kind::Source(Language::ObjectiveC)),
    ("mm", Kind::Source(Language::ObjectiveCxx)),
    ("M", Kind::Source(Language::ObjectiveCxx)),
    ("S", Kind::Source(Language::AssemblerWithCpp)),
    ("s", Kind::Source(Language::Assembler)),
    ("i", Kind::Preprocessed),
    ("ii", Kind::Preprocessed),
    ("mi", Kind::Preprocessed),
    ("mii", Kind::Preprocessed),
    ("h", Kind::Header),
    ("hh", Kind::Header),
    ("H", Kind::Header),
    ("hpp", Kind::Header),
    ("hxx", Kind::Header),
];

const GCC: &[(&str, Kind)] = &[
    ("sx", Kind::Source(Language::AssemblerWithCpp)),
    ("tcc", Kind::Header),
    ("h++", Kind::Header),
    ("hp", Kind::Header),
    ("HPP", Kind::Header),
];

const CLANG: &[(&str, Kind)] = &[("CC", Kind::Source(Language::Cxx)), ("CXX", Kind::Source(Language::Cxx))];

/// Other languages, of either family. Taking one for a compiler input is harmless: it is local anyway.
const FOREIGN: &[&str] = &[
    "F", "F03", "F08", "F90", "F95", "adb", "ads", "asm", "bc", "c++m", "ccm", "cl", "clcpp", "cppm", "cu",
    "cui", "cxxm", "d", "f", "f03", "f08", "f90", "f95", "for", "fpp", "ftn", "go", "hip", "iim", "ll",
    "mod", "rs",
];

/// What the driver makes of a file named `path` for which no `-x` holds.
pub(crate) fn by_suffix(family: Family, driver: Driver, path: &[u8]) -> Kind {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    let Some(dot) = name.iter().rposition(|&byte| byte == b'.') else {
        return Kind::Linker;
    };
    let suffix = &name[dot + 1..];
    let own = if family == Family::Clang { CLANG } else { GCC };
    let known = COMMON.iter().chain(own).find(|(known, _)| known.as_bytes() == suffix);
    match known {
        Some((_, Kind::Source(Language::C))) if driver == Driver::Cxx => Kind::Source(Language::Cxx),
        Some(&(_, kind)) => kind,
        None if FOREIGN.iter().any(|known| known.as_bytes() == suffix) => Kind::Foreign,
        None => Kind::Linker,
    }
}

/// What `-x NAME` makes of the inputs after it; `None` for `-x none`.
pub(crate) fn by_name(name: &[u8]) -> Option<Kind> {
    Some(match name {
        b"none" => return None,
        b"c" => Kind::Source(Language::C),
        b"c++" => Kind::Source(Language::Cxx),
        b"objective-c" => Kind::Source(Language::ObjectiveC),
        b"objective-c++" => Kind::Source(Language::ObjectiveCxx),
        b"assembler" => Kind::Source(Language::Assembler),
        b"assembler-with-cpp" => Kind::Source(Language::AssemblerWithCpp),
        b"c-header" | b"c++-header" | b"objective-c-header" | b"objective-c++-header" => Kind::Header,
        name if name.ends_with(b"cpp-output") => Kind::Preprocessed,
        _ => Kind::Foreign,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(family: Family, driver: Driver, path: &str, expect: Kind) {
        assert_eq!(by_suffix(family, driver, path.as_bytes()), expect, "{family} {path}");
    }

    #[test]
    fn suffixes() {
        use Driver::{C, Cxx};
        use Family::{Clang, Gcc};
        check(Gcc, C, "a.c", Kind::Source(Language::C));
        check(Gcc, Cxx, "a.c", Kind::Source(Language::Cxx));
        check(Clang, Cxx, "a.m", Kind::Source(Language::ObjectiveC));
        check(Clang, C, "dir.c/a", Kind::Linker);
        check(Gcc, C, "a.C", Kind::Source(Language::Cxx));
        check(Gcc, C, "a.CC", Kind::Linker);
        check(Clang, C, "a.CC", Kind::Source(Language::Cxx));
        check(Gcc, C, "x/y.z/a.mm", Kind::Source(Language::ObjectiveCxx));
        check(Gcc, C, "a.sx", Kind::Source(Language::AssemblerWithCpp));
        check(Clang, C, "a.cppm", Kind::Foreign);
        check(Gcc, C, "a.o", Kind::Linker);
        check(Gcc, C, "a.inl", Kind::Linker);
        check(Gcc, C, "a.hpp", Kind::Header);
        check(Gcc, C, "a.mii", Kind::Preprocessed);
    }

    #[test]
    fn x_names() {
        assert_eq!(by_name(b"none"), None);
        assert_eq!(by_name(b"c++"), Some(Kind::Source(Language::Cxx)));
        assert_eq!(by_name(b"c++-cpp-output"), Some(Kind::Preprocessed));
        assert_eq!(by_name(b"c++-header"), Some(Kind::Header));
        assert_eq!(by_name(b"cuda"), Some(Kind::Foreign));
    }
}
