//! `barn-node`: the node in the foreground, and every verb of the command line that is not a compiler.

use std::process::ExitCode;

fn main() -> ExitCode {
    barn_node::cli::main()
}
