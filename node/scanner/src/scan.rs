//! One scan.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    disk::Disk,
    run::Run,
    unit::{Scan, Undecided, Unit},
    world::World,
};

/// The scanner: remembers what headers do to macros. Shared by all scans of a node.
pub struct Scanner {
    /// Replaced when its tables are full; scans under way keep the old one until they end.
    world: Mutex<Arc<World>>,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { world: Mutex::new(Arc::new(World::new())) }
    }
}

impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner").finish_non_exhaustive()
    }
}

impl Scanner {
    /// What `unit` reads.
    ///
    /// # Errors
    /// When that cannot be told, with the reason.
    pub fn scan(&self, unit: &Unit, disk: &mut dyn Disk) -> Result<Scan, Undecided> {
        let world = self.world();
        Run::new(&world, unit, disk)?.scan(unit)
    }

    fn world(&self) -> Arc<World> {
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        if world.is_full() {
            *world = Arc::new(World::new());
        }
        world.clone()
    }
}
