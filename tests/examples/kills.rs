//! Kills the node at random instants while builds run: `kills [KILLS [SEED]]`, 1000 kills by default.

use std::{env, time::UNIX_EPOCH};

fn main() {
    let mut args = env::args().skip(1).map(|arg| arg.parse::<u64>().expect("arguments are numbers"));
    let kills = u32::try_from(args.next().unwrap_or(1000)).expect("few enough kills");
    let seed = args.next().unwrap_or_else(|| UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs()));
    println!("{}", barn_tests::kills::run(kills, seed));
}
