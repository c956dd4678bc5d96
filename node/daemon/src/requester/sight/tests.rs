use std::{
    collections::VecDeque,
    fs::{self, File},
    os::unix::fs::symlink,
    path::PathBuf,
};

use proptest::prelude::*;

use super::*;

struct Bench {
    dir: tempfile::TempDir,
    sight: Sight,
    files: Files,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), sight: Sight::default(), files: Files::default() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn look(&self) -> Look<'_> {
        Look::new(&self.sight, &self.files, &self.at(""))
    }

    /// What a new look finds at `path`: `f`, `d`, `s` or why nothing.
    fn now(&self, path: &str) -> String {
        short(self.look().at(path.as_bytes()))
    }

    /// Makes looks until the directory is remembered, which it is once its change lies back far enough.
    fn learn(&self, directory: &str) {
        let real = self.at(directory).canonicalize().unwrap();
        for _ in 0..1000 {
            if self.sight.recall(real.as_os_str().as_bytes()).snapshot.is_some() {
                return;
            }
            for n in 0..100 {
                let _ = self.look().find(directory.as_bytes(), format!("not-there-{n}").as_bytes());
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("{directory} is never remembered");
    }
}

fn short(found: Result<Place, Nowhere>) -> String {
    match found {
        Ok(Place::File(_)) => "f".to_owned(),
        Ok(Place::Directory(_)) => "d".to_owned(),
        Ok(Place::Special) => "s".to_owned(),
        Err(why) => format!("{why:?}"),
    }
}

/// What the kernel says, in the same words.
fn kernel(path: &Path) -> String {
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() => "f".to_owned(),
        Ok(meta) if meta.is_dir() => "d".to_owned(),
        Ok(_) => "s".to_owned(),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => "Loop".to_owned(),
        Err(error) => format!("{:?}", nowhere(&error)),
    }
}

#[test]
fn every_kind_of_place() {
    let bench = Bench::new();
    fs::create_dir_all(bench.at("dir/sub")).unwrap();
    fs::write(bench.at("file"), "").unwrap();
    for (target, link) in [
        ("file", "to-file"),
        ("dir", "to-dir"),
        ("dir/sub/../../file", "far"),
        ("/dev/null", "null"),
        ("nothing", "dangling"),
        ("round", "round"),
        ("to-round", "to-round2"),
        ("file/", "slash"),
        ("to-dir/", "slash-dir"),
    ] {
        symlink(target, bench.at(link)).unwrap();
    }
    symlink(bench.at("dir"), bench.at("absolute")).unwrap();
    let long = format!("dir/{}", "x".repeat(256));
    let longer = "dir/../".repeat(600);
    let table = [
        ("file", "f"),
        ("dir", "d"),
        ("dir/", "d"),
        ("dir/.", "d"),
        (".", "d"),
        ("..", "d"),
        ("file/", "Absent"),
        ("file/.", "Absent"),
        ("file/..", "Absent"),
        ("file/x", "Absent"),
        ("nothing/x", "Absent"),
        ("nothing/../file", "Absent"),
        ("dir/sub/../../file", "f"),
        ("to-dir/sub/../../file", "f"),
        ("to-file", "f"),
        ("far", "f"),
        ("null", "s"),
        ("dangling", "Absent"),
        ("round", "Loop"),
        ("to-round2", "Absent"),
        ("slash", "Absent"),
        ("slash-dir/sub", "d"),
        ("absolute//sub", "d"),
        ("/dev/null", "s"),
        ("/", "d"),
        (&long, "TooLong"),
        (&longer, "TooLong"),
    ];
    for pass in 0..30 {
        for (path, expect) in table {
            assert_eq!(bench.now(path), expect, "{path} in pass {pass}");
            assert_eq!(kernel(&bench.at(path)), expect, "{path} as the kernel has it");
        }
    }
    bench.learn(".");
    for (path, expect) in table {
        assert_eq!(bench.now(path), expect, "{path} from memory");
    }
}

#[test]
fn a_name_that_comes_or_goes_is_seen_at_once() {
    let bench = Bench::new();
    fs::create_dir(bench.at("inc")).unwrap();
    for n in 0..400 {
        if n % 20 == 0 {
            bench.learn("inc");
        }
        assert_eq!(bench.now("inc/x.h"), "Absent", "round {n}");
        fs::write(bench.at("inc/x.h"), "").unwrap();
        assert_eq!(bench.now("inc/x.h"), "f", "round {n}");
        fs::remove_file(bench.at("inc/x.h")).unwrap();
    }
}

#[test]
fn a_directory_in_anothers_place_is_seen_at_once() {
    let bench = Bench::new();
    for (name, file) in [("a", "one.h"), ("b", "two.h")] {
        fs::create_dir_all(bench.at(name).join("deep")).unwrap();
        fs::write(bench.at(name).join("deep").join(file), "").unwrap();
    }
    bench.learn("a/deep");
    bench.learn("b/deep");
    for n in 0..200 {
        assert_eq!(
            (bench.now("a/deep/one.h"), bench.now("a/deep/two.h")),
            ("f".into(), "Absent".into()),
            "{n}"
        );
        // A directory's own times do not change when one above it is moved.
        let exchange = || {
            fs::rename(bench.at("a"), bench.at("c")).unwrap();
            fs::rename(bench.at("b"), bench.at("a")).unwrap();
            fs::rename(bench.at("c"), bench.at("b")).unwrap();
        };
        exchange();
        assert_eq!(
            (bench.now("a/deep/one.h"), bench.now("a/deep/two.h")),
            ("Absent".into(), "f".into()),
            "{n}"
        );
        exchange();
    }
}

#[test]
fn a_link_that_is_swapped_is_seen_at_once() {
    let bench = Bench::new();
    for name in ["a", "b"] {
        fs::create_dir_all(bench.at(name).join("deep")).unwrap();
        fs::write(bench.at(name).join(format!("deep/{name}.h")), "").unwrap();
        bench.learn(&format!("{name}/deep"));
    }
    for n in 0..200 {
        for (name, other) in [("a", "b"), ("b", "a")] {
            let _ = fs::remove_file(bench.at("link"));
            symlink(name, bench.at("link")).unwrap();
            if n % 50 == 0 {
                bench.learn(".");
            }
            assert_eq!(bench.now(&format!("link/deep/{name}.h")), "f", "{n}");
            assert_eq!(bench.now(&format!("link/deep/{other}.h")), "Absent", "{n}");
        }
        // A directory where a link was, and a link where a directory was.
        fs::remove_file(bench.at("link")).unwrap();
        fs::rename(bench.at("a"), bench.at("link")).unwrap();
        assert_eq!(bench.now("link/deep/a.h"), "f", "{n}");
        symlink("b", bench.at("a")).unwrap();
        assert_eq!((bench.now("a/deep/a.h"), bench.now("a/deep/b.h")), ("Absent".into(), "f".into()), "{n}");
        fs::remove_file(bench.at("a")).unwrap();
        fs::rename(bench.at("link"), bench.at("a")).unwrap();
    }
}

#[test]
fn an_edit_within_one_tick_is_seen() {
    let bench = Bench::new();
    fs::create_dir(bench.at("inc")).unwrap();
    fs::write(bench.at("inc/x.h"), "").unwrap();
    bench.learn("inc");
    for n in 0..1000 {
        let text = format!("{n:04}");
        fs::write(bench.at("inc/x.h"), &text).unwrap();
        let mut look = bench.look();
        let Ok(Place::File(file)) = look.at(b"inc/x.h") else { panic!("round {n}") };
        assert_eq!(look.known(file, |_, _| ()).unwrap().blob, Blob::of(text.as_bytes()));
    }
}

#[test]
fn within_one_look_a_question_has_one_answer() {
    let bench = Bench::new();
    fs::create_dir_all(bench.at("inc/sub")).unwrap();
    fs::write(bench.at("inc/x.h"), "").unwrap();
    for learnt in [false, true] {
        if learnt {
            bench.learn("inc");
        }
        let mut look = bench.look();
        let ask = |look: &mut Look<'_>| {
            ["inc/x.h", "inc/y.h", "inc/sub/z.h"].map(|path| short(look.at(path.as_bytes())))
        };
        let first = ask(&mut look);
        fs::rename(bench.at("inc/x.h"), bench.at("inc/y.h")).unwrap();
        fs::remove_dir(bench.at("inc/sub")).unwrap();
        for _ in 0..50 {
            assert_eq!(ask(&mut look), first);
        }
        fs::rename(bench.at("inc/y.h"), bench.at("inc/x.h")).unwrap();
        fs::create_dir(bench.at("inc/sub")).unwrap();
    }
}

#[test]
fn what_cannot_be_read_is_said_to_be_so() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new();
    fs::create_dir(bench.at("inc")).unwrap();
    fs::write(bench.at("inc/x.h"), "").unwrap();
    bench.learn("inc");
    for mode in [0o000, 0o400, 0o100, 0o700] {
        fs::set_permissions(bench.at("inc"), fs::Permissions::from_mode(mode)).unwrap();
        for _ in 0..30 {
            for name in ["inc/x.h", "inc/y.h"] {
                assert_eq!(bench.now(name), kernel(&bench.at(name)), "{name} in mode {mode:o}");
            }
        }
    }
}

#[test]
fn what_each_process_sees_for_itself_is_not_looked_at() {
    use std::os::fd::AsRawFd as _;
    let bench = Bench::new();
    fs::write(bench.at("x.h"), "").unwrap();
    let open = File::open(bench.at("x.h")).unwrap();
    for directory in ["/dev/fd", "/proc/self/fd", "/proc/thread-self/fd"] {
        assert_eq!(bench.now(&format!("{directory}/{}", open.as_raw_fd())), "Unreadable", "{directory}");
    }
    assert_eq!(bench.now("/proc/version"), "Unreadable");
}

#[test]
fn memory_is_bounded() {
    let bench = Bench::new();
    for n in 0..3 * DIRECTORIES_MAX {
        bench.sight.add_asked(format!("/{n}").as_bytes(), 1);
        assert!(bench.sight.lock().directories.len() <= DIRECTORIES_MAX);
    }
    fs::create_dir(bench.at("inc")).unwrap();
    (0..100).for_each(|n| fs::write(bench.at(&format!("inc/{n}.h")), "").unwrap());
    let snapshot = match Snapshot::read(&bench.at("inc")) {
        Reading::Lasting(snapshot) | Reading::Passing(snapshot) => Arc::new(snapshot),
        Reading::Refused => panic!("it can be read"),
    };
    for n in 0..NAMES_MAX / 40 {
        let learned = Remembered { snapshot: Some(snapshot.clone()), asked: 0, worth: 8 };
        bench.sight.remember(format!("/{n}").as_bytes(), learned);
        let table = bench.sight.lock();
        let names: usize =
            table.directories.values().filter_map(|known| known.snapshot.as_ref()).map(|s| s.len()).sum();
        assert_eq!(table.names, names);
        assert!(names <= NAMES_MAX);
    }
}

/// A change of the file system under a handful of names.
#[derive(Debug, Clone)]
enum Change {
    Write(usize, u8),
    Make(usize),
    Remove(usize),
    Rename(usize, usize),
    Link(usize, usize),
    /// Time enough for directories to be remembered.
    Wait,
}

const NAMES: [&str; 9] = ["a", "b", "A", "a/a", "a/b", "b/a", "b/b", "a/a/b", "b/a/a"];
const TARGETS: [&str; 6] = ["a", "b", "../a", "../b/a", ".", "b/../a/b"];

fn change() -> impl Strategy<Value = Change> {
    let name = || 0..NAMES.len();
    prop_oneof![
        4 => (name(), any::<u8>()).prop_map(|(at, text)| Change::Write(at, text)),
        4 => name().prop_map(Change::Make),
        3 => name().prop_map(Change::Remove),
        3 => (name(), name()).prop_map(|(from, to)| Change::Rename(from, to)),
        2 => (name(), 0..TARGETS.len()).prop_map(|(at, to)| Change::Link(at, to)),
        1 => Just(Change::Wait),
    ]
}

/// Makes a change, or not if the file system does not take it.
fn apply(root: &Path, change: &Change) {
    let at = |n: usize| root.join(NAMES[n]);
    match change {
        Change::Write(n, text) => drop(fs::write(at(*n), [*text])),
        Change::Make(n) => drop(fs::create_dir(at(*n))),
        Change::Remove(n) => {
            drop(fs::remove_file(at(*n)).or_else(|_| fs::remove_dir_all(at(*n))));
        }
        Change::Rename(from, to) => drop(fs::rename(at(*from), at(*to))),
        Change::Link(n, to) => drop(symlink(TARGETS[*to], at(*n))),
        Change::Wait => std::thread::sleep(std::time::Duration::from_millis(45)),
    }
}

/// Asks for many names, most of them in vain, so that the look reads the directories. What is there, and what is in it.
fn ask_all(look: &mut Look<'_>) -> Vec<(String, String, Option<Blob>)> {
    let asked = NAMES.iter().chain(&TARGETS).map(|name| (*name).to_owned());
    let in_vain = (0..10).flat_map(|n| ["", "a/", "b/", "a/a/"].map(|dir| format!("{dir}x{n}")));
    let mut answers = Vec::new();
    for path in asked.chain(in_vain) {
        let found = look.at(path.as_bytes());
        let blob = match found {
            Ok(Place::File(file)) => look.known(file, |_, _| ()).ok().map(|known| known.blob),
            _ => None,
        };
        answers.push((path, short(found), blob));
    }
    answers
}

/// Looks until what a look rested on can be kept.
fn see(bench: &Bench) -> Seen {
    for _ in 0..1000 {
        let mut look = bench.look();
        ask_all(&mut look);
        if let Some(seen) = look.seen() {
            return seen;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    panic!("nothing settles");
}

#[test]
fn every_change_of_what_was_seen_shows() {
    let bench = Bench::new();
    let root = bench.at("");
    for (n, name) in NAMES.iter().enumerate().take(2) {
        fs::create_dir(root.join(name)).unwrap();
        fs::write(root.join(name).join("b"), [u8::try_from(n).unwrap()]).unwrap();
    }
    fs::write(bench.at("A"), "x").unwrap();
    symlink("a", bench.at("b/a")).unwrap();
    let steps: [(&str, &dyn Fn()); 9] = [
        ("an edit", &|| fs::write(bench.at("a/b"), "y").unwrap()),
        ("an edit with its time set back", &|| {
            let before = fs::metadata(bench.at("a/b")).unwrap().modified().unwrap();
            fs::write(bench.at("a/b"), "z").unwrap();
            File::options().write(true).open(bench.at("a/b")).unwrap().set_modified(before).unwrap();
        }),
        ("a name appears", &|| fs::write(bench.at("a/x3"), "").unwrap()),
        ("a name goes", &|| fs::remove_file(bench.at("A")).unwrap()),
        ("a link is turned round", &|| {
            fs::remove_file(bench.at("b/a")).unwrap();
            symlink("b", bench.at("b/a")).unwrap();
        }),
        ("a file gives way to a link to it", &|| {
            fs::rename(bench.at("a/b"), bench.at("a/c")).unwrap();
            symlink("c", bench.at("a/b")).unwrap();
        }),
        ("directories are exchanged", &|| {
            fs::rename(bench.at("a"), bench.at("c")).unwrap();
            fs::rename(bench.at("b"), bench.at("a")).unwrap();
            fs::rename(bench.at("c"), bench.at("b")).unwrap();
        }),
        ("a directory gives way to a link to it", &|| {
            fs::rename(bench.at("a"), bench.at("c")).unwrap();
            symlink("c", bench.at("a")).unwrap();
        }),
        ("another mode", &|| {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(bench.at("c"), fs::Permissions::from_mode(0o711)).unwrap();
        }),
    ];
    for (what, step) in steps {
        let seen = see(&bench);
        assert!(seen.holds() && seen.holds(), "before {what}");
        step();
        assert!(!seen.holds(), "{what}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn what_holds_would_be_answered_the_same(changes in proptest::collection::vec(change(), 1..60)) {
        let bench = Bench::new();
        let root = bench.at("");
        let mut kept = VecDeque::new();
        for change in &changes {
            apply(&root, change);
            for (seen, answers) in &kept {
                let seen: &Seen = seen;
                if !seen.holds() {
                    continue;
                }
                let answers: &Vec<(String, String, Option<Blob>)> = answers;
                for (path, found, blob) in answers {
                    prop_assert_eq!(found, &kernel(&root.join(path)), "{} after {:?}", path, change);
                    if let Some(blob) = blob {
                        prop_assert_eq!(*blob, Blob::of(&fs::read(root.join(path)).unwrap()), "{}", path);
                    }
                }
            }
            let mut look = bench.look();
            let answers = ask_all(&mut look);
            kept.extend(look.seen().map(|seen| (seen, answers)));
            if kept.len() > 8 {
                kept.pop_front();
            }
        }
    }

    #[test]
    fn answers_are_the_kernels(changes in proptest::collection::vec(change(), 1..60)) {
        let bench = Bench::new();
        let root = bench.at("");
        for change in &changes {
            apply(&root, change);
            let mut look = bench.look();
            for (path, found, blob) in ask_all(&mut look) {
                prop_assert_eq!(&found, &kernel(&root.join(&path)), "{} after {:?}", path, change);
                if found == "f" {
                    prop_assert_eq!(blob, Some(Blob::of(&fs::read(root.join(&path)).unwrap())));
                }
            }
        }
    }
}
