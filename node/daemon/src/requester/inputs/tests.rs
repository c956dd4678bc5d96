use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use super::*;
use crate::{
    requester::{
        call::tests::understood,
        inputs::{dependency_run::DependencyRun, scan::IncludeScan, texts::Texts},
        sight::Sight,
    },
    stats::Stats,
    toolchain::{ToolchainIndex, stand_in::StandIns},
};

/// A directory of sources, and gcc called in it.
struct Bench {
    dir: tempfile::TempDir,
    toolchains: ToolchainIndex,
    stand_ins: StandIns,
    files: Arc<Files>,
    sight: Arc<Sight>,
    finder: Finder,
}

enum Finder {
    Compiler(DependencyRun),
    Scanner(IncludeScan),
}

/// Who finds the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Compiler,
    Scanner,
}

const WAYS: [Way; 2] = [Way::Compiler, Way::Scanner];

impl Bench {
    fn new(way: Way, sources: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let toolchains = ToolchainIndex::open(&dir.path().join("toolchains"));
        let (files, sight, texts) =
            (Arc::<Files>::default(), Arc::<Sight>::default(), Arc::<Texts>::default());
        let (known, seen) = (files.clone(), sight.clone());
        let finder = match way {
            Way::Compiler => Finder::Compiler(DependencyRun::new(known, seen, texts, 1)),
            Way::Scanner => {
                let stats = Arc::new(Stats::open(dir.path().join("stats")));
                Finder::Scanner(IncludeScan::new(known, seen, texts, stats, 1))
            }
        };
        let stand_ins = StandIns::in_dir(dir.path(), &[]).0;
        let bench = Self { dir, toolchains, stand_ins, files, sight, finder };
        sources.iter().for_each(|(name, text)| bench.write(name, text));
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        fs::write(self.at(name), text).unwrap();
    }

    async fn find(&self, arguments: &str) -> Result<Inputs, Unknown> {
        let words = format!("gcc {arguments}");
        let program = Path::new("/usr/bin/gcc");
        let call = understood(self.dir.path(), program, &words, &self.toolchains, &self.stand_ins).unwrap();
        match &self.finder {
            Finder::Compiler(finder) => finder.find(Arc::new(call)).await,
            Finder::Scanner(finder) => {
                let found = finder.find(Arc::new(call)).await;
                if let Ok(Inputs { not_scanned: Some(why), .. }) = &found {
                    panic!("{arguments}: the compiler was asked: {why:?}");
                }
                found
            }
        }
    }

    fn changed(&self, inputs: &Inputs) -> Option<String> {
        inputs.changed(&self.files, &mut Look::new(&self.sight, &self.files, &self.at("")))
    }

    async fn refused(&self, arguments: &str) -> &'static str {
        self.find(arguments).await.map(|inputs| inputs.absent.len()).unwrap_err().name
    }
}

#[tokio::test]
async fn a_precompiled_header_counts_where_its_header_is_not() {
    for way in WAYS {
        let bench =
            Bench::new(way, &[("x.c", "#include \"all.h\"\n"), ("inc/all.h", ""), ("pch/other.h", "")]);
        let absent = bench.find("-Ipch -Iinc -c x.c").await.unwrap().absent;
        assert!(absent.iter().any(|path| path == b"pch/all.h.gch"), "{way:?}");
        bench.write("pch/all.h.gch", "");
        assert_eq!(bench.refused("-Ipch -Iinc -c x.c").await, "precompiled-header");
        bench.write("y.c", "");
        assert_eq!(bench.refused("-Ipch -Iinc -include all.h -c y.c").await, "precompiled-header");
    }
}

/// What the compiler is asked with would be missing when it compiles.
#[tokio::test]
async fn nobody_reads_a_pipe_but_the_compile() {
    let bench = Bench::new(Way::Scanner, &[("x.c", "#include \"pipe.h\"\n")]);
    nix::unistd::mkfifo(&bench.at("pipe.h"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let refused = tokio::time::timeout(Duration::from_secs(5), bench.refused("-c x.c")).await;
    assert_eq!(refused, Ok("special-input"));
}

#[tokio::test]
async fn what_gcc_includes_unasked_is_looked_for() {
    for way in WAYS {
        let bench = Bench::new(way, &[("x.c", "int x;\n"), ("inc/a.h", "")]);
        let inputs = bench.find("-Iinc -c x.c").await.unwrap();
        assert_eq!(bench.changed(&inputs), None);
        bench.write("inc/stdc-predef.h", "");
        assert!(bench.changed(&inputs).unwrap().ends_with("inc/stdc-predef.h has appeared"));
    }
}

#[tokio::test]
async fn files_that_only_their_times_tell_apart_are_left_to_the_compiler() {
    for way in WAYS {
        let unit = ("x.c", "#include \"a/h.h\"\n#include \"b/h.h\"\n");
        let guarded = "#ifndef H\n#define H\n#endif\n";
        assert!(
            Bench::new(way, &[unit, ("a/h.h", guarded), ("b/h.h", guarded)]).find("-c x.c").await.is_ok()
        );
        let once = "#pragma once\n";
        let bench = Bench::new(way, &[unit, ("a/h.h", once), ("b/h.h", once)]);
        // With the same time the second is not even opened.
        for seconds in [1, 2] {
            let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
            fs::File::options().write(true).open(bench.at("b/h.h")).unwrap().set_modified(time).unwrap();
            assert_eq!(bench.refused("-c x.c").await, "identical-files");
            fs::File::options().write(true).open(bench.at("a/h.h")).unwrap().set_modified(time).unwrap();
            assert_eq!(bench.refused("-c x.c").await, "identical-files");
        }
    }
}

#[tokio::test]
async fn a_link_turned_round_and_a_header_put_in_front_are_changes() {
    for way in WAYS {
        let bench = Bench::new(
            way,
            &[
                ("x.c", "#include \"link.h\"\n#include \"w.h\"\n"),
                ("a.h", "int a;\n"),
                ("b.h", "int b;\n"),
                ("first/other.h", ""),
                ("second/w.h", ""),
            ],
        );
        symlink("a.h", bench.at("link.h")).unwrap();
        let inputs = bench.find("-Ifirst -Isecond -c x.c").await.unwrap();
        assert_eq!(bench.changed(&inputs), None);
        bench.write("first/w.h", "");
        assert!(bench.changed(&inputs).unwrap().ends_with("first/w.h has appeared"));
        fs::remove_file(bench.at("first/w.h")).unwrap();
        fs::remove_file(bench.at("link.h")).unwrap();
        symlink("b.h", bench.at("link.h")).unwrap();
        assert!(bench.changed(&inputs).unwrap().ends_with("link.h has changed"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_changes_all_the_time_is_no_input() {
    for way in WAYS {
        let bench = Bench::new(way, &[("x.c", "#include \"x.h\"\n"), ("x.h", "")]);
        let (header, stop) = (bench.at("x.h"), Arc::new(std::sync::atomic::AtomicBool::new(false)));
        let stopped = stop.clone();
        let editor = std::thread::spawn(move || {
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                // As an editor saves: there is always a whole file.
                let saved = header.with_extension("new");
                fs::write(&saved, "int x;\n").unwrap();
                fs::rename(&saved, &header).unwrap();
            }
        });
        // Where the machine is busy, the editor may rest for as long as a scan takes.
        let mut name = "found";
        for _ in 0..500 {
            if let Err(unknown) = bench.find("-c x.c").await {
                name = unknown.name;
                break;
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        editor.join().unwrap();
        assert_eq!(name, "input");
    }
}
