//! One scan.

use crate::{
    disk::Disk,
    unit::{Scan, Undecided, Unit},
};

/// The scanner: remembers what headers do to macros. Shared by all scans of a node.
#[derive(Debug, Default)]
pub struct Scanner {}

impl Scanner {
    /// What `unit` reads.
    ///
    /// # Errors
    /// When that cannot be told, with the reason.
    pub fn scan(&self, unit: &Unit, disk: &mut dyn Disk) -> Result<Scan, Undecided> {
        let _ = (unit, disk);
        todo!()
    }
}
