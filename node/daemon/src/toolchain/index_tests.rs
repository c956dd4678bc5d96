//! The index with real compilers, and with a private copy of one that is then replaced.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    time::{Duration, Instant},
};

use barn_compilers::Family;

use super::*;

const SEARCH_PATH: &str = "/usr/bin:/bin";

fn resolve(index: &ToolchainIndex, program: &Path) -> Result<Arc<Known>, DiscoverError> {
    index.resolve(program, OsStr::new(SEARCH_PATH))
}

/// A gcc of its own: a copy of the driver beside links to the real passes.
fn private_gcc(room: &Path) -> PathBuf {
    let real = fs::canonicalize("/usr/bin/gcc").unwrap();
    fs::create_dir_all(room.join("bin")).unwrap();
    let program = room.join("bin/gcc");
    fs::copy(real, &program).unwrap();
    symlink("/usr/lib", room.join("lib")).unwrap();
    program
}

#[test]
fn a_known_compiler_is_answered_from_memory_and_from_disk() {
    let room = tempfile::tempdir().unwrap();
    let index = ToolchainIndex::open(room.path());
    let first = resolve(&index, Path::new("/usr/bin/gcc")).unwrap();
    assert_eq!(first.identity.family, Family::Gcc);
    assert_eq!(first.digest, first.toolchain.digest());
    for (digest, path) in &first.files {
        assert_eq!(stamp::digest_file(path).unwrap().1, *digest, "{}", path.display());
    }
    let again = resolve(&index, Path::new("/usr/bin/gcc")).unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    let reopened = ToolchainIndex::open(room.path());
    let known = reopened.by_digest(&first.digest).unwrap();
    assert!(
        Arc::ptr_eq(&known, &resolve(&reopened, Path::new("/usr/bin/gcc")).unwrap()),
        "it was not discovered anew"
    );
    assert_eq!((&known.toolchain, &known.files), (&first.toolchain, &first.files));
    assert_eq!(known.identity, first.identity);
    assert_eq!(reopened.list().len(), 1);
}

#[test]
fn a_hit_starts_no_process_and_is_quick() {
    let room = tempfile::tempdir().unwrap();
    let index = ToolchainIndex::open(room.path());
    resolve(&index, Path::new("/usr/bin/clang")).unwrap();
    let best = (0..50)
        .map(|_| {
            let start = Instant::now();
            resolve(&index, Path::new("/usr/bin/clang")).unwrap();
            start.elapsed()
        })
        .min()
        .unwrap();
    println!("best of 50: {best:?}");
    // Far above the 50 µs it takes, far below the 2 ms that starting any process takes.
    assert!(best < Duration::from_millis(1), "{best:?}");
}

#[test]
fn a_replaced_compiler_is_noticed_at_the_next_call() {
    let room = tempfile::tempdir().unwrap();
    let index = ToolchainIndex::open(&room.path().join("state"));
    let program = private_gcc(room.path());
    let old = resolve(&index, &program).unwrap();

    let mut bytes = fs::read(&program).unwrap();
    bytes.extend_from_slice(b"new");
    let new = room.path().join("bin/new");
    fs::write(&new, &bytes).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, &program).unwrap();
    let renamed = resolve(&index, &program).unwrap();
    assert_ne!(renamed.digest, old.digest);

    // Overwritten in place, same size, at once.
    let last = bytes.len() - 1;
    bytes[last] = b'W';
    fs::write(&program, &bytes).unwrap();
    let overwritten = resolve(&index, &program).unwrap();
    assert_ne!(overwritten.digest, renamed.digest);

    fs::remove_file(&program).unwrap();
    assert!(matches!(resolve(&index, &program), Err(DiscoverError::Io { absent: true, .. })));
    symlink("/usr/bin/gcc", &program).unwrap();
    assert!(resolve(&index, &program).is_ok(), "a refusal is forgotten when the file appears");
}

#[test]
fn an_assembler_that_appears_earlier_in_the_path_is_noticed() {
    let room = tempfile::tempdir().unwrap();
    let index = ToolchainIndex::open(&room.path().join("state"));
    let earlier = room.path().join("tools");
    fs::create_dir(&earlier).unwrap();
    let search_path = format!("{}:{SEARCH_PATH}", earlier.display());
    let resolve = || index.resolve(Path::new("/usr/bin/gcc"), OsStr::new(&search_path));
    let before = resolve().unwrap();
    fs::copy("/usr/bin/as", earlier.join("as")).unwrap();
    let after = resolve().unwrap();
    assert_ne!(before.digest, after.digest);
    assert_eq!(after.toolchain.search_path[0].as_bytes(), earlier.as_os_str().as_encoded_bytes());
    fs::write(earlier.join("as"), "#!/bin/sh\nexec /usr/bin/as \"$@\"\n").unwrap();
    assert_eq!(resolve().unwrap_err().name(), "compiler-is-script");
}

#[test]
fn refusals_are_remembered_until_the_program_changes() {
    let room = tempfile::tempdir().unwrap();
    let index = ToolchainIndex::open(&room.path().join("state"));
    let program = room.path().join("cc");
    let trace = room.path().join("ran");
    fs::copy("/bin/true", &program).unwrap();
    assert!(matches!(resolve(&index, &program), Err(DiscoverError::UnknownCompiler(_))));
    assert_eq!(index.lock().known.len(), 1);
    assert!(matches!(resolve(&index, &program), Err(DiscoverError::UnknownCompiler(_))));

    fs::write(&program, format!("#!/bin/sh\ntouch {}\n", trace.display())).unwrap();
    let error = resolve(&index, &program).unwrap_err();
    let wrong = format!("{} is a script\nhint: ", program.canonicalize().unwrap().display());
    assert!(error.to_string().starts_with(&wrong), "{error}");
    assert!(!trace.exists(), "a script is not run");
    assert!(index.list().is_empty());
}

#[test]
fn a_hundred_calls_at_once_cause_one_discovery() {
    let room = tempfile::tempdir().unwrap();
    let index = ToolchainIndex::open(room.path());
    let all: Vec<Arc<Known>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..100).map(|_| scope.spawn(|| resolve(&index, Path::new("/usr/bin/g++")).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|known| Arc::ptr_eq(known, &all[0])));
}

#[test]
fn the_longest_unused_goes_first() {
    let mut state = State::default();
    let key = |n: usize| (PathBuf::from(format!("/{n}")), OsString::new());
    let refusal =
        Remembered { answer: Err(DiscoverError::RelativeSearchPath), seen: Arc::default(), used: 0 };
    for n in 0..TOOLCHAINS_MAX {
        state.insert(key(n), refusal.clone());
    }
    assert!(state.use_entry(&key(0)).is_some());
    state.insert(key(TOOLCHAINS_MAX), refusal);
    assert_eq!(state.known.len(), TOOLCHAINS_MAX);
    assert!(state.known.contains_key(&key(0)) && !state.known.contains_key(&key(1)));
}

#[test]
fn a_directory_that_cannot_be_written_costs_only_the_memory() {
    let room = tempfile::tempdir().unwrap();
    fs::write(room.path().join("state"), "a file").unwrap();
    let index = ToolchainIndex::open(&room.path().join("state"));
    assert!(resolve(&index, Path::new("/usr/bin/gcc")).is_ok());
    assert_eq!(index.list().len(), 1);
}
