//! Measures scans: `bench COMPILER LANGUAGE [FLAG…] -- SOURCE…`.
//!
//! Every source is scanned cold (texts parsed, nothing remembered), again, and then after all the others. Files are
//! looked up in a table in memory, as the node does.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "it looks at the real machine and its clock"
)]

#[path = "../tests/real/mod.rs"]
mod real;

use std::time::Instant;

use barn_compilers::Language;
use barn_scanner::Scanner;
use real::{Compiler, RealDisk};

const ROUNDS: u32 = 50;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let split = arguments.iter().position(|argument| argument == "--").expect("`--` before the sources");
    let flags: Vec<&str> = arguments[2..split].iter().map(String::as_str).collect();
    let language = if arguments[1] == "c" { Language::C } else { Language::Cxx };
    let cwd = std::env::current_dir().expect("a working directory");
    let compiler = Compiler::new(&arguments[0], language, &flags, &cwd);
    let mut disk = RealDisk::new(&cwd);
    let shared = Scanner::default();
    let mut unit = compiler.unit("");
    let mut units = Vec::new();
    for source in &arguments[split + 1..] {
        unit.source = source.clone().into_bytes();
        let scanner = Scanner::default();
        let (result, rounds) = compiler.scan(&scanner, &mut unit, &mut disk);
        let scan = match result {
            Ok(scan) => scan,
            Err(error) => {
                println!("{source}: {error}");
                continue;
            }
        };
        let fresh = Scanner::default();
        let cold = time(1, || drop(fresh.scan(&unit, &mut disk)));
        let warm = time(ROUNDS, || drop(scanner.scan(&unit, &mut disk)));
        let looked = disk.looked;
        let among = time(1, || drop(shared.scan(&unit, &mut disk)));
        println!(
            "{source}: {} opened, {} probed, {} absent, {} look-ups; asked {rounds} times; cold {cold:.0} µs, warm {warm:.0} µs, \
             first after the others {among:.0} µs",
            scan.opened.len(),
            scan.probed.len(),
            scan.absent.len(),
            disk.looked - looked,
        );
        units.push(unit.clone());
    }
    let all = time(5, || {
        for unit in &units {
            drop(shared.scan(unit, &mut disk));
        }
    });
    println!("all {} again: {:.0} µs each", units.len(), all / units.len().max(1) as f64);
}

/// Microseconds of one run, of `rounds`.
fn time(rounds: u32, mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..rounds {
        run();
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds)
}
