//! How a mesh comes to be, and who is not let in.

use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use barn_testnet::{Host, OfficeSpec, bin_dir_of_this_build};
use barn_tests::office::{Mesh, SIGHT_MAX, connected, join, start_node};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::ring,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    sign::CertifiedKey,
};

/// Where every node of these tests listens, TCP and UDP.
const PORT: u16 = 7117;
/// The port of multicast DNS.
const MDNS_PORT: u16 = 5353;
/// How long a node lets somebody try to get in.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
const SLACK: Duration = Duration::from_secs(3);

#[test]
fn three_machines_find_each_other_by_tokens_alone() {
    let Some(mesh) = Mesh::start(OfficeSpec::new(bin_dir_of_this_build()).hosts(4, None)) else { return };
    let (h1, h2, h3, late) = (&mesh[0], &mesh[1], &mesh[2], &mesh[3]);
    assert_eq!(h1.status_json().unwrap()["mesh"], serde_json::Value::Null);
    h1.barn_text(["mesh", "init"]).unwrap();
    join(h1, h2);
    let token = h1.barn_text(["mesh", "invite"]).unwrap();
    assert!(!token.is_empty() && !token.contains(char::is_whitespace), "{token:?} does not stand alone");
    h3.barn_text(["join", token.as_str()]).unwrap();

    let took = Instant::now();
    mesh.await_sight(&[h1, h2, h3], SIGHT_MAX);
    println!("all see all {:?} after the last join", took.elapsed());
    for host in [h1, h2, h3] {
        let status = host.status_json().unwrap();
        assert_eq!(status["mesh"]["members"], 3, "{status}");
        assert_eq!(status["peers"].as_array().unwrap().len(), 2, "{status}");
        assert_eq!(host.barn_text(["mesh", "members"]).unwrap().lines().count(), 3);
    }

    // A token is used up by the first who joins with it, whether or not others are open.
    let nobody_expected = late.barn(["join", token.as_str()]).unwrap();
    assert_refused(&nobody_expected, "hint: `barn mesh invite`");
    let open = h1.barn_text(["mesh", "invite"]).unwrap();
    let another_expected = late.barn(["join", token.as_str()]).unwrap();
    assert_refused(&another_expected, "hint: `barn mesh invite`");
    assert_eq!(late.status_json().unwrap()["mesh"], serde_json::Value::Null);
    assert_eq!(h1.barn_text(["mesh", "members"]).unwrap().lines().count(), 3);
    late.barn_text(["join", open.as_str()]).unwrap();
    mesh.await_sight(&[h1, h2, h3, late], SIGHT_MAX);

    assert_refused(&h2.barn(["mesh", "init"]).unwrap(), "hint: ");
    // Only the founder has the admin key.
    assert_refused(&h2.barn(["mesh", "invite"]).unwrap(), "hint: ");
    assert_refused(&h2.barn(["mesh", "revoke", "h3"]).unwrap(), "hint: ");
}

fn assert_refused(output: &std::process::Output, said: &str) {
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(words.contains("barn: ") && words.contains(said), "{words:?} lacks {said:?}");
}

#[test]
fn strangers_get_nothing() {
    let Some(mesh) = Mesh::empty(OfficeSpec::new(bin_dir_of_this_build()).hosts(5, None)) else { return };
    let (h1, h2, elsewhere, thief, outsider) = (&mesh[0], &mesh[1], &mesh[2], &mesh[3], &mesh[4]);
    start_node(h1);
    start_node(h2);
    h1.barn_text(["mesh", "init"]).unwrap();
    join(h1, h2);
    mesh.await_sight(&[h1, h2], SIGHT_MAX);

    // One is the founder of a mesh of its own, one has a copy of the roster but not the key of anybody on it, one is
    // in no mesh; all of them know where the others are.
    for host in [elsewhere, thief, outsider] {
        fs::create_dir_all(host.barn_home().join("mesh")).unwrap();
        let peers = format!("peers = [\"{}:{PORT}\", \"{}:{PORT}\"]", h1.address(), h2.address());
        fs::write(host.barn_home().join("barn.toml"), format!("[network]\n{peers}\n")).unwrap();
    }
    fs::copy(h1.barn_home().join("mesh/roster"), thief.barn_home().join("mesh/roster")).unwrap();
    for host in [elsewhere, thief, outsider] {
        start_node(host);
    }
    elsewhere.barn_text(["mesh", "init"]).unwrap();

    thread::scope(|scope| {
        scope.spawn(|| nobody_stays_connected(h1, h2, [elsewhere, thief, outsider]));
        scope.spawn(|| talking_to_the_control_port_leads_nowhere(outsider, h1));
        scope.spawn(|| the_data_port_wants_a_listed_key(outsider, h1));
    });
    for member in [h1, h2] {
        assert_eq!(listening(member), expected_ports(), "{}", member.name());
    }
    let log = fs::read_to_string(h1.node_log()).unwrap();
    let up = log.lines().filter(|line| line.contains("connected peer=")).count();
    assert_eq!(up, 1, "only h2 was ever let in: {log}");
}

/// Looks for longer than a handshake may take: no status shows a stranger, and no TCP connection of one lasts. The
/// first two of the strangers have a mesh and so try to get in.
fn nobody_stays_connected(h1: &Host, h2: &Host, strangers: [&Host; 3]) {
    let addresses: Vec<Ipv4Addr> = strangers.iter().map(|host| host.address()).collect();
    let until = Instant::now() + 2 * HANDSHAKE_MAX + SLACK;
    let first = established(h1, &addresses);
    while Instant::now() < until {
        assert_eq!(connected(h1), ["h2"]);
        assert_eq!(connected(h2), ["h1"]);
        for stranger in strangers {
            assert_eq!(connected(stranger), Vec::<String>::new(), "{}", stranger.name());
        }
        thread::sleep(Duration::from_millis(100));
    }
    for stranger in &strangers[..2] {
        assert!(dialled(stranger) > 0, "{} never tried", stranger.name());
    }
    let last = established(h1, &addresses);
    assert!(first.is_disjoint(&last), "{first:?} and {last:?}");
}

/// A stranger may connect and speak, and is hung up on without having learnt more than how to shake hands.
fn talking_to_the_control_port_leads_nowhere(stranger: &Host, member: &Host) {
    let address = SocketAddr::from((member.address(), PORT));
    let openings: [&[u8]; 4] = [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x13/multistream/1.0.0\n\x07/noise\n",
        b"\x13/multistream/1.0.0\n\x0f/ipfs/id/1.0.0\n",
    ];
    let heard = |opening: &[u8]| {
        let mut stream = TcpStream::connect_timeout(&address, SLACK).unwrap();
        stream.set_read_timeout(Some(HANDSHAKE_MAX + SLACK)).unwrap();
        stream.write_all(opening).unwrap();
        let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return said,
                Ok(count) => said.extend(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return said,
                Err(error) => panic!("after {opening:?}: {error}; it said {said:?}"),
            }
        }
    };
    let heard = &heard;
    stranger
        .in_network(|| {
            for (opening, said) in openings.map(|opening| (opening, heard(opening))) {
                let text = String::from_utf8_lossy(&said);
                let words: Vec<&str> = text.split(|c: char| c.is_control()).collect();
                let known = ["/multistream/1.0.0", "/noise", "na", ""];
                assert!(words.iter().all(|word| known.contains(word)), "{opening:?} was answered {text:?}");
            }
        })
        .unwrap();
}

/// QUIC without a key, with an unknown key, and bytes that are no QUIC at all.
fn the_data_port_wants_a_listed_key(stranger: &Host, member: &Host) {
    let address = SocketAddr::from((member.address(), PORT));
    stranger
        .in_network(|| {
            let socket = UdpSocket::bind((stranger.address(), 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            socket.send_to(b"hello", address).unwrap();
            assert!(socket.recv(&mut [0; 2048]).is_err(), "five bytes were answered");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            for protocol in ["barn/1", "barn-join/1"] {
                for key in [None, Some(some_key())] {
                    let what = format!("{protocol} with {}", if key.is_some() { "a key" } else { "no key" });
                    let dialled = runtime.block_on(refused(address, protocol, key, stranger.address()));
                    println!("{what}: {dialled}");
                }
            }
        })
        .unwrap();
}

/// Dials and waits until it is hung up on; what was said then.
async fn refused(
    address: SocketAddr,
    protocol: &str,
    key: Option<Arc<CertifiedKey>>,
    from: Ipv4Addr,
) -> String {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match key {
        Some(key) => builder.with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(key))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
    let endpoint = quinn::Endpoint::client((from, 0).into()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let dialling = endpoint.connect_with(config, address, "stranger").unwrap();
    let told = tokio::time::timeout(HANDSHAKE_MAX, async {
        // To the one who dials, a handshake is done before the other side has looked at its key.
        match dialling.await {
            Ok(connection) => connection.closed().await,
            Err(error) => error,
        }
    });
    let told = told.await.expect("it is hung up on");
    let quinn::ConnectionError::ConnectionClosed(close) = &told else { panic!("not refused but {told:?}") };
    // The codes of TLS alerts.
    assert!((0x100..0x200).contains(&u64::from(close.error_code)), "{told:?}");
    told.to_string()
}

/// An ed25519 key that is on no roster.
fn some_key() -> Arc<CertifiedKey> {
    let mut pkcs8 = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
    pkcs8.extend([7; 32]);
    let signer = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8)).unwrap();
    let public = signer.public_key().unwrap();
    Arc::new(CertifiedKey::new(vec![CertificateDer::from(public.to_vec())], signer))
}

/// Trusts every listener: the stranger does not care to whom it speaks.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// What is open on a host: protocol and port. Of UDP, ports below the kernel's range for passing sockets.
fn listening(host: &Host) -> BTreeSet<(&'static str, u16)> {
    const LISTEN: &str = "0A";
    let ephemeral = 32768..=60999;
    let mut open = BTreeSet::new();
    for (protocol, file) in [("tcp", "tcp"), ("tcp", "tcp6"), ("udp", "udp"), ("udp", "udp6")] {
        for socket in sockets(host, file) {
            if (protocol == "tcp" && socket.state == LISTEN)
                || (protocol == "udp" && !ephemeral.contains(&socket.local_port))
            {
                open.insert((protocol, socket.local_port));
            }
        }
    }
    open
}

fn expected_ports() -> BTreeSet<(&'static str, u16)> {
    BTreeSet::from([("tcp", PORT), ("udp", PORT), ("udp", MDNS_PORT)])
}

/// The ports from which `others` have a TCP connection to `host` or accept one of it.
fn established(host: &Host, others: &[Ipv4Addr]) -> BTreeSet<(Ipv4Addr, u16, u16)> {
    const ESTABLISHED: &str = "01";
    let open = sockets(host, "tcp").into_iter().filter(|socket| socket.state == ESTABLISHED);
    let theirs = open.filter(|socket| others.contains(&socket.peer));
    theirs.map(|socket| (socket.peer, socket.peer_port, socket.local_port)).collect()
}

/// How many TCP connections have been begun from a host.
fn dialled(host: &Host) -> u64 {
    let text = host.in_network(|| fs::read_to_string("/proc/thread-self/net/snmp").unwrap()).unwrap();
    let mut rows = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let mut counts = names.split(' ').zip(values.split(' '));
    let (_, count) = counts.find(|(name, _)| *name == "ActiveOpens").unwrap();
    count.parse().unwrap()
}

struct Socket {
    local_port: u16,
    peer: Ipv4Addr,
    peer_port: u16,
    state: String,
}

/// The sockets in a host's network, as the kernel lists them. Peers of IPv6 sockets are not looked at.
fn sockets(host: &Host, file: &str) -> Vec<Socket> {
    let path = format!("/proc/thread-self/net/{file}");
    let text = host.in_network(|| fs::read_to_string(path).unwrap()).unwrap();
    let parse = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, peer, state) = (fields.next()?, fields.next()?, fields.next()?);
        let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
        let ip = peer.split(':').next().filter(|ip| ip.len() == 8);
        let ip = ip.and_then(|ip| u32::from_str_radix(ip, 16).ok()).unwrap_or(0);
        Some(Socket {
            local_port: port(local)?,
            peer: Ipv4Addr::from(ip.to_ne_bytes()),
            peer_port: port(peer)?,
            state: state.to_owned(),
        })
    };
    text.lines().skip(1).map(|line| parse(line).expect("a line of the kernel's table")).collect()
}
