//! Gets source code from where it is published, once.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

/// A directory below `dir`, made if need be.
pub(super) fn folder(dir: &Path, name: &str) -> io::Result<PathBuf> {
    let folder = dir.join(name);
    fs::create_dir_all(&folder)?;
    folder.canonicalize()
}

/// Has cargo unpack a crate, through a package that exists for nothing else.
pub(super) fn published(dir: &Path, package: &str, version: &str) -> io::Result<PathBuf> {
    let home = folder(dir, package)?;
    let place = home.join("vendor").join(package);
    if home.join("complete").is_file() {
        return Ok(place);
    }
    fs::create_dir_all(home.join("src"))?;
    fs::write(home.join("src/lib.rs"), "")?;
    let manifest = format!(
        "[package]\nname = \"corpus\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\n[workspace]\n\n\
         [dependencies]\n{package} = {{ version = \"={version}\", default-features = false }}\n"
    );
    fs::write(home.join("Cargo.toml"), manifest)?;
    run(cargo().args(["vendor", "--quiet", "vendor"]).current_dir(&home))?;
    fs::write(home.join("complete"), "")?;
    Ok(place)
}

/// Where a crate lies that this workspace is built with.
///
/// # Errors
/// When cargo does not know it.
pub fn of_workspace(package: &str) -> io::Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = run(cargo().args(["metadata", "--format-version", "1", "--offline"]).current_dir(here))?;
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let manifest = packages
        .filter(|found| found["name"].as_str() == Some(package))
        .find_map(|found| Path::new(found["manifest_path"].as_str()?).parent());
    let missing = || io::Error::other(format!("the workspace is built without {package}"));
    manifest.map(Path::to_owned).ok_or_else(missing)
}

/// Has apt download a package and unpacks it; nothing is installed.
pub(super) fn debian(dir: &Path, package: &str) -> io::Result<PathBuf> {
    let home = folder(dir, package)?;
    if home.join("complete").is_file() {
        return Ok(home);
    }
    run(Command::new("apt-get").args(["download", "-qq", package]).current_dir(&home))?;
    for entry in fs::read_dir(&home)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&home))?;
        }
    }
    fs::write(home.join("complete"), "")?;
    Ok(home)
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn run(command: &mut Command) -> io::Result<Output> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{command:?}: {}", said.trim())))
}
