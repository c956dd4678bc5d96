//! What a source or header asks of the file system, found by its text.
//!
//! The scan ignores the state of `#if`: it reports what any configuration could ask for. It lexes comments,
//! strings, raw strings and numbers so that it looks for directives only where a compiler would, and
//! errs towards reporting too much. It is not a preprocessor; [`Directives`] says where one is needed
//! (`computed_*`) and where no list of includes can be complete (`incbin`, `modules` …).
//!
//! Not seen: names that only token pasting spells out, other than `incbin` pasted from two words, and words that the
//! assembler's own macros put together. Such a compile fails on a worker, where the file is missing; compiled here it is
//! kept, and a change of that file is not noticed.

mod lex;

use lex::Lexer;

/// How an include names its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// `"name"`: searched beside the including file first.
    Quote,
    /// `<name>`.
    Angle,
}

/// What asks for the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IncludeKind {
    /// `#include`
    Include,
    /// `#include_next`
    IncludeNext,
    /// `#import`
    Import,
    /// `__has_include(…)`
    HasInclude,
    /// `__has_include_next(…)`
    HasIncludeNext,
    /// `#embed` and `__has_embed(…)`
    Embed,
}

/// One file asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Include {
    /// What asks for it.
    pub kind: IncludeKind,
    /// How it is named.
    pub form: Form,
    /// The name between the quotes or angle brackets.
    pub name: Vec<u8>,
}

/// What one file's text asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// Files included, or probed for, in order.
    pub includes: Vec<Include>,
    /// Files named by `#line` and linemarkers. gcc quotes them in warnings, if it finds them from the
    /// working directory.
    pub line_files: Vec<Vec<u8>>,
    /// An `#include`, `#import` or `#embed` of a macro.
    pub computed_include: bool,
    /// A `__has_include` or `__has_embed` of something other than a literal name.
    pub computed_probe: bool,
    /// The word `incbin` in code or in (concatenated) strings: the assembler may read a file.
    pub incbin: bool,
    /// `.include "…"` in assembly or in strings: the assembler may read a file.
    pub assembler_include: bool,
    /// `#embed` or `__has_embed`.
    pub embed: bool,
    /// `__DATE__`, `__TIME__` or `__TIMESTAMP__` as a token.
    pub time_macros: bool,
    /// `#pragma GCC dependency`, which compares the times of files.
    pub pragma_dependency: bool,
    /// A pragma of precompiled headers.
    pub pragma_pch: bool,
    /// C++20 `import`, `export import`, `module`, `export module`, or a clang module pragma. In a file that is
    /// not C++ only the pragma means anything.
    pub modules: bool,
    /// Objective-C's `@import`.
    pub module_import: bool,
    /// Trigraphs, which may spell directives and splices that the scan does not see.
    pub trigraphs: bool,
}

/// Scans the content of one file.
///
/// Linear in its length: about 4 MB in 15 ms.
pub fn scan(content: &[u8]) -> Directives {
    let spliced = lex::splice(content);
    let mut lexer = Lexer::new(&spliced);
    lexer.run();
    let mut found = lexer.found;
    found.trigraphs = lex::has_trigraphs(content);
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `includes` in short: `"x` or `<x`, with `?` for probes, `+` for include_next, `*` for embed.
    fn check(content: &str, includes: &[&str], flags: &str) {
        let found = scan(content.as_bytes());
        let short = |include: &Include| {
            let mark = match include.kind {
                IncludeKind::Include | IncludeKind::Import => "",
                IncludeKind::IncludeNext => "+",
                IncludeKind::HasInclude => "?",
                IncludeKind::HasIncludeNext => "?+",
                IncludeKind::Embed => "*",
            };
            let open = if include.form == Form::Quote { '"' } else { '<' };
            format!("{mark}{open}{}", String::from_utf8_lossy(&include.name))
        };
        let shown: Vec<String> = found.includes.iter().map(short).collect();
        assert_eq!(shown, includes, "{content}");
        let set = [
            (found.computed_include, "computed"),
            (found.computed_probe, "probe"),
            (found.incbin, "incbin"),
            (found.assembler_include, "asm"),
            (found.embed, "embed"),
            (found.time_macros, "time"),
            (found.pragma_dependency, "dependency"),
            (found.pragma_pch, "pch"),
            (found.modules, "modules"),
            (found.module_import, "@import"),
            (found.trigraphs, "trigraphs"),
        ];
        let set: Vec<&str> = set.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        assert_eq!(set.join(" "), flags, "{content}");
    }

    #[test]
    fn includes() {
        check("#include <a.h>\n#include \"b c.h\"\n", &["<a.h", "\"b c.h"], "");
        check("  #  include\t<a.h> // x\n%: include \"b.h\"", &["<a.h", "\"b.h"], "");
        check("#include_next <a.h>\n#import \"b.h\"\n", &["+<a.h", "\"b.h"], "");
        check("/* x */ # /* y */ include /* z */ <a.h>", &["<a.h"], "");
        check("#if 0\n#include <off.h>\n#endif", &["<off.h"], "");
        check("#inc\\\nlude <a\\\n.h>\n", &["<a.h"], "");
        check("#include \\\r\n <a.h>\r\n", &["<a.h"], "");
        check("#include \"a\\b.h\"\n", &["\"a\\b.h"], "");
        check("#include MACRO\n", &[], "computed");
        check("#include MACRO(<x.h>)\n", &[], "computed");
        check("#include <unterminated\n", &[], "computed");
        check("int a; #include <no.h>\n", &[], "");
        check("a #include <no.h>\n#define X #include <no.h>\n", &[], "");
        check("#ifdef include\n#define include <x>\n", &[], "");
    }

    #[test]
    fn comments_and_strings_hide() {
        check("/*\n#include <no.h>\n*/\n#include <a.h>", &["<a.h"], "");
        check("// \\\n#include <no.h>\n#include <a.h>", &["<a.h"], "");
        check("const char *s = \"/*\";\n#include <a.h>\n// */", &["<a.h"], "");
        check("char c = '\"'; /* \"\n#include <no.h> */\n#include <a.h>", &["<a.h"], "");
        check("const char *s = R\"x(\n#include <no.h>\n)\" )x\";\n#include <a.h>", &["<a.h"], "");
        check("u8R\"(\n#include <no.h>\n)\"\n#include <a.h>", &["<a.h"], "");
        check("fooR\"(\n#include <a.h>\n)\"", &["<a.h"], "");
        check("R\"(no end\n#include <a.h>\n", &["<a.h"], "");
        check("int x = 1'000'000; /*'*/\n#include <a.h>", &["<a.h"], "");
        check("#error don't /* stop\n#include <a.h>\n", &["<a.h"], "");
        check("\"a\\\"/*\"\n#include <a.h>\n", &["<a.h"], "");
        check("/* no end\n#include <no.h>", &[], "");
        check("x = a / b / c;\n#include <a.h>", &["<a.h"], "");
    }

    #[test]
    fn probes() {
        check("#if __has_include(<a.h>) && __has_include( \"b.h\" )\n", &["?<a.h", "?\"b.h"], "");
        check("#if defined(__has_include)\n#ifdef __has_include\n#endif\n", &[], "");
        check("#if defined __has_include && __has_include (<a.h>)\n", &["?<a.h"], "");
        check("#if __has_include_next(<a.h>)\n", &["?+<a.h"], "");
        check("#define HAS(x) __has_include(x)\n", &[], "probe");
        check("#if __has_include(MACRO)\n", &[], "probe");
        check("#embed <d.bin> limit(4)\n#if __has_embed(\"e.bin\")\n", &["*<d.bin", "*\"e.bin"], "embed");
        check("#embed MACRO\n", &[], "computed embed");
    }

    #[test]
    fn assembler_files() {
        check("asm(\".incbin \\\"x\\\"\");", &[], "incbin");
        check("asm(\".inc\" \"bin \\\"x\\\"\");", &[], "incbin");
        check("asm(\".inc\" /* c */\n \"BIN x\");", &[], "incbin");
        check("asm(R\"(.incbin \"x\")\");", &[], "incbin");
        check("  .incbin \"x\"\n", &[], "incbin");
        check("#define P inc ## bin\n", &[], "incbin");
        check(r#"asm("\56\151ncbin x");"#, &[], "incbin");
        check(r#"asm(".incbi" "\x6e x");"#, &[], "incbin");
        check(r#"asm("\u002eincbi\U0000006e x");"#, &[], "incbin");
        check(r#"asm(".incbi\\x6e \"\n");"#, &[], "");
        check("// .incbin\n/* .incbin */\n", &[], "");
        check("f(\".inc\", \"bin\");", &[], "");
        check(".include \"x.inc\"\n", &[], "asm");
        check("asm(\".include \\\"x\\\"\");", &[], "asm");
        check("cfg.include = 1; p->include(\"x\");", &[], "");
    }

    #[test]
    fn what_depends_on_more_than_files() {
        check("puts(__DATE__ __TIME__);", &[], "time");
        check("#define NOW __TIMESTAMP__\n", &[], "time");
        check("puts(\"__DATE__\"); // __TIME__\nint x__DATE__;", &[], "");
        check("#pragma GCC dependency \"x.y\"\n", &[], "dependency");
        check("_Pragma(\"GCC dependency \\\"x\\\"\")\n", &[], "dependency");
        check("#pragma GCC pch_preprocess \"x.gch\"\n", &[], "pch");
        check("#pragma once\n#pragma GCC system_header\n#pragma omp parallel\n", &[], "");
        check("#pragma clang module import x\n", &[], "modules");
        check("??=include <a.h>\n", &[], "trigraphs");
        check("what??(really)", &[], "trigraphs");
        check("what?? really??\n", &[], "");
    }

    #[test]
    fn modules() {
        for content in [
            "import std;",
            "export module a.b;",
            "module;",
            "module a:part;",
            "  import <vector>;\n",
            "import \"x.h\";",
            "export import :part;",
            "export import <x>;",
            "module : private;",
        ] {
            check(content, &[], "modules");
        }
        for content in
            ["import = 3;", "int module;", "module *m;", "export class X;", "imports x;", "x import y;"]
        {
            check(content, &[], "");
        }
        check("@import Foundation;", &[], "@import");
    }

    #[test]
    fn line_directives_name_files() {
        let found = scan(b"#line 3 \"foo.y\"\n# 12 \"bar.c\" 1\n#line 7\n# 9\n#line MACRO\n");
        assert_eq!(found.line_files, [b"foo.y".to_vec(), b"bar.c".to_vec()]);
        assert!(found.includes.is_empty());
    }

    /// Squared, these would take minutes.
    #[test]
    fn hostile_text_takes_linear_time() {
        for unit in ["1'", "R\"x(", "\"\" /**/ ", "a ## ", "/*", "__has_include(", "\\\n", "\\ ", "import\n"]
        {
            let _ = scan(unit.repeat(300_000).as_bytes());
        }
    }

    proptest! {
        #[test]
        fn scanning_never_panics(content: Vec<u8>) {
            let _ = scan(&content);
        }

        #[test]
        fn soup_never_panics(parts in proptest::collection::vec(
            prop_oneof![
                Just("#"), Just("%:"), Just("include"), Just("\""), Just("'"), Just("R\"x("), Just(")x\""), Just("/*"),
                Just("*/"), Just("//"), Just("\\\n"), Just("\n"), Just("<"), Just(">"), Just("__has_include("),
                Just("incbin"), Just("."), Just(" "), Just("_Pragma("), Just("##"), Just("1'"), Just("\\"),
            ], 0..40)) {
            let _ = scan(parts.concat().as_bytes());
        }

        /// A directive on a line of its own after anything closed is found.
        #[test]
        fn a_plain_include_is_found(before in "[ -~\n]{0,60}") {
            let hides = before.contains("/*") || before.contains("//") || before.contains("R\"")
                || before.contains('\\') || before.contains("??");
            prop_assume!(!hides);
            let content = format!("{before}\n#include <found.h>\n");
            let wanted = Include { kind: IncludeKind::Include, form: Form::Angle, name: b"found.h".to_vec() };
            prop_assert!(scan(content.as_bytes()).includes.contains(&wanted));
        }
    }
}
