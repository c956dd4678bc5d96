//! Fault row: the process is killed at random instants. `examples/kill9.rs` does the same a thousand times.

#[path = "support/kill9.rs"]
mod kill9;

use std::{path::Path, process::Command};

/// The test program starts itself again as the writer, with only this test.
#[test]
fn nothing_is_lost_or_wrong_when_killed_at_random_instants() {
    if let Some(dir) = std::env::var_os(kill9::DIR_VARIABLE) {
        return kill9::write_forever(Path::new(&dir));
    }
    let writer = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["nothing_is_lost_or_wrong_when_killed_at_random_instants", "--exact", "--nocapture"]);
        command
    };
    for bytes_max in [None, Some(300 << 10)] {
        kill9::run(&kill9::Plan { kills: 40, seed: 9, bytes_max }, writer);
    }
}
