//! Cables and the bridge, through the programs `ip` and `tc`.

use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use crate::rooms::{self, in_network, path_of};
use crate::{Error, Result};

/// The network of every office; its namespaces are its own, so all offices can use the same.
pub(crate) const PREFIX_BITS: u8 = 24;

/// The name of the cable's end at the host.
const HOST_END: &str = "eth0";

const BRIDGE: &str = "br0";

/// The bridge all hosts of an office hang on.
#[derive(Debug)]
pub(crate) struct Bridge {
    network: OwnedFd,
}

/// The cable between a host and the bridge.
#[derive(Debug)]
pub(crate) struct Cable {
    number: usize,
    bandwidth_mbit: Option<u32>,
}

/// Bytes that passed a cable, with the headers of Ethernet and all above. A segment that the kernel would have cut up for a
/// real network card counts one header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes the host sent.
    pub sent: u64,
    /// Bytes the host received.
    pub received: u64,
}

/// The address of the host with this number, from 0.
pub(crate) fn address(number: usize) -> Ipv4Addr {
    // The specification's limit on hosts keeps the last octet in range.
    Ipv4Addr::new(10, 77, 0, u8::try_from(number + 1).expect("HOSTS_MAX is below 255"))
}

impl Bridge {
    pub(crate) fn make() -> Result<Bridge> {
        let network = rooms::make_network()?;
        // Without a querier, multicast snooping would stop mDNS after minutes.
        let lines = format!(
            "link set lo up\nlink add {BRIDGE} type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
             link set {BRIDGE} up\n"
        );
        in_network(&network, || ip(&lines))?;
        Ok(Bridge { network })
    }

    /// Lays the cable to a host's network namespace.
    pub(crate) fn connect(
        &self,
        host: &OwnedFd,
        number: usize,
        bandwidth_mbit: Option<u32>,
    ) -> Result<Cable> {
        let cable = Cable { number, bandwidth_mbit };
        let end = cable.bridge_end();
        let there = path_of(host);
        let lines = format!(
            "link add {end} type veth peer name {HOST_END} netns {}\n\
             link set {end} master {BRIDGE}\nlink set {end} up\n",
            there.display()
        );
        in_network(&self.network, || ip(&lines))?;
        let address = address(number);
        let lines = format!(
            "link set lo up\naddress add {address}/{PREFIX_BITS} broadcast + dev {HOST_END}\n\
             link set {HOST_END} up\nroute add 224.0.0.0/4 dev {HOST_END}\n"
        );
        in_network(host, || ip(&lines))?;
        cable.shape_both(self, host)?;
        Ok(cable)
    }

    /// Whether packets pass the cable now. The kernel brings links up a while after it was told to, and drops
    /// what is sent before.
    pub(crate) fn carries(&self, cable: &Cable, host: &OwnedFd) -> Result<bool> {
        let end = cable.bridge_end();
        let here = in_network(&self.network, || show(&end))?;
        let there = in_network(host, || show(HOST_END))?;
        Ok(here.contains("state forwarding") && here.contains("state UP") && there.contains("state UP"))
    }

    /// Pulls the cable out of the bridge, or puts it back.
    pub(crate) fn plug(&self, cable: &Cable, state: &str) -> Result<()> {
        let line = format!("link set {} {state}\n", cable.bridge_end());
        in_network(&self.network, || ip(&line))
    }
}

impl Cable {
    /// Nothing the host says arrives; what is said to it does.
    pub(crate) fn mute(&self, host: &OwnedFd) -> Result<()> {
        swallow(host, HOST_END)
    }

    /// Nothing said to the host arrives; what it says does.
    pub(crate) fn deafen(&self, bridge: &Bridge) -> Result<()> {
        swallow(&bridge.network, &self.bridge_end())
    }

    /// Gives both directions the bandwidth of the specification, which also undoes `mute` and `deafen`.
    pub(crate) fn shape_both(&self, bridge: &Bridge, host: &OwnedFd) -> Result<()> {
        self.shape(&bridge.network, &self.bridge_end())?;
        self.shape(host, HOST_END)
    }

    fn shape(&self, network: &OwnedFd, end: &str) -> Result<()> {
        in_network(network, || match self.bandwidth_mbit {
            None => {
                // Fails when there is nothing to delete, which is as good.
                let _ = tc(&["qdisc", "del", "dev", end, "root"]);
                Ok(())
            }
            Some(mbit) => {
                let rate = format!("{mbit}mbit");
                // 10 ms of traffic, and never less than one segment as large as the kernel makes them.
                let burst = (u64::from(mbit) * 1_000_000 / 8 / 100).max(70_000).to_string();
                tc(&[
                    "qdisc", "replace", "dev", end, "root", "tbf", "rate", &rate, "burst", &burst, "latency",
                    "100ms",
                ])
            }
        })
    }

    fn bridge_end(&self) -> String {
        format!("cable{}", self.number)
    }
}

/// What has passed a host's cable.
pub(crate) fn traffic(host: &OwnedFd) -> Result<Traffic> {
    // Of the thread, for it alone stands in the host's network.
    let path = "/proc/thread-self/net/dev";
    let text = in_network(host, || std::fs::read_to_string(path).map_err(Error::path("cannot read", path)))?;
    parse_traffic(&text)
        .ok_or_else(|| Error::Failed { command: format!("reading {path}"), said: format!("no {HOST_END}") })
}

fn parse_traffic(text: &str) -> Option<Traffic> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(HOST_END)?.strip_prefix(':'))?;
    let mut fields = line.split_whitespace();
    Some(Traffic { received: fields.next()?.parse().ok()?, sent: fields.nth(7)?.parse().ok()? })
}

/// Drops all that leaves by `end`. A token bucket smaller than any packet does it on every kernel that has
/// bandwidth limits at all.
fn swallow(network: &OwnedFd, end: &str) -> Result<()> {
    let args = ["qdisc", "replace", "dev", end, "root", "tbf", "rate", "8bit", "burst", "8", "limit", "1"];
    in_network(network, || tc(&args))
}

fn ip(lines: &str) -> Result<()> {
    run(Command::new("ip").args(["-batch", "-"]), lines).map(drop)
}

fn tc(args: &[&str]) -> Result<()> {
    run(Command::new("tc").args(args), "").map(drop)
}

/// What `ip` knows of one end of a cable.
fn show(end: &str) -> Result<String> {
    run(Command::new("ip").args(["-o", "-d", "link", "show", "dev", end]), "")
}

fn run(command: &mut Command, input: &str) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let missing =
        |error: std::io::Error| Error::Unavailable(format!("cannot run {program} (of iproute2): {error}"));
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().map_err(missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early says why on its standard error, which is read below.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(Error::path("cannot wait for", &program))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(Error::Failed { command: format!("{command:?} <<< {input:?}"), said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_read_from_the_table_of_devices() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n    \
            lo:     196       2    0    0    0     0          0         0      196       2    0\n  \
            eth0: 1048576      12    0    0    0     0          0         3    20971      11    0\n";
        assert_eq!(parse_traffic(text), Some(Traffic { sent: 20971, received: 1_048_576 }));
        assert_eq!(parse_traffic("lo: 1 2 3\n"), None);
    }
}
