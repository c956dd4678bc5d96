//! What is scanned, and what comes of it.

use std::sync::Arc;

use barn_compilers::search::SearchDirs;

use crate::{
    dialect::{Dialect, Question},
    disk::File,
    text::Text,
};

/// A `-D` or `-U`, in the order of the command line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Define {
    /// `-D name` or `-D name=value`, as written after `-D`.
    Define(Vec<u8>),
    /// `-U name`.
    Undefine(Vec<u8>),
}

/// One translation unit.
#[derive(Clone, Debug)]
pub struct Unit {
    /// What the compiler knows by itself.
    pub dialect: Arc<Dialect>,
    /// The source as written on the command line.
    pub source: Vec<u8>,
    /// `-D` and `-U`.
    pub defines: Vec<Define>,
    /// `-imacros`, in order; they are read before `includes`.
    pub imacros: Vec<Vec<u8>>,
    /// `-include`, in order.
    pub includes: Vec<Vec<u8>>,
    /// Where includes are searched, as the compiler lists it.
    pub search: Arc<SearchDirs>,
}

/// What a unit reads.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// The files opened, in order of first opening, each path once as the compiler spells it; the source comes first.
    pub opened: Vec<(Vec<u8>, File, Arc<Text>)>,
    /// Existing files that are probed (`__has_include`) and perhaps never opened, as the compiler spells them.
    pub probed: Vec<(Vec<u8>, File)>,
    /// Paths looked for in vain, as the compiler spells them, each once.
    pub absent: Vec<Vec<u8>>,
}

/// Why a unit's includes cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    /// The compiler must be asked these first; scan again with a dialect that knows the answers.
    #[error("the compiler has to be asked about {} built-ins", .0.len())]
    Ask(Vec<Question>),
    /// An include is found nowhere: the compile will fail, or the scan is wrong.
    #[error("{name} is included by {by} and found nowhere")]
    Missing {
        /// What is included.
        name: String,
        /// By which file.
        by: String,
    },
    /// Something the scanner does not evaluate; the text says what and where.
    #[error("{0}")]
    Unsupported(String),
}
