//! Which libraries the projects are made of, and how each is compiled.

use super::Language;

/// One library, as it lies in a published crate.
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) package: &'static str,
    pub(super) version: &'static str,
    pub(super) language: Language,
    /// Directories whose sources belong to the library, below the crate.
    pub(super) directories: &'static [&'static str],
    /// Whether a directory's own directories belong to it as well.
    pub(super) depth: usize,
    /// Sources with one of these in their path are left out: tests, tools, code for other systems, and such as take so
    /// long that half a build would be waiting for one last compile.
    pub(super) without: &'static [&'static str],
    /// Include directories, below the crate.
    pub(super) includes: &'static [&'static str],
    pub(super) flags: &'static [&'static str],
    /// Headers that the library's own build would write, by name.
    pub(super) generated: &'static [(&'static str, &'static str)],
}

/// A code base: some libraries, built with the same flags.
pub(in crate::cli) struct Selection {
    pub(super) parts: &'static [Part],
    /// Flags of every unit.
    pub(super) flags: &'static [&'static str],
}

/// Of the demonstration and two benchmarks: what a small encrypted key-value store with scripting would be made of.
/// The flags are those of an ordinary release build with debug information, and warnings, for there shall be some to
/// compare.
pub(in crate::cli) const STORE: Selection = Selection {
    parts: &[
        Part {
            name: "Lua",
            package: "lua-src",
            version: "551.1.0",
            language: Language::C,
            directories: &["lua-5.4.9"],
            depth: 1,
            without: &[],
            includes: &[],
            flags: &["-DLUA_USE_POSIX"],
            generated: &[],
        },
        Part {
            name: "zstd",
            package: "zstd-sys",
            version: "2.1.2",
            language: Language::C,
            directories: &["zstd/lib"],
            depth: 2,
            // 7 s on a whole core.
            without: &["zstd_lazy.c"],
            includes: &["zstd/lib"],
            flags: &["-DZSTD_DISABLE_ASM"],
            generated: &[],
        },
        Part {
            name: "LevelDB",
            package: "leveldb-sys",
            version: "2.0.9",
            language: Language::Cxx,
            directories: &["deps/leveldb-1.22/db", "deps/leveldb-1.22/table", "deps/leveldb-1.22/util"],
            depth: 1,
            without: &["_test.cc", "_bench.cc", "windows", "testutil", "leveldbutil"],
            includes: &["deps/leveldb-1.22", "deps/leveldb-1.22/include"],
            flags: &["-std=c++11", "-DLEVELDB_PLATFORM_POSIX=1", "-DLEVELDB_IS_BIG_ENDIAN=0"],
            generated: &[],
        },
        Part {
            name: "BoringSSL",
            package: "boring-sys",
            version: "5.4.0",
            language: Language::Cxx,
            directories: &["deps/boringssl/crypto", "deps/boringssl/ssl"],
            depth: 4,
            // 13 s on a whole core.
            without: &["test", "bcm.cc"],
            includes: &["deps/boringssl/include"],
            flags: &["-std=c++17", "-DOPENSSL_NO_ASM"],
            generated: &[],
        },
    ],
    flags: &["-O2", "-g", "-Wall", "-Wextra", "-fPIC"],
};

/// The C++ project of the mesh benchmark: templates and the standard library all over, as an optimised build without
/// debug information.
pub(in crate::cli) const ABSEIL: Selection = Selection {
    parts: &[Part {
        name: "Abseil",
        package: "protobuf-src",
        version: "2.1.1",
        language: Language::Cxx,
        directories: &[
            "protobuf/third_party/abseil-cpp/absl/base",
            "protobuf/third_party/abseil-cpp/absl/container",
            "protobuf/third_party/abseil-cpp/absl/debugging",
            "protobuf/third_party/abseil-cpp/absl/hash",
            "protobuf/third_party/abseil-cpp/absl/numeric",
            "protobuf/third_party/abseil-cpp/absl/status",
            "protobuf/third_party/abseil-cpp/absl/strings",
            "protobuf/third_party/abseil-cpp/absl/synchronization",
            "protobuf/third_party/abseil-cpp/absl/time",
            "protobuf/third_party/abseil-cpp/absl/types",
        ],
        depth: 4,
        without: &["test", "benchmark", "mock", "_gentables", "print_hash_of", "status_matchers"],
        includes: &["protobuf/third_party/abseil-cpp"],
        flags: &["-std=c++17"],
        generated: &[],
    }],
    flags: &["-O3", "-fPIC"],
};

/// The C project of the mesh benchmark: libgit2 without its copy of a regular expression engine, one source of which
/// takes a fifth of the whole library's time.
pub(in crate::cli) const LIBGIT2: Selection = Selection {
    parts: &[Part {
        name: "libgit2",
        package: "libgit2-sys",
        version: "0.18.8",
        language: Language::C,
        directories: &[
            "libgit2/src/libgit2",
            "libgit2/src/util",
            "libgit2/src/util/unix",
            "libgit2/src/util/allocators",
            "libgit2/src/util/hash/rfc6234",
            "libgit2/src/util/hash/sha1dc",
            "libgit2/src/libgit2/streams",
            "libgit2/src/libgit2/transports",
            "libgit2/deps/llhttp",
            "libgit2/deps/xdiff",
        ],
        depth: 1,
        without: &["win32", "debugalloc"],
        includes: &[
            "libgit2/include",
            "libgit2/src/libgit2",
            "libgit2/src/util",
            "libgit2/deps/llhttp",
            "libgit2/deps/pcre2",
            "libgit2/deps/xdiff",
        ],
        flags: &[
            "-fvisibility=hidden",
            "-DGIT_REGEX_BUILTIN=1",
            "-DPCRE2_STATIC",
            "-DPCRE2_CODE_UNIT_WIDTH=8",
            "-DSHA1DC_NO_STANDARD_INCLUDES=1",
            "-DSHA1DC_CUSTOM_INCLUDE_SHA1_C=\"common.h\"",
            "-DSHA1DC_CUSTOM_INCLUDE_UBC_CHECK_C=\"common.h\"",
        ],
        generated: &[(
            "git2_features.h",
            "#define GIT_THREADS 1\n#define GIT_TRACE 1\n#define GIT_HTTPPARSER_BUILTIN 1\n#define GIT_USE_NSEC 1\n\
             #define GIT_IO_POLL 1\n#define GIT_IO_SELECT 1\n#define GIT_USE_STAT_MTIM 1\n#define GIT_ARCH_64 1\n\
             #define GIT_SHA1_COLLISIONDETECT 1\n#define GIT_SHA256_BUILTIN 1\n",
        )],
    }],
    flags: &["-O2", "-g", "-fPIC"],
};
