//! The same action in another place: its key without the names of the places that it is in.
//!
//! A compile has up to two places, the root of its project and, if that lies outside, its working directory. [`Places::key`] names an
//! action as [`Action::key`] does, but with the places replaced by marks, so that it is the same in every checkout.
//! Marks begin with a NUL, which no path and no argument holds, so two actions with one such key differ in nothing but the names
//! of their places. Whether a result depends on those names is not decided here; `docs/portable.md` has the argument.

use crate::{
    action::{Action, ActionKey, Output},
    canonical::Canonical,
    digest::Digest,
    keys::domain,
    path::TreePath,
    tree::Entry,
};

/// Stands for the root.
const ROOT: &[u8] = b"\0R";
/// Stands for the working directory outside the root.
const BUILD: &[u8] = b"\0C";
/// Bytes of names that neither shells, make nor compilers quote, beside letters and digits.
const PLAIN: &[u8] = b"/._-+@%,~";

/// Where a compile is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    root: TreePath,
    /// The working directory, if it lies outside the root.
    build: Option<TreePath>,
}

impl Places {
    /// The places of a compile in the project at `root` that runs in `cwd`. Both are real paths, without links. `None` if one has
    /// a name that is quoted anywhere, or the root is that of the machine.
    pub fn new(root: TreePath, cwd: &TreePath) -> Option<Self> {
        let is_outside = !cwd.starts_with(&root) && cwd.as_bytes() != b"/";
        let places = Self { root, build: is_outside.then(|| cwd.clone()) };
        let is_plain = |path: &[u8]| path.iter().all(|b| b.is_ascii_alphanumeric() || PLAIN.contains(b));
        (places.root.as_bytes() != b"/" && places.paths().all(is_plain)).then_some(places)
    }

    /// The root of the project.
    pub fn root(&self) -> &TreePath {
        &self.root
    }

    /// The working directory, if it lies outside the root.
    pub fn build(&self) -> Option<&TreePath> {
        self.build.as_ref()
    }

    /// The paths of the places, the root first.
    pub fn paths(&self) -> impl Iterator<Item = &[u8]> {
        [Some(&self.root), self.build.as_ref()].into_iter().flatten().map(TreePath::as_bytes)
    }

    /// The place in which an absolute path lies as it is spelled, and what follows its name: nothing, or a slash and more.
    pub fn place_of<'a>(&self, path: &'a [u8]) -> Option<(&TreePath, &'a [u8])> {
        // The root may lie below the build directory, never above it.
        [Some(&self.root), self.build.as_ref()].into_iter().flatten().find_map(|place| {
            let rest = path.strip_prefix(place.as_bytes())?;
            matches!(rest.first(), None | Some(b'/')).then_some((place, rest))
        })
    }

    /// A path with a mark in front if it lies in a place; else as it is.
    pub fn mark(&self, path: &[u8]) -> Vec<u8> {
        match self.place_of(path) {
            Some((place, rest)) => [self.mark_of(place), rest].concat(),
            None => path.to_vec(),
        }
    }

    /// Whether a path lies outside of the places under a name that begins like one. Prefix maps would replace a part of it.
    pub fn is_beside(&self, path: &[u8]) -> bool {
        self.place_of(path).is_none() && self.paths().any(|place| path.starts_with(place))
    }

    /// A path that [`Places::mark`] marked in other places, in these; `None` if it is malformed, in a place that is not among these,
    /// or outside of those but not of these.
    pub fn unmark(&self, marked: &[u8]) -> Option<Vec<u8>> {
        if marked.first() != Some(&0) {
            let begins_like_a_place = self.paths().any(|place| marked.starts_with(place));
            return (!begins_like_a_place).then(|| marked.to_vec());
        }
        let (place, rest) = match (marked.strip_prefix(ROOT), marked.strip_prefix(BUILD)) {
            (Some(rest), _) => (&self.root, rest),
            (_, Some(rest)) => (self.build.as_ref()?, rest),
            _ => return None,
        };
        matches!(rest.first(), None | Some(b'/')).then(|| [place.as_bytes(), rest].concat())
    }

    /// Whether a directory is there because a place is: it is one, or has one below it.
    pub fn implies(&self, directory: &[u8]) -> bool {
        self.paths().any(|place| {
            let rest = place.strip_prefix(directory);
            directory == b"/" || rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
        })
    }

    /// The key of `action` in any places, `argv` being its arguments with marks.
    pub fn key(&self, action: &Action, argv: &[Vec<u8>]) -> ActionKey {
        let mut encoder = Canonical::new(domain::PORTABLE_ACTION);
        encoder.digest(&action.toolchain).bytes(action.program.as_bytes());
        encoder.sequence(argv, |e, arg| {
            e.bytes(arg);
        });
        encoder.number(action.env.len() as u64);
        for (name, value) in &action.env {
            encoder.bytes(name).bytes(value);
        }
        encoder.bytes(&self.mark(action.cwd.as_bytes())).bytes(self.root_below_build());
        self.encode_tree(&mut encoder, action);
        encoder.sequence(&action.outputs, |e, Output { path, optional }| {
            e.bytes(&self.mark(path.as_bytes())).number(u64::from(*optional));
        });
        ActionKey(encoder.finish())
    }

    /// The name of the include manifests of the action with this key, which has no inputs yet, for a source of this digest.
    pub fn manifest_key(stem: &ActionKey, source: &Digest) -> Digest {
        Canonical::new(domain::PORTABLE_MANIFEST).digest(&stem.0).digest(source).finish()
    }

    /// A link's target with a mark if it is absolute and in a place.
    pub fn mark_target(&self, target: &[u8]) -> Vec<u8> {
        if target.first() == Some(&b'/') { self.mark(target) } else { target.to_vec() }
    }

    fn encode_tree(&self, encoder: &mut Canonical, action: &Action) {
        let listed = |(path, entry): &(&TreePath, &Entry)| {
            !(matches!(entry, Entry::Directory) && self.implies(path.as_bytes()))
        };
        let marked = |(path, entry): (&TreePath, &'_ Entry)| (self.mark(path.as_bytes()), entry.clone());
        let mut entries: Vec<(Vec<u8>, Entry)> = action.inputs.iter().filter(listed).map(marked).collect();
        entries.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        encoder.sequence(&entries, |e, (path, entry)| {
            e.bytes(path);
            match entry {
                Entry::File { digest, size, executable } => {
                    e.number(1).digest(digest).number(*size).number(u64::from(*executable))
                }
                Entry::Symlink { target } => e.number(2).bytes(&self.mark_target(target)),
                Entry::Directory => e.number(3),
            };
        });
    }

    fn mark_of(&self, place: &TreePath) -> &'static [u8] {
        if *place == self.root { ROOT } else { BUILD }
    }

    /// The way from the build directory down to the root, if there is one.
    fn root_below_build(&self) -> &[u8] {
        let below = self.build.as_ref().filter(|build| self.root.starts_with(build));
        below.map_or(b"", |build| &self.root.as_bytes()[build.as_bytes().len()..])
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::tree::Tree;

    fn path(text: &str) -> TreePath {
        TreePath::new(text).expect("a good path")
    }

    fn places(root: &str, cwd: &str) -> Places {
        Places::new(path(root), &path(cwd)).expect("plain names")
    }

    fn file(text: &str) -> Entry {
        Entry::File { digest: Digest::of(text.as_bytes()), size: text.len() as u64, executable: false }
    }

    /// A compile in `root` that runs in `cwd`.
    fn action(root: &str, cwd: &str) -> (Action, Vec<Vec<u8>>) {
        let at = |rest: &str| format!("{root}{rest}");
        let mut inputs = Tree::new();
        for (at, entry) in [
            ("/usr/include/stdio.h".to_owned(), file("stdio")),
            (at("/x.c"), file("x")),
            (at("/sub/y.h"), file("y")),
            (at("/sub"), Entry::Directory),
            (at("/link"), Entry::Symlink { target: at("/sub").into_bytes() }),
            (root.to_owned(), Entry::Directory),
            ("/home".to_owned(), Entry::Directory),
            (cwd.to_owned(), Entry::Directory),
        ] {
            inputs.insert(path(&at), entry).expect("it fits");
        }
        let source = at("/x.c").into_bytes();
        let action = Action {
            toolchain: Digest::of(b"toolchain"),
            program: path("/usr/bin/gcc"),
            argv: vec![b"gcc".to_vec(), b"-c".to_vec(), source.clone()],
            env: [(b"LANG".to_vec(), b"C".to_vec())].into(),
            cwd: path(cwd),
            inputs: Arc::new(inputs),
            outputs: vec![Output { path: path(&format!("{cwd}/x.o")), optional: false }],
        };
        let marked = vec![b"gcc".to_vec(), b"-c".to_vec(), places(root, cwd).mark(&source)];
        (action, marked)
    }

    fn key(root: &str, cwd: &str) -> ActionKey {
        let (action, argv) = action(root, cwd);
        places(root, cwd).key(&action, &argv)
    }

    #[test]
    fn golden_vector() {
        let number = |n: u64| n.to_le_bytes().to_vec();
        let text = |t: &str| [number(t.len() as u64), t.as_bytes().to_vec()].concat();
        let digest =
            |t: &str| [Digest::of(t.as_bytes()).as_bytes().to_vec(), number(t.len() as u64)].concat();
        let bytes = [
            Digest::of(b"toolchain").as_bytes().to_vec(),
            text("/usr/bin/gcc"),
            number(3),
            [text("gcc"), text("-c"), text("\0R/x.c")].concat(),
            number(1),
            [text("LANG"), text("C")].concat(),
            text("\0C"),
            text(""),
            number(5),
            [text("\0R/link"), number(2), text("\0R/sub")].concat(),
            [text("\0R/sub"), number(3)].concat(),
            [text("\0R/sub/y.h"), number(1), digest("y"), number(0)].concat(),
            [text("\0R/x.c"), number(1), digest("x"), number(0)].concat(),
            [text("/usr/include/stdio.h"), number(1), digest("stdio"), number(0)].concat(),
            number(1),
            [text("\0C/x.o"), number(0)].concat(),
        ];
        let key = key("/home/a/p", "/home/a/b");
        assert_eq!(*key.0.as_bytes(), blake3::derive_key("barnraise portable action v1", &bytes.concat()));
        let name = Places::manifest_key(&key, &Digest::of(b"x"));
        let of_name = [key.0.as_bytes().as_slice(), Digest::of(b"x").as_bytes()].concat();
        assert_eq!(*name.as_bytes(), blake3::derive_key("barnraise portable manifest v1", &of_name));
    }

    #[test]
    fn only_the_places_may_differ() {
        let here = key("/home/a/p", "/home/a/p/build");
        assert_eq!(key("/home/bob/work/p2", "/home/bob/work/p2/build"), here);
        assert_ne!(key("/home/a/p", "/home/a/p/out"), here);
        assert_ne!(key("/home/a/p", "/home/a/build"), here);
        assert_eq!(key("/home/b/q", "/tmp/build"), key("/home/a/p", "/home/a/build"));
        // The root below the working directory: by the same way.
        assert_eq!(key("/home/b/p", "/home/b"), key("/home/a/p", "/home/a"));
        assert_ne!(key("/home/b/q", "/home/b"), key("/home/a/p", "/home/a"));
        // The machine's root is no place.
        assert_eq!(places("/home/b/p", "/").build(), None);
        assert!(Places::new(path("/"), &path("/home")).is_none());
        for odd in
            ["/home/a b", "/home/a$b", "/home/a=b", "/home/a\\b", "/home/a\"b", "/home/a:b", "/h\u{e4}"]
        {
            assert!(Places::new(path(odd), &path(odd)).is_none(), "{odd}");
            assert!(Places::new(path("/home/a"), &path(odd)).is_none(), "{odd}");
        }
    }

    #[test]
    fn every_part_counts() {
        let (good, argv) = action("/home/a/p", "/home/a/p/build");
        let places = places("/home/a/p", "/home/a/p/build");
        let insert = |action: &mut Action, at: &str, entry: Entry| {
            Arc::make_mut(&mut action.inputs).insert(path(at), entry).expect("it fits");
        };
        let changes: [&dyn Fn(&mut Action); 10] = [
            &|a| a.toolchain = Digest::of(b"other"),
            &|a| a.program = path("/usr/bin/g++"),
            &|a| drop(a.env.insert(b"LANG".to_vec(), b"D".to_vec())),
            &|a| a.cwd = path("/home/a/p"),
            &|a| a.outputs[0].optional = true,
            &|a| a.outputs[0].path = path("/home/a/p/x.o"),
            // A header outside, and one inside.
            &|a| insert(a, "/home/a/shared.h", file("shared")),
            &|a| insert(a, "/home/a/p/z.h", file("z")),
            &|a| insert(a, "/home/a/p/empty", Entry::Directory),
            &|a| insert(a, "/home/a/p/other", Entry::Symlink { target: b"sub".to_vec() }),
        ];
        let mut keys = vec![places.key(&good, &argv), places.key(&good, &argv[..2])];
        for change in changes {
            let mut changed = good.clone();
            change(&mut changed);
            keys.push(places.key(&changed, &argv));
        }
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 12, "two of the changes have one key");
    }

    #[test]
    fn names_that_begin_like_a_place_are_not_in_it() {
        let places = places("/home/a/p", "/home/a/b");
        for (given, marked) in [
            ("/home/a/p", &b"\0R"[..]),
            ("/home/a/p/x", b"\0R/x"),
            ("/home/a/b/x", b"\0C/x"),
            ("/home/a/p2", b"/home/a/p2"),
            ("/home/a", b"/home/a"),
            ("x/y", b"x/y"),
        ] {
            assert_eq!(places.mark(given.as_bytes()), marked, "{given}");
        }
        for (path, is_beside) in
            [("/home/a/p", false), ("/home/a/p/x", false), ("/home/a/p2", true), ("/home/a/c", false)]
        {
            assert_eq!(places.is_beside(path.as_bytes()), is_beside, "{path}");
        }
        // What somebody else has outside of the project lies inside of it here, or beside it.
        assert_eq!(places.unmark(b"/home/a/p/x"), None);
        assert_eq!(places.unmark(b"/home/a/p2/x"), None);
        assert_eq!(places.unmark(b"/home/a/c/x").as_deref(), Some(&b"/home/a/c/x"[..]));
        for malformed in [&b"\0"[..], b"\0X/a", b"\0Rx", b"\0C2"] {
            assert_eq!(places.unmark(malformed), None);
        }
        assert_eq!(self::places("/home/a", "/home/a/b").unmark(b"\0C/x"), None, "no such place here");
    }

    fn name() -> impl Strategy<Value = String> {
        vec("[ab]{1,2}", 1..4).prop_map(|parts| format!("/{}", parts.join("/")))
    }

    proptest! {
        #[test]
        fn a_mark_is_undone(root in name(), cwd in name(), at in name()) {
            let Some(places) = Places::new(path(&root), &path(&cwd)) else { return Ok(()) };
            prop_assume!(!places.is_beside(at.as_bytes()));
            prop_assert_eq!(places.unmark(&places.mark(at.as_bytes())), Some(at.into_bytes()));
        }

        #[test]
        fn an_action_has_one_key_wherever_it_is(root in name(), other in name(), below in name()) {
            let moved = |root: &str| key(&format!("/home{root}"), &format!("/home{root}{below}/out"));
            prop_assert_eq!(moved(&root), moved(&other));
        }
    }
}
