//! What of a dialect changes how text is read.

use barn_compilers::{Language, detect::Family};

use crate::dialect::Dialect;

/// The habits of one compiler under one set of flags, as far as they matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Mode {
    pub(crate) clang: bool,
    pub(crate) cxx: bool,
    /// Modules: `import` begins a directive.
    pub(crate) modules: bool,
    /// `true` is 1 in conditions.
    pub(crate) knows_true: bool,
    /// There are raw strings.
    pub(crate) raw_strings: bool,
    /// Digits may be separated by `'`.
    pub(crate) separators: bool,
    /// `#elifdef` is a directive.
    pub(crate) elifdef: bool,
    /// `#embed` is a directive.
    pub(crate) embed: bool,
    pub(crate) unsigned_char: bool,
    /// Wide characters are unsigned.
    pub(crate) unsigned_wide: bool,
    /// There are comments from `//` to the end of the line.
    pub(crate) line_comments: bool,
    /// `%:` is `#`.
    pub(crate) digraphs: bool,
    pub(crate) assembler: bool,
    /// A file not found through the search list that asks for the next one gets what any other would.
    pub(crate) next_starts_over: bool,
}

impl Mode {
    pub(crate) fn of(dialect: &Dialect) -> Self {
        let number = |name: &str| dialect.macro_text(name.as_bytes()).map_or(0, leading_number);
        let has = |name: &str| dialect.macro_text(name.as_bytes()).is_some();
        let clang = dialect.family == Family::Clang;
        let cxx = matches!(dialect.language, Language::Cxx | Language::ObjectiveCxx);
        let c = matches!(dialect.language, Language::C | Language::ObjectiveC);
        let (cplusplus, stdc) = (number("__cplusplus"), number("__STDC_VERSION__"));
        let strict = has("__STRICT_ANSI__");
        let c23 = c && stdc >= 202_000;
        let newest = c23 || (cxx && cplusplus > 202_002);
        Self {
            clang,
            cxx,
            modules: cxx && cplusplus > 201_703,
            knows_true: cxx || (c && stdc >= 202_311),
            raw_strings: (cxx && (cplusplus >= 201_103 || has("__GXX_EXPERIMENTAL_CXX0X__")))
                || (c && !clang && !strict && stdc >= 199_901),
            separators: (cxx && cplusplus > 201_103) || c23,
            elifdef: clang || !strict || newest,
            embed: has("__STDC_EMBED_FOUND__"),
            unsigned_char: has("__CHAR_UNSIGNED__"),
            unsigned_wide: dialect
                .macro_text(b"__WCHAR_TYPE__")
                .is_none_or(|text| text != b"int" && text != b"long int"),
            line_comments: !c || !strict || stdc >= 199_901,
            digraphs: cxx || (c && (!strict || stdc >= 199_409)),
            assembler: dialect.language == Language::AssemblerWithCpp,
            next_starts_over: !clang || number("__clang_major__") < NEXT_CHANGED,
        }
    }
}

/// The major version of clang from which on an `#include_next` in a file found otherwise than through the search list
/// is not understood here.
const NEXT_CHANGED: u64 = 15;

fn leading_number(text: &[u8]) -> u64 {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number: u64, &digit| number.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
}
