//! The command line: every verb that is not a compiler.
//!
//! What a script wants to capture goes to standard output alone; everything said to a person goes to standard
//! error.

mod cache;
mod control;
mod lifecycle;
mod mesh;
mod report;
mod run;
mod toolchain;
mod view;

use std::{error::Error, ffi::OsString, net::SocketAddr, path::PathBuf, process::ExitCode};

use barn_protocol::{invite::Invite, prefetch::BuildName};
use clap::{Parser, Subcommand};

use crate::{config::Size, setup::Setup};

/// The exit code of a command that failed for a reason it printed.
const EXIT_FAILED: u8 = 1;

type Outcome = Result<ExitCode, Box<dyn Error + Send + Sync>>;

/// A compile mesh of the machines of an office.
///
/// Put `barn` in front of a compiler (`barn gcc -c x.c`), or link it under a compiler's name.
#[derive(Debug, Parser)]
#[command(name = "barn", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run this machine's node in the foreground.
    Node {
        /// Address of another node, for networks without multicast; may be repeated.
        #[arg(long = "peer", value_name = "ADDR")]
        peers: Vec<SocketAddr>,
    },
    /// Start the node in the background, unless it runs.
    Start,
    /// Stop the node.
    Stop,
    /// Found a mesh, and say who takes part.
    #[command(subcommand)]
    Mesh(MeshVerb),
    /// Join a mesh with a token of `barn mesh invite`.
    Join {
        /// The token.
        token: Invite,
        /// Where the inviting node is, when neither the token nor multicast leads there.
        #[arg(long = "peer", value_name = "ADDR")]
        peers: Vec<SocketAddr>,
        /// What to call this machine; its host name unless given.
        #[arg(long)]
        name: Option<String>,
    },
    /// Print this node's id.
    Id,
    /// This node, its mesh, who is there, and their cores.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// What became of all compiles.
    Stats {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Start counting anew.
        #[arg(long)]
        zero: bool,
    },
    /// Why the last compile of a file hit, missed or ran locally.
    Explain {
        /// The source file, or the end of its path; the last compile of all unless given.
        file: Option<String>,
    },
    /// What keeps barn from working at its best here, and the remedy.
    Doctor,
    /// Run a build with its compilers of C, C++ and Rust behind barn.
    Run {
        /// The command and its arguments.
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Toolchains that this machine knows.
    #[command(subcommand)]
    Toolchain(ToolchainVerb),
    /// This machine's store.
    #[command(subcommand)]
    Cache(CacheVerb),
}

#[derive(Debug, Subcommand)]
enum MeshVerb {
    /// Found a mesh: makes its admin key on this machine.
    Init,
    /// Print a token that lets one machine join.
    Invite {
        /// How long the token is good for, in minutes.
        #[arg(long, default_value_t = barn_protocol::invite::INVITE_LIFETIME_S / 60)]
        minutes: u64,
    },
    /// Admit the machine with this id (printed there by `barn id`).
    Allow {
        /// Its id.
        id: barn_protocol::NodeId,
        /// What to call it.
        #[arg(long)]
        name: Option<String>,
        /// Let it publish: others may believe its results (`cache.trust`) and fetch the builds it records. Without this a member
        /// that could no longer can.
        #[arg(long)]
        publish: bool,
    },
    /// Strike a member from the roster; it is cut off at once.
    Revoke {
        /// Its name or id.
        member: String,
    },
    /// List the members.
    Members,
}

#[derive(Debug, Subcommand)]
enum ToolchainVerb {
    /// List the known toolchains.
    List {
        /// Those of the connected members instead of this machine's.
        #[arg(long)]
        mesh: bool,
    },
    /// Take a toolchain from the members that have it, to be used on this machine.
    Fetch {
        /// Its name or digest, or the beginning of either.
        toolchain: String,
        /// The directory to lay it out in; one in the state directory unless given.
        #[arg(long, value_name = "DIR")]
        into: Option<PathBuf>,
    },
    /// Find out what a compiler consists of, and print its digest.
    Pack {
        /// The compiler, by path or name.
        compiler: PathBuf,
        /// Also headers, start-up files, libraries and linker, for machines without any compiler, and offer it to the mesh.
        #[arg(long)]
        with_sysroot: bool,
    },
    /// Write a compiler's toolchain to a file (tar.zst).
    Export {
        /// The compiler, by path or name.
        compiler: PathBuf,
        /// The archive to write.
        #[arg(short, long)]
        output: PathBuf,
        /// Also headers, start-up files, libraries and linker, for machines without any compiler.
        #[arg(long)]
        with_sysroot: bool,
    },
    /// Take a toolchain from an archive into this machine's store.
    Import {
        /// The archive.
        archive: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum CacheVerb {
    /// How much is stored.
    Stat {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Evict down to the size limit now, what removed compilers left and what was used longest ago first.
    Gc {
        /// Evict down to this size, such as 5G or 500M, instead of the limit.
        #[arg(long)]
        size: Option<Size>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Forget everything but toolchains in use.
    Clear,
    /// Read everything back and drop what is damaged; fails if something was.
    Verify {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Fetch what a recorded build needed (`BARN_BUILD=NAME` on a machine that may publish).
    Warm {
        /// The build's name, most often a commit.
        #[arg(long = "from", value_name = "BUILD-ID")]
        from: BuildName,
        /// Fetch at most so much, such as 5G or 500M, counted in whole blocks of 4 KiB.
        #[arg(long, value_name = "SIZE")]
        limit: Option<Size>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{}", explained(error.as_ref()));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn run(verb: Verb) -> Outcome {
    let setup = Setup::from_environment()?;
    match verb {
        Verb::Node { peers } => lifecycle::foreground(setup, peers),
        Verb::Start => lifecycle::start(&setup),
        Verb::Stop => lifecycle::stop(&setup),
        Verb::Mesh(verb) => mesh::run(&setup, verb),
        Verb::Join { token, peers, name } => mesh::join(&setup, token, &peers, name),
        Verb::Id => mesh::id(&setup),
        Verb::Status { json } => view::status(&setup, json),
        Verb::Stats { json, zero } => view::stats(&setup, json, zero),
        Verb::Explain { file } => view::explain(&setup, file),
        Verb::Doctor => report::doctor(&setup),
        Verb::Run { command } => run::run(&setup, &command),
        Verb::Toolchain(verb) => toolchain::run(&setup, verb),
        Verb::Cache(verb) => cache::run(&setup, &verb),
    }
}

/// The error with its chain of causes on one line, then the hints.
fn explained(error: &(dyn Error + 'static)) -> String {
    let mut causes = Vec::new();
    let mut hints = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        let mut lines = text.lines();
        causes.extend(lines.next().filter(|line| !line.is_empty()).map(str::to_owned));
        hints.extend(lines.map(str::to_owned));
        next = error.source();
    }
    causes.dedup();
    let mut text = format!("barn: {}", causes.join(": "));
    for hint in hints {
        text.push('\n');
        text.push_str(&hint);
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn errors_are_one_line_and_a_hint() {
        let error = crate::home::HomeError::OpenKey("/x/identity.key".into());
        let text = explained(&error);
        assert_eq!(text.lines().count(), 2);
        assert!(text.starts_with("barn: /x/identity.key can be read by other users\nhint: "));
    }
}
