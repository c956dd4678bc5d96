//! Compares the scanner's lists with the compiler's own `-M`, source by source.
//!
//! `compare COMPILER LANGUAGE [FLAG…] -- SOURCE…` prints what is missing (a bug) and what is surplus, and sums up.
//! With `-` as the only source, the names are read from standard input. `BARN_HEADERS=1` takes every name for a header
//! to be included by an empty source.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "it looks at the real machine")]

#[path = "../tests/real/mod.rs"]
mod real;

use std::io::Read as _;

use barn_compilers::Language;
use barn_scanner::{Scanner, Undecided, Unit};
use real::{Compiler, RealDisk};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (program, rest) = arguments.split_first().expect("a compiler");
    let (language, rest) = rest.split_first().expect("a language");
    let split = rest.iter().position(|argument| argument == "--").expect("`--` before the sources");
    let flags: Vec<&str> = rest[..split].iter().map(String::as_str).collect();
    let language = match language.as_str() {
        "c" => Language::C,
        "c++" => Language::Cxx,
        "objective-c" => Language::ObjectiveC,
        "objective-c++" => Language::ObjectiveCxx,
        _ => Language::AssemblerWithCpp,
    };
    let mut sources = rest[split + 1..].to_vec();
    if sources == ["-"] {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).expect("names");
        sources = text.lines().map(str::to_owned).collect();
    }
    let cwd = std::env::current_dir().expect("a working directory");
    let compiler = Compiler::new(program, language, &flags, &cwd);
    let headers = std::env::var_os("BARN_HEADERS").is_some();
    let mut disk = RealDisk::new(&cwd);
    let scanner = Scanner::default();
    let mut unit = compiler.unit("");
    let mut counts = Counts::default();
    for source in &sources {
        unit.source = source.clone().into_bytes();
        unit.includes.clear();
        if headers {
            unit.source = b"/dev/null".to_vec();
            unit.includes.push(source.clone().into_bytes());
        }
        compare(&compiler, &scanner, &mut unit, &mut disk, source, &mut counts);
    }
    println!(
        "{} equal, {} missing, {} surplus, {} undecided, {} compiler failed (of which {} scanned); {} rounds",
        counts.equal,
        counts.missing,
        counts.surplus,
        counts.undecided,
        counts.failed,
        counts.hopeful,
        counts.asked
    );
    assert_eq!(counts.missing, 0, "files are missing");
}

#[derive(Default)]
struct Counts {
    equal: usize,
    missing: usize,
    surplus: usize,
    undecided: usize,
    failed: usize,
    hopeful: usize,
    asked: usize,
}

fn compare(
    compiler: &Compiler,
    scanner: &Scanner,
    unit: &mut Unit,
    disk: &mut RealDisk,
    source: &str,
    counts: &mut Counts,
) {
    let (result, asked) = compiler.scan(scanner, unit, disk);
    counts.asked += asked;
    let listed = compiler.listed(unit);
    match (result, listed) {
        (Ok(scan), Some(listed)) => {
            let opened = compiler.opened(&scan);
            let missing: Vec<_> = listed.difference(&opened).collect();
            let surplus: Vec<_> = opened.difference(&listed).collect();
            counts.missing += usize::from(!missing.is_empty());
            counts.surplus += usize::from(!surplus.is_empty());
            counts.equal += usize::from(missing.is_empty() && surplus.is_empty());
            if !missing.is_empty() || !surplus.is_empty() {
                println!("{source}: missing {missing:?}, surplus {surplus:?}");
            }
        }
        (Ok(_), None) => {
            counts.failed += 1;
            counts.hopeful += 1;
        }
        (Err(reason), Some(_)) => {
            counts.undecided += 1;
            let reason = match reason {
                Undecided::Ask(questions) => format!("asks again: {:?}", questions.first()),
                reason => reason.to_string(),
            };
            println!("{source}: {reason}");
        }
        (Err(_), None) => counts.failed += 1,
    }
}
