//! Random conditions and macros, judged by the compilers.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "it looks at the real machine")]

mod real;

use barn_compilers::Language;
use barn_scanner::{Scanner, Text, Undecided};
use proptest::prelude::*;
use real::{Compiler, RealDisk};

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (0_u64..20).prop_map(|number| number.to_string()),
        (0_u64..4).prop_map(|number| format!("{number}u")),
        any::<u64>().prop_map(|number| format!("{number}u")),
        any::<u32>().prop_map(|number| format!("{number:#x}")),
        Just("A".to_owned()),
        Just("B".to_owned()),
        Just("F(A)".to_owned()),
        Just("F".to_owned()),
        Just("defined A".to_owned()),
        Just("defined(C)".to_owned()),
        Just("'c'".to_owned()),
    ];
    leaf.prop_recursive(5, 40, 3, |inner| {
        let binary = prop::sample::select(vec![
            "+", "-", "*", "&", "|", "^", "&&", "||", "==", "!=", "<", ">", "<=", ">=",
        ]);
        prop_oneof![
            (inner.clone(), binary, inner.clone())
                .prop_map(|(a, operator, b)| format!("({a} {operator} {b})")),
            (
                inner.clone(),
                prop::sample::select(vec![
                    "/ 3",
                    "% 7",
                    "/ -2",
                    "<< 3",
                    ">> 2",
                    "* 2 + 1",
                    "- 1",
                    "<< -3",
                    ">> -2",
                    "<< 64",
                    ">> 70",
                    "<< 4294967298",
                    ">> 4294967298",
                ])
            )
                .prop_map(|(a, operator)| format!("({a}) {operator}")),
            (prop::sample::select(vec!["!", "~", "-", "+"]), inner.clone())
                .prop_map(|(op, a)| format!("{op} {a}")),
            (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
        ]
    })
}

/// Names and macros that call each other, pasted and made strings of.
fn macros() -> impl Strategy<Value = (String, String)> {
    let token = prop::sample::select(vec![
        "a", "b", "c", "f(a)", "g(b)", "f(g(c))", "h(a, b)", "1", "f", "g ( a )", "x",
    ]);
    let body = prop::collection::vec(token.clone(), 0..4).prop_map(|tokens| tokens.join(" "));
    let with = |params: &'static [&'static str]| {
        let all: Vec<&str> =
            [params, &["a", "b", "f(x)", "g", "h(x, c)", "x ## x", "x ## a", "1", "f"]].concat();
        prop::collection::vec(prop::sample::select(all), 0..5).prop_map(|tokens| tokens.join(" "))
    };
    (
        body.clone(),
        body,
        with(&["x"]),
        with(&["x"]),
        with(&["x", "y", "x ## y", "#y", "__VA_ARGS__"]),
        prop::collection::vec(token, 1..4),
    )
        .prop_map(|(a, b, f, g, h, used)| {
            let h = h.replace("__VA_ARGS__", "y");
            let text = format!(
                "#define a {a}\n#define b {b}\n#define f(x) {f}\n#define g(x) {g}\n#define h(x, y) {h}\n\
                 #define S_(...) #__VA_ARGS__\n#define S(...) S_(__VA_ARGS__)\n"
            );
            (text, used.join(" "))
        })
}

/// The name that the compiler says it does not find.
fn missed(program: &str, messages: &str) -> Option<String> {
    if program == "gcc" {
        let line = messages.lines().find(|line| line.contains("fatal error: "))?;
        return Some(
            line.split_once("fatal error: ")?.1.strip_suffix(": No such file or directory")?.to_owned(),
        );
    }
    let line = messages.lines().find(|line| line.ends_with("' file not found"))?;
    Some(line.split_once("fatal error: '")?.1.strip_suffix("' file not found")?.to_owned())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn conditions(expressions in prop::collection::vec(expression(), 60)) {
        let dir = tempfile::tempdir().unwrap();
        let mut source = "#define A 5\n#define B (-3)\n#define F(x) ((x) + 1)\n".to_owned();
        for (at, expression) in expressions.iter().enumerate() {
            source += &format!("#if {expression}\n#include \"{at}.h\"\n#endif\n");
            std::fs::write(dir.path().join(format!("{at}.h")), "").unwrap();
        }
        std::fs::write(dir.path().join("a.c"), &source).unwrap();
        for program in ["gcc", "clang"] {
            let compiler = Compiler::new(program, Language::C, &["-w"], dir.path());
            let mut unit = compiler.unit("a.c");
            let listed = compiler.listed(&unit);
            let scan = compiler.scan(&Scanner::default(), &mut unit, &mut RealDisk::new(dir.path())).0;
            match (listed, scan) {
                (Some(listed), Ok(scan)) => prop_assert_eq!(compiler.opened(&scan), listed, "{} {}", program, source),
                (None, Err(_)) => {}
                (listed, scan) => prop_assert!(false, "{program}: {listed:?} {scan:?} {source}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn expansions((defines, used) in macros()) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.c"), format!("{defines}#include S({used}.h)\n")).unwrap();
        for program in ["gcc", "clang"] {
            let compiler = Compiler::new(program, Language::C, &["-w", "-nostdinc"], dir.path());
            let mut unit = compiler.unit("a.c");
            let (_, _, messages) = compiler.run(&["-fsyntax-only", "a.c"], b"");
            let messages = String::from_utf8_lossy(&messages).into_owned();
            let scan = compiler.scan(&Scanner::default(), &mut unit, &mut RealDisk::new(dir.path())).0;
            let expected = missed(program, &messages).filter(|_| !messages.contains(": error: "));
            match scan {
                Err(Undecided::Missing { name, .. }) => {
                    // Which blanks are kept beside what expands to nothing is not followed.
                    let expected = expected.map(|name| name.replace(' ', ""));
                    prop_assert_eq!(Some(name), expected, "{} {} {}", program, defines, used);
                }
                Err(Undecided::Unsupported(_)) => {}
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}

proptest! {
    #[test]
    fn texts_never_panic(contents: Vec<u8>) {
        let text = Text::parse(&contents);
        prop_assert_eq!(Text::decode(&text.encode()), Some(text));
    }

    #[test]
    fn soup_never_panics(parts in prop::collection::vec(
        prop::sample::select(vec![
            "#", "%:", "include", "define", " ", "if", "ifdef", "elif", "else", "endif", "\n", "\\\n", "\"", "'", "R\"x(",
            ")x\"", "/*", "*/", "//", "<", ">", "(", ")", ",", "##", "...", "_Pragma(", "push_macro", "once", "pragma",
            "__has_include(", "defined", "!", "1'", "a", "\r", "??/",
        ]), 0..60)) {
        let text = Text::parse(parts.concat().as_bytes());
        prop_assert_eq!(Text::decode(&text.encode()), Some(text));
    }

    #[test]
    fn damage_is_found(contents in "[#a-z \n<>()]{0,80}", at: prop::sample::Index, bit in 0..8_u32) {
        let mut bytes = Text::parse(contents.as_bytes()).encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert_eq!(Text::decode(&bytes), None);
        prop_assert_eq!(Text::decode(&bytes[..at]), None);
    }
}
