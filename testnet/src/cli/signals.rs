//! SIGINT, SIGTERM and SIGHUP: take the office down, then end.

use std::io::{stderr, stdout};
use std::thread;

use barn_testnet::take_down_all;
use nix::sys::signal::{SigSet, Signal};

use super::Failure;

/// Blocks the signals and gives them to a thread of their own. Programs on hosts start with nothing blocked.
pub(super) fn end_on_signal() -> Result<(), Failure> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        eprintln!("\ntestnet: {signal}, taking the office down");
        // The other threads see their hosts die; holding the streams keeps them from complaining about it.
        let _streams = (stdout().lock(), stderr().lock());
        take_down_all();
        std::process::exit(128 + signal as i32);
    });
    Ok(())
}
