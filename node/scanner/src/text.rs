//! The directives of one file.

/// All that matters of one file's contents to a scan: its directives, and the words that make a list of includes
/// uncertain. Made once for every contents; nothing but the contents decides it.
#[derive(Debug)]
pub struct Text {
    /// What the plain text tells (`incbin`, `__TIME__`, modules …).
    pub flags: barn_compilers::Directives,
}

impl Text {
    /// Reads the contents of a file.
    pub fn parse(contents: &[u8]) -> Self {
        Self { flags: barn_compilers::scan(contents) }
    }

    /// The text as bytes, to be kept under the digest of the contents.
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }

    /// What [`Text::encode`] gave; `None` if it is of another version or damaged.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let _ = bytes;
        todo!()
    }
}
