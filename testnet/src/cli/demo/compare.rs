//! Byte for byte: objects, dependency files and what the compiler said.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::Failure;
use super::build::Build;
use crate::cli::project::Project;

/// What a comparison of two builds found.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Objects that exist on both sides and are equal.
    pub(super) objects: usize,
    /// Dependency files likewise.
    pub(super) depfiles: usize,
    /// Compiles with equal exit status, standard output and standard error.
    pub(super) diagnostics: usize,
    /// Of these, those with something on standard error.
    pub(super) warnings: usize,
    /// What is not equal, one line each.
    pub(super) differences: Vec<String>,
}

impl Comparison {
    /// Whether nothing differs.
    pub(super) fn is_equal(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Compares two builds by the directories they were set aside in.
pub(super) fn compare(
    project: &Project,
    (one_dir, one): (&str, &Build),
    (two_dir, two): (&str, &Build),
) -> Result<Comparison, Failure> {
    let mut found = Comparison::default();
    for (number, unit) in project.units().iter().enumerate() {
        let name = unit.output.display();
        for (ending, count) in [("o", &mut found.objects), ("d", &mut found.depfiles)] {
            // Not `with_extension`: names such as `a.cc.inc` shall keep their dots.
            let file = format!("{name}.{ending}");
            let sides = [one_dir, two_dir].map(|dir| read(&project.dir().join(dir).join(&file)));
            let [one, two] = sides;
            match (one?, two?) {
                (Some(one), Some(two)) if one == two => *count += 1,
                (Some(_), Some(_)) => found.differences.push(format!("{file} differs")),
                (None, None) => found.differences.push(format!("{file} was written by neither")),
                (one, _) => found
                    .differences
                    .push(format!("{file} is only in {}", if one.is_some() { one_dir } else { two_dir })),
            }
        }
        let (one, two) = (&one.outcomes[number], &two.outcomes[number]);
        if one == two {
            found.diagnostics += 1;
            found.warnings += usize::from(!one.stderr.is_empty());
        } else {
            found
                .differences
                .push(format!("{name}: status {} and {}, or other words", one.status, two.status));
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read {}: {error}", path.display()).into()),
    }
}
