//! Where an include is looked for, in which order.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use barn_compilers::search::SearchDirs;

use crate::{
    names::Sym,
    run::{Run, full},
    state::FILES,
    unit::Undecided,
};

/// How a file was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Found {
    /// It is the source.
    Main,
    /// It was named absolutely.
    Absolute,
    /// Beside the file that includes it, or in the working directory for `-include`.
    Beside,
    /// In the directory of that place in the list.
    Listed(u32),
    /// In a framework.
    Framework,
}

/// A search list.
#[derive(Debug)]
pub(crate) struct Search {
    /// The directories for `"x"`, then those for both forms.
    dirs: Vec<Sym>,
    /// How many of them are for `"x"` only.
    quote: usize,
    frameworks: Vec<Sym>,
    /// No two lists of a process have the same.
    pub(crate) id: u64,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Search {
    pub(crate) fn new(
        dirs: &SearchDirs,
        mut name: impl FnMut(&[u8]) -> Result<Sym, Undecided>,
    ) -> Result<Self, Undecided> {
        if let Some(map) = dirs.quote.iter().chain(&dirs.angle).find(|dir| dir.ends_with(b" (headermap)")) {
            return Err(Undecided::Unsupported(format!("header map {}", String::from_utf8_lossy(map))));
        }
        let quote = dirs.quote.len();
        let listed = dirs.quote.iter().chain(&dirs.angle).map(|dir| name(dir)).collect::<Result<_, _>>()?;
        let frameworks = dirs.frameworks.iter().map(|dir| name(dir)).collect::<Result<_, _>>()?;
        Ok(Self { dirs: listed, quote, frameworks, id: NEXT.fetch_add(1, Ordering::Relaxed) })
    }
}

/// A place and how it was found.
pub(crate) type Resolved = Option<(u32, Found)>;

impl Run<'_> {
    /// Where the compiler finds `name`, included by the file on top.
    pub(crate) fn resolve(&mut self, name: Sym, angle: bool, next: bool) -> Result<Resolved, Undecided> {
        let empty = self.state.tables.words.empty;
        if self.state.tables.names.get(name).first() == Some(&b'/') {
            return Ok(self.look(empty, name)?.map(|place| (place, Found::Absolute)));
        }
        let search = self.search();
        let next = if next { self.next_start()? } else { None };
        let start = match next {
            Some(start) => start,
            None if angle => search.quote,
            None => {
                if let Some(place) = self.look(self.current().dir, name)? {
                    return Ok(Some((place, Found::Beside)));
                }
                0
            }
        };
        self.resolve_listed(name, start, &search)
    }

    /// Where an `#include_next` of the file on top begins; `None`: as any include.
    fn next_start(&self) -> Result<Option<usize>, Undecided> {
        Ok(match self.current().found {
            Found::Listed(at) => Some(at as usize + 1),
            Found::Main => None,
            Found::Framework => return Err(self.unsupported("`#include_next` in a framework")),
            Found::Absolute if !self.mode.clang => None,
            Found::Beside if !self.mode.clang => Some(0),
            _ if self.mode.next_starts_over => None,
            _ => return Err(self.unsupported("`#include_next` in a file found beside another")),
        })
    }

    /// Where the compiler finds the argument of `-include` or `-imacros`.
    pub(crate) fn resolve_given(&mut self, name: Sym) -> Result<Resolved, Undecided> {
        if self.state.tables.names.get(name).first() == Some(&b'/') {
            return self.resolve(name, false, false);
        }
        let here = self.name(b".")?;
        if let Some(place) = self.look(here, name)? {
            return Ok(Some((place, Found::Beside)));
        }
        self.resolve_listed(name, 0, &self.search())
    }

    fn resolve_listed(
        &mut self,
        name: Sym,
        start: usize,
        search: &Arc<Search>,
    ) -> Result<Resolved, Undecided> {
        let mut found = None;
        for (at, &dir) in search.dirs.iter().enumerate().skip(start) {
            if let Some(place) = self.look(dir, name)? {
                found = Some((place, Found::Listed(at as u32)));
                break;
            }
        }
        if search.frameworks.is_empty() {
            return Ok(found);
        }
        let framework = self.resolve_framework(name, search)?;
        match (found, framework) {
            // The list does not tell which of the two comes first.
            (Some(_), Some(_)) => Err(self.unsupported("an include is found in a framework and elsewhere")),
            (found, framework) => Ok(found.or(framework.map(|place| (place, Found::Framework)))),
        }
    }

    /// `<Fw/x.h>` in `Fw.framework/Headers`, or in its `PrivateHeaders`.
    fn resolve_framework(&mut self, name: Sym, search: &Arc<Search>) -> Result<Option<u32>, Undecided> {
        let spelled = self.state.tables.names.get(name);
        let Some(slash) = spelled.iter().position(|&byte| byte == b'/') else {
            return Ok(None);
        };
        let (framework, header) = (&spelled[..slash], &spelled[slash + 1..]);
        for &dir in &search.frameworks {
            for part in ["Headers", "PrivateHeaders"] {
                let within = [framework, b".framework/", part.as_bytes(), b"/", header].concat();
                let within = self.name(&within)?;
                if let Some(place) = self.look(dir, within)? {
                    return Ok(Some(place));
                }
            }
        }
        Ok(None)
    }

    /// As [`Run::resolve`], but what cannot be told is left out: nothing has asked for it yet.
    pub(crate) fn resolve_carefully(&mut self, name: Sym, angle: bool, next: bool) -> Result<(), Undecided> {
        match self.resolve(name, angle, next) {
            Err(Undecided::Unsupported(_)) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The place called `name` in `dir`, if a file is there.
    fn look(&mut self, dir: Sym, name: Sym) -> Result<Option<u32>, Undecided> {
        let place = self.state.place(dir, name).map_err(full)?;
        self.state.looked(place);
        let code = self.state.at(place).code;
        self.refuse_other(code)?;
        Ok((code >= FILES).then_some(place))
    }
}

/// The path of `name` in `dir` as compilers spell it.
pub(crate) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match dir {
        [] => name.to_vec(),
        _ if name.starts_with(b"/") => name.to_vec(),
        [.., b'/'] => [dir, name].concat(),
        _ => [dir, b"/", name].concat(),
    }
}
