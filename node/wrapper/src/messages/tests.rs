use proptest::{collection::vec, prelude::*};

use super::*;

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

fn list() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(bytes(), 0..8)
}

fn argv() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(bytes(), 1..8)
}

fn request() -> impl Strategy<Value = Request> {
    (argv(), bytes(), bytes(), vec((bytes(), bytes()), 0..8), any::<u32>(), any::<(bool, bool, bool)>())
        .prop_map(
            |(argv, program, cwd, env, umask, (stdin_is_null, stdout_is_terminal, stderr_is_terminal))| {
                Request {
                    argv,
                    program,
                    cwd,
                    env,
                    umask,
                    stdin_is_null,
                    stdout_is_terminal,
                    stderr_is_terminal,
                }
            },
        )
}

fn produced() -> impl Strategy<Value = Option<Produced>> {
    any::<Option<(u64, i64, i64)>>()
        .prop_map(|output| output.map(|(size, mtime_ns, ctime_ns)| Produced { size, mtime_ns, ctime_ns }))
}

fn compiled() -> impl Strategy<Value = Compiled> {
    let ended = any::<(bool, i32)>()
        .prop_map(|(exited, value)| if exited { Ended::Exited(value) } else { Ended::Signalled(value) });
    (ended, bytes(), bytes(), any::<bool>(), any::<(u64, u64, u64)>(), vec(produced(), 0..OUTPUTS_MAX))
        .prop_map(|(ended, stdout, stderr, truncated, (wall_ms, cpu_ms, max_rss_bytes), outputs)| Compiled {
            ended,
            stdout,
            stderr,
            truncated,
            wall_ms,
            cpu_ms,
            max_rss_bytes,
            outputs,
        })
}

fn to_node() -> impl Strategy<Value = ToNode> {
    prop_oneof![
        request().prop_map(ToNode::Request),
        compiled().prop_map(ToNode::Compiled),
        ("[a-z]{0,64}", bytes()).prop_map(|(verb, body)| ToNode::Control(Control { verb, body })),
    ]
}

fn done() -> impl Strategy<Value = Done> {
    let manner = prop_oneof![Just(Manner::InPlace), Just(Manner::Anew), Just(Manner::Program)];
    let output = (bytes(), any::<u64>(), manner);
    let output = output.prop_map(|(path, size, manner)| Output { path, size, manner });
    (any::<i32>(), bytes(), bytes(), vec(output, 0..OUTPUTS_MAX))
        .prop_map(|(exit_code, stdout, stderr, outputs)| Done { exit_code, stdout, stderr, outputs })
}

fn to_wrapper() -> impl Strategy<Value = ToWrapper> {
    prop_oneof![
        Just(ToWrapper::Heartbeat),
        Just(ToWrapper::Exec),
        (argv(), list()).prop_map(|(argv, outputs)| ToWrapper::Compile(Compile { argv, outputs })),
        done().prop_map(ToWrapper::Done),
        bytes().prop_map(|body| ToWrapper::ControlReply(ControlReply { body })),
    ]
}

/// Feeds `stream` in pieces of `step` bytes and gathers what comes out.
fn decode_in_steps<M: Message>(stream: &[u8], step: usize) -> Result<Vec<M>, DecodeError> {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    for piece in stream.chunks(step) {
        decoder.push(piece);
        while let Some(message) = decoder.next()? {
            messages.push(message);
        }
    }
    assert!(!decoder.is_mid_frame(), "every frame was whole");
    Ok(messages)
}

proptest! {
    #[test]
    fn messages_to_the_node_survive_any_cut(messages in vec(to_node(), 1..4), step in 1_usize..200) {
        let stream: Vec<u8> = messages.iter().flat_map(|m| m.encode().unwrap()).collect();
        prop_assert_eq!(decode_in_steps::<ToNode>(&stream, step), Ok(messages));
    }

    #[test]
    fn messages_to_the_wrapper_survive_any_cut(messages in vec(to_wrapper(), 1..4), step in 1_usize..200) {
        let stream: Vec<u8> = messages.iter().flat_map(|m| m.encode().unwrap()).collect();
        prop_assert_eq!(decode_in_steps::<ToWrapper>(&stream, step), Ok(messages));
    }

    #[test]
    fn a_message_is_never_read_in_the_other_direction(ours in to_node(), theirs in to_wrapper()) {
        let (ours, theirs) = (ours.encode().unwrap(), theirs.encode().unwrap());
        prop_assert!(matches!(ToWrapper::decode(&ours[4..]), Err(DecodeError::Kind(_))));
        prop_assert!(matches!(ToNode::decode(&theirs[4..]), Err(DecodeError::Kind(_))));
    }

    #[test]
    fn every_shorter_or_longer_frame_is_refused(message in to_node(), extra in any::<u8>()) {
        let frame = message.encode().unwrap()[4..].to_vec();
        for end in 0..frame.len() {
            prop_assert!(ToNode::decode(&frame[..end]).is_err(), "cut at {}", end);
        }
        let longer = [frame, vec![extra]].concat();
        prop_assert!(ToNode::decode(&longer).is_err());
    }

    #[test]
    fn garbage_never_panics_and_never_reencodes_differently(kind in 0_u8..24, body in vec(any::<u8>(), 0..200)) {
        let frame = [vec![VERSION, kind], body].concat();
        if let Ok(message) = ToNode::decode(&frame) {
            prop_assert_eq!(&message.encode().unwrap()[4..], &frame[..]);
        }
        if let Ok(message) = ToWrapper::decode(&frame) {
            prop_assert_eq!(&message.encode().unwrap()[4..], &frame[..]);
        }
    }

    #[test]
    fn a_flipped_byte_never_panics(message in to_wrapper(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut stream = message.encode().unwrap();
        let at = at.index(stream.len());
        stream[at] = to;
        let mut decoder = Decoder::new();
        decoder.push(&stream);
        while let Ok(Some(_)) = decoder.next::<ToWrapper>() {}
    }
}

#[test]
fn the_bytes_of_a_frame_are_fixed() {
    let request = ToNode::Request(Request {
        argv: vec![b"gcc".to_vec(), b"-c".to_vec()],
        program: b"/g".to_vec(),
        cwd: b"/".to_vec(),
        env: vec![(b"A".to_vec(), b"b".to_vec())],
        umask: 0o22,
        stdin_is_null: true,
        stdout_is_terminal: false,
        stderr_is_terminal: true,
    });
    let expect = [
        &[56, 0, 0, 0, 2, 1][..],
        &[2, 0, 0, 0, 3, 0, 0, 0, b'g', b'c', b'c', 2, 0, 0, 0, b'-', b'c'],
        &[2, 0, 0, 0, b'/', b'g', 1, 0, 0, 0, b'/'],
        &[1, 0, 0, 0, 1, 0, 0, 0, b'A', 1, 0, 0, 0, b'b'],
        &[18, 0, 0, 0, 1, 0, 1],
    ]
    .concat();
    let encoded = request.encode().unwrap();
    assert_eq!(encoded[4..], expect[4..]);
    assert_eq!(usize::from(encoded[0]), encoded.len() - 4);
    assert_eq!(ToWrapper::Heartbeat.encode().unwrap(), [2, 0, 0, 0, 2, 16]);
}

#[test]
fn limits_are_refused_on_both_sides() {
    let long = Control { verb: "stats".into(), body: vec![0; FRAME_BYTES_MAX] };
    assert!(matches!(ToNode::Control(long).encode(), Err(EncodeError::FrameTooLong(_))));
    let verb = Control { verb: "v".repeat(VERB_BYTES_MAX + 1), body: Vec::new() };
    assert_eq!(ToNode::Control(verb).encode(), Err(EncodeError::VerbTooLong(VERB_BYTES_MAX + 1)));
    let done = Done { outputs: vec![Output::default(); OUTPUTS_MAX + 1], ..Done::default() };
    assert_eq!(ToWrapper::Done(done).encode(), Err(EncodeError::TooManyOutputs(OUTPUTS_MAX + 1)));

    let mut frame = Frame::new(kind::COMPILE);
    frame.list(&[b"gcc"], |frame, argument| frame.bytes(*argument));
    frame.list(&[(); OUTPUTS_MAX + 1], |frame, ()| frame.bytes(b"x.o"));
    assert_eq!(ToWrapper::decode(&frame.0[4..]), Err(DecodeError::Value("count of outputs")));
    let no_argv = ToNode::Request(Request::default()).encode().unwrap();
    assert_eq!(ToNode::decode(&no_argv[4..]), Err(DecodeError::Value("argv")));
}

#[test]
fn a_length_over_the_limit_is_refused_before_its_bytes_arrive() {
    for length in [0_u32, 1, FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
        let mut decoder = Decoder::new();
        decoder.push(&length.to_le_bytes());
        assert_eq!(decoder.next::<ToNode>(), Err(DecodeError::Length(length)));
    }
}

#[test]
fn another_version_is_named() {
    let mut frame = ToWrapper::Exec.encode().unwrap();
    frame[4] = VERSION + 1;
    let mut decoder = Decoder::new();
    decoder.push(&frame);
    assert_eq!(decoder.next::<ToWrapper>(), Err(DecodeError::Version(VERSION + 1)));
}

#[test]
fn a_claimed_count_allocates_nothing() {
    let frame = [&[VERSION, kind::REQUEST][..], &u32::MAX.to_le_bytes()].concat();
    assert_eq!(ToNode::decode(&frame), Err(DecodeError::Shape));
}
