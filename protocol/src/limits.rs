//! A limit on everything that grows, with the reason beside it.

/// Longest path in a tree, in bytes: Linux' own `PATH_MAX`.
pub const PATH_BYTES_MAX: usize = 4096;
/// Deepest path in a tree, in components. Real projects stay under 30.
pub const PATH_DEPTH_MAX: usize = 64;
/// Entries in one input tree. The largest real unit seen (a jumbo build) reads under 10,000 files.
pub const TREE_ENTRIES_MAX: usize = 65_536;
/// Entries in one toolchain; a packed gcc or clang has about 60.
pub const TOOLCHAIN_ENTRIES_MAX: usize = 65_536;
/// Largest single blob, in bytes: a toolchain's largest library is about 150 MB, a debug object 200 MB.
pub const BLOB_BYTES_MAX: u64 = 1 << 30;
/// Largest control message of the data plane (an action request with its tree), in bytes.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// Largest piece of a blob sent at once, in bytes.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;
/// Largest standard output or standard error of one action, in bytes. More than a person can read; template
/// errors reach a few MiB.
pub const STDIO_BYTES_MAX: u64 = 16 << 20;
/// Largest sum of an action's outputs, in bytes.
pub const OUTPUTS_BYTES_MAX: u64 = 2 << 30;
/// Largest argv and environment of an action together, in bytes: the kernel's own default limit.
pub const ARGV_BYTES_MAX: usize = 2 << 20;
/// Most declared outputs of one action.
pub const OUTPUTS_MAX: usize = 64;
/// Most members on a roster: the one-hop design is meant for an office, not for the internet.
pub const ROSTER_MEMBERS_MAX: usize = 4096;
/// Largest signed roster, in bytes (4096 members of under 160 bytes each).
pub const ROSTER_BYTES_MAX: usize = 1 << 20;
/// Longest name of a node, in bytes (a host name's limit).
pub const NAME_BYTES_MAX: usize = 64;
/// Most toolchains an advert lists; the most recently used ones come first.
pub const ADVERT_TOOLCHAINS_MAX: usize = 64;
/// Largest advert, in bytes.
pub const ADVERT_BYTES_MAX: usize = 8 << 10;
/// Longest wall time of one remote compile, in seconds. The slowest units seen take about five minutes;
/// after this the requester compiles locally.
pub const ACTION_SECONDS_MAX: u64 = 1200;
