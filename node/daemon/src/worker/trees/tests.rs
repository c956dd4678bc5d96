//! Trees over a real store, against what was wanted.

use std::{os::unix::fs::symlink, sync::Barrier};

use barn_cache::Limits;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use super::*;

/// A store and trees in one directory.
struct House {
    home: TempDir,
    store: Store,
    trees: Trees,
}

fn house() -> House {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(&home.path().join("cache"), Limits::new(1 << 30)).unwrap();
    let trees = Trees::open(&home.path().join(DIRECTORY), store.clone(), None).unwrap();
    House { home, store, trees }
}

fn owner(number: u8) -> Owner {
    Owner {
        requester: barn_protocol::Identity::from_seed(&[number; 32]).id(),
        toolchain: Digest::of(b"toolchain"),
    }
}

impl House {
    fn file(&self, text: &str, executable: bool) -> Item {
        let blob = self.store.put_bytes(text.as_bytes()).unwrap();
        let entry = Entry::File { digest: blob.digest, size: blob.size, executable };
        Item { entry, shared: executable }
    }

    /// Entries from words: `text` a file, `text*` an executable of the toolchain, `-> target` a link, `/` a directory.
    fn items(&self, words: &[(&str, &str)]) -> Items {
        let item = |what: &str| match (what.strip_prefix("-> "), what.strip_suffix('*')) {
            (Some(target), _) => Item { entry: Entry::Symlink { target: target.into() }, shared: false },
            (_, Some(text)) => self.file(text, true),
            _ if what == "/" => Item { entry: Entry::Directory, shared: false },
            _ => self.file(what, false),
        };
        words.iter().map(|(at, what)| (TreePath::new(*at).unwrap(), item(what))).collect()
    }

    /// Lays out `words` and looks at what is there.
    #[track_caller]
    fn check(&self, owner: Owner, words: &[(&str, &str)], expect: &[&str]) -> PathBuf {
        let lease = self.trees.lay_out(owner, &self.items(words)).unwrap();
        assert_eq!(listing(lease.path()), expect, "{words:?}");
        lease.path().to_owned()
    }
}

/// Everything in a tree: mode and contents of files, targets of links.
fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = format!("/{}", path.strip_prefix(root).unwrap().display());
            let mode = meta.permissions().mode() & 0o7777;
            if meta.is_symlink() {
                lines.push(format!("{name} -> {}", fs::read_link(&path).unwrap().display()));
            } else if meta.is_dir() {
                lines.push(format!("{name}/ {mode:o}"));
                todo.push(path);
            } else {
                lines.push(format!("{name} {mode:o} {}", fs::read_to_string(&path).unwrap()));
            }
        }
    }
    lines.sort();
    lines
}

#[test]
fn trees_that_nobody_wants_go_by_themselves() {
    let house = house();
    for number in 0..6 {
        house.check(owner(number), &[("/p/a.h", "one")], &["/p/ 755", "/p/a.h 444 one"]);
    }
    let now = Instant::now();
    house.trees.age_out(now + IDLE_TIME_MAX - Duration::from_secs(60));
    assert_eq!(house.trees.idle(), 6, "they are young");
    let later = now + IDLE_TIME_MAX + Duration::from_secs(60);
    let left: Vec<_> = (0..3).map(|_| (house.trees.age_out(later), trees_on_disk(&house)).1).collect();
    assert_eq!(left, [2, 0, 0]);
    assert_eq!(house.trees.idle(), 0);
}

#[test]
fn a_tree_becomes_the_next_one() {
    let house = house();
    let first = house.check(
        owner(1),
        &[
            ("/p/a.h", "one"),
            ("/p/b/c.h", "two"),
            ("/usr/bin/cc", "cc*"),
            ("/lib", "-> usr/lib"),
            ("/e", "/"),
        ],
        &[
            "/e/ 755",
            "/lib -> usr/lib",
            "/p/ 755",
            "/p/a.h 444 one",
            "/p/b/ 755",
            "/p/b/c.h 444 two",
            "/usr/ 755",
            "/usr/bin/ 755",
            "/usr/bin/cc 555 cc",
        ],
    );
    // A file changes, a directory becomes a link, a link a directory, a file a directory.
    let second = house.check(
        owner(1),
        &[("/p/a.h/x", "three"), ("/p/b", "-> /etc"), ("/usr/bin/cc", "cc*"), ("/lib/l", "four")],
        &[
            "/lib/ 755",
            "/lib/l 444 four",
            "/p/ 755",
            "/p/a.h/ 755",
            "/p/a.h/x 444 three",
            "/p/b -> /etc",
            "/usr/ 755",
            "/usr/bin/ 755",
            "/usr/bin/cc 555 cc",
        ],
    );
    assert_eq!(first, second, "the tree is used again");
    house.check(owner(1), &[], &[]);
    assert_eq!(house.trees.idle(), 1);
}

#[test]
fn trees_are_not_shared() {
    let house = house();
    let items = house.items(&[("/p/a.h", "one")]);
    let first = house.trees.lay_out(owner(1), &items).unwrap();
    let at_once = house.trees.lay_out(owner(1), &items).unwrap();
    let another = house.trees.lay_out(owner(2), &items).unwrap();
    let paths = [&first, &at_once, &another].map(|lease| lease.path().to_owned());
    assert!(paths[0] != paths[1] && paths[1] != paths[2] && paths[0] != paths[2]);
    drop((first, at_once, another));
    assert_eq!(house.trees.idle(), 3);
    let other_toolchain = Owner { toolchain: Digest::of(b"another"), ..owner(1) };
    assert!(!paths.contains(&house.trees.lay_out(other_toolchain, &items).unwrap().path().to_owned()));
}

#[test]
fn many_at_once_get_exact_trees() {
    let house = house();
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (house, start) = (&house, &start);
            scope.spawn(move || {
                start.wait();
                for round in 0..20 {
                    let name = format!("/p/{}/f", (thread + round) % 5);
                    let directory = format!("/p/{}/ 755", (thread + round) % 5);
                    let file = format!("{name} 444 same");
                    house.check(owner(1), &[(&name, "same")], &["/p/ 755", &directory, &file]);
                }
            });
        }
    });
    assert!(house.trees.idle() <= 4);
}

#[test]
fn eviction_breaks_no_tree() {
    let house = house();
    let words = [("/p/a.h", "one"), ("/usr/bin/cc", "cc*")];
    let expect = ["/p/ 755", "/p/a.h 444 one", "/usr/ 755", "/usr/bin/ 755", "/usr/bin/cc 555 cc"];
    let items = house.items(&words);
    drop(house.trees.lay_out(owner(1), &items).unwrap());
    house.store.clear();
    assert!(!house.store.contains(&Digest::of(b"one")));
    let one = Digest::of(b"one");
    assert!(house.trees.have(one, false) && house.trees.have(Digest::of(b"cc"), true));
    assert!(!house.trees.have(one, true) && !house.trees.have(Digest::of(b"never"), false));
    for number in [1, 2] {
        // The second has no tree yet, but copies are kept.
        let lease = house.trees.lay_out(owner(number), &items).unwrap();
        assert_eq!(listing(lease.path()), expect);
    }
    // What was never here is missed by its name, and the half-made tree is gone.
    let mut more = items.clone();
    let entry = Entry::File { digest: Digest::of(b"never"), size: 5, executable: false };
    more.insert(TreePath::new("/p/n").unwrap(), Item { entry, shared: false });
    let error = house.trees.lay_out(owner(1), &more).err().unwrap();
    assert!(matches!(error, TreeError::Missing(digest) if digest == Digest::of(b"never")));
    assert_eq!(house.trees.idle(), 1);
    assert_eq!(trees_on_disk(&house), 1);
}

fn trees_on_disk(house: &House) -> usize {
    let names =
        fs::read_dir(house.home.path().join(DIRECTORY)).unwrap().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with("tree-")).count()
}

#[test]
fn a_copy_that_went_away_is_made_again() {
    let house = house();
    let items = house.items(&[("/p/a.h", "one")]);
    drop(house.trees.lay_out(owner(1), &items).unwrap());
    for copy in fs::read_dir(house.home.path().join(DIRECTORY).join("files")).unwrap() {
        fs::remove_file(copy.unwrap().path()).unwrap();
    }
    house.check(owner(2), &[("/p/a.h", "one")], &["/p/ 755", "/p/a.h 444 one"]);
}

#[test]
fn links_in_a_tree_lead_the_worker_nowhere() {
    let house = house();
    let away = tempfile::tempdir().unwrap();
    fs::write(away.path().join("a.h"), "host").unwrap();
    let target = format!("-> {}", away.path().display());
    // Everything that was below a directory is removed and made through what is a link now, and back.
    for (one, two) in [("/p/d", "/p/d/a.h"), ("/d", "/d/a.h")] {
        let link = format!("{one} {target}");
        let parents: &[&str] = if one == "/p/d" { &["/p/ 755"] } else { &[] };
        house.check(owner(1), &[(one, &target)], &[parents, &[&link]].concat());
        let (directory, file) = (format!("{one}/ 755"), format!("{two} 444 x"));
        house.check(owner(1), &[(two, "x")], &[parents, &[&directory, &file]].concat());
        house.check(owner(1), &[(one, &target)], &[parents, &[&link]].concat());
    }
    // An input that lies behind a link of the toolchain is refused, as the sandbox would.
    let through = house.items(&[("/p/d", &target), ("/p/d/evil", "x")]);
    assert!(house.trees.lay_out(owner(1), &through).is_err());
    // Somebody has put a link where a directory was.
    let path = house.check(owner(2), &[("/p/d/a.h", "x")], &["/p/ 755", "/p/d/ 755", "/p/d/a.h 444 x"]);
    fs::rename(path.join("p/d"), path.join("away")).unwrap();
    symlink(away.path(), path.join("p/d")).unwrap();
    assert!(house.trees.lay_out(owner(2), &house.items(&[("/p/d/b.h", "y")])).is_err());
    assert!(!path.exists(), "a tree that is not what it should be is removed");
    assert_eq!(listing(away.path()).len(), 1);
    assert_eq!(fs::read_to_string(away.path().join("a.h")).unwrap(), "host");
}

#[test]
fn idle_trees_are_bounded() {
    let house = house();
    let items = house.items(&[("/p/a.h", "one")]);
    let leases: Vec<_> =
        (0..IDLE_TREES_MAX + 4).map(|_| house.trees.lay_out(owner(1), &items).unwrap()).collect();
    drop(leases);
    assert_eq!((house.trees.idle(), trees_on_disk(&house)), (IDLE_TREES_MAX, IDLE_TREES_MAX));
}

#[test]
fn old_trees_go() {
    let house = house();
    let tree = |name: &str| Tree::create(house.home.path().join(name)).unwrap();
    let mut state = State::default();
    let now = Instant::now();
    let later = now + IDLE_TIME_MAX + Duration::from_secs(1);
    assert!(state.put(Idle { owner: owner(1), tree: tree("a"), since: now }).is_empty());
    let gone = state.put(Idle { owner: owner(1), tree: tree("b"), since: later });
    assert_eq!(gone.iter().map(|idle| idle.tree.path().ends_with("a")).collect::<Vec<_>>(), [true]);
    assert_eq!(state.idle.len(), 1);
}

#[test]
fn a_start_finds_nothing() {
    let House { home, store, trees } = house();
    let items =
        Items::from([(TreePath::new("/p/d").unwrap(), Item { entry: Entry::Directory, shared: false })]);
    // As after a crash: neither lease nor trees are dropped.
    std::mem::forget(trees.lay_out(owner(1), &items).unwrap());
    std::mem::forget(trees);
    let again = Trees::open(&home.path().join(DIRECTORY), store, None).unwrap();
    let names: Vec<_> =
        fs::read_dir(home.path().join(DIRECTORY)).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!((names, again.idle()), (vec!["files".into()], 0));
    let mode = fs::metadata(home.path().join(DIRECTORY)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
}

#[test]
fn only_the_sandboxs_group_gets_in() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let house = house();
    let directory = house.home.path().join("rooms");
    let _trees = Trees::open(&directory, house.store.clone(), Some((61_337, 61_338))).unwrap();
    let meta = fs::metadata(&directory).unwrap();
    let ids = (std::os::unix::fs::MetadataExt::uid(&meta), std::os::unix::fs::MetadataExt::gid(&meta));
    assert_eq!((meta.permissions().mode() & 0o777, ids), (0o710, (0, 61_338)));
}

#[test]
fn no_file_of_the_stores_own_is_ever_in_a_tree() {
    let house = house();
    let lease = house.trees.lay_out(owner(1), &house.items(&[("/p/a.h", "one")])).unwrap();
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let private = house.store.private_path(&Digest::of(b"one")).unwrap();
    assert_ne!(inode(&lease.path().join("p/a.h")), inode(&private));
    assert_eq!(fs::metadata(private).unwrap().permissions().mode() & 0o777, 0o400);
}

/// Words for random entries; a tree of them may be impossible.
fn random_words(rng: &mut StdRng) -> Vec<(String, String)> {
    const NAMES: [&str; 2] = ["/a", "/b"];
    const THINGS: [&str; 9] = ["x", "y", "z", "x*", "y*", "-> /a", "-> b", "-> ../a", "/"];
    let mut pick = |from: &[&str]| from[rng.gen_range(0..from.len())].to_owned();
    let mut words = Vec::new();
    for _ in 0..pick(&["11", "1111", "11111111"]).len() {
        let depth = pick(&["1", "11", "111"]).len();
        words.push(((0..depth).map(|_| pick(&NAMES)).collect(), pick(&THINGS)));
    }
    words
}

/// Whatever came before, a tree is what a new one would be; or neither can be made.
#[test]
fn old_trees_equal_new_ones() {
    let mut made = 0;
    for seed in 0..40 {
        let mut rng = StdRng::seed_from_u64(seed);
        let house = house();
        for _ in 0..8 {
            let step = random_words(&mut rng);
            let words: Vec<_> = step.iter().map(|(at, what)| (at.as_str(), what.as_str())).collect();
            let items = house.items(&words);
            let old = house.trees.lay_out(owner(1), &items);
            let mut new = house.trees.lay_out(owner(2), &items);
            assert_eq!(old.is_ok(), new.is_ok(), "seed {seed}: {words:?}");
            if let (Ok(old), Ok(new)) = (&old, &mut new) {
                assert_eq!(listing(old.path()), listing(new.path()), "seed {seed}: {words:?}");
                made += 1;
                // The next step's new tree is really new.
                new.sound = false;
            }
        }
    }
    assert!(made > 40, "only {made} trees could be made");
}
