//! Whether and how hard to compress.
//!
//! Sending a byte costs CPU time here (encryption, system calls) and time on the line; packing costs CPU time and saves
//! a part of both. [`Packing::choose`] adds these up for each level and takes the cheapest. How quick the line is, is what
//! the congestion control of the connection believes: window / round-trip time. Compilers' inputs and outputs, on
//! which the figures were taken, pack to about a third; what does not pack is noticed at its first chunk.

use std::{cell::RefCell, time::Duration};

use zstd::bulk::{Compressor, Decompressor};

/// Nanoseconds of CPU time to send a byte over QUIC, and half of them again to receive it.
const SEND_NS: f64 = 4.0;
/// Nanoseconds it takes to begin packing, however little.
const BEGIN_NS: f64 = 4_000.0;
/// Level, nanoseconds a byte, and what is left of a byte: sources, headers and objects of this project
/// (`cargo test -p barn-mesh --release -- --nocapture levels`).
const LEVELS: [(i32, f64, f64); 3] = [(1, 2.5, 0.36), (3, 3.7, 0.34), (9, 38.0, 0.31)];

/// How the chunks of a blob are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// As they are.
    Raw,
    /// Packed with zstd at this level.
    Zstd(i32),
}

/// How a node's CPU time compares with the time of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cpu {
    /// There is some left: a worker that sends outputs, after the compiler has ended.
    Spare,
    /// Everybody waits for it: a requester feeds all workers.
    Scarce,
}

/// A line of which nothing is known is taken for a LAN of 1 Gbit/s.
pub const UNKNOWN_LINE_BYTES_PER_S: u64 = 125_000_000;

impl Packing {
    /// The cheapest way to send a blob of `size` bytes on a line of so many bytes a second.
    pub fn choose(size: u64, line_bytes_per_s: u64, cpu: Cpu) -> Self {
        let price = match cpu {
            Cpu::Spare => 1.0,
            Cpu::Scarce => 2.0,
        };
        let bytes = size as f64;
        let sending = bytes * (price * SEND_NS + 1e9 / line_bytes_per_s.max(1) as f64);
        let packed = LEVELS.map(|(level, pack_ns, left)| {
            (Self::Zstd(level), price * (BEGIN_NS + bytes * pack_ns) + left * sending)
        });
        let all = std::iter::once((Self::Raw, sending)).chain(packed);
        all.min_by(|one, two| one.1.total_cmp(&two.1)).map_or(Self::Raw, |(packing, _)| packing)
    }
}

/// What a congestion window and a round-trip time say of a line, in bytes a second.
pub(crate) fn line_speed(window_bytes: u64, rtt: Duration) -> u64 {
    let micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX).max(1);
    window_bytes.saturating_mul(1_000_000) / micros
}

thread_local! {
    // Making one takes longer than packing some KiB with it.
    static PACKER: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
    static UNPACKER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Packs `plain` behind what is in `out`; `false`, and nothing appended, if that would be longer than `packed_max` bytes.
pub(crate) fn pack(plain: &[u8], level: i32, out: &mut Vec<u8>, packed_max: usize) -> bool {
    let start = out.len();
    out.resize(start + packed_max, 0);
    let packed = PACKER.with_borrow_mut(|packer| {
        if packer.as_ref().is_none_or(|(has, _)| *has != level) {
            *packer = Compressor::new(level).ok().map(|new| (level, new));
        }
        let (_, packer) = packer.as_mut()?;
        packer.compress_to_buffer(plain, &mut out[start..]).ok()
    });
    out.truncate(start + packed.unwrap_or(0));
    packed.is_some()
}

/// Unpacks into `plain`, which becomes exactly `length` bytes; `false` if `packed` is anything else.
pub(crate) fn unpack(packed: &[u8], length: usize, plain: &mut Vec<u8>) -> bool {
    plain.resize(length, 0);
    let unpacked = UNPACKER.with_borrow_mut(|unpacker| {
        if unpacker.is_none() {
            *unpacker = Decompressor::new().ok();
        }
        unpacker.as_mut()?.decompress_to_buffer(packed, plain.as_mut_slice()).ok()
    });
    unpacked == Some(length)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const MBIT: u64 = 125_000;

    #[test]
    fn the_slower_the_line_the_harder_it_is_packed() {
        let check = |size: u64, line: u64, cpu: Cpu, expect: Packing| {
            assert_eq!(
                Packing::choose(size, line, cpu),
                expect,
                "{size} bytes, {} Mbit/s, {cpu:?}",
                line / MBIT
            );
        };
        for (line, small, large) in [
            (1000 * MBIT, Packing::Raw, Packing::Zstd(1)),
            (100 * MBIT, Packing::Zstd(1), Packing::Zstd(1)),
            (20 * MBIT, Packing::Zstd(3), Packing::Zstd(3)),
            (2 * MBIT, Packing::Zstd(9), Packing::Zstd(9)),
        ] {
            check(1500, line, Cpu::Scarce, small);
            check(1 << 20, line, Cpu::Scarce, large);
        }
        check(100, 1000 * MBIT, Cpu::Spare, Packing::Raw);
        check(0, 0, Cpu::Scarce, Packing::Raw);
        check(u64::MAX, 100_000 * MBIT, Cpu::Scarce, Packing::Zstd(1));
        check(1 << 20, 5 * MBIT, Cpu::Scarce, Packing::Zstd(3));
        check(1 << 20, 5 * MBIT, Cpu::Spare, Packing::Zstd(9));
    }

    #[test]
    fn lines_are_judged_by_window_and_time() {
        assert_eq!(line_speed(125_000, Duration::from_millis(1)), 1000 * MBIT);
        assert_eq!(line_speed(12_500, Duration::from_millis(10)), 10 * MBIT);
        assert_eq!(line_speed(1, Duration::ZERO), 1_000_000);
        assert!(line_speed(u64::MAX, Duration::MAX) < 100);
    }

    #[test]
    fn what_is_packed_unpacks_to_its_own_length_only() {
        let plain = include_bytes!("packing.rs");
        let mut packed = vec![7];
        assert!(pack(plain, 3, &mut packed, plain.len() - 1) && packed[0] == 7);
        let mut again = Vec::new();
        assert!(unpack(&packed[1..], plain.len(), &mut again) && again == plain);
        for wrong in [0, plain.len() - 1, plain.len() + 1] {
            assert!(!unpack(&packed[1..], wrong, &mut again));
        }
        let mut kept = vec![7];
        assert!(!pack(b"abc", 3, &mut kept, 2) && kept == [7]);
    }

    /// Prints what [`LEVELS`] and [`BEGIN_NS`] should be on this machine.
    #[test]
    fn levels_pack_their_own_sources() {
        let plain = [&include_bytes!("packing.rs")[..], include_bytes!("mesh.rs"), include_bytes!("blob.rs")]
            .concat();
        for (name, plain) in [("sources", plain.clone()), ("1000 bytes", plain[..1000].to_vec())] {
            for (level, _, _) in LEVELS {
                let (mut packed, rounds) = (Vec::new(), 20);
                assert!(pack(&plain, level, &mut packed, plain.len()));
                let began = Instant::now();
                for _ in 0..rounds {
                    packed.clear();
                    assert!(pack(&plain, level, &mut packed, plain.len()));
                }
                let ns = began.elapsed().as_nanos() as f64 / f64::from(rounds);
                let (left, each) = (packed.len() as f64 / plain.len() as f64, ns / plain.len() as f64);
                println!("{name}: level {level}: {ns:.0} ns, {each:.1} ns a byte, {left:.2} left");
                assert!(left < 0.7);
            }
        }
    }
}
