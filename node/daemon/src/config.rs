//! `barn.toml`: what an owner may set. Every setting has a default that is right for an office machine.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;

pub use crate::trust::Trust;

/// The port a node tries first, for TCP (control) and UDP (data) alike.
pub const PORT_DEFAULT: u16 = 7117;
/// Size limit of the store unless set: a few full builds of a large C++ project.
pub const CACHE_SIZE_DEFAULT: Size = Size(20 << 30);

/// The settings of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What this machine is called in the mesh; the host name unless set.
    pub name: Option<String>,
    /// How it is reached.
    pub network: Network,
    /// What it lends.
    pub worker: Worker,
    /// What it keeps.
    pub cache: Cache,
    /// What other tools' caches may use of it.
    pub http_cache: HttpCache,
    /// Archives that stand in for compilers.
    pub toolchain: Vec<ToolchainSetting>,
}

/// Section `[network]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// The port for TCP and UDP. When not set, the first free one from 7117 on.
    pub port: Option<u16>,
    /// Whether to find and be found by multicast DNS.
    pub mdns: bool,
    /// Addresses of other nodes, for networks without multicast.
    pub peers: Vec<SocketAddr>,
}

impl Default for Network {
    fn default() -> Self {
        Self { port: None, mdns: true, peers: Vec::new() }
    }
}

/// Section `[worker]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    /// How many compiles of others to run at once; all cores unless set, 0 lends nothing.
    pub slots: Option<u32>,
    /// Most memory one of them may use, in MiB; 4096 unless set.
    pub memory_mib: Option<u64>,
    /// The uid and gid a node started as root gives to compiles of others.
    pub sandbox_uid: Option<u32>,
    /// Whether files of toolchains are taken from this machine where it has them; yes unless set.
    pub adopt_toolchains: Option<bool>,
}

/// Section `[cache]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// Size limit.
    pub size: Option<Size>,
    /// What of the office's cache is used.
    pub share: Share,
    /// Whose results are believed.
    pub trust: Trust,
}

/// A number of bytes as people write it: `20G`, `1.5 GiB`, `500M`. With an `i` the units are powers of 1024, without one
/// of 1000, as with ccache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Size(u64);

impl Size {
    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no size: write \"20G\", \"1.5 GiB\" or \"500M\"");
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let unit = unit.trim_start().to_ascii_lowercase();
        let power = match unit.strip_suffix('b').unwrap_or(&unit) {
            "" if number == 0.0 => 0,
            "k" | "ki" => 1,
            "m" | "mi" => 2,
            "g" | "gi" => 3,
            "t" | "ti" => 4,
            _ => return Err(wrong()),
        };
        let base: f64 = if unit.contains('i') { 1024.0 } else { 1000.0 };
        // Beyond 2^64 it is as good as no limit, and so is 2^64.
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the conversion saturates"
        )]
        Ok(Self((number * base.powi(power)) as u64))
    }
}

/// What of the office's cache a machine uses. Whatever it is, the machine keeps what others give it to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// Looks up what others made, and lets them have its own.
    #[default]
    Both,
    /// Looks up only.
    Read,
    /// Lets others have its own only.
    Write,
    /// Neither.
    Off,
}

impl Share {
    /// Whether others' results are looked up.
    pub fn reads(self) -> bool {
        matches!(self, Self::Both | Self::Read)
    }

    /// Whether others are told of this machine's results.
    pub fn writes(self) -> bool {
        matches!(self, Self::Both | Self::Write)
    }
}

/// Section `[http_cache]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpCache {
    /// Where the HTTP cache endpoint listens; nowhere unless set.
    pub listen: Option<LoopbackAddr>,
}

/// An address that only this machine reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SocketAddr")]
pub struct LoopbackAddr(SocketAddr);

impl LoopbackAddr {
    /// The address.
    pub const fn get(self) -> SocketAddr {
        self.0
    }
}

impl TryFrom<SocketAddr> for LoopbackAddr {
    type Error = String;

    fn try_from(address: SocketAddr) -> Result<Self, String> {
        if address.ip().is_loopback() {
            Ok(Self(address))
        } else {
            Err(format!("`listen` is not a loopback address: {address}"))
        }
    }
}

/// Section `[[toolchain]]`: an archive that stands in for a compiler of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolchainSetting {
    /// The compiler as it is called here.
    pub compiler: CompilerName,
    /// What runs on other machines in its place.
    pub archive: ArchiveName,
}

/// A compiler by the path that is called, or by its file name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum CompilerName {
    /// This one alone, without `.` in its path. It goes before a name.
    Path(PathBuf),
    /// Every one that is called so.
    Name(String),
}

/// A toolchain by the file it is in, or by the name or digest of an imported one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum ArchiveName {
    /// An archive.
    File(PathBuf),
    /// The beginning of a name or digest of a toolchain that was imported or fetched.
    Toolchain(String),
}

impl TryFrom<String> for CompilerName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match by_path(text, "compiler")? {
            Ok(path) => Ok(Self::Path(path)),
            Err(name) => Ok(Self::Name(name)),
        }
    }
}

impl TryFrom<String> for ArchiveName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match by_path(text, "archive")? {
            Ok(path) => Ok(Self::File(path)),
            Err(name) => Ok(Self::Toolchain(name)),
        }
    }
}

impl std::fmt::Display for CompilerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl std::fmt::Display for ArchiveName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Toolchain(name) => f.write_str(name),
        }
    }
}

/// What has a slash is a path, which must not depend on where the node was started.
fn by_path(text: String, setting: &str) -> Result<Result<PathBuf, String>, String> {
    if text.is_empty() {
        return Err(format!("`{setting}` is empty"));
    }
    if !text.contains('/') {
        return Ok(Err(text));
    }
    let path: PathBuf = Path::new(&text).components().collect();
    if path.is_absolute() { Ok(Ok(path)) } else { Err(format!("`{setting}` is a relative path: {text}")) }
}

/// A settings file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not valid.
    #[error("{path} is not valid: {message}\nhint: docs/configuration.md lists every setting")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        message: String,
    },
}

impl Config {
    /// Reads the file at `path`; a missing file gives the defaults.
    ///
    /// # Errors
    /// When the file is there but unreadable or invalid; an unknown setting is invalid.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                Self::parse(&text).map_err(|message| ConfigError::Invalid { path: path.to_owned(), message })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ConfigError::Io { path: path.to_owned(), source }),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text)
            .map_err(|error| {
                let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
                format!("line {line}: {}", error.message())
            })
            .and_then(Self::unambiguous)
    }

    /// Refuses two archives for one compiler.
    fn unambiguous(self) -> Result<Self, String> {
        let compilers: Vec<&CompilerName> = self.toolchain.iter().map(|setting| &setting.compiler).collect();
        let twice = compilers.iter().enumerate().find(|(at, compiler)| compilers[..*at].contains(compiler));
        match twice {
            Some((_, compiler)) => Err(format!("two [[toolchain]] sections are for {compiler}")),
            None => Ok(self),
        }
    }

    /// The store's size limit in bytes.
    pub fn cache_bytes_max(&self) -> u64 {
        self.cache.size.unwrap_or(CACHE_SIZE_DEFAULT).bytes()
    }

    /// This machine's name in the mesh.
    pub fn node_name(&self) -> String {
        let host = || nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
        let name = self.name.clone().or_else(|| host().ok()).unwrap_or_default();
        barn_protocol::roster::clean_name(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_typing_errors_named() {
        let config = Config::parse("[network]\nport = 9000\npeers = [\"10.0.0.2:7117\"]\n").unwrap();
        assert_eq!(config.network.port, Some(9000));
        assert!(config.network.mdns);
        assert_eq!(Config::parse("").unwrap(), Config::default());
        let config = Config::parse("[worker]\nadopt_toolchains = false\n").unwrap();
        assert_eq!(config.worker.adopt_toolchains, Some(false));
        let cache = Config::parse("[cache]\nshare = \"read\"\ntrust = \"publishers\"\n").unwrap().cache;
        assert_eq!((cache.share, cache.trust), (Share::Read, Trust::Publishers));
        let trust = |value: &str| Config::parse(&format!("[cache]\ntrust = {value}\n"));
        let names = vec!["ci-1".to_owned(), "ci-2".to_owned()];
        for (value, expect) in [
            (r#"{ workers = ["ci-1", "ci-2"] }"#, Trust::Named(names.clone())),
            (r#""workers:ci-1,ci-2""#, Trust::Named(names)),
            ("{ agree = 3 }", Trust::Agree(3)),
            (r#""workers""#, Trust::Workers),
        ] {
            assert_eq!(trust(value).unwrap().cache.trust, expect, "{value}");
        }
        for wrong in
            [r#""all""#, "{ agree = 1 }", "{ workers = [] }", "{ agree = 2, workers = [\"a\"] }", "3"]
        {
            assert!(trust(wrong).unwrap_err().starts_with("line 2: "), "{wrong}");
        }
        let error = Config::parse("\n\n[worker]\nslot = 3\n").unwrap_err();
        assert!(error.starts_with("line 4: unknown field `slot`"), "{error}");
    }

    #[test]
    fn sizes_are_read_with_their_units() {
        let check = |text: &str, expected: Option<u64>| {
            let found = Config::parse(&format!("[cache]\nsize = \"{text}\"\n"));
            match (found, expected) {
                (Ok(config), Some(bytes)) => assert_eq!(config.cache_bytes_max(), bytes, "{text}"),
                (Err(error), None) => assert!(error.contains("is no size: write \"20G\""), "{error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        };
        check("20G", Some(20_000_000_000));
        check("20 GiB", Some(20 << 30));
        check("1.5Gi", Some(3 << 29));
        check("500M", Some(500_000_000));
        check("64 kib", Some(64 << 10));
        check("2TB", Some(2_000_000_000_000));
        check("0", Some(0));
        check("99999999999T", Some(u64::MAX));
        for wrong in ["", "20", "G", "-1G", "1e3G", "20X", "2 0G", "1.2.3G", "20iG", "GB 20", "20 GiBi"] {
            check(wrong, None);
        }
        assert_eq!(Config::default().cache_bytes_max(), 20 << 30);
    }

    #[test]
    fn the_endpoint_is_off_unless_asked_for_and_never_on_the_network() {
        let check = |text: &str, expected: Result<Option<&str>, &str>| {
            let found = Config::parse(text).map(|config| config.http_cache.listen.map(LoopbackAddr::get));
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected.map(|text| text.parse().unwrap())),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        };
        check("", Ok(None));
        check("[http_cache]\n", Ok(None));
        let section = |address: &str| format!("[http_cache]\nlisten = \"{address}\"\n");
        check(&section("127.0.0.1:7118"), Ok(Some("127.0.0.1:7118")));
        check(&section("[::1]:7118"), Ok(Some("[::1]:7118")));
        for outside in ["0.0.0.0:7118", "10.0.0.5:7118", "[::]:7118"] {
            check(&section(outside), Err("line 2: `listen` is not a loopback address"));
        }
        check(&section("localhost:7118"), Err("line 2"));
        check("[http_cache]\nport = 7118\n", Err("unknown field `port`"));
    }

    #[test]
    fn archives_for_compilers_are_read_and_mistakes_named() {
        let check = |text: &str, expected: Result<(&str, &str), &str>| match (Config::parse(text), expected) {
            (Ok(config), Ok(row)) => {
                let setting = &config.toolchain[0];
                let shown = (format!("{:?}", setting.compiler), format!("{:?}", setting.archive));
                assert_eq!((shown.0.as_str(), shown.1.as_str()), row);
            }
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
            (found, _) => panic!("{text}: {found:?}"),
        };
        let section = |compiler: &str, archive: &str| {
            format!("[[toolchain]]\ncompiler = \"{compiler}\"\narchive = \"{archive}\"\n")
        };
        check(&section("gcc", "/a/./x.tgz"), Ok((r#"Name("gcc")"#, r#"File("/a/x.tgz")"#)));
        check(&section("/opt/cc", "gcc 12"), Ok((r#"Path("/opt/cc")"#, r#"Toolchain("gcc 12")"#)));
        check(&section("bin/gcc", "x"), Err("`compiler` is a relative path"));
        check(&section("gcc", "./x.tgz"), Err("line 3: `archive` is a relative path: ./x.tgz"));
        check(&section("gcc", ""), Err("`archive` is empty"));
        check("[[toolchain]]\ncompiler = \"gcc\"\n", Err("missing field `archive`"));
        check(
            &[section("gcc", "a"), section("gcc", "b")].concat(),
            Err("two [[toolchain]] sections are for gcc"),
        );
    }

    #[test]
    fn the_reference_page_lists_every_variable_and_setting() {
        let page = include_str!("../../../docs/configuration.md");
        for variable in barn_wrapper::env_vars::ALL {
            let row = format!("| `{}` | {} | {} |", variable.name, variable.values, variable.meaning);
            assert!(page.contains(&row), "docs/configuration.md lacks the row {row}");
        }
        for setting in [
            "name",
            "network.port",
            "network.mdns",
            "network.peers",
            "worker.slots",
            "worker.memory_mib",
            "worker.sandbox_uid",
            "worker.adopt_toolchains",
            "cache.size",
            "http_cache.listen",
            "cache.share",
            "cache.trust",
            "toolchain.compiler",
            "toolchain.archive",
        ] {
            assert!(page.contains(&format!("| `{setting}` |")), "docs/configuration.md lacks {setting}");
        }
    }
}
