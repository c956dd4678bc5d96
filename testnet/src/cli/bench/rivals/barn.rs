//! Barn itself.

use std::fs;

use barn_testnet::{Host, Office};

use super::{Served, Tool};
use crate::cli::counts::Counts;
use crate::cli::{Failure, mesh};

/// Barn with a mesh that is made once and kept over all turns.
pub(super) struct Barn {
    slots: Option<usize>,
    /// The requester's counts when the build began.
    before: Counts,
}

impl Barn {
    /// Workers with so many slots each, or as many as they choose.
    pub(super) fn new(slots: Option<usize>) -> Barn {
        Barn { slots, before: Counts::default() }
    }
}

impl Tool for Barn {
    fn name(&self) -> &'static str {
        "barn"
    }

    fn is_exact(&self) -> bool {
        true
    }

    fn start(&mut self, office: &Office) -> Result<(), Failure> {
        // An earlier project may have been built in this office.
        if is_founded(&office[0])? {
            office.hosts().iter().try_for_each(mesh::start)?;
            return mesh::meet(office);
        }
        if let Some(slots) = self.slots {
            for host in office.hosts() {
                fs::write(host.barn_home().join("barn.toml"), format!("[worker]\nslots = {slots}\n"))?;
            }
        }
        mesh::form(office).map(drop)
    }

    fn stop(&mut self, office: &Office) -> Result<(), Failure> {
        Ok(office.hosts().iter().try_for_each(Host::kill_node)?)
    }

    fn served(&self, office: &Office) -> Result<Served, Failure> {
        let peers = Counts::of(&office[0])?.peers;
        Ok(peers.into_iter().map(|(name, traffic)| (name, traffic.sent)).collect())
    }

    fn begin(&mut self, office: &Office) -> Result<(), Failure> {
        self.before = Counts::of(&office[0])?;
        Ok(())
    }

    fn notes(&self, office: &Office) -> Result<Vec<String>, Failure> {
        let counts = Counts::of(&office[0])?.since(&self.before);
        let mut notes = vec![format!(
            "peak memory of the requester's node: {:.0} MB",
            office[0].node_memory_peak()? as f64 / 1e6
        )];
        if !counts.fallbacks.is_empty() {
            notes.push(format!("fallbacks: {:?}", counts.fallbacks));
        }
        if counts.scans.count > 0 {
            let mean_ms = counts.scans.microseconds as f64 / 1e3 / counts.scans.count as f64;
            notes.push(format!("{} scans, {mean_ms:.1} ms of CPU each in the mean", counts.scans.count));
        }
        if !counts.local_reasons.is_empty() {
            notes.push(format!("compiles kept local: {:?}", counts.local_reasons));
        }
        Ok(notes)
    }
}

/// Whether a host is in a mesh already.
fn is_founded(host: &Host) -> Result<bool, Failure> {
    Ok(host.barn_home().join("mesh/roster").try_exists()?)
}
