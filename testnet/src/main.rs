//! `testnet`: an office on one machine, by hand or for the demonstration.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
