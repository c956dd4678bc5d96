//! The live picture: what runs on each host now, by its processes, and what has been done where, by the
//! requester's counts. On a terminal it is drawn over itself; elsewhere a line appears now and then.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use barn_testnet::{Host, Office};

use super::build::Compiler;
use crate::cli::counts::Counts;

/// On a terminal; asking the node costs the requester a few milliseconds of its quota.
const PERIOD: Duration = Duration::from_millis(500);

/// Elsewhere: enough lines to see it move, few enough for a log.
const PERIOD_PLAIN: Duration = Duration::from_secs(5);

/// The programs that are the compile proper; a driver waits beside each.
const COMPILERS: [&str; 3] = ["cc1", "cc1plus", "as"];

/// The longest bar; more compiles than this on one host are told by number only.
const BAR_MAX: usize = 12;

/// Draws an office at work.
#[derive(Debug)]
pub(super) struct Picture<'a> {
    office: &'a Office,
    units: usize,
    compiler: Compiler,
    terminal: bool,
    before: Counts,
    start: Instant,
}

impl<'a> Picture<'a> {
    /// A picture of a build of so many units that starts now.
    pub(super) fn new(office: &'a Office, units: usize, compiler: Compiler, terminal: bool) -> Picture<'a> {
        let before = Counts::of(&office[0]).unwrap_or_default();
        Picture { office, units, compiler, terminal, before, start: Instant::now() }
    }

    /// Draws until `stopped` hangs up, and once more then.
    pub(super) fn show(&self, done: &AtomicUsize, stopped: &Receiver<()>) {
        let period = if self.terminal { PERIOD } else { PERIOD_PLAIN };
        let mut drawn = 0;
        let mut counts = Counts::default();
        loop {
            let end = stopped.recv_timeout(period) == Err(RecvTimeoutError::Disconnected);
            if self.compiler == Compiler::Barn {
                // A node too busy to answer leaves the picture as it was.
                counts = Counts::of(&self.office[0]).map_or(counts, |now| now.since(&self.before));
            }
            let done = done.load(Ordering::Relaxed);
            let text = if self.terminal { self.block(done, &counts) } else { self.line(done, &counts) };
            let up = if drawn > 0 { format!("\x1b[{drawn}A\x1b[J") } else { String::new() };
            print!("{up}{text}");
            // Nobody to show it to is no reason to stop the build.
            let _ = std::io::stdout().flush();
            if end {
                return;
            }
            drawn = if self.terminal { text.lines().count() } else { 0 };
        }
    }

    fn block(&self, done: usize, counts: &Counts) -> String {
        let mut text = String::new();
        for (number, host) in self.office.hosts().iter().enumerate() {
            let running = running(host);
            let bar = "█".repeat(running.min(BAR_MAX));
            // Writing to a string cannot fail.
            let _ = write!(text, "  {:6} {bar:BAR_MAX$} {running:2} running", host.name());
            let _ = match (self.compiler, number) {
                (Compiler::Bare, 0) => writeln!(text, " {done:5} done"),
                (Compiler::Bare, _) => writeln!(text),
                (Compiler::Barn, 0) => {
                    writeln!(
                        text,
                        " {:5} done here {:5} from the cache",
                        counts.compiles.local,
                        counts.all_hits()
                    )
                }
                (Compiler::Barn, _) => writeln!(text, " {:5} done there", self.sent(counts, host)),
            };
        }
        let seconds = self.start.elapsed().as_secs_f64();
        let fallbacks: u64 = counts.fallbacks.values().sum();
        let _ = writeln!(text, "  {done} of {} units, {seconds:.0} s, {fallbacks} fallbacks", self.units);
        text
    }

    fn line(&self, done: usize, counts: &Counts) -> String {
        let mut text = format!("  {:4.0} s {done:4} of {}", self.start.elapsed().as_secs_f64(), self.units);
        for (number, host) in self.office.hosts().iter().enumerate() {
            let finished = match (self.compiler, number) {
                (Compiler::Bare, 0) => done as u64,
                (Compiler::Bare, _) => 0,
                (Compiler::Barn, 0) => counts.compiles.local,
                (Compiler::Barn, _) => self.sent(counts, host),
            };
            let _ = write!(text, "  {} {finished} (+{})", host.name(), running(host));
        }
        if self.compiler == Compiler::Barn {
            let _ = write!(text, "  cache {}", counts.all_hits());
        }
        text.push('\n');
        text
    }

    fn sent(&self, counts: &Counts, host: &Host) -> u64 {
        counts.peers.get(host.name()).map_or(0, |traffic| traffic.sent)
    }
}

/// Compiles that run on a host at this moment.
fn running(host: &Host) -> usize {
    host.processes().iter().filter(|process| COMPILERS.contains(&process.name.as_str())).count()
}
