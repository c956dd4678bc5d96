//! What comes out, and what does not.

mod common;

use std::{fs, io};

use barn_sandbox::{
    CancelToken, DirectorySink, Entry, Exit, Finished, Kind, Limit, OutputSink, OutputState, Refusal,
    RunError, Spec,
};
use common::{open_directory, path, probe, run, sandbox, with_input};

const OUTPUT: &str = "/work/out/o";

fn making(kind: &str) -> Spec {
    let mut spec = with_input(probe(&["make", kind, OUTPUT]));
    spec.outputs.push(path(OUTPUT));
    spec
}

#[track_caller]
fn check(kind: &str, expect: OutputState) -> Finished {
    let (finished, outputs) = run(&making(kind)).unwrap();
    assert_eq!(finished.exit, Exit::Code(0), "{kind}");
    assert_eq!(finished.outputs[0].state, expect, "{kind}");
    assert_eq!(outputs.len(), usize::from(matches!(expect, OutputState::Produced { .. })), "{kind}");
    finished
}

#[test]
fn only_plain_files_of_the_compile_come_out() {
    check("symlink", OutputState::Refused(Refusal::NotRegular));
    check("proc-symlink", OutputState::Refused(Refusal::NotRegular));
    check("fifo", OutputState::Refused(Refusal::NotRegular));
    check("directory", OutputState::Refused(Refusal::NotRegular));
    check("socket", OutputState::Refused(Refusal::NotRegular));
    check("hardlink", OutputState::Refused(Refusal::HardLink));
    check("unreadable", OutputState::Refused(Refusal::Unreadable));
    check("setuid", OutputState::Produced { size: 1, executable: true });
}

#[test]
fn a_directory_turned_link_does_not_lead_to_other_file_systems() {
    let mut spec = making("elsewhere");
    spec.outputs = vec![path("/work/out/probe")];
    let (finished, outputs) = run(&spec).unwrap();
    assert_eq!(finished.outputs[0].state, OutputState::Refused(Refusal::Elsewhere));
    let mut spec = making("proc");
    spec.outputs = vec![path("/work/out/status")];
    let (finished, more) = run(&spec).unwrap();
    assert_eq!(finished.outputs[0].state, OutputState::Refused(Refusal::Elsewhere));
    assert!(outputs.is_empty() && more.is_empty());
}

#[test]
fn outputs_come_in_order_and_missing_ones_are_named() {
    let mut spec = probe(&["write", "/work/b/two", "2"]);
    spec.outputs = ["/work/a/one", "/work/b/two", "/other/three"].map(path).to_vec();
    let (finished, outputs) = run(&spec).unwrap();
    let states: Vec<_> = finished.outputs.iter().map(|output| output.state).collect();
    let produced = OutputState::Produced { size: 1, executable: false };
    assert_eq!(states, [OutputState::Missing, produced, OutputState::Missing]);
    assert_eq!(outputs, [(1, b"2".to_vec())]);
}

#[test]
fn outputs_may_lie_behind_a_link_and_be_empty() {
    let mut spec = probe(&["write", "/build/o", ""]);
    spec.inputs = vec![
        Entry { path: path("/build"), kind: Kind::Symlink { target: b"work/deep".to_vec() } },
        Entry { path: path("/work/deep"), kind: Kind::Directory },
    ];
    spec.outputs = vec![path("/build/o")];
    assert_eq!(run(&spec).unwrap().1, [(0, Vec::new())]);
}

#[test]
fn large_outputs_stream_into_files() {
    let directory = open_directory();
    let mut sink = DirectorySink::new(directory.path());
    let spec = making("large");
    let finished = sandbox().run(&spec, &CancelToken::new().unwrap(), &mut sink).unwrap();
    assert_eq!(finished.outputs[0].state, OutputState::Produced { size: 30 << 20, executable: true });
    let bytes = fs::read(sink.path(0)).unwrap();
    assert_eq!(bytes.len(), 30 << 20);
    assert!(
        bytes.chunks(1 << 20).enumerate().all(|(index, block)| block.iter().all(|&byte| byte == index as u8))
    );
}

#[test]
fn outputs_over_their_limit_end_the_run() {
    // A sparse file: it takes no room, only size.
    let error = run(&making("sparse")).unwrap_err();
    assert!(matches!(error, RunError::Limit(Limit::Outputs)), "{error:?}");
}

#[test]
fn a_sink_that_fails_ends_the_run() {
    struct Full;
    impl OutputSink for Full {
        fn begin(&mut self, _index: usize) -> io::Result<()> {
            Ok(())
        }
        fn write(&mut self, _bytes: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn end(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let error = sandbox().run(&making("large"), &CancelToken::new().unwrap(), &mut Full).unwrap_err();
    assert!(matches!(error, RunError::Sink { index: 0, .. }), "{error:?}");
}

#[test]
fn an_input_shorter_than_announced_ends_the_run() {
    let mut spec = making("fifo");
    let Kind::File { size, .. } = &mut spec.inputs[0].kind else { panic!("the input is a file") };
    *size += 1;
    let error = run(&spec).unwrap_err();
    assert!(matches!(error, RunError::Input { .. }), "{error:?}");
}

#[test]
fn statuses_come_through() {
    for code in [0, 1, 77, 255] {
        let (finished, _) = run(&probe(&["exit", &code.to_string()])).unwrap();
        assert_eq!(finished.exit, Exit::Code(code));
    }
    for signal in [libc::SIGSEGV, libc::SIGKILL, libc::SIGTERM, libc::SIGABRT] {
        let (finished, _) = run(&probe(&["signal", &signal.to_string()])).unwrap();
        assert_eq!(finished.exit, Exit::Signal(signal));
    }
}
