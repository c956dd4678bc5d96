//! In which language and character set a compiler speaks, and whether it can speak so elsewhere.
//!
//! gcc and the assembler print translated messages and, in a UTF-8 locale, curly quotes. A toolchain carries the
//! small `C.UTF-8` locale and no other: the archives of all locales are megabytes and differ between machines. Most
//! users have another name set, such as `en_US.UTF-8`; without translations installed for it, the compiler writes
//! the same bytes under `C.UTF-8`. [`Locales::elsewhere`] finds out whether that is so here. clang knows no
//! locales at all.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    sync::Mutex,
};

use barn_compilers::Family;

use super::{probe, stamp::Witnesses, walk::path_of};

/// The parts of the `C.UTF-8` locale that gcc and the assembler load.
pub(super) const UTF8_FILES: [&str; 2] =
    ["/usr/lib/locale/C.utf8/LC_CTYPE", "/usr/lib/locale/C.utf8/LC_MESSAGES/SYS_LC_MESSAGES"];
/// Where translations are installed besides below the compiler's own prefix.
const CATALOGUE_DIRECTORIES: [&str; 3] =
    ["/usr/share/locale", "/usr/share/locale-langpack", "/usr/local/share/locale"];
/// How the names of the catalogues begin that a gcc compile reads; versions and packagers append to them.
const CATALOGUES: [&str; 7] = ["gcc", "cpplib", "gas", "bfd", "opcodes", "binutils", "libc"];
/// Where installed locales are; changes when one is added.
const LOCALE_PLACES: [&str; 2] = ["/usr/lib/locale", "/usr/lib/locale/locale-archive"];
/// The variables that decide, in the order of [`Settings`]'s fields.
const VARIABLES: [&str; 5] = ["LC_ALL", "LC_CTYPE", "LC_MESSAGES", "LANG", "LANGUAGE"];
/// Most combinations of settings remembered; a machine has one or two in use.
const REMEMBERED_MAX: usize = 64;
/// Most files looked at in one directory of catalogues; a full desktop has about a thousand.
const DIRECTORY_ENTRIES_MAX: usize = 65_536;

/// Variables that change what the dynamic loader or the C library loads, and do not travel. For `LD_LIBRARY_PATH` see
/// [`super::library_path`].
const LOADER_VARIABLES: [&str; 6] =
    ["LD_PRELOAD", "LD_AUDIT", "LOCPATH", "GCONV_PATH", "OUTPUT_CHARSET", "NLSPATH"];

/// The environment of a compile, as it was called.
pub type Environment = BTreeMap<Vec<u8>, Vec<u8>>;

/// The locale under which the sandboxed compiler prints what the local one would print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elsewhere {
    /// Plain ASCII messages.
    C,
    /// English messages with curly quotes.
    Utf8,
}

/// Why the compiler speaks here as it could not elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocaleError {
    /// The name is no `language_TERRITORY.charset`.
    #[error("locale {0} has an unusual name")]
    Name(String),
    /// Messages are translated.
    #[error("messages are translated by {0}")]
    Translated(PathBuf),
    /// Neither ASCII nor UTF-8.
    #[error("locale {0} has character set {1}")]
    Charset(String, String),
    /// The character set of the locale could not be found out.
    #[error("character set of locale {0} is not known")]
    Unknown(String),
    /// The machine has no `C.UTF-8`, so no toolchain carries it.
    #[error("locale C.UTF-8 is not installed")]
    NoUtf8,
}

/// Whether a toolchain carries the locale of this name: none, `C`, `POSIX`, or `C.UTF-8` in any spelling.
pub fn supports_locale(value: &[u8]) -> bool {
    is_plain(value) || is_plain_utf8(value)
}

/// The name of the first variable, set and not empty, that makes the loader or the C library load other files than
/// those of the toolchain.
pub fn loader_obstacle(environment: &Environment) -> Option<&'static str> {
    LOADER_VARIABLES.into_iter().find(|name| environment.get(name.as_bytes()).is_some_and(|v| !v.is_empty()))
}

impl Elsewhere {
    /// Replaces the locale variables of `environment` by the one that stands for them.
    pub fn apply(self, environment: &mut Environment) {
        environment.retain(|name, _| !VARIABLES.iter().any(|known| known.as_bytes() == name.as_slice()));
        let value = match self {
            Self::C => "C",
            Self::Utf8 => "C.UTF-8",
        };
        environment.insert(b"LC_ALL".to_vec(), value.into());
    }
}

/// Answers about locales, remembered as long as the files they rest on stay the same.
#[derive(Debug, Default)]
pub struct Locales(Mutex<HashMap<(Settings, PathBuf), Remembered>>);

#[derive(Debug, Clone)]
struct Remembered {
    answer: Result<Elsewhere, LocaleError>,
    seen: Witnesses,
}

impl Locales {
    /// The locale for a compile with this environment by the compiler at `program`. The first answer for a locale
    /// starts a process; later ones take microseconds.
    ///
    /// # Errors
    /// When no locale of the toolchain gives the same messages.
    pub fn elsewhere(
        &self,
        family: Family,
        program: &Path,
        environment: &Environment,
    ) -> Result<Elsewhere, LocaleError> {
        if family == Family::Clang {
            return Ok(Elsewhere::C);
        }
        let settings = Settings::from_environment(environment);
        if is_plain(&settings.ctype) && is_plain(&settings.messages) {
            return Ok(Elsewhere::C);
        }
        // Translations lie beside the real program.
        let program = program.canonicalize().unwrap_or_else(|_| program.to_owned());
        let key = (settings, program);
        let mut remembered = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(there) = remembered.get(&key)
            && there.seen.hold()
        {
            return there.answer.clone();
        }
        let mut seen = Witnesses::default();
        let answer = key.0.elsewhere(&key.1, &mut seen);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(key, Remembered { answer: answer.clone(), seen });
        answer
    }
}

/// The names in force.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Settings {
    ctype: Vec<u8>,
    messages: Vec<u8>,
    languages: Vec<u8>,
}

impl Settings {
    fn from_environment(environment: &Environment) -> Self {
        let value = |name: &str| environment.get(name.as_bytes()).filter(|value| !value.is_empty());
        let first = |own: &str| {
            [VARIABLES[0], own, VARIABLES[3]].into_iter().find_map(value).cloned().unwrap_or_default()
        };
        Self {
            ctype: first(VARIABLES[1]),
            messages: first(VARIABLES[2]),
            languages: value(VARIABLES[4]).cloned().unwrap_or_default(),
        }
    }

    fn elsewhere(&self, program: &Path, seen: &mut Witnesses) -> Result<Elsewhere, LocaleError> {
        self.check_untranslated(program, seen)?;
        for place in LOCALE_PLACES.into_iter().chain(UTF8_FILES) {
            // What cannot be looked at is as good as absent.
            let _ = seen.note(Path::new(place));
        }
        if is_plain(&self.ctype) {
            return Ok(Elsewhere::C);
        }
        let name = String::from_utf8_lossy(&self.ctype).into_owned();
        match charset(&self.ctype).map_err(|_| LocaleError::Unknown(name.clone()))?.as_str() {
            "ANSI_X3.4-1968" => Ok(Elsewhere::C),
            "UTF-8" if UTF8_FILES.iter().all(|file| Path::new(file).is_file()) => Ok(Elsewhere::Utf8),
            "UTF-8" => Err(LocaleError::NoUtf8),
            other => Err(LocaleError::Charset(name, other.to_owned())),
        }
    }

    fn check_untranslated(&self, program: &Path, seen: &mut Witnesses) -> Result<(), LocaleError> {
        // `LANGUAGE` counts in every locale but the plain one.
        if is_plain(&self.messages) {
            return Ok(());
        }
        let listed = self.languages.split(|&b| b == b':').filter(|name| !name.is_empty());
        for name in listed.chain([self.messages.as_slice()]).filter(|name| !supports_locale(name)) {
            let text = || String::from_utf8_lossy(name).into_owned();
            let variants = variants(name).ok_or_else(|| LocaleError::Name(text()))?;
            for variant in variants {
                if let Some(catalogue) = find_catalogue(program, &variant, seen) {
                    return Err(LocaleError::Translated(catalogue));
                }
            }
        }
        Ok(())
    }
}

fn is_plain(value: &[u8]) -> bool {
    matches!(value, b"" | b"C" | b"POSIX")
}

fn is_plain_utf8(value: &[u8]) -> bool {
    matches!(value, b"C.UTF-8" | b"C.utf8" | b"C.UTF8" | b"C.utf-8")
}

/// The directory names under which gettext looks for translations into a locale of this name: with and without
/// territory, character set and modifier.
fn variants(name: &[u8]) -> Option<BTreeSet<String>> {
    let name = std::str::from_utf8(name).ok()?;
    let (rest, modifier) = split_off(name, '@');
    let (rest, charset) = split_off(rest, '.');
    let (language, territory) = split_off(rest, '_');
    let lower = language.bytes().all(|b| b.is_ascii_lowercase());
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let odd = [territory, charset, modifier].into_iter().flatten().any(|part| !plain(part));
    if !lower || !(2..=3).contains(&language.len()) || odd {
        return None;
    }
    let normal = charset.map(|set| set.to_ascii_lowercase().replace('-', ""));
    let mut all = BTreeSet::new();
    for territory in [None, territory] {
        for charset in [None, charset, normal.as_deref()] {
            for modifier in [None, modifier] {
                let part = |mark, part: Option<&str>| part.map(|p| format!("{mark}{p}")).unwrap_or_default();
                let (territory, charset) = (part('_', territory), part('.', charset));
                all.insert(format!("{language}{territory}{charset}{}", part('@', modifier)));
            }
        }
    }
    Some(all)
}

fn split_off(text: &str, mark: char) -> (&str, Option<&str>) {
    text.split_once(mark).map_or((text, None), |(before, after)| (before, Some(after)))
}

fn find_catalogue(program: &Path, variant: &str, seen: &mut Witnesses) -> Option<PathBuf> {
    // `PREFIX/bin/gcc` has its translations in `PREFIX/share/locale`.
    let own = program.parent().and_then(Path::parent).map(|prefix| prefix.join("share/locale"));
    let directories = CATALOGUE_DIRECTORIES.into_iter().map(PathBuf::from).chain(own);
    directories.into_iter().find_map(|directory| {
        let directory = directory.join(variant).join("LC_MESSAGES");
        let _ = seen.note(&directory);
        // What is absent or unreadable here is so for the compiler as well.
        fs::read_dir(&directory)
            .ok()?
            .take(DIRECTORY_ENTRIES_MAX)
            .filter_map(Result::ok)
            .find(|entry| is_catalogue(&entry.file_name(), variant))
            .map(|entry| entry.path())
    })
}

fn is_catalogue(file: &OsStr, variant: &str) -> bool {
    let Some(name) = file.to_str().and_then(|file| file.strip_suffix(".mo")) else { return false };
    // English of another territory changes spellings in the C library that no compiler prints.
    let english = variant.starts_with("en");
    CATALOGUES.into_iter().filter(|catalogue| !(english && *catalogue == "libc")).any(|catalogue| {
        name == catalogue || name.strip_prefix(catalogue).is_some_and(|v| v.starts_with('-'))
    })
}

/// The character set of a locale on this machine; that of plain C if it is not installed.
fn charset(name: &[u8]) -> io::Result<String> {
    let path = "/usr/bin/locale";
    let assignment = [b"LC_ALL=", name].concat();
    let args = [path_of(&assignment), path.into(), "charmap".into()];
    let args: Vec<&OsStr> = args.iter().map(|arg| arg.as_os_str()).collect();
    let answer = probe::ask(Path::new("/usr/bin/env"), &args, OsStr::new("/usr/bin:/bin"))?;
    let line = answer.line().ok_or_else(|| io::Error::other("no answer"))?;
    Ok(String::from_utf8_lossy(line).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[track_caller]
    fn check(pairs: &[(&str, &str)], expect: Result<Elsewhere, LocaleError>) {
        let program = Path::new("/usr/bin/x86_64-linux-gnu-gcc-12");
        assert_eq!(Locales::default().elsewhere(Family::Gcc, program, &env(pairs)), expect, "{pairs:?}");
    }

    #[test]
    fn the_locales_of_a_toolchain() {
        for name in ["", "C", "POSIX", "C.UTF-8", "C.utf8"] {
            assert!(supports_locale(name.as_bytes()), "{name}");
        }
        for name in ["de_DE.UTF-8", "en_US.UTF-8", "C.ISO-8859-1", "german"] {
            assert!(!supports_locale(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn what_the_variables_come_to() {
        check(&[], Ok(Elsewhere::C));
        check(&[("LANG", "C.UTF-8")], Ok(Elsewhere::Utf8));
        check(&[("LC_ALL", "C"), ("LANG", "C.UTF-8")], Ok(Elsewhere::C));
        check(&[("LC_ALL", ""), ("LANG", "C.UTF-8")], Ok(Elsewhere::Utf8));
        check(&[("LC_MESSAGES", "C"), ("LC_CTYPE", "C.UTF-8")], Ok(Elsewhere::Utf8));
        check(&[("LANG", "german")], Err(LocaleError::Name("german".into())));
        // A locale that is nowhere installed is the plain one.
        check(&[("LANG", "tlh_QO.UTF-8")], Ok(Elsewhere::C));
    }

    #[test]
    fn a_translation_beside_the_compiler_keeps_it_here() {
        let prefix = tempfile::tempdir().unwrap();
        let catalogues = prefix.path().join("share/locale/tlh/LC_MESSAGES");
        fs::create_dir_all(&catalogues).unwrap();
        let program = prefix.path().join("bin/gcc");
        let locales = Locales::default();
        let ask = |language: &str| {
            let environment = env(&[("LANG", "C.UTF-8"), ("LANGUAGE", language)]);
            locales.elsewhere(Family::Gcc, &program, &environment)
        };
        assert_eq!(ask("tlh_QO:qq"), Ok(Elsewhere::Utf8));
        let catalogue = catalogues.join("gcc-12.mo");
        fs::write(&catalogue, "").unwrap();
        assert_eq!(ask("tlh_QO:qq"), Err(LocaleError::Translated(catalogue)), "the memory must notice");
        assert_eq!(ask("qq"), Ok(Elsewhere::Utf8));
        let link = prefix.path().join("cc");
        fs::create_dir(prefix.path().join("bin")).unwrap();
        fs::write(&program, "").unwrap();
        std::os::unix::fs::symlink(&program, &link).unwrap();
        let environment = env(&[("LANG", "C.UTF-8"), ("LANGUAGE", "tlh_QO")]);
        assert!(
            locales.elsewhere(Family::Gcc, &link, &environment).is_err(),
            "a link has the same translations"
        );
    }

    #[test]
    fn directories_gettext_looks_in() {
        let all: Vec<_> = variants(b"de_AT.UTF-8@euro").unwrap().into_iter().collect();
        for expect in ["de", "de_AT", "de.utf8", "de_AT.UTF-8@euro", "de@euro"] {
            assert!(all.iter().any(|variant| variant == expect), "{expect}");
        }
        assert_eq!(all.len(), 12);
        for odd in ["", "deutsch", "de/..", "de_DE/x", "DE", "\u{e9}t"] {
            assert_eq!(variants(odd.as_bytes()), None, "{odd}");
        }
        assert!(is_catalogue(OsStr::new("gcc-12.mo"), "de"));
        assert!(is_catalogue(OsStr::new("libc.mo"), "de"));
        assert!(!is_catalogue(OsStr::new("libc.mo"), "en_GB"));
        assert!(!is_catalogue(OsStr::new("gccfoo.mo"), "de"));
        assert!(!is_catalogue(OsStr::new("gcc.po"), "de"));
    }

    #[test]
    fn clang_speaks_the_same_everywhere() {
        let german = env(&[("LANG", "de_DE.UTF-8")]);
        assert_eq!(Locales::default().elsewhere(Family::Clang, Path::new("/c"), &german), Ok(Elsewhere::C));
    }

    #[test]
    fn one_variable_stands_for_all() {
        let mut environment = env(&[("LANG", "x"), ("LANGUAGE", "y"), ("LC_CTYPE", "z"), ("CPATH", "/i")]);
        Elsewhere::Utf8.apply(&mut environment);
        assert_eq!(environment, env(&[("LC_ALL", "C.UTF-8"), ("CPATH", "/i")]));
    }

    #[test]
    fn variables_of_the_loader_do_not_travel() {
        assert_eq!(loader_obstacle(&env(&[("LD_PRELOAD", "/x")])), Some("LD_PRELOAD"));
        assert_eq!(loader_obstacle(&env(&[("LD_PRELOAD", ""), ("LANG", "C")])), None);
    }
}
