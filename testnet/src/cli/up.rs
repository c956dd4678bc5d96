//! `testnet up`: an office to play with.

use std::io::{BufRead, IsTerminal, Write, stdin, stdout};

use barn_testnet::Office;
use clap::Args;

use super::order::{HELP, Order};
use super::{Failure, OfficeOptions, mesh};

/// How `up` shall go.
#[derive(Args)]
pub(super) struct Options {
    #[command(flatten)]
    office: OfficeOptions,
    /// Start no nodes and form no mesh
    #[arg(long)]
    bare: bool,
}

/// Runs until standard input ends; a signal ends it too.
pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let office = Office::build(options.office.spec())?;
    for host in office.hosts() {
        println!("{:8} {:12} {}", host.name(), host.address(), host.home().display());
    }
    if !options.bare {
        let took = mesh::form(&office)?;
        println!("one mesh after {:.1} s", took.as_secs_f64());
    }
    let prompt = if stdin().is_terminal() { "office> " } else { "" };
    let ask = || {
        print!("{prompt}");
        stdout().flush()
    };
    println!("ready");
    ask()?;
    for line in stdin().lock().lines() {
        match Order::parse(&line?) {
            Ok(Order::Quit) => break,
            Ok(order) => obey(&office, &order),
            Err(said) => eprintln!("testnet: {said}"),
        }
        ask()?;
    }
    Ok(())
}

fn obey(office: &Office, order: &Order) {
    match order {
        Order::Nothing | Order::Quit => {}
        Order::Help => println!("{HELP}"),
        Order::Status => status(office),
        Order::Host { name, deed } => {
            if let Err(failure) = deed.run(office, name) {
                eprintln!("testnet: {}", super::with_causes(failure.as_ref()));
            }
        }
    }
}

fn status(office: &Office) {
    for host in office.hosts() {
        if host.is_frozen() {
            println!("{:8} frozen", host.name());
            continue;
        }
        match host.barn_text(["status"]) {
            Ok(text) => println!("{}\n    {}", host.name(), text.replace('\n', "\n    ")),
            Err(error) => println!("{:8} {}", host.name(), super::with_causes(&error)),
        }
    }
}
