use barn_protocol::{Identity, action::Blob, front::FrontCoded, roster::Capabilities, wire::Bytes};

use super::*;

fn identity(seed: u8) -> Identity {
    Identity::from_seed(&[seed; 32])
}

/// Members 1 to 6; 5 and 6 may publish.
fn roster() -> Roster {
    let member = |seed: u8| Member {
        id: identity(seed).id(),
        name: format!("node-{seed}"),
        capabilities: Capabilities { submit: true, execute: seed < 5, publish: seed >= 5 },
    };
    let first = Roster::found(&identity(200), member(1), 0, 100);
    (2..=6).fold(first, |roster, seed| roster.with(member(seed), 0).unwrap())
}

fn key() -> ActionKey {
    ActionKey(Digest::of(b"key"))
}

/// What a member says it made.
fn record(seed: u8, object: &str) -> ActionRecord {
    let (none, made) = (Blob::of(b""), Blob::of(object.as_bytes()));
    let result = ActionResult {
        exit_code: 0,
        stdout: none,
        stderr: made,
        outputs: Vec::new(),
        wall_ms: u64::from(seed),
    };
    ActionRecord { key: key(), result, producer: identity(seed).id(), sandboxed: false, epoch: 1 }
}

fn body(signed: &SignedBytes) -> Body {
    Body { signed: Bytes(postcard::to_stdvec(signed).unwrap()), inline: Vec::new() }
}

fn entry(bodies: impl IntoIterator<Item = Body>) -> Entry {
    Entry { toolchain: Digest::of(b"gcc"), bodies: bodies.into_iter().collect() }
}

/// An entry of honest records: who, and of which object.
fn records(made: &[(u8, &str)]) -> Entry {
    entry(made.iter().map(|(seed, object)| body(&record(*seed, object).sign(&identity(*seed)))))
}

fn manifest(seed: u8, action: &str) -> SharedManifest {
    SharedManifest {
        key: Digest::of(b"source"),
        action: ActionKey(Digest::of(action.as_bytes())),
        present: FrontCoded::of([&b"/w/x.c"[..]]),
        absent: FrontCoded::default(),
        passed_over: FrontCoded::default(),
        producer: identity(seed).id(),
    }
}

fn manifests(seen: &[(u8, &str)]) -> Entry {
    entry(seen.iter().map(|(seed, action)| body(&manifest(*seed, action).sign(&identity(*seed)))))
}

fn judge<T: Statement>(trust: &str, entry: &Entry) -> Result<Vec<T>, Refused> {
    let (policy, roster) = (Policy::of(trust.parse().unwrap()), roster());
    let judge = Judge { self_id: identity(6).id(), policy: &policy, roster: &roster };
    let believed = judge.believed(entry, BODIES_MAX, |_: &T| true)?;
    Ok(believed.into_iter().map(|one| one.says).collect())
}

#[test]
fn a_record_is_believed_from_whom_and_from_how_many_the_policy_says() {
    let check = |trust: &str, made: &[(u8, &str)], expect: Result<&str, Refused>| {
        let found = judge::<ActionRecord>(trust, &records(made));
        let first = found.map(|found| found[0].result.stderr);
        assert_eq!(first, expect.map(|object| Blob::of(object.as_bytes())), "{trust} {made:?}");
    };
    check("members", &[(1, "a")], Ok("a"));
    check("own", &[(1, "a")], Err(Refused::Untrusted));
    check("own", &[(1, "a"), (6, "b")], Ok("b"));
    check("workers", &[(1, "a")], Err(Refused::Untrusted));
    check("publishers", &[(1, "a"), (2, "a")], Err(Refused::Untrusted));
    check("publishers", &[(1, "a"), (5, "b")], Ok("b"));
    check("workers:node-2", &[(1, "a"), (2, "b")], Ok("b"));
    check("agree:2", &[(1, "a")], Err(Refused::TooFew));
    check("agree:2", &[(1, "a"), (2, "b")], Err(Refused::TooFew));
    check("agree:2", &[(1, "a"), (2, "b"), (3, "b")], Ok("b"));
    check("agree:3", &[(1, "a"), (2, "a")], Err(Refused::TooFew));
    // Nobody is heard twice.
    check("agree:2", &[(1, "a"), (1, "a")], Err(Refused::TooFew));
    check("agree:2", &[(6, "a")], Ok("a"));
}

#[test]
fn a_manifest_is_believed_from_whom_a_record_is() {
    let check = |trust: &str, seen: &[(u8, &str)], expect: Result<&[&str], Refused>| {
        let found = judge::<SharedManifest>(trust, &manifests(seen));
        let actions = found.map(|found| found.iter().map(|one| one.action).collect::<Vec<_>>());
        let action = |name: &&str| ActionKey(Digest::of(name.as_bytes()));
        assert_eq!(actions, expect.map(|names| names.iter().map(action).collect()), "{trust} {seen:?}");
    };
    check("members", &[(1, "a"), (2, "b"), (3, "a")], Ok(&["a", "b"]));
    check("workers", &[(1, "a")], Err(Refused::Untrusted));
    check("publishers", &[(1, "a"), (5, "b")], Ok(&["b"]));
    check("workers:node-3", &[(1, "a"), (3, "b")], Ok(&["b"]));
    check("agree:2", &[(1, "a"), (2, "b")], Err(Refused::TooFew));
    check("agree:2", &[(1, "a"), (2, "b"), (3, "b")], Ok(&["b"]));
}

#[test]
fn only_what_a_member_signed_is_heard() {
    let check = |body: Body, expect: Refused| {
        assert_eq!(judge::<ActionRecord>("members", &entry([body])).unwrap_err(), expect);
    };
    let (honest, stranger) = (identity(1), identity(9));
    let failed =
        ActionRecord { result: ActionResult { exit_code: 1, ..record(1, "a").result }, ..record(1, "a") };
    check(body(&failed.sign(&honest)), Refused::Malformed);
    check(body(&record(1, "a").sign(&stranger)), Refused::Signature);
    check(body(&record(9, "a").sign(&stranger)), Refused::Stranger);
    check(body(&honest.sign(RECORD_CONTEXT, vec![1, 2, 3])), Refused::Malformed);
    check(Body { signed: Bytes(vec![7; 100]), inline: Vec::new() }, Refused::Malformed);
    // One kind of statement is none of the other.
    check(body(&manifest(1, "a").sign(&honest)), Refused::Malformed);
}

#[test]
fn a_liar_does_not_keep_others_from_being_heard() {
    let mut rubbish = records(&[(1, "a")]);
    rubbish.bodies[0].signed.0.push(7);
    let lies = body(&record(2, "lie").sign(&identity(3)));
    let mixed = entry([rubbish.bodies.remove(0), lies].into_iter().chain(records(&[(4, "b")]).bodies));
    let found: Vec<ActionRecord> = judge("members", &mixed).unwrap();
    assert_eq!(found[0].producer, identity(4).id());
}

#[test]
fn made_up_holders_are_struck() {
    let mut holders: Vec<NodeId> = (1..100).map(|seed| identity(seed).id()).collect();
    strike_strangers(&mut holders, &roster());
    assert_eq!(holders.len(), HOLDERS_MAX);
    assert!(holders.iter().all(|holder| roster().member(holder).is_some()));
}

#[test]
fn only_what_fits_its_key_and_the_limits_is_kept() {
    let check = |key: EntryKey, entry: Entry, expect: bool| {
        let put = Put { key, what: Told::Entry { entry, holders: Vec::new() } };
        assert_eq!(is_fit(&put, &roster()), expect);
    };
    let own = EntryKey::record(&key());
    let with = |inline: Vec<Bytes>| {
        let mut entry = records(&[(1, "a")]);
        entry.bodies[0].inline = inline;
        entry
    };
    check(own, records(&[(1, "a"), (2, "b")]), true);
    check(EntryKey::record(&ActionKey(Digest::of(b"another"))), records(&[(1, "a")]), false);
    check(own, records(&[(1, "a"), (9, "a")]), false);
    check(own, records(&[]), false);
    check(own, records(&[(1, "a"), (2, "a"), (3, "a"), (4, "a"), (5, "a")]), false);
    check(own, with(vec![Bytes(vec![0; INLINE_BYTES_MAX + 1])]), false);
    check(own, with(vec![Bytes(vec![0]); INLINE_BLOBS_MAX + 1]), false);
    let source = EntryKey::manifest(&Digest::of(b"source"));
    check(source, manifests(&[(1, "a")]), true);
    check(EntryKey::manifest(&Digest::of(b"another")), manifests(&[(1, "a")]), false);
    check(source, records(&[(1, "a")]), false);
    check(own, manifests(&[(1, "a")]), false);
}

#[test]
fn of_records_one_of_each_member_is_kept_and_publishers_go_first() {
    let roster = roster();
    let publishes = |id: &NodeId| roster.member(id).is_some_and(|member| member.capabilities.publish);
    let check = |kept: &[(u8, &str)], more: &[(u8, &str)], expect: &[(u8, &str)]| {
        assert_eq!(one_of_each(records(kept), records(more), publishes), records(expect));
    };
    check(&[(1, "a")], &[(2, "b")], &[(1, "a"), (2, "b")]);
    check(&[(1, "a")], &[(1, "b")], &[(1, "a")]);
    check(&[(1, "a"), (2, "a"), (3, "a"), (4, "a")], &[(5, "b")], &[(5, "b"), (1, "a"), (2, "a"), (3, "a")]);
    check(&[(1, "a"), (2, "a"), (3, "a"), (5, "a")], &[(4, "b")], &[(5, "a"), (1, "a"), (2, "a"), (3, "a")]);
}

#[test]
fn of_manifests_the_newest_are_kept() {
    let check = |kept: &[(u8, &str)], more: &[(u8, &str)], expect: &[(u8, &str)]| {
        assert_eq!(newest_first(manifests(kept), manifests(more)), manifests(expect));
    };
    check(&[(1, "a")], &[(1, "b")], &[(1, "b"), (1, "a")]);
    check(&[(1, "a"), (1, "b")], &[(1, "b")], &[(1, "b"), (1, "a")]);
    check(&[(1, "a"), (1, "b"), (1, "c"), (1, "d")], &[(2, "e")], &[(2, "e"), (1, "a"), (1, "b"), (1, "c")]);
}
