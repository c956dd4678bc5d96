//! The names that are derived by hashing, and the domains that keep them apart. `docs/cache-key.md` tells the whole story.
//!
//! An action's key is computed in [`crate::action`], a tree's digest in [`crate::tree`], a toolchain's in
//! [`crate::toolchain`], the key of an entry of the office's cache in [`crate::dht`]. Here are the domains of them all,
//! and the names of include manifests.

use crate::{Action, Digest, canonical::Canonical};

/// What is hashed, and by which rules.
///
/// A domain is used for one kind of value, and its version grows with every change of what is fed under it, or of what that
/// means. What was kept under the version before is then never found again; nothing is ever converted.
pub mod domain {
    /// An action's key.
    pub const ACTION: &str = "barnraise action v1";
    /// A tree's digest.
    pub const TREE: &str = "barnraise tree v1";
    /// A toolchain's digest.
    pub const TOOLCHAIN: &str = "barnraise toolchain v1";
    /// The key of the include manifests of a source under a command line.
    pub const INCLUDE_MANIFEST: &str = "barnraise include manifest v2";
    /// A source that is compiled by what stands in for the user's compiler.
    pub const STAND_IN_SOURCE: &str = "barnraise stand-in source v1";
    /// A compiler for which another one stands in, known by its file's stamp.
    pub const STAND_IN: &str = "barnraise stand-in v1";
    /// An action's key in any checkout of its project ([`crate::portable`]).
    pub const PORTABLE_ACTION: &str = "barnraise portable action v1";
    /// The key of the include manifests of a source in any checkout.
    pub const PORTABLE_MANIFEST: &str = "barnraise portable manifest v1";
    /// The key of an action record in the office's cache.
    pub const OFFICE_RECORD: &str = "barnraise office record v1";
    /// The key of include manifests in the office's cache.
    pub const OFFICE_MANIFEST: &str = "barnraise office manifest v1";
    /// A member's place among the owners of keys.
    pub const OFFICE_OWNER: &str = "barnraise office owner v1";
    /// Where an owner keeps an entry in its store.
    pub const OWNED_ENTRY: &str = "barnraise owned entry v2";
    /// An entry that another tool keeps in the store.
    pub const FOREIGN_ENTRY: &str = "barnraise foreign entry v1";
    /// The checksum of an entry of the store's journal.
    pub const JOURNAL_ENTRY: &str = "barnraise journal entry v1";
    /// The name of an invitation.
    pub const INVITE: &str = "barnraise invite id v1";
    /// The mesh as it is named before anybody is admitted.
    pub const MESH_HELLO: &str = "barnraise mesh hello v1";
    /// A Rust compiler: all files of its sysroot.
    pub const RUST_COMPILER: &str = "barnraise rust compiler v1";
    /// What links Rust programs.
    pub const LINKER: &str = "barnraise linker v1";
    /// The compiler and the linker of a Rust crate together.
    pub const RUST_TOOLS: &str = "barnraise rust tools v1";
    /// The key of a Rust crate's record.
    pub const RUST_ACTION: &str = "barnraise rust action v1";
    /// The key of the manifests of a crate's root source.
    pub const RUST_MANIFEST: &str = "barnraise rust manifest v1";
    /// The same for any target directory.
    pub const RUST_NEUTRAL_MANIFEST: &str = "barnraise rust neutral manifest v1";
    /// Which crates a Rust library drags in.
    pub const RUST_CLOSURE: &str = "barnraise rust closure v1";
    /// A question to a Rust compiler, which is remembered.
    pub const RUST_QUESTION: &str = "barnraise rust question v1";
    /// Files of a directory that a Rust crate may read.
    pub const LISTING: &str = "barnraise listing v1";
    /// A set of links to barn under compilers' names.
    pub const COMPILER_LINKS: &str = "barnraise links v1";

    /// All of them.
    pub const ALL: [&str; 26] = [
        ACTION,
        TREE,
        TOOLCHAIN,
        INCLUDE_MANIFEST,
        STAND_IN_SOURCE,
        STAND_IN,
        PORTABLE_ACTION,
        PORTABLE_MANIFEST,
        OFFICE_RECORD,
        OFFICE_MANIFEST,
        OFFICE_OWNER,
        OWNED_ENTRY,
        FOREIGN_ENTRY,
        JOURNAL_ENTRY,
        INVITE,
        MESH_HELLO,
        RUST_COMPILER,
        LINKER,
        RUST_TOOLS,
        RUST_ACTION,
        RUST_MANIFEST,
        RUST_NEUTRAL_MANIFEST,
        RUST_CLOSURE,
        RUST_QUESTION,
        LISTING,
        COMPILER_LINKS,
    ];
}

/// The key of the include manifests of an action whose inputs are not known yet: `stem` has none. `source` is the digest of
/// the source's contents, or a [`stand_in_source`].
pub fn manifest_key(stem: &Action, source: &Digest) -> Digest {
    debug_assert!(stem.inputs.is_empty(), "the inputs are what is looked for");
    Canonical::new(domain::INCLUDE_MANIFEST).digest(&stem.key().0).digest(source).finish()
}

/// The name of a source whose includes are asked of the compiler `own`, which the stem does not tell because
/// another one stands in for it.
pub fn stand_in_source(own: &Digest, source: &Digest) -> Digest {
    Canonical::new(domain::STAND_IN_SOURCE).digest(own).digest(source).finish()
}
