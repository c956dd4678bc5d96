//! The orders `testnet up` takes, one a line.

use std::io::{IsTerminal, stdin};
use std::process::Stdio;

use barn_testnet::{Host, Office};

use super::{Failure, mesh};

/// What can be ordered.
pub(super) const HELP: &str = "\
status              every host's view of the mesh
cut NAME            pull the cable              heal NAME     put it back
mute NAME           nothing it says arrives     deafen NAME   it hears nothing
freeze NAME         stop every process          thaw NAME     let them go on
pause NAME          stop the node only          resume NAME   let it go on
kill NAME           kill -9 the node            start NAME    start the node
off NAME            kill every process
slow NAME CPUS      change its cores
exec NAME CMD…      run a command on it
quit                take the office down";

/// One order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Order {
    Nothing,
    Help,
    Quit,
    Status,
    Host { name: String, deed: Deed },
}

/// What is done to or on a host.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Deed {
    Cut,
    Heal,
    Mute,
    Deafen,
    Freeze,
    Thaw,
    Pause,
    Resume,
    Kill,
    Start,
    Off,
    Slow(f64),
    Exec(Vec<String>),
}

impl Order {
    /// Reads one line.
    pub(super) fn parse(line: &str) -> Result<Order, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, deed) = match words.as_slice() {
            [] => return Ok(Order::Nothing),
            ["help" | "?"] => return Ok(Order::Help),
            ["quit" | "exit"] => return Ok(Order::Quit),
            ["status"] => return Ok(Order::Status),
            ["slow", name, cpus] => {
                (name, Deed::Slow(cpus.parse().map_err(|_| format!("{cpus} is not a number of cores"))?))
            }
            ["exec", name, command @ ..] if !command.is_empty() => {
                (name, Deed::Exec(command.iter().map(|word| (*word).to_owned()).collect()))
            }
            [verb, name] => (name, Deed::simple(verb).ok_or_else(|| unknown(line))?),
            _ => return Err(unknown(line)),
        };
        Ok(Order::Host { name: (*name).to_owned(), deed })
    }
}

impl Deed {
    fn simple(verb: &str) -> Option<Deed> {
        Some(match verb {
            "cut" => Deed::Cut,
            "heal" => Deed::Heal,
            "mute" => Deed::Mute,
            "deafen" => Deed::Deafen,
            "freeze" => Deed::Freeze,
            "thaw" => Deed::Thaw,
            "pause" => Deed::Pause,
            "resume" => Deed::Resume,
            "kill" => Deed::Kill,
            "start" => Deed::Start,
            "off" => Deed::Off,
            _ => return None,
        })
    }

    /// Does it.
    pub(super) fn run(&self, office: &Office, name: &str) -> Result<(), Failure> {
        let host = office.host(name).ok_or_else(|| format!("no host is named {name}"))?;
        match self {
            Deed::Cut => host.cut()?,
            Deed::Heal => host.heal()?,
            Deed::Mute => host.mute()?,
            Deed::Deafen => host.deafen()?,
            Deed::Freeze => host.freeze()?,
            Deed::Thaw => host.thaw()?,
            Deed::Pause => host.pause_node()?,
            Deed::Resume => host.resume_node()?,
            Deed::Kill => host.kill_node()?,
            Deed::Start => mesh::start(host)?,
            Deed::Off => host.power_off()?,
            Deed::Slow(cpus) => host.slow(Some(*cpus))?,
            Deed::Exec(words) => exec(host, words)?,
        }
        Ok(())
    }
}

fn exec(host: &Host, words: &[String]) -> Result<(), Failure> {
    let mut command = host.command(&words[0])?.args(&words[1..]);
    if stdin().is_terminal() {
        // For shells. Where orders come through a pipe, a command must not eat the orders after it.
        command = command.stdin(Stdio::inherit());
    }
    let status = command.status()?;
    if !status.success() {
        eprintln!("testnet: {} on {}: {status}", words[0], host.name());
    }
    Ok(())
}

fn unknown(line: &str) -> String {
    format!("unknown order: {}\nhint: help lists all orders", line.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expect: Result<Order, &str>) {
        assert_eq!(
            Order::parse(line).map_err(|said| said.lines().next().unwrap().to_owned()),
            expect.map_err(str::to_owned)
        );
    }

    fn host(name: &str, deed: Deed) -> Result<Order, &'static str> {
        Ok(Order::Host { name: name.into(), deed })
    }

    #[test]
    fn orders_are_read() {
        check("", Ok(Order::Nothing));
        check("  status ", Ok(Order::Status));
        check("quit", Ok(Order::Quit));
        check("cut h2", host("h2", Deed::Cut));
        check("slow h1 0.25", host("h1", Deed::Slow(0.25)));
        check("exec h1 ls -l /tmp", host("h1", Deed::Exec(vec!["ls".into(), "-l".into(), "/tmp".into()])));
        check("slow h1 fast", Err("fast is not a number of cores"));
        check("exec h1", Err("unknown order: exec h1"));
        check("cut", Err("unknown order: cut"));
        check("cut h1 h2", Err("unknown order: cut h1 h2"));
        check("fly h1", Err("unknown order: fly h1"));
    }
}
