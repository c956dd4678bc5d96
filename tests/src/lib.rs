//! Whole behaviours through the real barn binaries against real compilers.
