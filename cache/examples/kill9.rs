//! Kills a process that writes to a store, at random instants: `kill9 [KILLS [SEED]]`, 1000 kills by default, half of
//! them with a store small enough to evict all the time. Fails when anything is lost or wrong.

#[path = "../tests/support/kill9.rs"]
mod kill9;

use std::{env, path::Path, process::Command, time::UNIX_EPOCH};

fn main() {
    if let Some(dir) = env::var_os(kill9::DIR_VARIABLE) {
        return kill9::write_forever(Path::new(&dir));
    }
    let mut args = env::args().skip(1).map(|a| a.parse::<u64>().expect("arguments are numbers"));
    let kills = u32::try_from(args.next().unwrap_or(1000)).expect("few enough kills");
    let seed = args.next().unwrap_or_else(|| UNIX_EPOCH.elapsed().map_or(1, |d| d.as_secs()));
    let writer = || Command::new(env::current_exe().expect("this program has a path"));
    for bytes_max in [None, Some(300 << 10)] {
        kill9::run(&kill9::Plan { kills: kills.div_ceil(2), seed, bytes_max }, writer);
    }
}
