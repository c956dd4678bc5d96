//! Sorted paths, each written as what it shares with the one before and the rest.
//!
//! Paths of one tree share most of their bytes, so this alone shortens them to a fifth, and what is left
//! packs well. (Front coding: Witten, Moffat, Bell, *Managing Gigabytes*, 1999.)

use serde::{Deserialize, Serialize};

use crate::limits::{FRAME_BYTES_MAX, PATH_BYTES_MAX};

/// Bytes of all paths of one list, written out. A frame may be small and its paths still long, so what
/// they unfold to is bounded by itself.
pub const PATHS_BYTES_MAX: usize = FRAME_BYTES_MAX;

/// Some byte strings, front-coded. It is short if they are sorted, and right in any order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontCoded(Vec<Line>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    shared: u32,
    rest: Vec<u8>,
}

/// Why a list of paths is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrontError {
    /// A path shares more with the one before than that has.
    #[error("a path shares more than there is")]
    Shared,
    /// A path, or all of them together, are over the limit.
    #[error("paths are over the limit")]
    TooLarge,
}

impl FrontCoded {
    /// The front-coded form of `paths`.
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut before: &[u8] = &[];
        let lines = paths.into_iter().map(|path| {
            let shared = path.iter().zip(before).take_while(|(one, two)| one == two).count();
            before = path;
            let shared_u32 = u32::try_from(shared).expect("paths are far below 4 GiB");
            Line { shared: shared_u32, rest: path[shared..].to_vec() }
        });
        Self(lines.collect())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The paths as they were.
    ///
    /// # Errors
    /// When a foreign list makes no sense or unfolds to more than [`PATHS_BYTES_MAX`].
    pub fn unfold(&self) -> Result<Vec<Vec<u8>>, FrontError> {
        let mut paths: Vec<Vec<u8>> = Vec::with_capacity(self.0.len());
        let mut left = PATHS_BYTES_MAX;
        for line in &self.0 {
            let before = paths.last().map_or(&[][..], Vec::as_slice);
            let shared = before.get(..line.shared as usize).ok_or(FrontError::Shared)?;
            let length = shared.len() + line.rest.len();
            left = left.checked_sub(length).ok_or(FrontError::TooLarge)?;
            if length > PATH_BYTES_MAX {
                return Err(FrontError::TooLarge);
            }
            paths.push([shared, &line.rest].concat());
        }
        Ok(paths)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn line(shared: u32, rest: &[u8]) -> Line {
        Line { shared, rest: rest.to_vec() }
    }

    #[test]
    fn sorted_paths_become_short() {
        let paths = [&b"/usr/include/stdio.h"[..], b"/usr/include/stdlib.h", b"/usr/local"];
        let coded = FrontCoded::of(paths);
        let expect = [line(0, b"/usr/include/stdio.h"), line(16, b"lib.h"), line(5, b"local")];
        assert_eq!(coded.0, expect);
        assert_eq!(coded.unfold(), Ok(paths.map(<[u8]>::to_vec).to_vec()));
    }

    #[test]
    fn hostile_lists_are_refused() {
        let check = |lines: Vec<Line>, expect| assert_eq!(FrontCoded(lines).unfold(), Err(expect));
        check(vec![line(1, b"a")], FrontError::Shared);
        check(vec![line(0, b"ab"), line(3, b"")], FrontError::Shared);
        check(vec![line(0, &[b'a'; PATH_BYTES_MAX + 1])], FrontError::TooLarge);
        // A few bytes each that unfold to a long path each.
        let mut bomb = vec![line(0, &[b'a'; PATH_BYTES_MAX])];
        bomb.resize(PATHS_BYTES_MAX / PATH_BYTES_MAX, line(PATH_BYTES_MAX as u32, b""));
        assert!(FrontCoded(bomb.clone()).unfold().is_ok());
        bomb.push(line(0, b"a"));
        check(bomb, FrontError::TooLarge);
    }

    proptest! {
        #[test]
        fn what_is_coded_unfolds(paths in vec(vec(0..4u8, 0..9), 0..20)) {
            let coded = FrontCoded::of(paths.iter().map(Vec::as_slice));
            prop_assert_eq!(coded.len(), paths.len());
            let bytes = postcard::to_stdvec(&coded).expect("encodes");
            let decoded: FrontCoded = postcard::from_bytes(&bytes).expect("decodes");
            prop_assert_eq!(decoded.unfold(), Ok(paths));
        }

        #[test]
        fn any_bytes_unfold_or_are_refused(bytes in vec(any::<u8>(), 0..200)) {
            let unfolded = postcard::from_bytes::<FrontCoded>(&bytes).map(|coded| coded.unfold());
            if let Ok(Ok(paths)) = unfolded {
                prop_assert!(paths.iter().map(Vec::len).sum::<usize>() <= PATHS_BYTES_MAX);
            }
        }
    }
}
