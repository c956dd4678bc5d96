use std::{
    cell::Cell,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::*;
use crate::{
    requester::call::tests::understood,
    toolchain::{ToolchainIndex, stand_in::StandIns},
};

/// A directory in which compilers are called.
struct Bench {
    dir: tempfile::TempDir,
    toolchains: ToolchainIndex,
    stand_ins: StandIns,
    dialects: Dialects,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let toolchains = ToolchainIndex::open(&dir.path().join("toolchains"));
        let stand_ins = StandIns::in_dir(dir.path(), &[]).0;
        Self { dir, toolchains, stand_ins, dialects: Dialects::new(2) }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn call(&self, words: &str) -> Call {
        let program = Path::new("/usr/bin").join(words.split(' ').next().unwrap());
        understood(self.dir.path(), &program, words, &self.toolchains, &self.stand_ins).unwrap()
    }

    async fn unit(&self, words: &str) -> Unit {
        self.dialects.unit(&self.call(words)).await.unwrap()
    }
}

fn names(dirs: &[Vec<u8>]) -> String {
    String::from_utf8_lossy(&dirs.join(&b' ')).into_owned()
}

#[tokio::test]
async fn one_answer_serves_all_units_of_a_flag_set() {
    let bench = Bench::new();
    for compiler in ["gcc", "clang"] {
        let one = bench.unit(&format!("{compiler} -O2 -DA=1 -c a.c")).await;
        let two = bench.unit(&format!("{compiler} -O2 -UA -include x.h -c b.c -MD")).await;
        assert!(Arc::ptr_eq(&one.dialect, &two.dialect) && Arc::ptr_eq(&one.search, &two.search));
        assert_eq!(one.defines, [Define::Define(b"A=1".to_vec())]);
        assert_eq!(two.defines, [Define::Undefine(b"A".to_vec())]);
        assert_eq!(two.includes, [b"x.h".to_vec()]);
        assert_eq!(two.source, b"b.c");
        assert!(names(&one.search.angle).contains("/usr/include"), "{:?}", one.search);

        let other = bench.unit(&format!("{compiler} -O0 -c a.c")).await;
        assert!(!Arc::ptr_eq(&one.dialect, &other.dialect));
    }
}

#[tokio::test]
async fn flag_sets_that_differ_in_directories_share_a_dialect() {
    let bench = Bench::new();
    fs::create_dir(bench.at("inc")).unwrap();
    fs::create_dir(bench.at("quote")).unwrap();
    let one = bench.unit("g++ -c a.cc").await;
    let two = bench.unit("g++ -Iinc -iquote quote -c a.cc").await;
    assert!(Arc::ptr_eq(&one.dialect, &two.dialect));
    assert_eq!(names(&two.search.quote), "quote");
    assert_eq!(names(&two.search.angle[..1]), "inc");
}

#[tokio::test]
async fn a_directory_that_appears_is_searched() {
    let bench = Bench::new();
    let call = bench.call("gcc -Ilate -c a.c");
    let before = bench.dialects.unit(&call).await.unwrap();
    let exists = |dir: &[u8]| bench.at(std::str::from_utf8(dir).unwrap()).is_dir();
    assert!(is_current(&before.search, exists));
    assert!(names(&before.search.missing).contains("late"));

    fs::create_dir(bench.at("late")).unwrap();
    assert!(!is_current(&before.search, exists));
    let after = bench.dialects.unit_again(&call, &before).await.unwrap();
    assert_eq!(names(&after.search.angle[..1]), "late");
    assert!(is_current(&after.search, exists));
    // Whoever comes with the old answer gets the new one without another run.
    let again = bench.dialects.unit_again(&call, &before).await.unwrap();
    assert!(Arc::ptr_eq(&after.search, &again.search));

    fs::remove_dir(bench.at("late")).unwrap();
    assert!(!is_current(&after.search, exists));
}

#[tokio::test]
async fn what_the_compiler_refuses_is_asked_once() {
    let bench = Bench::new();
    let call = bench.call("gcc -std=c1 -c a.c");
    let why = bench.dialects.unit(&call).await.unwrap_err();
    assert_eq!(why.name, "dialect");
    assert!(why.detail.contains("c1"), "{}", why.detail);
    let since = |dialects: &Dialects| {
        let set = dialects.sets.lock().unwrap().values().next().cloned().unwrap();
        let answer = set.answer.try_lock().unwrap().clone();
        match answer {
            Some(Answer::Failed(_, since)) => since,
            _ => panic!("it did not fail"),
        }
    };
    let first = since(&bench.dialects);
    bench.dialects.unit(&call).await.unwrap_err();
    assert_eq!(first, since(&bench.dialects));
    assert_eq!(
        bench.dialects.unit(&bench.call("gcc -traditional-cpp -c a.S")).await.unwrap_err().name,
        "not-scannable"
    );
}

#[tokio::test]
async fn what_was_unused_longest_is_forgotten() {
    let bench = Bench::new();
    let key = |n: usize| Digest::of(&n.to_le_bytes());
    let kept = bench.dialects.set(key(0));
    for n in 1..FLAG_SETS_MAX {
        bench.dialects.set(key(n));
    }
    assert!(Arc::ptr_eq(&kept, &bench.dialects.set(key(0))));
    bench.dialects.set(key(FLAG_SETS_MAX));
    assert!(bench.dialects.sets.lock().unwrap().len() <= FLAG_SETS_MAX);
    assert!(Arc::ptr_eq(&kept, &bench.dialects.set(key(0))));
}

#[tokio::test]
async fn a_directory_that_was_left_out_may_lead_elsewhere() {
    for compiler in ["gcc", "clang"] {
        let bench = Bench::new();
        for name in ["one", "two"] {
            fs::create_dir(bench.at(name)).unwrap();
        }
        symlink("one", bench.at("link")).unwrap();
        let call = bench.call(&format!("{compiler} -Ione -Ilink -c a.c"));
        let before = bench.dialects.unit(&call).await.unwrap();
        assert!(before.search.duplicates.contains(&b"link".to_vec()), "{compiler}");
        let real = |dir: &[u8]| {
            let real = fs::canonicalize(bench.at(std::str::from_utf8(dir).unwrap())).ok()?;
            Some(real.into_os_string().into_encoded_bytes())
        };
        assert!(leads_as_before(&before.search, real));

        fs::remove_file(bench.at("link")).unwrap();
        symlink("two", bench.at("link")).unwrap();
        assert!(!leads_as_before(&before.search, real));
        let after = bench.dialects.unit_again(&call, &before).await.unwrap();
        assert_eq!(names(&after.search.angle[..2]), "one link");
        assert!(leads_as_before(&after.search, real));
    }
}

#[test]
fn every_directory_counts() {
    let search = SearchDirs {
        quote: vec![b"q".to_vec()],
        angle: vec![b"a".to_vec()],
        frameworks: vec![],
        missing: vec![b"m".to_vec()],
        ..SearchDirs::default()
    };
    let asked = Cell::new(0);
    assert!(is_current(&search, |dir| {
        asked.set(asked.get() + 1);
        dir != b"m"
    }));
    assert_eq!(asked.get(), 3);
    assert!(!is_current(&search, |_| true));
    assert!(!is_current(&search, |dir| dir == b"q"));
}

#[tokio::test]
async fn what_is_learned_serves_all_units_of_the_flags() {
    let bench = Bench::new();
    fs::create_dir(bench.at("inc")).unwrap();
    for (compiler, source) in [("gcc", "a.c"), ("clang", "a.c"), ("g++", "a.cc"), ("clang++", "a.cc")] {
        let call = bench.call(&format!("{compiler} -c {source}"));
        let unit = bench.dialects.unit(&call).await.unwrap();
        let questions = || {
            let names =
                ["__has_attribute(noreturn)", "__has_builtin(__builtin_expect)", "__has_attribute(1)"];
            names.map(|name| Question(name.as_bytes().to_vec())).to_vec()
        };
        let grown = bench.dialects.learn(&call, &unit, questions()).await.unwrap();
        assert!(!Arc::ptr_eq(&unit.dialect, &grown.dialect), "{compiler}");
        // Who asks the same with the old dialect is given what is known by now.
        let late = bench.dialects.learn(&call, &unit, questions()).await.unwrap();
        assert!(Arc::ptr_eq(&grown.dialect, &late.dialect), "{compiler}");
        let other = bench.call(&format!("{compiler} -Iinc -DX -c {source}"));
        let other = bench.dialects.unit(&other).await.unwrap();
        assert!(Arc::ptr_eq(&grown.dialect, &other.dialect), "{compiler}");
    }
}
