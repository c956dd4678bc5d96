//! sccache with its distributed compilation: a scheduler on the requester, a build server on every other host, and one
//! daemon on the requester that preprocesses, packs the compiler and keeps a cache of its own.

use std::fs;
use std::path::{Path, PathBuf};

use barn_testnet::{Host, Office};
use serde_json::Value;

use super::{Daemons, START_LIMIT, Served, Tool};
use crate::cli::Failure;

/// The port of the scheduler, as in sccache's own manual.
const SCHEDULER_PORT: u16 = 10600;

/// The port of the build servers.
const SERVER_PORT: u16 = 10501;

/// sccache with an office of build servers.
pub(super) struct Sccache {
    /// Where the two programs lie, if not on the hosts' path.
    dir: Option<PathBuf>,
    daemons: Daemons,
}

impl Sccache {
    /// The programs of `dir`, or those on the hosts' path.
    pub(super) fn new(dir: Option<&Path>) -> Sccache {
        Sccache { dir: dir.map(Path::to_owned), daemons: Daemons::default() }
    }

    fn program(&self, name: &str) -> PathBuf {
        self.dir.as_ref().map_or_else(|| name.into(), |dir| dir.join(name))
    }

    fn start_scheduler(&mut self, host: &Host) -> Result<(), Failure> {
        let config = host.home().join("sccache-scheduler.toml");
        let address = host.address();
        fs::write(
            &config,
            format!(
                "public_addr = \"{address}:{SCHEDULER_PORT}\"\n\
                 [client_auth]\ntype = \"token\"\ntoken = \"bench-requester\"\n\
                 [server_auth]\ntype = \"token\"\ntoken = \"bench-worker\"\n"
            ),
        )?;
        self.start_dist(host, "scheduler", &config)
    }

    fn start_server(&mut self, host: &Host, scheduler: &Host) -> Result<(), Failure> {
        // Overlays are mounted in here, so it lies on the disk itself.
        let dir = host.home().join("sccache-server");
        for part in ["toolchains", "build"] {
            fs::create_dir_all(dir.join(part))?;
        }
        let config = host.home().join("sccache-server.toml");
        let (address, scheduler) = (host.address(), scheduler.address());
        fs::write(
            &config,
            format!(
                "cache_dir = \"{0}/toolchains\"\npublic_addr = \"{address}:{SERVER_PORT}\"\n\
                 scheduler_url = \"http://{scheduler}:{SCHEDULER_PORT}\"\n\
                 [builder]\ntype = \"overlay\"\nbuild_dir = \"{0}/build\"\nbwrap_path = \"/usr/bin/bwrap\"\n\
                 [scheduler_auth]\ntype = \"token\"\ntoken = \"bench-worker\"\n",
                dir.display()
            ),
        )?;
        self.start_dist(host, "server", &config)
    }

    fn start_dist(&mut self, host: &Host, role: &str, config: &Path) -> Result<(), Failure> {
        let command = host.command(self.program("sccache-dist"))?.args([role, "--config"]).arg(config);
        let command = command.env("SCCACHE_NO_DAEMON", "1").env("SCCACHE_LOG", "info");
        self.daemons.start_command(host, "sccache-dist", command)
    }

    /// The daemon that every call of `sccache` talks to.
    fn start_requester(&mut self, office: &Office) -> Result<(), Failure> {
        let host = &office[0];
        let home = host.home().join("sccache");
        fs::create_dir_all(&home)?;
        fs::write(
            config(host),
            format!(
                "[dist]\nscheduler_url = \"http://{}:{SCHEDULER_PORT}\"\ncache_dir = \"{1}/dist\"\n\
                 [dist.auth]\ntype = \"token\"\ntoken = \"bench-requester\"\n\
                 [cache.disk]\ndir = \"{1}/cache\"\n",
                host.address(),
                home.display()
            ),
        )?;
        let mut command = host.command(self.program("sccache"))?;
        for (name, value) in self.variables(office) {
            command = command.env(name, value);
        }
        let command = command.env("SCCACHE_START_SERVER", "1").env("SCCACHE_NO_DAEMON", "1");
        self.daemons.start_command(host, "sccache", command)
    }

    fn ask(&self, office: &Office, args: &[&str]) -> Result<Value, Failure> {
        let mut command = office[0].command(self.program("sccache"))?.args(args);
        for (name, value) in self.variables(office) {
            command = command.env(name, value);
        }
        let output = command.output_within(START_LIMIT)?;
        serde_json::from_slice(&output.stdout).map_err(|_| {
            format!("sccache {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()).into()
        })
    }
}

impl Tool for Sccache {
    fn name(&self) -> &'static str {
        "sccache"
    }

    fn launcher(&self) -> Vec<String> {
        vec![self.program("sccache").display().to_string()]
    }

    fn variables(&self, office: &Office) -> Vec<(String, String)> {
        vec![
            ("SCCACHE_CONF".to_owned(), config(&office[0]).display().to_string()),
            // The daemon stays for the whole turn.
            ("SCCACHE_IDLE_TIMEOUT".to_owned(), "0".to_owned()),
        ]
    }

    fn start(&mut self, office: &Office) -> Result<(), Failure> {
        let (requester, workers) = office.hosts().split_first().ok_or("an office without hosts")?;
        self.start_scheduler(requester)?;
        for host in workers {
            self.start_server(host, requester)?;
        }
        self.start_requester(office)?;
        let mut last = String::new();
        let all_there = || match self.ask(office, &["--dist-status"]) {
            Ok(status) => {
                last = status.to_string();
                status["SchedulerStatus"][1]["num_servers"] == workers.len()
            }
            Err(failure) => {
                last = failure.to_string();
                false
            }
        };
        let waited = office.wait_until(START_LIMIT, "the scheduler to see all servers", all_there);
        waited.map(drop).map_err(|error| format!("{error}; it says {last}").into())
    }

    fn stop(&mut self, office: &Office) -> Result<(), Failure> {
        self.daemons.stop(office)
    }

    fn served(&self, office: &Office) -> Result<Served, Failure> {
        let stats = self.ask(office, &["--show-stats", "--stats-format", "json"])?;
        let compiles = stats["stats"]["dist_compiles"].as_object().cloned().unwrap_or_default();
        let mut served = Served::new();
        for host in &office.hosts()[1..] {
            let count = compiles.get(&format!("{}:{SERVER_PORT}", host.address())).and_then(Value::as_u64);
            served.insert(host.name().to_owned(), count.unwrap_or(0));
        }
        Ok(served)
    }
}

fn config(host: &Host) -> PathBuf {
    host.home().join("sccache-requester.toml")
}
