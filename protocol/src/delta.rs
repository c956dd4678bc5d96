//! Trees on the wire: whole, or as a difference to trees that the other side has.
//!
//! Units of one project read mostly the same files. A [`Delta`] names up to [`BASES_MAX`] trees that both sides know,
//! says by ranges of positions which of their entries to take over, and lists the new entries. Taking from
//! several trees matters: an entry that is listed costs its digest, 32 bytes that do not pack, one that is taken costs
//! about one byte. Invariant: `delta.apply(..)` of what `Delta::between(bases, tree)` gave is `tree`; of anything
//! else it is some sound tree or an error, never a panic.

use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    front::{FrontCoded, FrontError},
    limits::TREE_ENTRIES_MAX,
    path::{TreePath, TreePathError},
    tree::{Entry, Tree, TreeError},
};

/// Trees a delta takes entries from; the first gives nearly all, and each costs 32 bytes to name.
pub const BASES_MAX: usize = 4;
/// Entries a further base must save to be worth naming.
const WORTH_A_BASE: usize = 2;
/// With so few entries left to list, no better base is looked for.
const NEAR_ENOUGH: usize = 1;

/// A tree as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TreeForm {
    /// All of it.
    Whole(Listing),
    /// What it takes from other trees, and the rest.
    Delta(Delta),
}

/// Entries with their paths front-coded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    paths: FrontCoded,
    entries: Vec<Entry>,
}

/// A tree as a difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    picks: Vec<Pick>,
    added: Listing,
}

/// Entries taken over from one tree, by their positions in the order of paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pick {
    base: Digest,
    spans: Vec<Span>,
}

/// Leaves `skip` entries out and takes the next `take`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Span {
    skip: u32,
    take: u32,
}

/// Why a received form is no tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// A tree it refers to is not known here; the sender sends the tree whole.
    #[error("base tree {0} is not known")]
    UnknownBase(Digest),
    /// It refers to too many trees, or to entries that a tree does not have.
    #[error("the delta does not fit its bases")]
    Unfit,
    /// Its list of entries makes no sense.
    #[error("malformed list of entries")]
    Paths(#[from] FrontError),
    /// A path is not allowed.
    #[error("bad path in a tree")]
    Path(#[from] TreePathError),
    /// The entries are no tree.
    #[error("the entries are no tree")]
    Tree(#[from] TreeError),
}

impl TreeForm {
    /// The shortest form found of `tree` for a receiver that knows `bases`, best guesses first.
    pub fn of(tree: &Tree, bases: &[(Digest, &Tree)]) -> Self {
        Delta::between(bases, tree).map_or_else(|| Self::Whole(Listing::of(tree.iter())), Self::Delta)
    }

    /// The tree; `known` gives the trees that were received before.
    ///
    /// # Errors
    /// [`DeltaError::UnknownBase`] when a base is not known; otherwise the form is malformed.
    pub fn tree<T: AsRef<Tree>>(&self, known: impl FnMut(&Digest) -> Option<T>) -> Result<Tree, DeltaError> {
        match self {
            Self::Whole(listing) => listing.add_to(Tree::new()),
            Self::Delta(delta) => delta.apply(known),
        }
    }
}

impl Listing {
    fn of<'a>(entries: impl Iterator<Item = (&'a TreePath, &'a Entry)>) -> Self {
        let (paths, entries): (Vec<&[u8]>, Vec<Entry>) =
            entries.map(|(path, entry)| (path.as_bytes(), entry.clone())).unzip();
        Self { paths: FrontCoded::of(paths), entries }
    }

    fn add_to(&self, mut tree: Tree) -> Result<Tree, DeltaError> {
        if self.paths.len() != self.entries.len() || self.entries.len() > TREE_ENTRIES_MAX {
            return Err(DeltaError::Unfit);
        }
        for (path, entry) in self.paths.unfold()?.into_iter().zip(&self.entries) {
            tree.insert(TreePath::new(path)?, entry.clone())?;
        }
        Ok(tree)
    }
}

impl Delta {
    /// What makes `tree` of some of `bases`; `None` if they are no help. Of equally good bases the first is taken.
    pub fn between(bases: &[(Digest, &Tree)], tree: &Tree) -> Option<Self> {
        let mut listed = vec![true; tree.len()];
        let mut left = tree.len();
        let mut shared = Vec::with_capacity(bases.len());
        for (_, base) in bases {
            shared.push(shared_entries(base, tree));
            if shared.last().is_some_and(|pairs| pairs.len() + NEAR_ENOUGH >= tree.len()) {
                break;
            }
        }
        let mut picks = Vec::new();
        while picks.len() < BASES_MAX {
            let saves = |pairs: &Vec<Pair>| pairs.iter().filter(|pair| listed[pair.in_tree]).count();
            let best = (0..shared.len()).rev().max_by_key(|index| saves(&shared[*index]))?;
            let saved = saves(&shared[best]);
            if saved < WORTH_A_BASE {
                break;
            }
            left -= saved;
            let taken: Vec<&Pair> = shared[best].iter().filter(|pair| listed[pair.in_tree]).collect();
            picks.push(Pick { base: bases[best].0, spans: spans(taken.iter().map(|pair| pair.in_base)) });
            let positions: Vec<usize> = taken.iter().map(|pair| pair.in_tree).collect();
            positions.into_iter().for_each(|position| listed[position] = false);
            if left == 0 {
                break;
            }
        }
        if picks.is_empty() {
            return None;
        }
        let added = tree.iter().zip(&listed).filter(|(_, listed)| **listed).map(|(line, _)| line);
        Some(Self { picks, added: Listing::of(added) })
    }

    /// The tree this is the difference to.
    ///
    /// # Errors
    /// See [`DeltaError`].
    pub fn apply<T: AsRef<Tree>>(
        &self,
        mut known: impl FnMut(&Digest) -> Option<T>,
    ) -> Result<Tree, DeltaError> {
        if self.picks.len() > BASES_MAX {
            return Err(DeltaError::Unfit);
        }
        let mut tree = Tree::new();
        for (number, pick) in self.picks.iter().enumerate() {
            let base = known(&pick.base).ok_or(DeltaError::UnknownBase(pick.base))?;
            let taken = pick.of(base.as_ref())?;
            if number == 0 {
                tree = base.as_ref().part(&taken);
                continue;
            }
            for ((path, entry), _) in base.as_ref().iter().zip(taken).filter(|(_, taken)| *taken) {
                tree.insert(path.clone(), entry.clone())?;
            }
        }
        self.added.add_to(tree)
    }
}

impl Pick {
    /// For each entry of the base whether it is taken.
    fn of(&self, base: &Tree) -> Result<Vec<bool>, DeltaError> {
        let mut taken = Vec::with_capacity(base.len());
        for span in &self.spans {
            for (count, take) in [(span.skip, false), (span.take, true)] {
                let end = taken.len().checked_add(count as usize).filter(|end| *end <= base.len());
                taken.resize(end.ok_or(DeltaError::Unfit)?, take);
            }
        }
        taken.resize(base.len(), false);
        Ok(taken)
    }
}

/// Where an entry that two trees share lies in each.
struct Pair {
    in_base: usize,
    in_tree: usize,
}

/// The entries that are the same in both, by walking both in order.
fn shared_entries(base: &Tree, tree: &Tree) -> Vec<Pair> {
    let mut pairs = Vec::with_capacity(tree.len());
    let mut in_base = base.iter().enumerate().peekable();
    for (position, (path, entry)) in tree.iter().enumerate() {
        while in_base.next_if(|(_, (other, _))| *other < path).is_some() {}
        if let Some((index, _)) = in_base.next_if(|(_, (other, what))| *other == path && *what == entry) {
            pairs.push(Pair { in_base: index, in_tree: position });
        }
    }
    pairs
}

fn spans(positions: impl Iterator<Item = usize>) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut end = 0;
    for position in positions {
        let skip = u32::try_from(position - end).expect("a tree has fewer than 2³² entries");
        match spans.last_mut().filter(|_| skip == 0) {
            Some(span) => span.take += 1,
            None => spans.push(Span { skip, take: 1 }),
        }
        end = position + 1;
    }
    spans
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn file(text: &str) -> Entry {
        Entry::File { digest: Digest::of(text.as_bytes()), size: text.len() as u64, executable: false }
    }

    fn tree(entries: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::new();
        for (path, text) in entries {
            tree.insert(TreePath::new(*path).unwrap(), file(text)).unwrap();
        }
        tree
    }

    fn named(trees: &[Tree]) -> Vec<(Digest, &Tree)> {
        trees.iter().map(|tree| (tree.digest(), tree)).collect()
    }

    fn resolve(form: &TreeForm, known: &[Tree]) -> Result<Tree, DeltaError> {
        form.tree(|digest| known.iter().find(|tree| tree.digest() == *digest).cloned())
    }

    /// How many entries are listed when `target` is sent to one who knows `bases`.
    #[track_caller]
    fn check(bases: &[Tree], target: &Tree, expect: Option<usize>) {
        let form = TreeForm::of(target, &named(bases));
        assert_eq!(resolve(&form, bases).as_ref(), Ok(target));
        let listed = match &form {
            TreeForm::Whole(_) => None,
            TreeForm::Delta(delta) => Some(delta.added.entries.len()),
        };
        assert_eq!(listed, expect, "{form:?}");
    }

    #[test]
    fn only_what_no_base_has_is_listed() {
        let one = tree(&[("/a.c", "1"), ("/h/1.h", "h1"), ("/h/2.h", "h2"), ("/h/3.h", "h3")]);
        let two = tree(&[("/b.c", "2"), ("/h/2.h", "h2"), ("/h/4.h", "h4"), ("/h/5.h", "h5")]);
        let both =
            tree(&[("/c.c", "3"), ("/h/1.h", "h1"), ("/h/2.h", "h2"), ("/h/4.h", "h4"), ("/h/5.h", "h5")]);
        check(&[], &one, None);
        check(std::slice::from_ref(&two), &tree(&[("/x", "x")]), None);
        check(std::slice::from_ref(&one), &one, Some(0));
        check(std::slice::from_ref(&one), &both, Some(3));
        check(&[one.clone(), two.clone()], &both, Some(2));
        let changed = tree(&[("/a.c", "edited"), ("/h/1.h", "h1"), ("/h/2.h", "h2"), ("/h/3.h", "h3")]);
        check(&[two, one], &changed, Some(1));
    }

    #[test]
    fn a_near_tree_costs_a_few_hundred_bytes() {
        let header = |n: usize| (format!("/usr/include/c++/12/bits/header_{n}.h"), format!("header {n}"));
        let unit = |n: usize, headers: std::ops::Range<usize>| {
            let mut made = tree(&[(&format!("/home/project/src/unit{n}.cc"), &format!("unit {n}"))]);
            for (path, text) in headers.map(header) {
                made.insert(TreePath::new(path).unwrap(), file(&text)).unwrap();
            }
            made
        };
        let (one, two) = (unit(1, 0..300), unit(2, 4..304));
        let bytes = |form: &TreeForm| postcard::to_stdvec(form).unwrap().len();
        assert!(bytes(&TreeForm::of(&two, &named(std::slice::from_ref(&one)))) < 400);
        assert!(bytes(&TreeForm::of(&two, &[])) < 301 * 50);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let base = tree(&[("/a", "1"), ("/b", "2")]);
        let pick = |spans: &[(u32, u32)]| Pick {
            base: base.digest(),
            spans: spans.iter().map(|(skip, take)| Span { skip: *skip, take: *take }).collect(),
        };
        let none = Listing::of(Tree::new().iter());
        let delta =
            |picks: Vec<Pick>, added: &Listing| TreeForm::Delta(Delta { picks, added: added.clone() });
        let known = std::slice::from_ref(&base);
        let check = |form: TreeForm, expect: DeltaError| assert_eq!(resolve(&form, known), Err(expect));
        assert_eq!(resolve(&delta(vec![pick(&[(0, 2)]), pick(&[(1, 1)])], &none), known), Ok(base.clone()));
        for spans in [&[(0, 3)][..], &[(3, 0)], &[(1, 1), (0, 1)], &[(u32::MAX, u32::MAX)]] {
            check(delta(vec![pick(spans)], &none), DeltaError::Unfit);
        }
        check(delta(vec![pick(&[]); BASES_MAX + 1], &none), DeltaError::Unfit);
        let stranger = Pick { base: Digest::of(b"other"), spans: vec![] };
        check(delta(vec![stranger], &none), DeltaError::UnknownBase(Digest::of(b"other")));
        let below = tree(&[("/a/b", "3")]);
        let clash = delta(vec![pick(&[(0, 2)])], &Listing::of(below.iter()));
        check(clash, TreeError::BelowLeaf(TreePath::new("/a/b").unwrap()).into());
        let uneven = Listing { entries: vec![], ..Listing::of(base.iter()) };
        check(TreeForm::Whole(uneven), DeltaError::Unfit);
        let relative = Listing { paths: FrontCoded::of([&b"a"[..]]), entries: vec![file("1")] };
        check(TreeForm::Whole(relative), TreePathError::Relative.into());
    }

    fn trees() -> impl Strategy<Value = Tree> {
        let entry = prop_oneof![
            4 => "[ab]{0,1}".prop_map(|text| file(&text)),
            1 => Just(Entry::Directory),
            1 => Just(Entry::Symlink { target: b"a".to_vec() }),
        ];
        vec(("(/[a-d-]{1,2}){1,3}", entry), 0..24).prop_map(|entries| {
            let mut tree = Tree::new();
            for (path, entry) in entries {
                drop(tree.insert(TreePath::new(path).expect("a good path"), entry));
            }
            tree
        })
    }

    proptest! {
        #[test]
        fn applying_a_difference_gives_the_tree(bases in vec(trees(), 0..6), target in trees()) {
            let form = TreeForm::of(&target, &named(&bases));
            let bytes = postcard::to_stdvec(&form).expect("encodes");
            let form: TreeForm = postcard::from_bytes(&bytes).expect("decodes");
            prop_assert_eq!(resolve(&form, &bases), Ok(target));
        }

        #[test]
        fn a_difference_to_other_bases_is_a_sound_tree_or_none(
            bases in vec(trees(), 1..4), others in vec(trees(), 1..4), target in trees(),
        ) {
            let form = TreeForm::of(&target, &named(&bases));
            let made = form.tree(|digest| {
                let which = bases.iter().position(|tree| tree.digest() == *digest)?;
                others.get(which % others.len()).cloned()
            });
            sound(made)?;
        }

        #[test]
        fn any_bytes_are_a_sound_tree_or_none(bytes in vec(0..9_u8, 0..120), base in trees()) {
            if let Ok(form) = postcard::from_bytes::<TreeForm>(&bytes) {
                sound(form.tree(|_| Some(base.clone())))?;
            }
        }
    }

    fn sound(made: Result<Tree, DeltaError>) -> Result<(), TestCaseError> {
        let Ok(made) = made else { return Ok(()) };
        let mut again = Tree::new();
        for (path, entry) in made.iter() {
            prop_assert!(again.insert(path.clone(), entry.clone()).is_ok());
        }
        prop_assert_eq!(again, made);
        Ok(())
    }
}
