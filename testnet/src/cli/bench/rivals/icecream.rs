//! icecream.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use barn_testnet::Office;

use super::{Daemons, NOBODY, Served, Tool};
use crate::cli::Failure;

/// Packing a compiler takes some seconds on a whole core.
const PACK_LIMIT: Duration = Duration::from_secs(300);

/// icecream with its scheduler on the requester.
pub(super) struct Icecream {
    slots: usize,
    daemons: Daemons,
    /// The packed compiler.
    compiler: Option<PathBuf>,
}

impl Icecream {
    /// Each worker with so many slots.
    pub(super) fn new(slots: usize) -> Icecream {
        Icecream { slots, daemons: Daemons::default(), compiler: None }
    }

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
