//! How quick the machine is that the tests run on.
//!
//! Promises are about machines such as people work on. A test holds them against the time that this machine takes now for one
//! ordinary compile: where that takes longer, because the machine is slow or does other things as well, everything may.
//! And what has to last long enough for something to happen meanwhile is made longer where compiles are quick.

use std::{
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

/// What one step of the probe takes on the machine that the tests were written on.
const STEP: Duration = Duration::from_millis(300);
/// Steps of the probe: enough that starting the compiler is a small part of it.
const PROBE_STEPS: usize = 2;
/// No machine is so quick or so slow; what looks like it is a probe that went wrong.
const RANGE: (f64, f64) = (0.1, 20.0);

/// How often as long as on the machine that the tests were written on a compile takes here; above 1 for a slow one.
///
/// Measured once, when first asked.
pub fn pace() -> f64 {
    static PACE: OnceLock<f64> = OnceLock::new();
    *PACE.get_or_init(|| {
        let took = probe();
        let pace = (took.as_secs_f64() / (STEP * PROBE_STEPS as u32).as_secs_f64()).clamp(RANGE.0, RANGE.1);
        println!("pace: a compile takes {pace:.2} times as long here");
        pace
    })
}

/// A limit as it is on this machine: longer where everything is slower, never shorter.
pub fn patience(limit: Duration) -> Duration {
    limit.mul_f64(pace().max(1.0))
}

/// How many steps a burner needs to last as long as `steps` do on the machine that the tests were written on; never fewer,
/// for others may have been running during the measurement.
pub(crate) fn lasting(steps: usize) -> usize {
    (steps as f64 / pace()).ceil().max(steps as f64) as usize
}

/// Source of so many steps: constants that the compiler works out, and nothing else.
pub(crate) fn burner(seed: usize, steps: usize) -> String {
    let mut source = "constexpr unsigned long burn(unsigned long s) {\n    \
                      for (unsigned long i = 0; i < 200000; ++i) s = s * 31 + i;\n    return s;\n}\n"
        .to_owned();
    for step in 0..steps {
        let seed = seed * 100 + step;
        source += &format!("extern const unsigned long burnt{step} = burn({seed}ul);\n");
    }
    source
}

fn probe() -> Duration {
    let dir = tempfile::tempdir().expect("a directory for scratch files");
    let source = dir.path().join("probe.cc");
    std::fs::write(&source, burner(0, PROBE_STEPS)).expect("a scratch file can be written");
    let began = Instant::now();
    let status =
        Command::new("g++").args(["-O1", "-std=c++17", "-c", "-o", "/dev/null"]).arg(&source).status();
    assert!(status.is_ok_and(|status| status.success()), "g++ cannot compile {}", source.display());
    began.elapsed()
}
