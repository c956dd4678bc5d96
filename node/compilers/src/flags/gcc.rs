//! Flags of gcc alone, or that mean something of their own there.

use super::Arity::{Alone, Either, Joined, Separate};
use super::Effect::{CacheOnly, IncludeDirectory, Linker, Local, Neutral, OptimizationInfo, Side};
use super::{Flag, flag};
use crate::compile::SideKind;
use crate::reason::ReasonKind;

/// Sorted by name.
#[rustfmt::skip]
pub(super) const FLAGS: &[Flag] = &[
    flag("--sysroot", Separate, Neutral),
    flag("--sysroot=", Joined, Neutral),
    flag("-aux-info", Joined, Local(ReasonKind::ExtraOutputFile)),
    flag("-e", Either, Linker),
    flag("-fada-spec", Joined, Local(ReasonKind::ExtraOutputFile)),
    flag("-fcallgraph-info", Joined, Side(SideKind::CallGraph)),
    flag("-fcompare-debug", Joined, Local(ReasonKind::ExtraOutputFile)),
    flag("-fopt-info", Joined, OptimizationInfo),
    flag("-frecord-gcc-switches", Alone, Neutral),
    flag("-isysroot", Either, IncludeDirectory),
    flag("-no-canonical-prefixes", Alone, CacheOnly(ReasonKind::CanonicalPrefix)),
    flag("-remap", Alone, Local(ReasonKind::ExtraInputFile)),
];
