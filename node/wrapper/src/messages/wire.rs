//! The bytes of a frame: fixed-width integers, counted bytes, counted lists.

use super::{DecodeError, EncodeError, FRAME_BYTES_MAX, LENGTH_BYTES, OUTPUTS_MAX, VERSION};

/// A frame being written.
pub(super) struct Frame(pub(super) Vec<u8>);

impl Frame {
    pub(super) fn new(kind: u8) -> Self {
        Self(vec![0, 0, 0, 0, VERSION, kind])
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn flag(&mut self, value: bool) {
        self.0.push(u8::from(value));
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A count that does not fit is over the frame's limit as well, which `finish` reports.
    fn count(&mut self, value: usize) {
        self.u32(u32::try_from(value).unwrap_or(u32::MAX));
    }

    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.count(value.len());
        self.0.extend_from_slice(value);
    }

    pub(super) fn list<T>(&mut self, items: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.count(items.len());
        for item in items {
            each(self, item);
        }
    }

    pub(super) fn finish(mut self) -> Result<Vec<u8>, EncodeError> {
        let bytes = self.0.len() - LENGTH_BYTES;
        let length = u32::try_from(bytes).map_err(|_| EncodeError::FrameTooLong(bytes))?;
        if bytes > FRAME_BYTES_MAX {
            return Err(EncodeError::FrameTooLong(bytes));
        }
        self.0[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
        Ok(self.0)
    }
}

/// Checks the version of a frame; its kind and its fields.
pub(super) fn open(frame: &[u8]) -> Result<(u8, Fields<'_>), DecodeError> {
    match frame {
        [VERSION, kind, fields @ ..] => Ok((*kind, Fields(fields))),
        [other, _, ..] => Err(DecodeError::Version(*other)),
        _ => Err(DecodeError::Shape),
    }
}

/// The fields of a frame not yet read.
pub(super) struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (value, rest) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Shape)?;
        self.0 = rest;
        Ok(*value)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Value("flag")),
        }
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_le_bytes)
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, DecodeError> {
        let count = self.u32()? as usize;
        let (value, rest) = self.0.split_at_checked(count).ok_or(DecodeError::Shape)?;
        self.0 = rest;
        Ok(value.to_vec())
    }

    /// The vector grows with what is really there, never by a count that is only claimed.
    pub(super) fn list<T>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.u32()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(each(self)?);
        }
        Ok(items)
    }

    /// A list of outputs, of at most [`OUTPUTS_MAX`].
    pub(super) fn outputs<T>(
        &mut self,
        each: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = Fields(self.0).u32()? as usize;
        at_most(count, OUTPUTS_MAX, "count of outputs")?;
        self.list(each)
    }

    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Shape) }
    }
}

/// Refuses a value over its limit, by the name of its field.
pub(super) fn at_most(value: usize, limit: usize, what: &'static str) -> Result<(), DecodeError> {
    if value > limit { Err(DecodeError::Value(what)) } else { Ok(()) }
}
