//! Honest and hostile sequences of frames.

use proptest::prelude::*;

use super::*;
use crate::wire::put_u64;

const STARTED: (u8, &[u8]) = (kind::STARTED, b"");
const DONE: (u8, &[u8]) = (kind::DONE, b"");

fn exited(code: u64, signal: u64) -> Vec<u8> {
    let mut payload = Vec::new();
    [code, signal, 4096, 1500].into_iter().for_each(|number| put_u64(&mut payload, number));
    payload
}

fn output(size: u64) -> Vec<u8> {
    let mut payload = vec![0];
    put_u64(&mut payload, size);
    payload
}

/// Feeds `frames` to a run with two outputs and 10 bytes of each allowance.
fn feed(frames: &[(u8, &[u8])]) -> Result<Receiver, Violation> {
    let limits = Limits { stdio_bytes: 10, outputs_bytes: 10, ..Limits::default() };
    let mut receiver = Receiver::new(2, &limits);
    for (kind, payload) in frames {
        receiver.frame(*kind, payload)?;
    }
    Ok(receiver)
}

#[track_caller]
fn check(frames: &[(u8, &[u8])], expect: Violation) {
    assert_eq!(feed(frames).err(), Some(expect));
}

#[test]
fn an_honest_run() {
    let (exit, one) = (exited(3, 0), output(5));
    let receiver = feed(&[
        STARTED,
        (kind::STDOUT, b"out"),
        (kind::STDERR, b"error"),
        (kind::EXITED, &exit),
        (kind::OUTPUT, &one),
        (kind::OUTPUT_DATA, b"abc"),
        (kind::OUTPUT_DATA, b"de"),
        (kind::ABSENT, &[absent::HARD_LINK]),
        DONE,
    ]);
    let finished = receiver.unwrap().finish(Duration::from_secs(2), Duration::from_secs(1)).unwrap();
    assert_eq!(finished.exit, Exit::Code(3));
    assert_eq!((finished.stdout.as_slice(), finished.stderr.as_slice()), (&b"out"[..], &b"error"[..]));
    assert_eq!(finished.outputs[0].state, OutputState::Produced { size: 5, executable: false });
    assert_eq!(finished.outputs[1].state, OutputState::Refused(Refusal::HardLink));
    assert_eq!((finished.max_rss_bytes, finished.cpu), (4096, Duration::from_micros(1500)));
}

#[test]
fn order_is_kept() {
    let (exit, two) = (exited(0, 9), output(2));
    let missing: (u8, &[u8]) = (kind::ABSENT, &[absent::MISSING]);
    check(&[(kind::STDOUT, b"x")], Violation::OutOfOrder(kind::STDOUT));
    check(&[STARTED, STARTED], Violation::OutOfOrder(kind::STARTED));
    check(&[STARTED, missing], Violation::OutOfOrder(kind::ABSENT));
    check(&[STARTED, (kind::EXITED, &exit), (kind::STDOUT, b"x")], Violation::OutOfOrder(kind::STDOUT));
    check(
        &[STARTED, (kind::EXITED, &exit), (kind::OUTPUT_DATA, b"x")],
        Violation::OutOfOrder(kind::OUTPUT_DATA),
    );
    check(&[STARTED, (kind::EXITED, &exit), missing, DONE], Violation::OutOfOrder(kind::DONE));
    check(&[STARTED, (kind::EXITED, &exit), missing, missing, missing], Violation::OutOfOrder(kind::ABSENT));
    check(
        &[STARTED, (kind::EXITED, &exit), (kind::OUTPUT, &two), missing],
        Violation::OutOfOrder(kind::ABSENT),
    );
    check(&[STARTED, (kind::EXITED, &exit), missing, missing, DONE, DONE], Violation::OutOfOrder(kind::DONE));
    check(&[(kind::JOB, b"")], Violation::OutOfOrder(kind::JOB));
}

#[test]
fn sizes_are_kept() {
    let (exit, three, eleven) = (exited(0, 0), output(3), output(11));
    check(&[STARTED, (kind::STDOUT, b"123456"), (kind::STDERR, b"12345")], Violation::TooMuch(kind::STDERR));
    check(&[STARTED, (kind::EXITED, &exit), (kind::OUTPUT, &eleven)], Violation::TooMuch(kind::OUTPUT));
    let frames: &[(u8, &[u8])] =
        &[STARTED, (kind::EXITED, &exit), (kind::OUTPUT, &three), (kind::OUTPUT_DATA, b"1234")];
    check(frames, Violation::TooMuch(kind::OUTPUT_DATA));
    let frames: &[(u8, &[u8])] =
        &[STARTED, (kind::EXITED, &exit), (kind::OUTPUT, &three), (kind::OUTPUT_DATA, b"")];
    check(frames, Violation::Malformed(kind::OUTPUT_DATA));
}

#[test]
fn statuses_are_checked() {
    for (code, signal) in [(256, 0), (1, 9), (0, 65), (u64::MAX, u64::MAX)] {
        check(&[STARTED, (kind::EXITED, &exited(code, signal))], Violation::Malformed(kind::EXITED));
    }
    assert_eq!(feed(&[STARTED, (kind::EXITED, &exited(0, 11))]).unwrap().exit, Some(Exit::Signal(11)));
}

#[test]
fn an_unfinished_run_has_no_result() {
    let receiver = feed(&[STARTED, (kind::EXITED, &exited(0, 0))]).unwrap();
    assert!(receiver.finish(Duration::ZERO, Duration::ZERO).is_none());
}

proptest! {
    #[test]
    fn no_sequence_exceeds_the_allowances(frames in proptest::collection::vec((16u8..27, proptest::collection::vec(0u8..12, 0..34)), 0..40)) {
        let limits = Limits { stdio_bytes: 10, outputs_bytes: 10, ..Limits::default() };
        let mut receiver = Receiver::new(2, &limits);
        let mut received = 0;
        for (kind, payload) in &frames {
            if let Ok(Step::Data { bytes, .. }) = receiver.frame(*kind, payload) {
                received += bytes.len();
            }
        }
        prop_assert!(received <= 10);
        prop_assert!(receiver.stdout.len() + receiver.stderr.len() <= 10);
        prop_assert!(receiver.outputs.len() <= 2);
    }
}

fn seen(what: u8, paths: &[&[u8]]) -> Vec<u8> {
    let mut payload = vec![what];
    paths.iter().for_each(|path| crate::wire::put_bytes(&mut payload, path));
    payload
}

#[test]
fn observations_come_once_whole_and_before_the_outputs() {
    let (exit, one) = (exited(0, 0), output(0));
    let (opened, vain) = (seen(seen::OPENED, &[b"/a", b"/b"]), seen(seen::IN_VAIN, &[b"/c"]));
    let (opened, vain) = ((kind::SEEN, opened.as_slice()), (kind::SEEN, vain.as_slice()));
    let (exit, all) = ((kind::EXITED, exit.as_slice()), (kind::SEEN_ALL, &b""[..]));
    let outputs = [(kind::OUTPUT, one.as_slice()), (kind::OUTPUT, one.as_slice()), DONE];
    let finish = |frames: &[(u8, &[u8])]| {
        let receiver = feed(&[frames, &outputs].concat()).unwrap();
        receiver.finish(Duration::ZERO, Duration::ZERO).unwrap().observed
    };
    let path = |text: &str| InsidePath::new(text).unwrap();
    let observed = Observed { opened: vec![path("/a"), path("/b")], in_vain: vec![path("/c")] };
    assert_eq!(finish(&[STARTED, exit, opened, vain, all]), Some(observed));
    assert_eq!(finish(&[STARTED, exit, all]), Some(Observed::default()));
    assert_eq!(finish(&[STARTED, exit, opened]), None, "not all of it");
    assert_eq!(finish(&[STARTED, exit]), None);
    check(&[STARTED, opened], Violation::OutOfOrder(kind::SEEN));
    check(&[STARTED, exit, all, opened], Violation::OutOfOrder(kind::SEEN));
    check(&[STARTED, exit, outputs[0], vain], Violation::OutOfOrder(kind::SEEN));
    check(&[STARTED, exit, all, all], Violation::OutOfOrder(kind::SEEN_ALL));
}

#[test]
fn hostile_observations_are_refused() {
    let exit = exited(0, 0);
    let refused = |payload: &[u8], expect| {
        check(&[STARTED, (kind::EXITED, &exit), (kind::SEEN, payload)], expect);
    };
    for path in [&b""[..], b"a", b"/a/../b", b"/a\0", b"/"] {
        refused(&seen(seen::OPENED, &[path]), Violation::Malformed(kind::SEEN));
    }
    refused(b"", Violation::Malformed(kind::SEEN));
    refused(&seen(7, &[b"/a"]), Violation::Malformed(kind::SEEN));
    refused(&[seen::OPENED, 9, 0, 0, 0, b'/'], Violation::Malformed(kind::SEEN));
    let long = [b"/".as_slice(), &[b'a'; 200]].concat();
    let many = vec![long.as_slice(); OBSERVED_MAX + 1];
    refused(&seen(seen::IN_VAIN, &many), Violation::TooMuch(kind::SEEN));
}
