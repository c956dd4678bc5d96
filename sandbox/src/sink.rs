//! Where outputs go.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Takes the outputs of one run, one after the other and in the spec's order. Missing and refused outputs are
/// skipped. An error ends the run; what was begun is then incomplete and the sink's to remove.
pub trait OutputSink {
    /// Output `index` of the spec begins.
    ///
    /// # Errors
    /// When it cannot be stored.
    fn begin(&mut self, index: usize) -> io::Result<()>;

    /// Its next bytes, at most 256 KiB.
    ///
    /// # Errors
    /// When they cannot be stored.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// It is complete.
    ///
    /// # Errors
    /// When it cannot be stored.
    fn end(&mut self) -> io::Result<()>;
}

/// Writes output `n` to a new file `output-n` in a directory, mode 0600.
#[derive(Debug)]
pub struct DirectorySink {
    directory: PathBuf,
    open: Option<File>,
}

impl DirectorySink {
    /// Writes to `directory`, which must exist and hold no outputs yet.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), open: None }
    }

    /// The file of output `index`.
    pub fn path(&self, index: usize) -> PathBuf {
        self.directory.join(format!("output-{index}"))
    }
}

impl OutputSink for DirectorySink {
    fn begin(&mut self, index: usize) -> io::Result<()> {
        self.open = Some(OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.path(index))?);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.open.as_mut().map_or(Ok(()), |file| file.write_all(bytes))
    }

    fn end(&mut self) -> io::Result<()> {
        self.open = None;
        Ok(())
    }
}

/// Keeps the outputs in memory, by index.
#[derive(Debug, Default)]
pub struct MemorySink(pub Vec<(usize, Vec<u8>)>);

impl OutputSink for MemorySink {
    fn begin(&mut self, index: usize) -> io::Result<()> {
        self.0.push((index, Vec::new()));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some((_, contents)) = self.0.last_mut() {
            contents.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}
