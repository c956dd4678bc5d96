//! The tools that `bench-remote` compares, and how each is run on the hosts.
//!
//! A tool's daemons run only while it is its turn: the others' would use the requester's few cores.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use barn_testnet::{Host, Office};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::counts::Counts;
use crate::cli::{Failure, mesh};

/// Packing a compiler for icecream takes some seconds on a whole core.
const PACK_LIMIT: Duration = Duration::from_secs(300);

/// A daemon that is not there by then has not started.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The user that daemons which insist on one become.
const NOBODY: &str = "nobody";

/// Compiles done by each worker so far, by its name.
pub(super) type Served = BTreeMap<String, u64>;

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

    /// How many compiles at once suit it, given what suits all hosts together.
    fn jobs(&self, all: usize) -> usize {
        all
    }

    /// Whether it uses other hosts.
    fn is_distributed(&self) -> bool {
        true
    }

    /// Starts what it needs on all hosts, and waits until it is ready.
    fn start(&mut self, office: &Office) -> Result<(), Failure>;

    /// Ends it.
    fn stop(&mut self, office: &Office) -> Result<(), Failure>;

    /// What workers did since the tool was started, or since ever.
    fn served(&self, office: &Office) -> Result<Served, Failure>;
}

/// All of them, each worker with so many slots.
pub(super) fn all(slots: usize) -> Vec<Box<dyn Tool>> {
    vec![
        Box::new(Barn { slots, is_member: false }),
        Box::new(Distcc { slots, daemons: Daemons::default() }),
        Box::new(Icecream { slots, daemons: Daemons::default(), compiler: None }),
        Box::new(Bare),
    ]
}

struct Barn {
    slots: usize,
    is_member: bool,
}

impl Tool for Barn {
    fn name(&self) -> &'static str {
        "barn"
    }

    fn start(&mut self, office: &Office) -> Result<(), Failure> {
        if self.is_member {
            office.hosts().iter().try_for_each(mesh::start)?;
            return mesh::meet(office);
        }
        for host in office.hosts() {
            fs::write(host.barn_home().join("barn.toml"), format!("[worker]\nslots = {}\n", self.slots))?;
        }
        mesh::form(office)?;
        self.is_member = true;
        Ok(())
    }

    fn stop(&mut self, office: &Office) -> Result<(), Failure> {
        Ok(office.hosts().iter().try_for_each(Host::kill_node)?)
    }

    fn served(&self, office: &Office) -> Result<Served, Failure> {
        let peers = Counts::of(&office[0])?.peers;
        Ok(peers.into_iter().map(|(name, traffic)| (name, traffic.sent)).collect())
    }
}

/// Plain mode: sources are preprocessed here and sent.
struct Distcc {
    slots: usize,
    daemons: Daemons,
}

impl Tool for Distcc {
    fn name(&self) -> &'static str {
        "distcc"
    }

    fn variables(&self, office: &Office) -> Vec<(String, String)> {
        let host = |host: &Host| format!("{}/{}", host.address(), self.slots);
        let hosts: Vec<String> = office.hosts()[1..].iter().map(host).collect();
        vec![("DISTCC_HOSTS".to_owned(), hosts.join(" "))]
    }

    fn start(&mut self, office: &Office) -> Result<(), Failure> {
        let slots = self.slots.to_string();
        for host in &office.hosts()[1..] {
            let network = format!("{}/24", office[0].address());
            let args = ["--no-detach", "--daemon", "--log-stderr", "--log-level", "info", "--user", NOBODY];
            let args = args.into_iter().chain(["--allow", &network, "--jobs", &slots]);
            self.daemons.start(host, "distccd", args)?;
        }
        for host in &office.hosts()[1..] {
            self.daemons.wait_for(office, host, "distccd", "daemon started")?;
        }
        Ok(())
    }

    fn stop(&mut self, office: &Office) -> Result<(), Failure> {
        self.daemons.stop(office)
    }

    fn served(&self, office: &Office) -> Result<Served, Failure> {
        let done = |host: &Host| {
            let log = self.daemons.said(host, "distccd");
            (host.name().to_owned(), log.matches("COMPILE_OK").count() as u64)
        };
        Ok(office.hosts()[1..].iter().map(done).collect())
    }
}

struct Icecream {
    slots: usize,
    daemons: Daemons,
    /// The packed compiler.
    compiler: Option<PathBuf>,
}

impl Icecream {
    /// Packs the compiler, and gives every host a `/run` of its own, for the daemon's socket has a fixed place there.
    fn prepare(&mut self, office: &Office) -> Result<(), Failure> {
        for host in office.hosts() {
            let mount = host.command("mount")?.args(["-t", "tmpfs", "-o", "mode=755", "none", "/run"]);
            if !mount.status()?.success() {
                return Err(format!("cannot give {} a /run of its own", host.name()).into());
            }
        }
        let dir = office[0].home().join("icecc");
        fs::create_dir_all(&dir)?;
        let pack = office[0].command("icecc-create-env")?.arg("gcc").current_dir(&dir);
        let output = pack.output_within(PACK_LIMIT)?;
        let packed = fs::read_dir(&dir)?.filter_map(Result::ok).map(|entry| entry.path());
        let packed = packed.into_iter().find(|path| path.extension() == Some(OsStr::new("gz")));
        let said = || format!("icecc-create-env: {}", String::from_utf8_lossy(&output.stderr).trim());
        self.compiler = Some(packed.ok_or_else(said)?);
        Ok(())
    }
}

impl Tool for Icecream {
    fn name(&self) -> &'static str {
        "icecream"
    }

    fn launcher(&self) -> Vec<String> {
        vec!["icecc".to_owned()]
    }

    fn variables(&self, _office: &Office) -> Vec<(String, String)> {
        let compiler = self.compiler.iter();
        compiler.map(|path| ("ICECC_VERSION".to_owned(), path.display().to_string())).collect()
    }

    fn start(&mut self, office: &Office) -> Result<(), Failure> {
        if self.compiler.is_none() {
            self.prepare(office)?;
        }
        self.daemons.start(&office[0], "icecc-scheduler", ["-n", "bench", "-u", NOBODY, "-vvv"])?;
        self.daemons.wait_for(office, &office[0], "icecc-scheduler", "scheduler ready")?;
        let (scheduler, slots) = (office[0].address().to_string(), self.slots.to_string());
        for (number, host) in office.hosts().iter().enumerate() {
            // The requester has one slot of its own, which icecream keeps for what cannot be sent.
            let slots = if number == 0 { "0" } else { &slots };
            let args = ["-n", "bench", "-s", &scheduler, "-u", NOBODY, "-b", "/tmp/icecc-envs", "-m", slots];
            self.daemons.start(host, "iceccd", args.into_iter().chain(["-N", host.name(), "-vv"]))?;
        }
        for host in office.hosts() {
            self.daemons.wait_for(office, host, "iceccd", "Connected to scheduler")?;
        }
        Ok(())
    }

    fn stop(&mut self, office: &Office) -> Result<(), Failure> {
        self.daemons.stop(office)
    }

    fn served(&self, office: &Office) -> Result<Served, Failure> {
        let log = self.daemons.said(&office[0], "icecc-scheduler");
        let ends = log.lines().filter(|line| line.contains(" END ") && line.contains(" status=0 "));
        let mut served = Served::new();
        for server in ends.filter_map(|line| line.rsplit_once(" server=").map(|(_, name)| name.trim())) {
            *served.entry(server.to_owned()).or_default() += 1;
        }
        served.remove(office[0].name());
        Ok(served)
    }
}

/// The compiler on the requester alone.
struct Bare;

impl Tool for Bare {
    fn name(&self) -> &'static str {
        "bare"
    }

    fn launcher(&self) -> Vec<String> {
        Vec::new()
    }

    /// More at once than a fraction of a core can use only costs memory.
    fn jobs(&self, _all: usize) -> usize {
        2
    }

    fn is_distributed(&self) -> bool {
        false
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
        let log = File::create(log(host, program))?;
        let command = host.command(program)?.args(args).stdout(log.try_clone()?).stderr(log);
        self.children.push(command.spawn()?);
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
