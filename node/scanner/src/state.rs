//! Macros and look-ups of one scan, and what each open include has touched of them.
//!
//! Every include being processed has a [`Record`]: the names whose definitions it saw before it wrote them, the names
//! it wrote, and what it looked for. A name, a look-up or an opening is noted once per record: a stamp tells whose
//! record has it already. When an include ends its record is merged into the one around it.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    disk::{Disk, Look},
    load::{Def, Full, NOTHING, Tables},
    names::Sym,
};

/// What was found at a place.
pub(crate) type Code = u32;
/// Nothing is there.
pub(crate) const ABSENT: Code = 0;
/// A directory: neither found nor absent.
pub(crate) const DIRECTORY: Code = 1;
/// Something that cannot be read.
pub(crate) const OTHER: Code = 2;
/// From here on: a file, by its number.
pub(crate) const FILES: Code = 3;

/// The number of the record that has noted something; 0 is none.
type Stamp = u32;

/// A name noted in a record.
#[derive(Clone, Copy, Debug)]
struct Touched {
    sym: Sym,
    /// What was seen; `None` if it was written unseen.
    seen: Option<Def>,
    before: Stamp,
}

/// What an include has touched so far.
#[derive(Debug, Default)]
pub(crate) struct Record {
    stamp: Stamp,
    touched: Vec<Touched>,
    written: Vec<(Sym, Stamp)>,
    looked: Vec<(u32, Stamp)>,
    opened: Vec<(u32, Stamp)>,
    /// Saved definitions there were when it began, and the fewest since.
    pushed: usize,
    pushed_min: usize,
    /// Includes nested in it, at most.
    pub(crate) depth: u32,
    /// Whether it depends on more than is noted.
    pub(crate) unique: bool,
}

/// What an ended include touched.
pub(crate) struct Traces {
    pub(crate) reads: Vec<(Sym, Def)>,
    pub(crate) writes: Vec<(Sym, Def)>,
    pub(crate) looked: Vec<u32>,
    pub(crate) opened: Vec<u32>,
    /// Includes nested in it, at most.
    pub(crate) depth: u32,
}

/// A place where something was looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) dir: Sym,
    pub(crate) name: Sym,
    pub(crate) code: Code,
    looked: Stamp,
    opened: Stamp,
}

/// Macros and look-ups of one scan.
pub(crate) struct State<'a> {
    pub(crate) tables: &'a Tables,
    disk: &'a mut dyn Disk,
    macros: Vec<Def>,
    touched: Vec<Stamp>,
    written: Vec<Stamp>,
    places: Vec<Place>,
    index: FxHashMap<(Sym, Sym), u32>,
    records: Vec<Record>,
    stamps: Stamp,
    saved: Vec<(Sym, Def)>,
    /// Numbers of files opened so far.
    files: FxHashSet<u32>,
}

impl<'a> State<'a> {
    pub(crate) fn new(tables: &'a Tables, disk: &'a mut dyn Disk) -> Self {
        Self {
            tables,
            disk,
            macros: Vec::new(),
            touched: Vec::new(),
            written: Vec::new(),
            places: Vec::new(),
            index: FxHashMap::default(),
            records: vec![Record { stamp: 1, ..Record::default() }],
            stamps: 1,
            saved: Vec::new(),
            files: FxHashSet::default(),
        }
    }

    pub(crate) fn disk(&mut self) -> &mut dyn Disk {
        self.disk
    }

    fn grow(&mut self, sym: Sym) {
        let wanted = self.tables.names.len().max(sym as usize + 1);
        self.macros.resize(wanted, NOTHING);
        self.touched.resize(wanted, 0);
        self.written.resize(wanted, 0);
    }

    /// The definition of `sym`; that it was looked at is noted.
    pub(crate) fn read(&mut self, sym: Sym) -> Def {
        let at = sym as usize;
        if at >= self.macros.len() {
            self.grow(sym);
        }
        let definition = self.macros[at];
        let record = self.records.last_mut().expect("the source's record stays");
        let before = self.touched[at];
        if before != record.stamp {
            self.touched[at] = record.stamp;
            record.touched.push(Touched { sym, seen: Some(definition), before });
        }
        definition
    }

    /// Defines `sym` before anything is read.
    pub(crate) fn set(&mut self, sym: Sym, definition: Def) {
        if sym as usize >= self.macros.len() {
            self.grow(sym);
        }
        self.macros[sym as usize] = definition;
    }

    /// The definition of `sym`, unnoted.
    pub(crate) fn peek(&self, sym: Sym) -> Def {
        self.macros.get(sym as usize).copied().unwrap_or(NOTHING)
    }

    /// Gives `sym` a definition, or [`NOTHING`].
    pub(crate) fn write(&mut self, sym: Sym, definition: Def) {
        let at = sym as usize;
        if at >= self.macros.len() {
            self.grow(sym);
        }
        self.macros[at] = definition;
        let record = self.records.last_mut().expect("the source's record stays");
        let before = self.touched[at];
        if before != record.stamp {
            self.touched[at] = record.stamp;
            record.touched.push(Touched { sym, seen: None, before });
        }
        let before = self.written[at];
        if before != record.stamp {
            self.written[at] = record.stamp;
            record.written.push((sym, before));
        }
    }

    pub(crate) fn push(&mut self, sym: Sym) {
        let definition = self.read(sym);
        self.saved.push((sym, definition));
    }

    /// Undoes the last [`State::push`] of `sym`, if there is one.
    pub(crate) fn pop(&mut self, sym: Sym) {
        let Some(at) = self.saved.iter().rposition(|&(saved, _)| saved == sym) else {
            // Whether there is one around this include is not noted.
            self.record().unique = true;
            return;
        };
        let (_, definition) = self.saved.remove(at);
        let record = self.record();
        // A definition saved by whoever includes this is not noted either.
        record.pushed_min = record.pushed_min.min(at);
        self.write(sym, definition);
    }

    pub(crate) fn record(&mut self) -> &mut Record {
        self.records.last_mut().expect("the source's record stays")
    }

    /// Begins the record of an include.
    pub(crate) fn begin(&mut self) {
        self.stamps += 1;
        let pushed = self.saved.len();
        self.records.push(Record { stamp: self.stamps, pushed, pushed_min: pushed, ..Record::default() });
    }

    /// Ends it and merges it into the one around it. `None` if what it does depends on more than its traces tell.
    pub(crate) fn end(&mut self) -> Option<Traces> {
        let ended = self.records.pop().expect("every end has its begin");
        let alone = ended.unique || ended.pushed_min < ended.pushed || self.saved.len() != ended.pushed;
        let traces = (!alone).then(|| Traces {
            reads: ended.touched.iter().filter_map(|touched| Some((touched.sym, touched.seen?))).collect(),
            writes: ended.written.iter().map(|&(sym, _)| (sym, self.macros[sym as usize])).collect(),
            looked: ended.looked.iter().map(|&(place, _)| place).collect(),
            opened: ended.opened.iter().map(|&(place, _)| place).collect(),
            depth: ended.depth,
        });
        let around = self.records.last_mut().expect("the source's record stays");
        around.unique |= ended.unique;
        around.pushed_min = around.pushed_min.min(ended.pushed_min);
        around.depth = around.depth.max(ended.depth + 1);
        for touched in ended.touched {
            let known = touched.before == around.stamp;
            self.touched[touched.sym as usize] = around.stamp;
            if !known {
                around.touched.push(touched);
            }
        }
        merge(ended.written, &mut around.written, around.stamp, |sym, stamp| {
            self.written[sym as usize] = stamp
        });
        merge(ended.looked, &mut around.looked, around.stamp, |at, stamp| {
            self.places[at as usize].looked = stamp
        });
        merge(ended.opened, &mut around.opened, around.stamp, |at, stamp| {
            self.places[at as usize].opened = stamp
        });
        traces
    }

    /// What is called `name` in `dir`, asked once per scan, unnoted.
    pub(crate) fn place(&mut self, dir: Sym, name: Sym) -> Result<u32, Full> {
        if let Some(&at) = self.index.get(&(dir, name)) {
            return Ok(at);
        }
        let tables = self.tables;
        let code = match self.disk.look(tables.names.get(dir), tables.names.get(name)) {
            Look::Absent => ABSENT,
            Look::Directory => DIRECTORY,
            Look::Other => OTHER,
            Look::File(file) => FILES + tables.file(file)?,
        };
        let at = self.places.len() as u32;
        self.places.push(Place { dir, name, code, looked: 0, opened: 0 });
        self.index.insert((dir, name), at);
        Ok(at)
    }

    pub(crate) fn at(&self, place: u32) -> Place {
        self.places[place as usize]
    }

    /// Notes that the compiler looks at a place.
    pub(crate) fn looked(&mut self, place: u32) {
        let record = self.records.last_mut().expect("the source's record stays");
        let before = std::mem::replace(&mut self.places[place as usize].looked, record.stamp);
        if before != record.stamp {
            record.looked.push((place, before));
        }
    }

    /// Whether the file of that number was opened before, by any path.
    pub(crate) fn was_opened(&self, file: u32) -> bool {
        self.files.contains(&file)
    }

    /// Notes that the compiler opens the file at a place.
    pub(crate) fn opened(&mut self, place: u32) {
        let record = self.records.last_mut().expect("the source's record stays");
        let at = &mut self.places[place as usize];
        let before = std::mem::replace(&mut at.opened, record.stamp);
        if before == 0 {
            self.files.insert(at.code - FILES);
        }
        if before != record.stamp {
            record.opened.push((place, before));
        }
    }

    /// All places looked at, and those opened, in order; at the end of a scan.
    pub(crate) fn visited(&self) -> (impl Iterator<Item = u32> + '_, impl Iterator<Item = u32> + '_) {
        let source = &self.records[0];
        (source.looked.iter().map(|&(place, _)| place), source.opened.iter().map(|&(place, _)| place))
    }
}

/// Adds to a record what the one within it noted and it has not.
fn merge(
    ended: Vec<(u32, Stamp)>,
    around: &mut Vec<(u32, Stamp)>,
    stamp: Stamp,
    mut set: impl FnMut(u32, Stamp),
) {
    for (item, before) in ended {
        set(item, stamp);
        if before != stamp {
            around.push((item, before));
        }
    }
}
