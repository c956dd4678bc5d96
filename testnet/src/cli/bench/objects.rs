//! Whether a build made what the bare compiler makes.

use std::fmt;
use std::fs;
use std::io::ErrorKind;

use crate::cli::Failure;
use crate::cli::project::Project;

/// The name, beside a project's outputs, of those of the bare compiler.
const LOCAL: &str = "objects-local";

/// The objects of one build beside those of the bare compiler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Objects {
    pub(super) all: usize,
    pub(super) missing: usize,
    /// Equal byte by byte; `None` if there is nothing to compare with.
    pub(super) equal: Option<usize>,
}

impl Objects {
    /// Compares what lies in the project's output directory.
    pub(super) fn of(project: &Project) -> Result<Objects, Failure> {
        let local = project.dir().join(LOCAL);
        let mut found = Objects { all: project.units().len(), ..Objects::default() };
        for unit in project.units() {
            let file = format!("{}.o", unit.output.display());
            match fs::read(project.outputs().join(&file)) {
                Ok(object) if local.is_dir() => {
                    let equal = fs::read(local.join(&file))? == object;
                    *found.equal.get_or_insert(0) += usize::from(equal);
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => found.missing += 1,
                Err(error) => return Err(format!("cannot read {file}: {error}").into()),
            }
        }
        Ok(found)
    }

    /// Keeps what lies in the output directory as what others are compared with.
    pub(super) fn keep_as_local(project: &Project) -> Result<(), Failure> {
        match fs::remove_dir_all(project.dir().join(LOCAL)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => project.set_outputs_aside(LOCAL),
        }
    }
}

/// `106 of 106`: how many are there and equal, or how many are there.
impl fmt::Display for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.equal {
            Some(equal) => write!(f, "{equal} of {}", self.all),
            None => write!(f, "{} of {} there", self.all - self.missing, self.all),
        }
    }
}
