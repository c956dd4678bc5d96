//! distcc, plain and with its pump.

use barn_testnet::{Host, Office};

use super::{Daemons, NOBODY, START_LIMIT, Served, Tool};
use crate::cli::Failure;

/// distcc in one of its two modes.
pub(super) struct Distcc {
    slots: usize,
    mode: Mode,
    daemons: Daemons,
    /// What `distcc-pump --startup` printed for the environment.
    server: Vec<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Sources are preprocessed here and sent.
    Plain,
    /// Sources and headers are sent; an include server finds them.
    Pump,
}

impl Distcc {
    /// Plain mode, each worker with so many slots.
    pub(super) fn plain(slots: usize) -> Distcc {
        Distcc { slots, mode: Mode::Plain, daemons: Daemons::default(), server: Vec::new() }
    }

    /// Pump mode.
    pub(super) fn pump(slots: usize) -> Distcc {
        Distcc { mode: Mode::Pump, ..Distcc::plain(slots) }
    }

    fn hosts(&self, office: &Office) -> (String, String) {
        let suffix = if self.mode == Mode::Pump { ",cpp,lzo" } else { "" };
        let host = |host: &Host| format!("{}/{}{suffix}", host.address(), self.slots);
        let hosts: Vec<String> = office.hosts()[1..].iter().map(host).collect();
        ("DISTCC_HOSTS".to_owned(), hosts.join(" "))
    }

    /// Starts the include server, which reads the sources from the same places as the compiler.
    fn start_include_server(&mut self, office: &Office) -> Result<(), Failure> {
        let (name, hosts) = self.hosts(office);
        let pump = office[0].command("distcc-pump")?.arg("--startup").env(name, hosts);
        let output = pump.output_within(START_LIMIT)?;
        let text = String::from_utf8_lossy(&output.stdout);
        self.server = text.lines().filter_map(exported).collect();
        if output.status.success() && self.server.iter().any(|(name, _)| name == "INCLUDE_SERVER_PORT") {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("distcc-pump --startup: {} {}", said.trim(), text.trim()).into())
    }
}

/// A line such as `export INCLUDE_SERVER_PORT='/tmp/socket'`.
fn exported(line: &str) -> Option<(String, String)> {
    let (name, value) = line.trim().strip_prefix("export ")?.split_once('=')?;
    Some((name.to_owned(), value.trim_matches(['\'', '"']).to_owned()))
}

impl Tool for Distcc {
    fn name(&self) -> &'static str {
        match self.mode {
            Mode::Plain => "distcc",
            Mode::Pump => "pump",
        }
    }

    fn launcher(&self) -> Vec<String> {
        vec!["distcc".to_owned()]
    }

    fn variables(&self, office: &Office) -> Vec<(String, String)> {
        let own = [self.hosts(office)].into_iter();
        own.chain(self.server.iter().filter(|(name, _)| name != "DISTCC_HOSTS").cloned()).collect()
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
        match self.mode {
            Mode::Plain => Ok(()),
            Mode::Pump => self.start_include_server(office),
        }
    }

    fn stop(&mut self, office: &Office) -> Result<(), Failure> {
        self.server.clear();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_from_what_the_pump_exports() {
        let expect = Some(("INCLUDE_SERVER_PORT".to_owned(), "/tmp/distcc-pump.x/socket".to_owned()));
        assert_eq!(exported("export INCLUDE_SERVER_PORT='/tmp/distcc-pump.x/socket'"), expect);
        assert_eq!(exported("__________Started distcc-pump include server"), None);
    }
}
