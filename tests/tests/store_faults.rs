//! The store in trouble, under a real node and a running build: every build goes well, and every object is the
//! compiler's own.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::SystemTime,
};

use barn_tests::{
    Desk,
    kills::{self, draw},
    workload::Workload,
};
use serde_json::Value;

/// Kills in a test run; `make soak` does 1000.
const KILLS: u32 = 25;
/// The number of the input/output error.
const EIO: i32 = 5;
/// Units of the small builds.
const UNITS: u64 = 4;

fn stat(desk: &Desk) -> Value {
    desk.barn(&["cache", "stat", "--json"]).ok().json()
}

/// Builds until everything is found again: a store that was paused tries again after some seconds.
fn await_hits(desk: &Desk, work: &Workload<'_>, value: u32) {
    desk.await_that("results are kept and found again", |_| work.counted(value).hits == work.units());
}

/// All files below a part of the store, in order.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn a_node_killed_at_any_instant_spoils_nothing() {
    println!("{}", kills::run(KILLS, 1));
}

/// A file system of its own at a place, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// One in memory. `None` where that is not allowed; where tests must be whole, that is a failure.
    fn mount(at: &Path, size: &str) -> Option<Self> {
        let options = format!("size={size},mode=0711");
        Self::mount_with(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "barn-test"]), at)
    }

    fn mount_with(command: &mut Command, at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = command.arg(at).output();
        let reason = match mounted {
            Ok(output) if output.status.success() => return Some(Self(at.to_owned())),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(std::env::var_os("CI").is_none(), "cannot mount a small disk: {reason}");
        eprintln!("skipped: cannot mount a small disk: {reason}");
        None
    }

    /// Takes so many bytes, or all there are.
    fn fill(&self, name: &str, bytes: u64) {
        let zeros = std::io::repeat(0).take(bytes);
        let _ = std::io::copy(&mut { zeros }, &mut File::create(self.0.join(name)).unwrap());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(done.is_ok_and(|status| status.success()) || thread::panicking());
    }
}

#[test]
fn a_full_disk_turns_the_cache_off_until_space_returns() {
    let desk = Desk::without_node();
    // The store leaves 256 MiB free.
    let Some(disk) = SmallDisk::mount(&desk.state(), "300m") else { return };
    desk.barn(&["start"]).ok();
    let work = Workload::new(&desk, UNITS);
    work.build(1);
    assert_eq!(work.counted(1).hits, UNITS);
    let kept = stat(&desk)["records"].clone();
    for (value, ballast) in [(2, 64 << 20), (3, u64::MAX)] {
        disk.fill(&format!("ballast{value}"), ballast);
        work.build(value);
        assert_eq!(work.counted(value).hits, 0, "there is no room for them");
        assert_eq!(work.counted(1).hits, UNITS, "what is there is served");
        let now = stat(&desk);
        assert_eq!((&now["records"], &now["paused"]), (&kept, &Value::Bool(true)));
        let shown = desk.barn(&["cache", "stat"]).ok().out();
        assert!(shown.contains("takes nothing now: less than 268435456 bytes are free"), "{shown}");
    }
    let collected = desk.barn(&["cache", "gc", "--size", "1K"]);
    assert_eq!(collected.status, 1, "{}", collected.out());
    assert!(collected.err().contains("bytes are free"), "{}", collected.err());
    // A node that starts on a full disk.
    desk.kill_node();
    work.build(4);
    for value in [2, 3] {
        fs::remove_file(disk.0.join(format!("ballast{value}"))).unwrap();
    }
    await_hits(&desk, &work, 4);
    drop_node(&desk);
}

/// Before what it has open is unmounted.
fn drop_node(desk: &Desk) {
    desk.barn(&["stop"]).ok();
}

/// The directory for temporary files is full for the node, the wrapper and the compiler.
#[test]
fn without_room_for_temporary_files_it_is_as_without_barn() {
    let desk = Desk::without_node();
    let Some(disk) = SmallDisk::mount(&desk.at("tmp"), "64k") else { return };
    disk.fill("ballast", u64::MAX);
    desk.write("x.c", "int x(int y) { return y + 1; }\n");
    for flags in ["-pipe", "-O1", "-pipe -MD"] {
        let line = format!("export TMPDIR=$PWD/tmp; rm -f x.o; $B gcc {flags} -c x.c");
        let plain = desk.plain(&line);
        let object = fs::read(desk.at("x.o")).ok();
        for _ in 0..2 {
            assert_eq!(desk.sh(&line).status, plain.status, "{flags}");
            assert!(fs::read(desk.at("x.o")).ok() == object, "{flags}");
        }
    }
    drop_node(&desk);
}

/// A disk that promises more than it has: its blocks are in a file on a small one. What of that file is cut off cannot
/// be read, and once the small disk is full new blocks cannot be written: the kernel then gives input/output errors.
struct ThinDisk {
    disk: SmallDisk,
    image: PathBuf,
    below: SmallDisk,
}

impl ThinDisk {
    fn mount(desk: &Desk, size: &str) -> Option<Self> {
        let below = SmallDisk::mount(&desk.at("below"), size)?;
        let image = below.0.join("image");
        // Without a journal it goes on after an error.
        let made =
            Command::new("mkfs.ext4").args(["-q", "-F", "-O", "^has_journal"]).arg(&image).arg("1g").status();
        assert!(made.unwrap().success());
        let disk = Self::attach(&image, &desk.state())?;
        fs::set_permissions(desk.state(), fs::Permissions::from_mode(0o711)).unwrap();
        Some(Self { disk, image, below })
    }

    fn attach(image: &Path, at: &Path) -> Option<SmallDisk> {
        SmallDisk::mount_with(Command::new("mount").args(["-o", "loop"]).arg(image), at)
    }

    fn sync(&self) {
        // It fails when something could not be written, as it should here.
        let _ = Command::new("sync").arg("-f").arg(&self.disk.0).stderr(Stdio::null()).status().unwrap();
    }

    /// Makes these files unreadable: the blocks are gone, and so is what the kernel remembers of them.
    fn lose(&self, files: &[PathBuf]) {
        self.sync();
        for file in files {
            let input = format!("if={}", file.display());
            let ran = Command::new("dd").args([&input, "iflag=nocache", "count=0", "status=none"]).status();
            assert!(ran.unwrap().success());
        }
        File::options().write(true).open(&self.image).unwrap().set_len(0).unwrap();
        let lost = |file: &PathBuf| fs::read(file).is_err_and(|error| error.raw_os_error() == Some(EIO));
        assert!(files.iter().all(lost), "they can be read");
    }

    /// As after a reboot: what was not written is gone, and the file system is checked.
    fn reboot(self, desk: &Desk) -> Self {
        let Self { disk, image, below } = self;
        drop(disk);
        let checked = Command::new("e2fsck").arg("-fy").arg(&image).output().unwrap();
        assert!(checked.status.code().is_some_and(|code| code < 4), "{checked:?}");
        let disk = Self::attach(&image, &desk.state()).expect("it was mounted before");
        Self { disk, image, below }
    }
}

/// What is gone is more than the store: only that nothing is wrong and nothing fails can be asked for.
#[test]
fn on_a_disk_that_cannot_be_read_builds_go_on() {
    for part in ["blobs-v1", "journal-v1", "index-v1"] {
        let desk = Desk::without_node();
        let Some(disk) = ThinDisk::mount(&desk, "128m") else { return };
        desk.barn(&["start"]).ok();
        let work = Workload::new(&desk, UNITS);
        work.build(1);
        assert_eq!(work.counted(1).hits, UNITS);
        let lost: Vec<PathBuf> = files(&desk.state().join("cache").join(part))
            .into_iter()
            .filter(|path| fs::metadata(path).is_ok_and(|meta| meta.len() > 0))
            .collect();
        disk.lose(&lost);
        work.build(1);
        work.build(2);
        // Its index is read now, if not before.
        desk.kill_node();
        work.build(2);
        work.build(1);
        drop_node(&desk);
    }
}

#[test]
fn what_the_disk_could_not_write_is_not_served() {
    let desk = Desk::without_node();
    let Some(disk) = ThinDisk::mount(&desk, "24m") else { return };
    desk.barn(&["start"]).ok();
    let work = Workload::new(&desk, UNITS);
    work.build(1);
    disk.sync();
    disk.below.fill("ballast", u64::MAX);
    for value in 1..10 {
        work.build(value);
        disk.sync();
    }
    drop_node(&desk);
    assert!(!desk.state().join("cache/index-v1/clean").exists(), "it was not closed in order");
    fs::remove_file(disk.below.0.join("ballast")).unwrap();
    let disk = disk.reboot(&desk);
    desk.barn(&["start"]).ok();
    (1..10).for_each(|value| work.build(value));
    await_hits(&desk, &work, 1);
    desk.barn(&["cache", "verify"]);
    assert!(desk.barn(&["cache", "verify"]).ok().out().ends_with("all are whole\n"));
    drop_node(&desk);
    drop(disk);
}

/// Makes system calls on some files fail for a process and all its threads, while it is there.
struct Failing {
    strace: Child,
    log: PathBuf,
}

impl Failing {
    /// Adds the option to fail `calls` with an input/output error on these files.
    fn options(command: &mut Command, calls: &str, paths: &[PathBuf], log: &Path) {
        command.args(["-f", "-qq", "-o"]).arg(log).args(["-e", &format!("trace={calls}")]);
        command.args(["-e", &format!("inject={calls}:error=EIO")]);
        command.args(paths.iter().flat_map(|path| [OsStr::new("-P"), path.as_os_str()]));
    }

    /// Begins with the desk's node.
    fn node(desk: &Desk, calls: &str, paths: &[PathBuf]) -> Self {
        let pid = desk.node_pid().expect("a node runs");
        let log = desk.at("strace.log");
        let mut command = Command::new("strace");
        Self::options(&mut command, calls, paths, &log);
        let strace = command.args(["-p", &pid]).stderr(Stdio::null()).spawn().expect("strace is installed");
        let failing = Self { strace, log };
        desk.await_that("all threads of the node are traced", |_| {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
            let status =
                threads.map(|thread| fs::read_to_string(thread.path().join("status")).unwrap_or_default());
            status.into_iter().all(|status| !status.contains("TracerPid:\t0"))
        });
        failing
    }

    /// How many calls of this name failed so far.
    fn count(&self, call: &str) -> usize {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains(&format!("{call}(")) && line.contains("(INJECTED)")).count()
    }

    fn end(mut self) {
        let pid = self.strace.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.strace.wait().unwrap();
    }
}

#[test]
fn blobs_that_cannot_be_read_are_dropped() {
    let desk = Desk::new();
    let work = Workload::new(&desk, UNITS);
    work.build(1);
    assert_eq!(work.counted(1).hits, UNITS);
    let blobs = files(&desk.state().join("cache/blobs-v1"));
    let failing = Failing::node(&desk, "read,pread64", &blobs);
    work.build(1);
    failing.end();
    await_hits(&desk, &work, 1);
    // The wrapper cannot read what the node has handed to it.
    let mut strace = Command::new("strace");
    Failing::options(&mut strace, "read,pread64,copy_file_range,sendfile", &blobs, Path::new("/dev/null"));
    let line = work.line(1);
    let quoted: Vec<String> =
        strace.get_args().map(|arg| format!("'{}'", arg.to_str().expect("plain words"))).collect();
    let expected = desk.sh("cat out/*").ok();
    desk.sh(&line.replace("$B gcc", &format!("strace {} $B gcc", quoted.join(" ")))).ok();
    assert_eq!(desk.sh("cat out/*").ok(), expected);
}

#[test]
fn a_disk_that_cannot_be_written_turns_the_cache_off() {
    let desk = Desk::new();
    let work = Workload::new(&desk, UNITS);
    work.build(1);
    let before = stat(&desk)["records"].clone();
    for (value, calls, part) in [(2, "write", "journal-v1"), (3, "rename,renameat,renameat2", "tmp-v1")] {
        let mut paths = files(&desk.state().join("cache").join(part));
        if part == "tmp-v1" {
            // Names of temporary files are numbers that go up.
            let name = |number: u32| desk.state().join(format!("cache/tmp-v1/{number:016x}"));
            paths.extend((0..500).map(name));
        }
        let failing = Failing::node(&desk, calls, &paths);
        work.build(value);
        desk.counts();
        assert_eq!(stat(&desk)["records"], before, "{part}");
        assert_eq!(stat(&desk)["paused"], true, "{part}");
        assert_eq!(work.counted(1).hits, UNITS, "what is there is served");
        failing.end();
        await_hits(&desk, &work, value);
        await_hits(&desk, &work, 1);
        assert!(desk.barn(&["cache", "verify"]).ok().out().ends_with("all are whole\n"));
        desk.barn(&["cache", "clear"]).ok();
        work.build(1);
        assert_eq!(work.counted(1).hits, UNITS);
    }
}

/// A failed fsync may have lost what was written, and the next one would say that all is well.
#[test]
fn a_failed_fsync_is_not_tried_again() {
    let desk = Desk::new();
    let work = Workload::new(&desk, UNITS);
    work.build(1);
    let journal = files(&desk.state().join("cache/journal-v1"));
    let failing = Failing::node(&desk, "fsync,fdatasync", &journal);
    desk.barn(&["stop"]).ok();
    let failed = failing.count("fsync");
    let mut failing = failing;
    failing.strace.wait().unwrap();
    assert_eq!(failed, 1, "the journal is synced once, at the close");
    assert!(!desk.state().join("cache/index-v1/clean").exists(), "it was not closed in order");
    desk.barn(&["start"]).ok();
    await_hits(&desk, &work, 1);
}

/// Flips a bit in every 300 bytes of a file, and one at least.
fn rot(path: &Path, seed: u64) {
    let mode = fs::metadata(path).unwrap().permissions();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    let mut file = File::options().read(true).write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    for at in (0..len).step_by(300) {
        let at = (at + draw(seed, "bit", at) % 300).min(len - 1);
        let mut byte = [0];
        file.seek(SeekFrom::Start(at)).unwrap();
        file.read_exact(&mut byte).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&[byte[0] ^ (1 << (at % 8))]).unwrap();
    }
    fs::set_permissions(path, mode).unwrap();
}

#[test]
fn rot_is_never_served() {
    for part in ["blobs-v1", "journal-v1", "index-v1"] {
        for running in [true, false] {
            let desk = Desk::new();
            let work = Workload::new(&desk, UNITS);
            (0..3).for_each(|value| work.build(value));
            if !running {
                desk.barn(&["stop"]).ok();
            }
            let dir = desk.state().join("cache").join(part);
            let found: Vec<PathBuf> = files(&dir)
                .into_iter()
                .filter(|path| fs::metadata(path).is_ok_and(|m| m.len() > 0))
                .collect();
            assert!(!found.is_empty(), "{part}");
            found.iter().zip(0..).for_each(|(path, seed)| rot(path, seed));
            (0..3).for_each(|value| work.build(value));
            // And under whatever comes next.
            desk.kill_node();
            desk.barn(&["start"]).ok();
            (0..3).for_each(|value| work.build(value));
            desk.barn(&["cache", "verify"]);
            await_hits(&desk, &work, 0);
            let checked = desk.barn(&["cache", "verify"]).ok().out();
            assert!(checked.ends_with("all are whole\n"), "{part}, running {running}: {checked}");
        }
    }
}

/// What a power cut may do to a file that was written since the last sync: nothing, or it is gone, short, empty, or its end
/// is zeros.
fn lose(path: &Path, fate: u64) {
    let Ok(whole) = fs::read(path) else { return };
    let mode = fs::metadata(path).unwrap().permissions();
    let keep = usize::try_from(fate / 8).unwrap_or(0) % (whole.len() + 1);
    let left = match fate % 5 {
        0 => whole,
        1 => return fs::remove_file(path).unwrap(),
        2 => whole[..keep].to_vec(),
        3 => Vec::new(),
        _ => [&whole[..keep], &vec![0; whole.len() - keep][..]].concat(),
    };
    fs::remove_file(path).unwrap();
    fs::write(path, left).unwrap();
    fs::set_permissions(path, mode).unwrap();
}

#[test]
fn after_a_power_cut_results_are_old_new_or_absent() {
    let desk = Desk::new();
    let work = Workload::new(&desk, UNITS);
    for cut in 0..12 {
        // What is in the store before this was synced when the node stopped.
        desk.barn(&["stop"]).ok();
        let synced = SystemTime::now();
        desk.barn(&["start"]).ok();
        work.build(cut);
        work.build(cut + 1);
        desk.counts();
        desk.kill_node();
        for (path, number) in files(&desk.state().join("cache")).iter().zip(0..) {
            let changed = fs::metadata(path).and_then(|meta| meta.modified()).is_ok_and(|when| when > synced);
            if changed && path.file_name() != Some("lock".as_ref()) {
                lose(path, draw(u64::from(cut), "fate", number));
            }
        }
        desk.barn(&["start"]).ok();
        work.build(cut);
        work.build(cut + 1);
    }
    await_hits(&desk, &work, 0);
    desk.barn(&["cache", "verify"]);
    assert!(desk.barn(&["cache", "verify"]).ok().out().ends_with("all are whole\n"));
}

#[test]
fn eviction_races_hits() {
    let desk = Desk::new();
    let work = Workload::new(&desk, 8);
    work.build(0);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let evictor = scope.spawn(|| {
            let mut evicted = 0;
            while !over.load(Ordering::Relaxed) {
                for verb in [&["cache", "gc", "--size", "20K", "--json"][..], &["cache", "clear"]] {
                    let ran = desk.barn(verb).ok();
                    evicted += serde_json::from_slice::<Value>(&ran.stdout)
                        .map_or(0, |report| report["evicted"].as_u64().expect("a number"));
                }
            }
            evicted
        });
        (0..30).for_each(|round| work.build(round % 2));
        over.store(true, Ordering::Relaxed);
        assert!(evictor.join().unwrap() > 0, "nothing was evicted");
    });
    work.build(0);
    assert_eq!(work.counted(0).hits, 8);
}

/// Somebody else has the store, and says nothing at the socket.
#[test]
fn a_store_that_is_taken_is_refused_and_builds_go_on() {
    let desk = Desk::new();
    let work = Workload::new(&desk, UNITS);
    work.build(1);
    desk.barn(&["stop"]).ok();
    let lock = File::open(desk.state().join("cache/lock")).unwrap();
    lock.lock().unwrap();
    for verb in [&["node"][..], &["cache", "stat"], &["cache", "clear"]] {
        let refused = desk.barn(verb);
        let said = refused.err();
        assert!(refused.status == 1 && said.contains("another process uses the store"), "{verb:?}: {said}");
        assert!(said.contains("hint: "), "{verb:?}: {said}");
    }
    work.build(1);
    drop(lock);
    desk.barn(&["start"]).ok();
    assert_eq!(work.counted(1).hits, UNITS);
}

/// A node that can open no more files, or hardly any.
#[test]
fn without_descriptors_builds_go_on() {
    let desk = Desk::new();
    let work = Workload::new(&desk, UNITS);
    work.build(1);
    let pid = desk.node_pid().unwrap();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let limit = |most: usize| {
        let limit = format!("--nofile={most}:");
        assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    };
    for most in [open + 8, open + 2, open, 8] {
        limit(most);
        work.build(1);
        work.build(2);
    }
    limit(1024);
    await_hits(&desk, &work, 2);
    assert_eq!(desk.node_pid().as_deref(), Some(&*pid), "the node lives");
}
