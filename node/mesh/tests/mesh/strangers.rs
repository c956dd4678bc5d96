//! Who is not on the roster gets nothing; who is struck from it is cut off.

use std::time::Duration;

use crate::common::{Node, SOON, eventually, identity, member, roster, sign};
use barn_mesh::{OpenError, unix_now_s};
use barn_protocol::roster::{EXPIRY_SKEW_S, Roster};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long a stranger is given to get in.
const A_WHILE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_a_stolen_roster_is_refused() {
    let roster = roster(&[1, 2]);
    let one = Node::start(1, Some(&roster), &[]).await;
    let stranger = Node::start(9, Some(&roster), &[one.address()]).await;
    tokio::time::sleep(A_WHILE).await;
    assert!(one.log.lock().unwrap().is_empty());
    assert!(!stranger.sees(&one.id));
    assert!(matches!(stranger.mesh.open(one.id).await, Err(OpenError::NoLink(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_another_mesh_is_refused() {
    let one = Node::start(1, Some(&roster(&[1, 2])), &[]).await;
    let other_admin = identity(201);
    let elsewhere =
        Roster::found(&other_admin, member(2), unix_now_s(), 3600).with(member(1), unix_now_s()).unwrap();
    let two = Node::start(2, None, &[one.address()]).await;
    two.cell.establish(elsewhere.sign(&other_admin).unwrap()).unwrap();
    tokio::time::sleep(A_WHILE).await;
    assert!(!two.sees(&one.id) && !one.sees(&two.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_struck_member_is_cut_off_on_both_planes() {
    let all = roster(&[1, 2, 3]);
    let one = Node::start(1, Some(&all), &[]).await;
    let two = Node::start(2, Some(&all), &[one.address()]).await;
    let three = Node::start(3, Some(&all), &[one.address()]).await;
    eventually(SOON, "connected", || {
        three.sees(&one.id) && three.sees(&two.id) && one.sees(&three.id) && two.sees(&three.id)
    })
    .await;
    let (mut to_two, mut from_two) = three.mesh.open(two.id).await.unwrap();
    to_two.write_all(b"running").await.unwrap();
    let (mut to_three, mut from_three) = one.mesh.open(three.id).await.unwrap();
    to_three.write_all(b"running").await.unwrap();

    let without = all.without(&three.id, unix_now_s()).unwrap();
    one.cell.offer(sign(&without).bytes().clone(), unix_now_s()).unwrap();
    let promise = Duration::from_secs(5);
    let cut = async {
        assert!(from_two.read_to_end(100).await.is_err());
        assert!(from_three.read_to_end(100).await.is_err());
    };
    tokio::time::timeout(promise, cut).await.expect("running streams end");
    eventually(promise, "nobody is connected to it", || !one.sees(&three.id) && !two.sees(&three.id)).await;
    eventually(promise, "it is connected to nobody", || !three.sees(&one.id) && !three.sees(&two.id)).await;
    tokio::time::sleep(A_WHILE).await;
    assert!(!three.sees(&one.id) && !three.sees(&two.id), "it does not come back");
    assert!(three.mesh.open(one.id).await.is_err());
    assert!(one.sees(&two.id), "the others stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_roster_closes_the_mesh_and_a_renewed_one_opens_it() {
    let fresh = roster(&[1, 2]);
    let expires = unix_now_s() - EXPIRY_SKEW_S + 4;
    let short = Roster { issued_unix_s: expires - 100, expires_unix_s: expires, ..fresh.clone() };
    let one = Node::start(1, Some(&short), &[]).await;
    let two = Node::start(2, Some(&short), &[one.address()]).await;
    eventually(Duration::from_secs(4), "connected", || one.sees(&two.id)).await;
    eventually(SOON, "closed by the clock", || !one.sees(&two.id) && !two.sees(&one.id)).await;
    let renewed = fresh.renewed(unix_now_s());
    one.cell.offer(sign(&renewed).bytes().clone(), unix_now_s()).unwrap();
    eventually(Duration::from_secs(20), "open again", || one.sees(&two.id) && two.sees(&one.id)).await;
    assert_eq!(two.cell.epoch(), renewed.epoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_and_waits_is_hung_up_on() {
    let one = Node::start(1, Some(&roster(&[1, 2])), &[]).await;
    for opening in [&b""[..], b"\x13/multistream/1.0.0\n\x0b/yamux/1.0.0\n", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stranger = TcpStream::connect(one.address()).await.unwrap();
        stranger.write_all(opening).await.unwrap();
        let mut said = Vec::new();
        // A reset is as good as an end.
        let _ = tokio::time::timeout(SOON, stranger.read_to_end(&mut said)).await.expect("hung up");
        assert!(said.len() < 64, "{said:?}");
    }
    assert!(one.log.lock().unwrap().is_empty());
}
