//! `testnet demo`: the main job from end to end.
//!
//! An office of a few slow machines, one mesh made with tokens alone, a real C and C++ code base built across
//! it from the first machine, the same built there by the bare compiler, every object, dependency file and
//! diagnostic compared, and the build repeated from the cache.

mod build;
mod compare;
mod picture;
mod summary;

use std::fs;
use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::sync::atomic::AtomicUsize;

use barn_testnet::Office;
use clap::Args;

use super::counts::Counts;
use super::project::{Project, STORE};
use super::{Failure, OfficeOptions, mesh};
use build::{Build, Compiler};
use picture::Picture;
use summary::Summary;

/// How the demonstration shall go.
#[derive(Args)]
pub(super) struct Options {
    #[command(flatten)]
    office: OfficeOptions,
    /// Translation units to build, of 388
    #[arg(long, default_value_t = 210)]
    units: usize,
    /// Compiles at once [default: three for each host]
    #[arg(long)]
    jobs: Option<usize>,
}

/// Runs the demonstration; exit status 1 says that something differs.
pub(super) fn run(options: &Options) -> Result<ExitCode, Failure> {
    let office = Office::build(options.office.spec())?;
    let jobs = options.jobs.unwrap_or(3 * office.hosts().len()).max(1);
    println!(
        "{} hosts with {} cores each, {jobs} compiles at once",
        office.hosts().len(),
        options.office.cpus
    );

    println!("\nmaking one mesh: init on {}, one token for each other host, no addresses", office[0].name());
    let took = mesh::form(&office)?;
    println!("every host sees every other {:.1} s after the last join", took.as_secs_f64());
    println!("{}", office[0].barn_text(["mesh", "members"])?);

    let project = Project::fetch(&office[0].home().join("project"), &STORE, options.units)?;
    println!("\nthe project: {project}");

    let start = Counts::of(&office[0])?;
    println!("\nbuilding with barn, -j{jobs}");
    let mesh = watched(&office, &project, Compiler::Barn, jobs)?;
    let middle = Counts::of(&office[0])?;
    project.set_outputs_aside("objects-mesh")?;

    // As many at once as would be usual on a machine with less than a core.
    println!("\nbuilding with the bare compiler on {} alone, -j2", office[0].name());
    let local = watched(&office, &project, Compiler::Bare, 2)?;
    project.set_outputs_aside("objects-local")?;

    println!("\nbuilding with barn again, without the objects");
    let before = Counts::of(&office[0])?;
    let again = watched(&office, &project, Compiler::Barn, jobs)?;
    let end = Counts::of(&office[0])?;
    project.set_outputs_aside("objects-again")?;

    let first = compare::compare(&project, ("objects-mesh", &mesh), ("objects-local", &local))?;
    let second = compare::compare(&project, ("objects-again", &again), ("objects-local", &local))?;
    let summary = Summary {
        requester: office[0].name().to_owned(),
        neighbours: office.hosts().len() - 1,
        built: middle.since(&start),
        rebuilt: end.since(&before),
        walls: [mesh.wall, local.wall, again.wall],
        first,
        second,
        failed: local.failed(),
    };
    println!("\n{summary}");
    Ok(if summary.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds while a picture of the office is shown.
fn watched(office: &Office, project: &Project, compiler: Compiler, jobs: usize) -> Result<Build, Failure> {
    fs::create_dir_all(project.outputs())?;
    let done = AtomicUsize::new(0);
    let picture = Picture::new(office, project.units().len(), compiler, stdout().is_terminal());
    std::thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let done = &done;
        let watcher = scope.spawn(move || picture.show(done, &stopped));
        let result = build::run(&office[0], project, compiler, jobs, done);
        drop(stop);
        if watcher.join().is_err() {
            return Err("the picture broke off".into());
        }
        result
    })
}
