//! Colour and width of diagnostics.
//!
//! A compiler asks its own standard error whether to colour. Under barn that is a pipe, or another
//! machine, so the question is answered here and the answer said with a flag. The flag is part of the
//! argv that is run, so colour states have different keys.
//!
//! What the flag does not carry: gcc's hyperlinks (its `-fdiagnostics-urls=` would show in
//! `DW_AT_producer`), and the width of the terminal, at which gcc cuts quoted source lines.

use crate::detect::Family;
use crate::environment::Environment;

/// What the command line itself says about colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColorRule {
    /// Colour whatever standard error is.
    Always,
    /// No colour.
    Never,
    /// Colour on a terminal, which is also the default.
    Auto,
}

/// Terminals that terminfo gives colours, of those in use. clang asks terminfo; gcc asks nobody.
const COLOR_TERMS: &[&str] = &["alacritty", "ansi", "cygwin", "linux"];
const COLOR_TERM_PREFIXES: &[&str] =
    &["foot", "konsole", "putty", "rxvt", "screen", "tmux", "vte", "wezterm", "xterm"];

/// Whether the compiler would colour its diagnostics on a terminal.
pub fn colors_on_terminal(family: Family, env: &Environment) -> bool {
    let Some(term) = env.get(b"TERM".as_slice()) else {
        return false;
    };
    let set = |name: &str| env.get(name.as_bytes()).is_some_and(|value| !value.is_empty());
    match family {
        Family::Gcc => {
            let off = env.get(b"GCC_COLORS".as_slice()).is_some_and(Vec::is_empty);
            term != b"dumb" && !off
        }
        Family::Clang => terminal_has_colors(term) && !set("NO_COLOR"),
        _ => false,
    }
}

/// The flag that says "colour" whatever standard error is.
pub fn color_flag(family: Family) -> &'static [u8] {
    match family {
        Family::Clang => b"-fcolor-diagnostics",
        _ => b"-fdiagnostics-color=always",
    }
}

/// The flag for clang's line width on a terminal, which clang takes from `COLUMNS` alone.
pub fn width_flag(family: Family, env: &Environment) -> Option<Vec<u8>> {
    let columns = env.get(b"COLUMNS".as_slice())?;
    let digits = !columns.is_empty() && columns.len() < 6 && columns.iter().all(u8::is_ascii_digit);
    let useful = family == Family::Clang && digits && columns.iter().any(|&digit| digit != b'0');
    useful.then(|| [b"-fmessage-length=".as_slice(), columns].concat())
}

fn terminal_has_colors(term: &[u8]) -> bool {
    COLOR_TERMS.iter().any(|name| name.as_bytes() == term)
        || COLOR_TERM_PREFIXES.iter().any(|prefix| term.starts_with(prefix.as_bytes()))
        || term.ends_with(b"color")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
    }

    fn check(pairs: &[(&str, &str)], gcc: bool, clang: bool) {
        assert_eq!(colors_on_terminal(Family::Gcc, &env(pairs)), gcc, "gcc {pairs:?}");
        assert_eq!(colors_on_terminal(Family::Clang, &env(pairs)), clang, "clang {pairs:?}");
    }

    #[test]
    fn terminals() {
        check(&[], false, false);
        check(&[("TERM", "dumb")], false, false);
        check(&[("TERM", "")], true, false);
        check(&[("TERM", "vt100")], true, false);
        check(&[("TERM", "xterm-256color")], true, true);
        check(&[("TERM", "linux")], true, true);
        check(&[("TERM", "xterm"), ("GCC_COLORS", "")], false, true);
        check(&[("TERM", "xterm"), ("GCC_COLORS", "error=01;31")], true, true);
        check(&[("TERM", "xterm"), ("NO_COLOR", "1")], true, false);
    }

    #[test]
    fn clang_takes_its_width_from_columns() {
        let flag = |family, columns: &str| width_flag(family, &env(&[("COLUMNS", columns)]));
        assert_eq!(flag(Family::Clang, "60"), Some(b"-fmessage-length=60".to_vec()));
        assert_eq!(flag(Family::Gcc, "60"), None);
        for columns in ["", "0", "-3", "x", "9999999"] {
            assert_eq!(flag(Family::Clang, columns), None, "{columns}");
        }
    }
}
