//! The tools that the benchmarks compare, and how each is run on the hosts.
//!
//! A tool's daemons run only while it is its turn: the others' would use the requester's few cores. Each runs in its host's
//! namespaces and cgroups, so that its quota is the host's and it ends with the office.

mod barn;
mod distcc;
mod icecream;
mod sccache;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use barn_testnet::{Host, HostCommand, Office};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::Failure;

/// A daemon that is not there by then has not started: on a tenth of a core some take a while.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The user that daemons which insist on one become.
const NOBODY: &str = "nobody";

/// Compiles done by each worker so far, by its name.
pub(super) type Served = BTreeMap<String, u64>;

/// Who brings the compiles of a build to the cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Nobody: one machine has all the cores of the office.
    Alone,
    /// The benchmark: it runs compiles in the control group of every host, and nothing is sent.
    ByHand,
    /// The tool.
    Itself,
}

/// A way to build on several hosts; the first is the requester.
pub(super) trait Tool {
    fn name(&self) -> &'static str;

    /// What stands before the compiler.
    fn launcher(&self) -> Vec<String> {
        vec![self.name().to_owned()]
    }

    /// What the launcher finds in its environment.
    fn variables(&self, _office: &Office) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Whether its objects must be those of the bare compiler, byte by byte. Who preprocesses first changes debug information.
    fn is_exact(&self) -> bool {
        false
    }

    /// Who brings the compiles to the cores.
    fn way(&self) -> Way {
        Way::Itself
    }

    /// Starts what it needs on all hosts, and waits until it is ready.
    fn start(&mut self, office: &Office) -> Result<(), Failure>;

    /// Ends it.
    fn stop(&mut self, office: &Office) -> Result<(), Failure>;

    /// What workers did since the tool was started, or since ever.
    fn served(&self, office: &Office) -> Result<Served, Failure>;

    /// The build begins: what is told of it counts from now on.
    fn begin(&mut self, _office: &Office) -> Result<(), Failure> {
        Ok(())
    }

    /// What else is worth telling after a build, one line each.
    fn notes(&self, _office: &Office) -> Result<Vec<String>, Failure> {
        Ok(Vec::new())
    }
}

/// How the tools are set up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings<'a> {
    /// Compiles that a worker takes at once.
    pub(super) slots: usize,
    /// The same for barn; without, it decides for itself.
    pub(super) barn_slots: Option<usize>,
    /// Where `sccache` and `sccache-dist` lie, if not on every host's path.
    pub(super) sccache: Option<&'a Path>,
}

/// All of them.
pub(super) fn all(settings: Settings<'_>) -> Vec<Box<dyn Tool>> {
    let slots = settings.slots;
    vec![
        Box::new(Bare { name: "bare", way: Way::Alone }),
        Box::new(Bare { name: "hand", way: Way::ByHand }),
        Box::new(barn::Barn::new(settings.barn_slots)),
        Box::new(icecream::Icecream::new(slots)),
        Box::new(distcc::Distcc::plain(slots)),
        Box::new(distcc::Distcc::pump(slots)),
        Box::new(sccache::Sccache::new(settings.sccache)),
    ]
}

/// The names of all, for messages.
pub(super) const NAMES: [&str; 7] = ["bare", "hand", "barn", "icecream", "distcc", "pump", "sccache"];

/// The compiler with nothing before it.
struct Bare {
    name: &'static str,
    way: Way,
}

impl Tool for Bare {
    fn name(&self) -> &'static str {
        self.name
    }

    fn launcher(&self) -> Vec<String> {
        Vec::new()
    }

    fn is_exact(&self) -> bool {
        true
    }

    fn way(&self) -> Way {
        self.way
    }

    fn start(&mut self, _office: &Office) -> Result<(), Failure> {
        Ok(())
    }

    fn stop(&mut self, _office: &Office) -> Result<(), Failure> {
        Ok(())
    }

    fn served(&self, _office: &Office) -> Result<Served, Failure> {
        Ok(Served::new())
    }
}

/// Programs in the background, with what they said.
#[derive(Default)]
struct Daemons {
    children: Vec<Child>,
    programs: Vec<&'static str>,
}

impl Daemons {
    fn start<'a>(
        &mut self,
        host: &Host,
        program: &'static str,
        args: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), Failure> {
        let command = host.command(program)?.args(args);
        self.start_command(host, program, command)
    }

    fn start_command(
        &mut self,
        host: &Host,
        program: &'static str,
        command: HostCommand,
    ) -> Result<(), Failure> {
        let log = File::create(log(host, program))?;
        self.children.push(command.stdout(log.try_clone()?).stderr(log).spawn()?);
        self.programs.push(program);
        Ok(())
    }

    fn said(&self, host: &Host, program: &str) -> String {
        fs::read(log(host, program))
            .map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into())
    }

    fn wait_for(&self, office: &Office, host: &Host, program: &str, word: &str) -> Result<(), Failure> {
        let what = format!("{program} on {} to say {word:?}", host.name());
        let waited = office.wait_until(START_LIMIT, &what, || self.said(host, program).contains(word));
        let last = || self.said(host, program).lines().last().unwrap_or("nothing").to_owned();
        waited.map(drop).map_err(|error| format!("{error}; its last word is {}", last()).into())
    }

    /// Kills them and what they started under their own name.
    fn stop(&mut self, office: &Office) -> Result<(), Failure> {
        for process in office.hosts().iter().flat_map(Host::processes) {
            if self.programs.contains(&process.name.as_str()) {
                // It may have ended by itself.
                let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
            }
        }
        for mut child in self.children.drain(..) {
            child.wait()?;
        }
        self.programs.clear();
        Ok(())
    }
}

fn log(host: &Host, program: &str) -> PathBuf {
    host.home().join(format!("{program}.log"))
}
