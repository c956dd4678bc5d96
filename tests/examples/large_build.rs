//! Builds a thousand real units through a small office, and prints how much memory the nodes took for it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use barn_testnet::{Host, HostSpec, OfficeSpec, bin_dir_of_this_build};
use barn_tests::{
    office::Mesh,
    oracle::{codes, corpus},
};
use clap::Parser;

/// A compile that takes longer has hung.
const COMPILE_MAX: Duration = Duration::from_secs(300);

/// Figures are printed after so many units.
const STEP: usize = 100;

/// Builds real units of C, C++ and assembler with gcc and clang, each another source or another compiler, and prints the
/// peak resident memory of every node.
#[derive(Parser)]
struct Options {
    /// How many units to build, evenly from all code bases.
    #[arg(long, default_value_t = 1000)]
    units: usize,
    /// Machines, the requester among them.
    #[arg(long, default_value_t = 3)]
    hosts: usize,
    /// Compiles at once.
    #[arg(long, short = 'j', default_value_t = 8)]
    jobs: usize,
    /// Where the sources are kept; those of `make oracle` by default.
    #[arg(long, default_value = "target/oracle")]
    dir: PathBuf,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("large_build: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> std::io::Result<()> {
    fs::create_dir_all(&options.dir)?;
    let dir = options.dir.canonicalize()?;
    let units = units(&dir, options.units)?;
    let mut spec = OfficeSpec::new(bin_dir_of_this_build());
    for number in 1..=options.hosts {
        spec = spec.host(HostSpec::new(format!("h{number}")).sees(&dir));
    }
    let Some(mesh) = Mesh::form(spec) else { return Ok(()) };
    let requester = &mesh.hosts()[0];
    println!("units  failed  remote  peak memory of the nodes in MB, the requester's first");
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some(unit) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
            let object = requester.home().join(format!("{:?}.o", thread::current().id()));
            if !compile(requester, unit, &object) {
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..options.jobs).map(|_| scope.spawn(work)).collect();
        let mut told = 0;
        loop {
            let over = workers.iter().all(thread::ScopedJoinHandle::is_finished);
            let begun = next.load(Ordering::Relaxed).min(units.len());
            if begun >= told + STEP || over {
                told = begun;
                let peak = |host: &Host| host.node_memory_peak().expect("its node runs") as f64 / 1e6;
                let peaks: Vec<String> =
                    mesh.hosts().iter().map(|host| format!("{:.0}", peak(host))).collect();
                let remote = barn_tests::office::count(requester, "/compiles/remote");
                println!("{begun:5}  {:6}  {remote:6}  {}", failed.load(Ordering::Relaxed), peaks.join(" "));
            }
            if over {
                break;
            }
            thread::sleep(Duration::from_millis(200));
        }
    });
    Ok(())
}

fn units(dir: &Path, count: usize) -> std::io::Result<Vec<corpus::Unit>> {
    let mut bases = corpus::collect(codes::NEAR, dir, false)?;
    bases.extend(corpus::collect(codes::FAR, dir, false)?);
    corpus::thin(&mut bases, count);
    Ok(bases.into_iter().flat_map(|base| base.units).collect())
}

/// Whether it compiled; some units of some code bases do not, with or without barn.
fn compile(host: &Host, unit: &corpus::Unit, object: &Path) -> bool {
    let mut args = unit.flags.clone();
    // What is measured is barn, not the optimiser.
    args.extend(["-O0", "-c"].map(str::to_owned));
    args.extend([unit.source.display().to_string(), "-o".into(), object.display().to_string()]);
    let command = host.command("barn").expect("an office has barn").arg(unit.compiler).args(args);
    command.current_dir(&unit.cwd).output_within(COMPILE_MAX).expect("a compile ends").status.success()
}
