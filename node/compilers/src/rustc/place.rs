//! The target directory that a call of cargo's works in, as the one thing that differs between two builds of a published crate.
//!
//! A crate of a registry or of git is compiled in its own directory, from its own sources; of the target directory it is told where
//! to write and where its dependencies lie. Here are the words that tell it, and how they read in another target directory.
//! Whatever names the directory in any other way is not understood, and then the call has no other place. `docs/rust.md` has the
//! argument why the result is the same.

use memchr::memmem;

use super::RustCompile;
use crate::environment::Environment;

/// Options whose next argument names directories and files that cargo keeps in the target directory.
const OPTIONS: [&[u8]; 3] = [b"--extern", b"--out-dir", b"-L"];
/// What makes an output tell how directories lie to each other, or hides names in what is compressed, or leaves out of the key
/// where the state is.
const REFUSED: [&[u8]; 3] = [b"compress-debug", b"rpath", b"-Cincremental"];
/// Code that is not made yet, but for its names: packed by the bit.
const BITCODE: &[u8] = b"linker-plugin-lto";
/// How metadata begin, without their version.
const METADATA: &[u8] = b"rust\0\0\0";
/// The variable that is a list of directories.
const LIBRARY_PATH: &[u8] = b"LD_LIBRARY_PATH";
/// How rustc announces a file.
const ARTIFACT: &[u8] = br#"{"$message_type":"artifact","artifact":""#;
/// Bytes of names that nothing quotes, beside letters and digits.
const PLAIN: &[u8] = b"/._-+@%,~";
/// Stands for any target directory. Cargo's has no such name, for it is not plain.
const NOWHERE: &[u8] = b"/\x01target";

/// A target directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(Vec<u8>);

impl Place {
    /// The target directory of a call, if it writes where cargo writes, with a plain absolute name, and the name shows in nothing but
    /// what is understood.
    pub fn of(compile: &RustCompile) -> Option<Self> {
        let list = &compile.outputs.get(compile.dep_info)?.path;
        let directory = &list[..list.iter().rposition(|&byte| byte == b'/')?];
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || PLAIN.contains(byte);
        if !directory.iter().all(is_plain) || !is_normal(directory) {
            return None;
        }
        if compile.key_args.iter().any(|arg| REFUSED.iter().any(|word| holds(arg, word))) {
            return None;
        }
        let mut parts: Vec<&[u8]> = directory.split(|&byte| byte == b'/').collect();
        let unit = parts.iter().rposition(|part| matches!(*part, b"build" | b"deps" | b"examples"))?;
        // The profile's directory is above, and above it may be the target's.
        parts.truncate(unit.checked_sub(1)?);
        if parts.last().is_some_and(|part| Some(*part) == target(&compile.key_args)) {
            parts.pop();
        }
        (parts.len() > 1).then(|| Self(parts.join(&b'/')))
    }

    /// Stands for all target directories.
    pub fn nowhere() -> Self {
        Self(NOWHERE.to_vec())
    }

    /// Its path.
    pub fn path(&self) -> &[u8] {
        &self.0
    }

    /// Whether its name occurs.
    pub fn shows_in(&self, bytes: &[u8]) -> bool {
        holds(bytes, &self.0)
    }

    /// Whether a path lies in it, or it in the path.
    pub fn is_beside(&self, path: &[u8]) -> bool {
        !is_below(path, &self.0) && !is_below(&self.0, path)
    }

    /// A path in the other place if it lies in this one; `None` if one of their names shows in it otherwise.
    pub fn moved_path(&self, path: &[u8], to: &Self) -> Option<Vec<u8>> {
        match path.strip_prefix(self.0.as_slice()).filter(|_| is_below(path, &self.0)) {
            Some(rest) => (is_normal(path) && !self.shows_in(rest)).then(|| [&to.0, rest].concat()),
            None => (!self.shows_in(path) && !to.shows_in(path)).then(|| path.to_vec()),
        }
    }

    /// The arguments of a call in the other place.
    pub fn moved_args(&self, args: &[Vec<u8>], to: &Self) -> Option<Vec<Vec<u8>>> {
        let mut before: &[u8] = b"";
        let mut moved = Vec::with_capacity(args.len());
        for arg in args {
            // `-L dependency=PATH`, `--extern name=PATH`
            let at = arg.iter().position(|&byte| byte == b'=').map_or(0, |at| at + 1);
            moved.push(match OPTIONS.contains(&before) {
                true => [&arg[..at], &self.moved_path(&arg[at..], to)?].concat(),
                false if self.shows_in(arg) || to.shows_in(arg) => return None,
                false => arg.clone(),
            });
            before = arg;
        }
        Some(moved)
    }

    /// The variables of a call in the other place: whole paths, and the list of directories with libraries.
    pub fn moved_env(&self, env: &Environment, to: &Self) -> Option<Environment> {
        let moved = |(name, value): (&Vec<u8>, &Vec<u8>)| {
            let value = match name.as_slice() == LIBRARY_PATH {
                true => {
                    let paths = value.split(|&byte| byte == b':').map(|path| self.moved_path(path, to));
                    paths.collect::<Option<Vec<_>>>()?.join(&b':')
                }
                false => self.moved_path(value, to)?,
            };
            Some((name.clone(), value))
        };
        env.iter().map(moved).collect()
    }

    /// A dependency list that names outputs in this place, and nothing else in it, as it is in the other one.
    pub fn moved_list(&self, text: &[u8], to: &Self) -> Option<Vec<u8>> {
        self.moved_lines(text, b"", to)
    }

    /// Messages that announce outputs in this place, and say nothing else, as they are in the other one.
    pub fn moved_messages(&self, text: &[u8], to: &Self) -> Option<Vec<u8>> {
        let is_announced = |line: &[u8]| line.is_empty() || line.starts_with(ARTIFACT);
        if !text.split(|&byte| byte == b'\n').all(is_announced) {
            return None;
        }
        self.moved_lines(text, ARTIFACT, to)
    }

    /// Replaces the place where a line begins with it, after `prefix`.
    fn moved_lines(&self, text: &[u8], prefix: &[u8], to: &Self) -> Option<Vec<u8>> {
        let here = [prefix, &self.0, b"/"].concat();
        let there = [prefix, &to.0, b"/"].concat();
        let mut moved = Vec::with_capacity(text.len());
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            let (begin, rest) = match line.strip_prefix(here.as_slice()) {
                Some(rest) => (there.as_slice(), rest),
                None => (&b""[..], line),
            };
            if self.shows_in(rest) || to.shows_in(rest) {
                return None;
            }
            moved.extend_from_slice(begin);
            moved.extend_from_slice(rest);
        }
        Some(moved)
    }
}

/// Whether what a call writes can be searched for names: the code that macros write may name what it likes.
pub fn can_be_searched(compile: &RustCompile, macros_run: bool) -> bool {
    !macros_run || !compile.key_args.iter().any(|arg| holds(arg, BITCODE))
}

/// Whether the metadata in a plug-in or a linked library can be searched. Older compilers compress them there: then what follows the
/// head, eight bytes and eight of length, does not begin with a head again.
pub fn has_plain_metadata(library: &[u8]) -> bool {
    let mut heads = memmem::find_iter(library, METADATA);
    heads.any(|at| library.get(at + 16..).is_some_and(|inner| inner.starts_with(METADATA)))
}

/// The name of the target's directory.
fn target(args: &[Vec<u8>]) -> Option<&[u8]> {
    let joined = args.iter().find_map(|arg| arg.strip_prefix(b"--target="));
    let value = joined.or_else(|| {
        let at = args.iter().position(|arg| arg == b"--target")?;
        args.get(at + 1).map(Vec::as_slice)
    })?;
    let name = value.rsplit(|&byte| byte == b'/').next()?;
    Some(name.strip_suffix(b".json").unwrap_or(name))
}

fn holds(bytes: &[u8], name: &[u8]) -> bool {
    memmem::find(bytes, name).is_some()
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}

/// Whether a path is absolute and has no part that leads back or nowhere. A slash at its end is such a part.
fn is_normal(path: &[u8]) -> bool {
    let mut parts = path.split(|&byte| byte == b'/');
    parts.next() == Some(b"") && parts.all(|part| !matches!(part, b"" | b"." | b".."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rustc::{RustFile, RustOutput};

    fn compile(list: &str, args: &[&str]) -> RustCompile {
        RustCompile {
            crate_name: Vec::new(),
            kinds: Vec::new(),
            source: Vec::new(),
            outputs: vec![RustOutput { path: list.into(), kind: RustFile::List }],
            dep_info: 0,
            externs: Vec::new(),
            search: Vec::new(),
            extra_inputs: Vec::new(),
            linker: None,
            bundles: false,
            key_args: args.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
            presentation: Vec::new(),
            env: Environment::new(),
        }
    }

    fn place(path: &str) -> Place {
        Place(path.as_bytes().to_vec())
    }

    fn text(bytes: Option<Vec<u8>>) -> Option<String> {
        bytes.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn where_cargo_writes() {
        let check = |list: &str, args: &[&str], expect: Option<&str>| {
            assert_eq!(Place::of(&compile(list, args)), expect.map(place), "{list}");
        };
        check("/w/target/debug/deps/x-0.d", &[], Some("/w/target"));
        check("/w/target/debug/build/x-0/build_script_build-0.d", &[], Some("/w/target"));
        check("/build/t/release/examples/x.d", &[], Some("/build/t"));
        check("/t/arm/debug/deps/x.d", &["--target", "arm"], Some("/t"));
        check("/t/arm/debug/deps/x.d", &["--target=specs/arm.json"], Some("/t"));
        check("/t/arm/debug/deps/x.d", &[], Some("/t/arm"));
        check("/debug/deps/x.d", &[], None);
        check("target/debug/deps/x.d", &[], None);
        check("/w/o/x.d", &[], None);
        check("/w/a b/debug/deps/x.d", &[], None);
        check("/w/../debug/deps/x.d", &[], None);
        check("/w/target/debug/deps/x.d", &["-C", "rpath"], None);
        check("/w/target/debug/deps/x.d", &["-Cincremental"], None);
    }

    #[test]
    fn compressed_metadata() {
        assert!(has_plain_metadata(b"ELF..rust\0\0\0..rust\0\0\0\n\x09\0\0\0\0\0\0\0rust\0\0\0\n."));
        assert!(!has_plain_metadata(b"ELF..rust\0\0\0\x08\x09\0\0\0\0\0\0\0\x20\x7crust\0\0\0\n."));
        assert!(!has_plain_metadata(b"ELF..rust\0\0\0\n"));
    }

    #[test]
    fn arguments_in_another_place() {
        let check = |args: &str, expect: Option<&str>| {
            let words = |text: &str| text.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
            assert_eq!(place("/t").moved_args(&words(args), &place("/o/p")), expect.map(words), "{args}");
        };
        check(
            "rustc --out-dir /t/d/deps -L dependency=/t/d/deps",
            Some("rustc --out-dir /o/p/d/deps -L dependency=/o/p/d/deps"),
        );
        check(
            "--extern priv:a=/t/liba.rlib -L native=/usr/lib",
            Some("--extern priv:a=/o/p/liba.rlib -L native=/usr/lib"),
        );
        check("-L /t -C opt-level=3", Some("-L /o/p -C opt-level=3"));
        check("--cfg x=/t/y", None);
        check("-C link-arg=/t/y", None);
        check("-L native=/usr/t/x", None);
        check("-L native=/t/../x", None);
        check("-L native=/o/p/x", None);
    }

    #[test]
    fn variables_in_another_place() {
        let check = |name: &str, value: &str, expect: Option<&str>| {
            let env = |value: &str| Environment::from([(name.into(), value.into())]);
            assert_eq!(place("/t").moved_env(&env(value), &place("/o")), expect.map(env), "{name}={value}");
        };
        check("OUT_DIR", "/t/build/x/out", Some("/o/build/x/out"));
        check("LD_LIBRARY_PATH", "/t/d:/lib:/t", Some("/o/d:/lib:/o"));
        check("CARGO_PKG_NAME", "x", Some("x"));
        check("CARGO_PKG_NAME", "from:/t/x", None);
        check("LD_LIBRARY_PATH", "/t/d:/usr/t", None);
    }

    #[test]
    fn lists_and_messages_in_another_place() {
        let (here, there) = (place("/t"), place("/o"));
        let list = |list: &str| text(here.moved_list(list.as_bytes(), &there));
        assert_eq!(list("/t/x.d: /c/x.rs\n\n/c/x.rs:\n").as_deref(), Some("/o/x.d: /c/x.rs\n\n/c/x.rs:\n"));
        assert_eq!(list("/t/x.d: /t/gen.rs\n"), None);
        assert_eq!(list("/t/x.d: /c/x.rs\n# env-dep:OUT_DIR=/t/out\n"), None);
        assert_eq!(list("/t/x.d: /o/x.rs\n"), None);
        let said = |said: &str| text(here.moved_messages(said.as_bytes(), &there));
        let artifact = |path: &str| {
            format!("{{\"$message_type\":\"artifact\",\"artifact\":\"{path}\",\"emit\":\"link\"}}\n")
        };
        assert_eq!(said(&artifact("/t/x")), Some(artifact("/o/x")));
        assert_eq!(said(""), Some(String::new()));
        assert_eq!(said(&format!("{}warning\n", artifact("/t/x"))), None);
        let all = Place::nowhere();
        let neutral = here.moved_messages(artifact("/t/x").as_bytes(), &all).unwrap();
        assert_eq!(text(all.moved_messages(&neutral, &there)), Some(artifact("/o/x")));
    }
}
