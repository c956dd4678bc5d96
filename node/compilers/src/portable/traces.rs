//! Traces of places in what a compiler wrote.

use barn_protocol::Places;
use memchr::memmem;

use super::Refusal;

/// The flag of a compressed section (`SHF_COMPRESSED`).
const COMPRESSED: u64 = 0x800;
/// How clang begins the names of what it outlines for other devices: the numbers of the source's file system and file follow.
const OFFLOADED: [&[u8]; 2] = [b"__omp_offloading_", b"_decl_tgt_ref_ptr"];
/// How LLVM's bitcode begins, bare and wrapped. Its strings are packed by the bit.
const BITCODE: [&[u8]; 2] = [b"BC\xc0\xde", b"\xde\xc0\x17\x0b"];

/// Whether the name of a place occurs in `bytes`, be it the beginning of another name.
pub fn holds_place(bytes: &[u8], places: &Places) -> bool {
    places.paths().any(|place| memmem::find(bytes, place).is_some())
}

/// Looks for the places in something that a compile wrote.
///
/// # Errors
/// When one is in it, or when it holds what cannot be searched.
pub fn search(bytes: &[u8], places: &Places) -> Result<(), Refusal> {
    if BITCODE.iter().any(|magic| bytes.starts_with(magic))
        || (bytes.starts_with(b"\x7fELF") && !is_plain_elf(bytes))
    {
        return Err(Refusal::new("an output holds what cannot be searched"));
    }
    if OFFLOADED.iter().any(|name| memmem::find(bytes, name).is_some()) {
        return Err(Refusal::new("an output names a file by its number"));
    }
    let in_symbol = |place: &[u8]| symbols(place).iter().any(|name| memmem::find(bytes, name).is_some());
    if holds_place(bytes, places) || places.paths().any(in_symbol) {
        return Err(Refusal::new("an output or message names a place"));
    }
    Ok(())
}

/// A path as a part of symbols: gcc keeps letters, digits, dots and dollars, others keep less.
fn symbols(path: &[u8]) -> [Vec<u8>; 2] {
    let with = |kept: &[u8]| {
        path.iter().map(|&b| if b.is_ascii_alphanumeric() || kept.contains(&b) { b } else { b'_' }).collect()
    };
    [with(b".$"), with(b"")]
}

/// Whether an ELF file is one whose sections are all plain bytes.
fn is_plain_elf(bytes: &[u8]) -> bool {
    sections_are_plain(bytes).unwrap_or(false)
}

fn sections_are_plain(bytes: &[u8]) -> Option<bool> {
    let wide = match bytes.get(4)? {
        1 => false,
        2 => true,
        _ => return None,
    };
    // The other byte order is rare enough to go unshared.
    if *bytes.get(5)? != 1 {
        return None;
    }
    let number = |at: usize, width: usize| {
        let field = bytes.get(at..at.checked_add(width)?)?;
        Some(field.iter().rev().fold(0_u64, |sum, &byte| (sum << 8) | u64::from(byte)))
    };
    let (table, size_at) = if wide { (number(0x28, 8)?, 0x3a) } else { (number(0x20, 4)?, 0x2e) };
    let (size, mut count) = (number(size_at, 2)?, number(size_at + 2, 2)?);
    let table = usize::try_from(table).ok()?;
    let size = usize::try_from(size).ok()?;
    if count == 0 && table != 0 {
        // As many as do not fit: the first section's size tells.
        count =
            if wide { number(table.checked_add(0x20)?, 8)? } else { number(table.checked_add(0x14)?, 4)? };
    }
    for index in 0..usize::try_from(count).ok()? {
        let section = table.checked_add(index.checked_mul(size)?)?;
        let flags = number(section.checked_add(8)?, if wide { 8 } else { 4 })?;
        if flags & COMPRESSED != 0 {
            return Some(false);
        }
    }
    // The GNU way before the flag: a name.
    Some(memmem::find(bytes, b".zdebug").is_none())
}

#[cfg(test)]
mod tests {
    use barn_protocol::TreePath;

    use super::*;

    fn places() -> Places {
        let path = |text: &str| TreePath::new(text).expect("a good path");
        Places::new(path("/home/ann/my.app"), &path("/home/ann/build")).expect("plain names")
    }

    fn check(bytes: &[u8], is_clean: bool) {
        assert_eq!(search(bytes, &places()).is_ok(), is_clean, "{}", String::from_utf8_lossy(bytes));
    }

    /// A 64-bit file with two sections, the second with these flags.
    fn elf(flags: u64) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 2 * 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[0x28] = 64;
        bytes[0x3a] = 64;
        bytes[0x3c] = 2;
        bytes[64 + 64 + 8..][..8].copy_from_slice(&flags.to_le_bytes());
        bytes
    }

    #[test]
    fn places_are_found_as_paths_and_in_symbols() {
        check(b"", true);
        check(b"text /home/ann/my.ap and /home/ann/Build", true);
        check(b"x\0/home/ann/my.app/x.c\0", false);
        check(b"/home/ann/my.app", false);
        check(b"warning: /home/ann/build/x.h:1", false);
        check(b"_GLOBAL__N__home_ann_my.app_x.cc", false);
        check(b"_GLOBAL__N__home_ann_my_app_x_cc", false);
        check(b"__omp_offloading_fe00_bce07f__Z1fi_l2", false);
    }

    #[test]
    fn what_cannot_be_searched_is_refused() {
        check(&elf(6), true);
        check(&elf(6 | COMPRESSED), false);
        check(&elf(6)[..140], false);
        check(&[elf(6), b".zdebug_info\0".to_vec()].concat(), false);
        check(b"BC\xc0\xde....", false);
        let mut big_endian = elf(6);
        big_endian[5] = 2;
        check(&big_endian, false);
    }
}
