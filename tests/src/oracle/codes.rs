//! The code bases: which sources, and how their own builds compile them.

use super::corpus::{Code, From, PLAIN};

/// What the workspace is built with, and the headers of this system: nothing is fetched.
pub const NEAR: &[Code] = &[
    Code {
        name: "zstd (near)",
        from: From::Workspace("zstd-sys"),
        sources: &["zstd/lib"],
        flags: &["-Izstd/lib", "-Izstd/lib/common", "-DZSTD_MULTITHREAD=1", "-fvisibility=hidden"],
        ..PLAIN
    },
    Code {
        name: "ring",
        from: From::Workspace("ring"),
        sources: &["crypto", "pregenerated"],
        without: &["win", "macosx", "ios", "armv", "arm-", "aarch64", "-x86-", "vpaes-armv", "chacha-x86-"],
        flags: &["-Iinclude", "-Ipregenerated", "-I.", "-std=c1x", "-DNDEBUG", "-pedantic"],
        ..PLAIN
    },
    Code {
        name: "blake3",
        from: From::Workspace("blake3"),
        sources: &["c"],
        without: &["windows", "neon", "tbb", "example"],
        flags: &["-Ic", "-mavx512f", "-mavx512vl", "-std=c11"],
        ..PLAIN
    },
    Code {
        name: "libstdc++ 17",
        sources: &["", "bits", "ext", "experimental", "tr1"],
        without: &["stdc++.h.gch"],
        cxx: &["-std=c++17"],
        headers: Some("/usr/include/c++/?"),
        ..PLAIN
    },
    Code {
        name: "C library",
        sources: &["", "linux", "asm-generic", "arpa", "net", "netinet"],
        flags: &["-D_GNU_SOURCE"],
        headers: Some("/usr/include"),
        ..PLAIN
    },
];

/// What is fetched.
pub const FAR: &[Code] = &[
    Code {
        name: "RocksDB",
        from: From::Crate("librocksdb-sys", "0.19.0"),
        sources: &["rocksdb", "snappy", "build_version.cc"],
        without: &["/port/win", "third-party/folly", "java/"],
        flags: &[
            "-Irocksdb/include",
            "-Irocksdb",
            "-isystem",
            "@/rocksdb/third-party/gtest-1.8.1/fused-src",
            "-Isnappy",
            "-I.",
            "-DSNAPPY=1",
            "-DOS_LINUX",
            "-DROCKSDB_PLATFORM_POSIX",
            "-DROCKSDB_LIB_IO_POSIX",
            "-DROCKSDB_SUPPORT_THREAD_LOCAL",
            "-DROCKSDB_FALLOCATE_PRESENT",
            "-msse4.2",
            "-mpclmul",
        ],
        cxx: &["-std=c++20"],
        ..PLAIN
    },
    Code {
        name: "protobuf, abseil",
        from: From::Crate("protobuf-src", "2.1.1"),
        sources: &["protobuf/src", "protobuf/upb", "protobuf/third_party", "protobuf/upb_generator"],
        without: &["test", "mock", "benchmark"],
        flags: &[
            "-Iprotobuf/src",
            "-Iprotobuf",
            "-Iprotobuf/third_party/abseil-cpp",
            "-iquote",
            "@/protobuf/third_party/utf8_range",
            "-Iprotobuf/third_party/utf8_range",
            "-pthread",
        ],
        cxx: &["-std=c++17"],
        ..PLAIN
    },
    Code {
        name: "gRPC",
        from: From::Crate("grpcio-sys", "0.13.0"),
        sources: &[
            "grpc/src",
            "grpc/third_party/re2",
            "grpc/third_party/cares",
            "grpc/third_party/address_sorting",
        ],
        without: &["/windows/", "/php/", "/ruby/", "/objective-c/", "/csharp/", "/python/"],
        flags: &[
            "-Igrpc/include",
            "-Igrpc",
            "-Igrpc/third_party/abseil-cpp",
            "-Igrpc/third_party/re2",
            "-Igrpc/third_party/upb",
            "-Igrpc/third_party/utf8_range",
            "-Igrpc/third_party/xxhash",
            "-Igrpc/third_party/address_sorting/include",
            "-Igrpc/third_party/cares",
            "-Igrpc/third_party/cares/cares/include",
            "-Igrpc/third_party/cares/cares/src/lib",
            "-Igrpc/third_party/cares/config_linux",
            "-Igrpc/src/core/ext/upb-generated",
            "-Igrpc/src/core/ext/upbdefs-generated",
            "-I@/../libz-sys/src/zlib",
            "-I@/../../../boring-sys/vendor/boring-sys/deps/boringssl/include",
            "-DOSATOMIC_USE_INLINED=1",
            "-D_GNU_SOURCE",
            "-DHAVE_CONFIG_H",
        ],
        cxx: &["-std=c++17"],
        ..PLAIN
    },
    Code {
        name: "BoringSSL",
        from: From::Crate("boring-sys", "5.4.0"),
        sources: &["deps/boringssl"],
        without: &[
            "_test.cc",
            "/test/",
            "/fuzz/",
            "/tool/",
            "-win",
            "-apple",
            "armv8",
            "armv4",
            "armv7",
            "aarch64",
            "/arm/",
            "-x86-linux",
        ],
        flags: &["-Ideps/boringssl/include", "-DBORINGSSL_IMPLEMENTATION", "-Wa,--noexecstack"],
        cxx: &["-std=c++17", "-fno-exceptions", "-fno-rtti"],
        ..PLAIN
    },
    Code {
        name: "AWS-LC",
        from: From::Crate("aws-lc-sys", "0.47.0"),
        sources: &[
            "aws-lc/crypto",
            "aws-lc/ssl",
            "aws-lc/third_party/s2n-bignum/s2n-bignum-imported/x86_att",
            "aws-lc/third_party/jitterentropy",
            "aws-lc/generated-src/linux-x86_64",
            "aws-lc/generated-src/err_data.c",
        ],
        without: &["windows", "_test.c"],
        flags: &[
            "-Igenerated-include",
            "-Iaws-lc/include",
            "-Iaws-lc/third_party/s2n-bignum/s2n-bignum-imported/include",
            "-Iaws-lc/third_party/s2n-bignum",
            "-Iaws-lc/third_party/jitterentropy/jitterentropy-library",
            "-Iaws-lc/third_party/jitterentropy/jitterentropy-library/src",
            "-D_XOPEN_SOURCE=700",
            "-DBORINGSSL_IMPLEMENTATION=1",
            "-DS2N_BN_HIDE_SYMBOLS=1",
            "-std=c11",
        ],
        cxx: &["-std=c++14"],
        ..PLAIN
    },
    Code {
        name: "libgit2",
        from: From::Crate("libgit2-sys", "0.18.8"),
        sources: &["libgit2/src", "libgit2/deps/llhttp", "libgit2/deps/xdiff", "libgit2/deps/zlib"],
        without: &["win32"],
        flags: &[
            "-Ioracle",
            "-Ilibgit2/src/libgit2",
            "-Ilibgit2/src/util",
            "-Ilibgit2/include",
            "-Ilibgit2/deps/llhttp",
            "-Ilibgit2/deps/xdiff",
            "-Ilibgit2/deps/zlib",
            "-Ilibgit2/deps/ntlmclient",
            "-DSHA1DC_NO_STANDARD_INCLUDES=1",
            "-DSHA1DC_CUSTOM_INCLUDE_SHA1_C=\"common.h\"",
            "-DSHA1DC_CUSTOM_INCLUDE_UBC_CHECK_C=\"common.h\"",
            "-fvisibility=hidden",
        ],
        generated: &[(
            "oracle/git2_features.h",
            "#define GIT_THREADS 1\n#define GIT_TRACE 1\n#define GIT_HTTPPARSER_BUILTIN 1\n#define GIT_USE_NSEC 1\n\
             #define GIT_IO_POLL 1\n#define GIT_IO_SELECT 1\n#define GIT_USE_STAT_MTIM 1\n#define GIT_ARCH_64 1\n\
             #define GIT_SHA1_COLLISIONDETECT 1\n#define GIT_SHA256_BUILTIN 1\n#define GIT_REGEX_REGCOMP_L 1\n",
        )],
        ..PLAIN
    },
    Code {
        name: "LevelDB, snappy",
        from: From::Crate("leveldb-sys", "2.0.9"),
        sources: &["deps/leveldb-1.22"],
        without: &["windows"],
        flags: &[
            "-Ideps/leveldb-1.22",
            "-Ideps/leveldb-1.22/include",
            "-DLEVELDB_PLATFORM_POSIX=1",
            "-DLEVELDB_IS_BIG_ENDIAN=0",
        ],
        cxx: &["-std=c++11"],
        ..PLAIN
    },
    Code {
        name: "Lua",
        from: From::Crate("lua-src", "551.1.0"),
        sources: &["lua-5.1.5", "lua-5.2.4", "lua-5.3.6", "lua-5.4.9", "lua-5.5.1"],
        flags: &["-DLUA_USE_LINUX", "-ansi", "-D_GNU_SOURCE"],
        ..PLAIN
    },
    Code {
        name: "zstd",
        from: From::Crate("zstd-sys", "2.1.2"),
        sources: &["zstd/lib"],
        flags: &["-Izstd/lib", "-DZSTD_LEGACY_SUPPORT=1", "-std=c99"],
        ..PLAIN
    },
    Code {
        name: "SQLite",
        from: From::Crate("libsqlite3-sys", "0.39.1"),
        sources: &["sqlite3"],
        flags: &["-DSQLITE_CORE", "-DSQLITE_ENABLE_FTS5", "-DSQLITE_THREADSAFE=1"],
        ..PLAIN
    },
    Code {
        name: "FreeType",
        from: From::Crate("freetype-sys", "0.23.0"),
        sources: &["freetype2/src"],
        flags: &["-Ifreetype2/include", "-DFT2_BUILD_LIBRARY"],
        ..PLAIN
    },
    Code {
        name: "WebP",
        from: From::Crate("libwebp-sys", "0.14.4"),
        sources: &["vendor"],
        flags: &["-Ivendor", "-DWEBP_HAVE_SSE2=1", "-DWEBP_USE_THREAD", "-msse4.1"],
        ..PLAIN
    },
    Code {
        name: "Brotli",
        from: From::Crate("brotlic-sys", "0.2.2"),
        sources: &["brotli/c"],
        flags: &["-Ibrotli/c/include"],
        ..PLAIN
    },
    Code {
        name: "MozJPEG",
        from: From::Crate("mozjpeg-sys", "2.2.3"),
        sources: &["vendor"],
        without: &["/simd/", "/win/", "/java/"],
        flags: &["-Ioracle", "-Ivendor"],
        generated: &[
            ("oracle/jconfigint.h", JCONFIGINT),
            (
                "oracle/jconfig.h",
                "#define JPEG_LIB_VERSION 62\n#define BITS_IN_JSAMPLE 8\n#define MEM_SRCDST_SUPPORTED 1\n\
                 #define C_ARITH_CODING_SUPPORTED 1\n#define D_ARITH_CODING_SUPPORTED 1\n\
                 #define LIBJPEG_TURBO_VERSION 0\n#define LIBJPEG_TURBO_VERSION_NUMBER 0\n",
            ),
        ],
        ..PLAIN
    },
    Code {
        name: "Boost",
        from: From::Debian("libboost1.74-dev"),
        sources: &[
            "boost",
            "boost/preprocessor",
            "boost/mpl",
            "boost/fusion/include",
            "boost/math",
            "boost/asio",
        ],
        flags: &["-isystem", "@/usr/include"],
        cxx: &["-std=gnu++17"],
        headers: Some("usr/include"),
        ..PLAIN
    },
    Code {
        name: "libstdc++ 20",
        sources: &["", "experimental", "ext", "debug", "pstl", "parallel"],
        cxx: &["-std=c++20", "-fopenmp"],
        headers: Some("/usr/include/c++/?"),
        ..PLAIN
    },
];

const JCONFIGINT: &str = "#define BUILD \"\"\n#define INLINE inline\n#define THREAD_LOCAL __thread\n\
                          #define PACKAGE_NAME \"mozjpeg\"\n#define VERSION \"4\"\n#define SIZEOF_SIZE_T 8\n\
                          #define HAVE_BUILTIN_CTZL 1\n#define FALLTHROUGH\n#define HIDDEN\n";
