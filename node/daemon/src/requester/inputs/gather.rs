//! From a list of files to what a compile needs: their tree, where their contents lie, and what to watch.
//!
//! A file or text that no list of inputs can do justice to is refused here, whichever way the list was made.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use barn_compilers::{
    Directives, Language,
    directives::{Form, Include, IncludeKind},
    search::{SearchDirs, candidates, precompiled_candidates},
};
use barn_protocol::{Digest, Entry};
use barn_scanner::Text;

use super::{Inputs, Unknown, overlooked::normal, path_of, texts::Texts};
use crate::{
    blobs::Sources,
    requester::{
        Call,
        files::{Known, Signature},
        layout::{Layout, tree_path},
        manifest::{ABSENT_MAX, Absent},
        obstacle::Obstacle,
        portable::routes::Routes,
        sight::{FileId, Look, Nowhere, Place},
    },
};

/// What gcc includes before the first line of every source, if it finds it.
const PREDEF: &[u8] = b"stdc-predef.h";

/// Collects the inputs of one compile.
pub(super) struct Gather<'a, 's> {
    call: &'a Call,
    look: &'a mut Look<'s>,
    texts: &'a Texts,
    layout: Layout,
    sources: Sources,
    witnesses: Vec<(PathBuf, Known)>,
    newest_ns: i128,
    /// What `stat` said of the files taken, by their size.
    by_size: HashMap<u64, Vec<Signature>>,
    /// A file that has the contents of another one.
    twin: Option<PathBuf>,
    taken: HashMap<FileId, Digest>,
    absent: Absent,
    searched: Vec<Vec<u8>>,
    routes: Routes,
    complete: bool,
}

impl<'a, 's> Gather<'a, 's> {
    /// A gathering for `call`, which searches the directories of `search`.
    ///
    /// # Errors
    /// When no list of inputs can be right.
    pub(super) fn begin(
        call: &'a Call,
        look: &'a mut Look<'s>,
        texts: &'a Texts,
        search: &SearchDirs,
    ) -> Result<Self, Unknown> {
        if call.compile.time_macros {
            return Err(Unknown::because(Obstacle::TimeMacros, "in a -D flag"));
        }
        let mut gather = Self {
            call,
            look,
            texts,
            layout: Layout::default(),
            sources: Sources::new(),
            witnesses: Vec::new(),
            newest_ns: 0,
            by_size: HashMap::new(),
            twin: None,
            taken: HashMap::new(),
            absent: Absent::default(),
            searched: Vec::new(),
            routes: Routes::default(),
            complete: true,
        };
        gather.directories(search)?;
        Ok(gather)
    }

    /// The view of the file system.
    pub(super) fn look(&mut self) -> &mut Look<'s> {
        self.look
    }

    /// The directories that must be there: working directory, those searched, those written to.
    fn directories(&mut self, search: &SearchDirs) -> Result<(), Unknown> {
        self.layout.walk(self.look, b".")?;
        let compile = &self.call.compile;
        if let Some(pwd) = compile.env.get(b"PWD".as_slice()) {
            self.layout.walk(self.look, pwd)?;
        }
        self.searched.push(normal(b"", self.look));
        let named = compile.include_directories.iter().map(Vec::as_slice);
        for directory in named.chain(search.present()) {
            self.searched.push(normal(directory, self.look));
            let is_left_out = self.call.left_out.iter().any(|missing| missing == directory);
            match self.layout.walk(self.look, directory) {
                Ok(_) if is_left_out => {
                    let shown = String::from_utf8_lossy(directory);
                    return Err(Unknown::because(Obstacle::Input, format_args!("{shown} appears")));
                }
                Ok(Place::Directory(real)) => self.searched.push(self.look.directory_path(real).to_vec()),
                // gcc says so in a warning, and no tree tells of it.
                Ok(_) => {
                    let shown = String::from_utf8_lossy(directory);
                    let what = format_args!("{shown} is searched and no directory");
                    return Err(Unknown::because(Obstacle::SpecialInput, what));
                }
                Err(_) => self.absent(directory),
            }
        }
        search.missing.iter().for_each(|directory| self.absent(directory));
        Ok(())
    }

    /// Takes the file at `path` into the tree.
    pub(super) fn take(&mut self, path: &[u8]) -> Result<Digest, Unknown> {
        let Place::File(file) = self.layout.walk(self.look, path)? else {
            let shown = String::from_utf8_lossy(path);
            return Err(Unknown::because(Obstacle::SpecialInput, format_args!("{shown} is no regular file")));
        };
        self.routes.note(path, self.look.path(file));
        if let Some(digest) = self.taken.get(&file) {
            return Ok(*digest);
        }
        let texts = self.texts;
        let known = self.look.known(file, |blob, contents| texts.read(blob, contents)).map_err(|error| {
            let shown = String::from_utf8_lossy(self.look.path(file));
            Unknown::because(Obstacle::Input, format_args!("{shown}: {error}"))
        })?;
        let (digest, size) = (known.blob.digest, known.blob.size);
        let real = self.look.path(file);
        let host = path_of(real).to_owned();
        self.layout.add(tree_path(real)?, Entry::File { digest, size, executable: known.executable })?;
        if self.sources.insert(digest, (host.clone(), size)).is_some() {
            self.twin = Some(host.clone());
        }
        self.newest_ns = self.newest_ns.max(known.signature.changed_ns());
        self.by_size.entry(size).or_default().push(known.signature);
        self.witnesses.push((host, known));
        self.taken.insert(file, digest);
        Ok(digest)
    }

    /// The text of a file that was taken.
    pub(super) fn text(&self, path: &[u8], digest: Digest) -> Result<Arc<Text>, Unknown> {
        if let Some(text) = self.texts.get(&digest) {
            return Ok(text);
        }
        let changed =
            || Unknown::because(Obstacle::Input, format_args!("{} changes", String::from_utf8_lossy(path)));
        let contents = std::fs::read(self.call.cwd.join(path_of(path))).map_err(|_| changed())?;
        if Digest::of(&contents) != digest {
            return Err(changed());
        }
        Ok(self.texts.add(digest, &contents))
    }

    /// Notes that nothing is at `path`.
    pub(super) fn absent(&mut self, path: &[u8]) {
        self.absent.add(path);
    }

    /// Notes that a text, not the command line, names a file so.
    pub(super) fn named_by_text(&mut self, name: &[u8]) {
        self.routes.named_by_text(name);
    }

    /// Notes that a path was asked for at which something lies that is no file.
    pub(super) fn passed_over(&mut self, path: &[u8]) {
        match self.look.at(path) {
            Ok(Place::Directory(_)) => self.absent.pass_over(path),
            _ => self.complete = false,
        }
    }

    /// Notes that not all paths probed in vain are known, so that there can be no manifest.
    pub(super) fn incomplete(&mut self) {
        self.complete = false;
    }

    /// Refuses texts of which no list of inputs tells everything, and takes what warnings would quote because a `#line`
    /// names it.
    pub(super) fn read(&mut self, path: &[u8], directives: &Directives) -> Result<(), Unknown> {
        let cxx = matches!(self.call.compile.language, Language::Cxx | Language::ObjectiveCxx);
        let reasons = [
            (directives.incbin, Obstacle::Incbin),
            (directives.assembler_include, Obstacle::AssemblerInclude),
            (directives.time_macros, Obstacle::TimeMacros),
            (directives.pragma_dependency, Obstacle::PragmaDependency),
            (directives.pragma_pch, Obstacle::PrecompiledHeader),
            (directives.modules && cxx, Obstacle::Modules),
            (directives.module_import, Obstacle::Modules),
        ];
        if let Some((_, obstacle)) = reasons.iter().find(|(present, _)| *present) {
            return Err(Unknown::because(*obstacle, format_args!("in {}", String::from_utf8_lossy(path))));
        }
        for line_file in &directives.line_files {
            self.named_by_text(line_file);
            match self.look.at(line_file) {
                Ok(Place::File(_)) => drop(self.take(line_file)?),
                Err(Nowhere::Absent) => self.absent(line_file),
                _ => self.passed_over(line_file),
            }
        }
        Ok(())
    }

    /// Refuses a precompiled header beside one of these headers or a forced one: it would be taken in its place.
    pub(super) fn precompiled<'p>(&mut self, headers: impl Iterator<Item = &'p [u8]>) -> Result<(), Unknown> {
        for path in headers {
            self.precompiled_at(path)?;
        }
        let call = self.call;
        call.compile.forced_includes.iter().try_for_each(|path| self.precompiled_at(path))
    }

    /// gcc takes a precompiled header for the source itself, and for the first include of a unit, though the header itself
    /// may be elsewhere; the first of all includes is that of [`PREDEF`].
    pub(super) fn precompiled_first(
        &mut self,
        source: &[u8],
        directives: &Directives,
        search: &SearchDirs,
    ) -> Result<(), Unknown> {
        let forced: Vec<Include> =
            self.call.compile.forced_includes.iter().map(|name| forced(name)).collect();
        self.precompiled_at(source)?;
        let predef = predef();
        let own = directives.includes.iter().map(|include| (directory_of(source), include));
        let others = forced.iter().chain([&predef]).map(|include| (&b""[..], include));
        for (including, include) in own.chain(others) {
            for candidate in candidates(include, including, search) {
                self.precompiled_at(&candidate)?;
                if matches!(self.look.at(&candidate), Ok(Place::File(_))) {
                    break;
                }
            }
        }
        Ok(())
    }

    fn precompiled_at(&mut self, header: &[u8]) -> Result<(), Unknown> {
        for candidate in precompiled_candidates(header) {
            match self.look.at(&candidate) {
                Ok(_) => {
                    let shown = self.call.cwd.join(path_of(&candidate));
                    return Err(Unknown::because(Obstacle::PrecompiledHeader, shown.display()));
                }
                Err(Nowhere::Absent) => self.absent(&candidate),
                Err(_) => self.complete = false,
            }
        }
        Ok(())
    }

    /// Notices a file that was seen but perhaps not opened, just because it is like one that was.
    pub(super) fn notice_twin(&mut self, file: FileId) -> std::io::Result<()> {
        let signature = self.look.signature(file)?;
        self.newest_ns = self.newest_ns.max(signature.changed_ns());
        let alike = self.by_size.get(&signature.size()).is_some_and(|taken| !taken.contains(&signature));
        if alike
            && let Ok(known) = self.look.known(file, |_, _| ())
            && self.sources.contains_key(&known.blob.digest)
        {
            self.twin = Some(path_of(self.look.path(file)).to_owned());
        }
        Ok(())
    }

    /// gcc takes two files for one that is to be read once, by `#pragma once` or `#import`, when their contents and
    /// times of change are the same; clang, when they are links to one another.
    fn twins(&self, read: &[(&[u8], Arc<Text>)]) -> Result<(), Unknown> {
        let Some(twin) = &self.twin else { return Ok(()) };
        let imports = |include: &Include| include.kind == IncludeKind::Import;
        let imported = read.iter().any(|(_, text)| text.flags.includes.iter().any(imports));
        let contents = std::fs::read(twin).unwrap_or_default();
        if imported || contents.windows(4).any(|word| word == b"once") {
            return Err(Unknown::because(Obstacle::IdenticalFiles, twin.display()));
        }
        Ok(())
    }

    /// The inputs, `read` being the texts of all files opened, the source first.
    pub(super) fn finish(mut self, read: &[(&[u8], Arc<Text>)]) -> Result<Inputs, Unknown> {
        self.twins(read)?;
        if self.absent.len() > ABSENT_MAX {
            self.complete = false;
            self.absent = Absent::default();
        }
        Ok(Inputs {
            newest_ns: self.newest_ns.max(self.layout.newest_link_ns()),
            tree: Arc::new(self.layout.finish()),
            sources: self.sources,
            witnesses: self.witnesses,
            absent: self.absent,
            searched: self.searched,
            complete: self.complete,
            routes: self.routes,
            not_scanned: None,
        })
    }
}

/// The directory of an including file as the compiler has it: up to the last slash.
pub(super) fn directory_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&b| b == b'/').map_or(b"", |slash| &path[..=slash])
}

/// What `-include` asks for.
pub(super) fn forced(name: &[u8]) -> Include {
    Include { kind: IncludeKind::Include, form: Form::Quote, name: name.to_vec() }
}

/// What gcc includes before all else.
pub(super) fn predef() -> Include {
    Include { kind: IncludeKind::Include, form: Form::Angle, name: PREDEF.to_vec() }
}
