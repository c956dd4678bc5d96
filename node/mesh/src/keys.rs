//! One key, three dresses: a node id as libp2p peer id, as TLS raw public key, and in multiaddresses.

use std::net::{IpAddr, SocketAddr};

use barn_protocol::{Identity, NodeId};
use libp2p::{
    Multiaddr, PeerId,
    identity::{Keypair, PublicKey, ed25519},
    multiaddr::Protocol,
};

/// What precedes an ed25519 key in a DER SubjectPublicKeyInfo (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// What precedes an ed25519 seed in a DER PKCS#8 private key (RFC 8410).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The identity as libp2p's key pair.
pub(crate) fn keypair(identity: &Identity) -> Keypair {
    Keypair::ed25519_from_bytes(identity.seed()).expect("32 bytes are an ed25519 seed")
}

/// The peer id of a node; `None` when the id is no valid key (it may come from a peer).
pub(crate) fn peer_id(node: &NodeId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(node.as_bytes()).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The node a peer id stands for; `None` for a key of another kind.
pub(crate) fn node_id(peer: &PeerId) -> Option<NodeId> {
    let encoded = peer.as_ref().digest();
    let key = PublicKey::try_decode_protobuf(encoded).ok()?.try_into_ed25519().ok()?;
    let node = NodeId::from_bytes(key.to_bytes()).ok()?;
    (peer_id(&node)? == *peer).then_some(node)
}

/// The key as DER SubjectPublicKeyInfo.
pub(crate) fn spki(node: &NodeId) -> Vec<u8> {
    [&SPKI_PREFIX[..], node.as_bytes()].concat()
}

/// The key in a DER SubjectPublicKeyInfo.
pub(crate) fn node_of_spki(der: &[u8]) -> Option<NodeId> {
    let key = der.strip_prefix(&SPKI_PREFIX[..])?;
    NodeId::from_bytes(key.try_into().ok()?).ok()
}

/// The secret key as DER PKCS#8.
pub(crate) fn pkcs8(identity: &Identity) -> Vec<u8> {
    [&PKCS8_PREFIX[..], &identity.seed()].concat()
}

/// A socket address as the TCP multiaddress of the control plane.
pub(crate) fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()))
}

/// The socket address of a plain `/ip/tcp` multiaddress, a trailing `/p2p` allowed. None for IPv6 link-local
/// addresses: without the number of an interface, which is another on every machine, they cannot be dialled.
pub(crate) fn socket_addr(multiaddr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = multiaddr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) if !ip.is_unicast_link_local() => IpAddr::V6(ip).to_canonical(),
        _ => return None,
    };
    let Protocol::Tcp(port) = parts.next()? else { return None };
    matches!(parts.next(), None | Some(Protocol::P2p(_))).then(|| SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dresses_are_of_one_key() {
        let identity = Identity::from_seed(&[9; 32]);
        let pair = keypair(&identity);
        let peer = pair.public().to_peer_id();
        assert_eq!(peer_id(&identity.id()), Some(peer));
        assert_eq!(node_id(&peer), Some(identity.id()));
        assert_eq!(node_of_spki(&spki(&identity.id())), Some(identity.id()));
        assert_eq!(node_of_spki(&spki(&identity.id())[1..]), None);
        assert_eq!(node_id(&PeerId::random()), None);
    }

    #[test]
    fn addresses_round_trip() {
        for text in ["10.0.0.1:7117", "[2001:db8::1]:80"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(socket_addr(&multiaddr(address)), Some(address));
        }
        let bad = [
            "/ip4/1.2.3.4/udp/1",
            "/dns/example.org/tcp/1",
            "/ip4/1.2.3.4",
            "/ip4/1.2.3.4/tcp/1/ws",
            "/ip6/fe80::1/tcp/1",
        ];
        for bad in bad {
            assert_eq!(socket_addr(&bad.parse().unwrap()), None, "{bad}");
        }
    }
}
