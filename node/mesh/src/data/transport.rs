//! Sockets, transport parameters, and dialling one of several addresses.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use futures::{StreamExt, stream::FuturesUnordered};
use quinn::{
    AckFrequencyConfig, ClientConfig, Connection, Endpoint, EndpointConfig, TokioRuntime, TransportConfig,
    VarInt,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::{
    ACK_EVERY_PACKETS, CONNECTION_WINDOW_BYTES, DIAL_STAGGER, FIRST_RTT, HANDSHAKE_TIMEOUT, IDLE_TIMEOUT,
    KEEP_ALIVE, SOCKET_BUFFER_BYTES, STREAM_WINDOW_BYTES, STREAMS_MAX,
};

/// The name sent where TLS wants one; nobody looks at it.
const SERVER_NAME: &str = "barn";

/// The side of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Says something when nothing else is said; the answer tells both that the other is there.
    Dialler,
    /// Only answers, for a second voice would double what an idle link costs.
    Listener,
}

/// What both sides of a link allow each other.
pub(crate) fn transport(side: Side) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let idle = IDLE_TIMEOUT.try_into().expect("the idle timeout is a few seconds");
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_EVERY_PACKETS));
    config
        .ack_frequency_config(Some(acks))
        .keep_alive_interval((side == Side::Dialler).then_some(KEEP_ALIVE))
        .max_idle_timeout(Some(idle))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(CONNECTION_WINDOW_BYTES.into())
        .initial_rtt(FIRST_RTT);
    Arc::new(config)
}

/// A UDP socket at `ip`, or at all addresses of both families.
pub(crate) fn bind_udp(ip: Option<IpAddr>, port: u16) -> io::Result<UdpSocket> {
    match ip {
        Some(ip) => bind(SocketAddr::new(ip, port)),
        None => bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).or_else(|error| {
            if error.kind() == io::ErrorKind::AddrInUse {
                return Err(error);
            }
            // A kernel without IPv6.
            bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        }),
    }
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Larger buffers are welcome, but a kernel that denies them is no reason to stop.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A QUIC endpoint on `socket` that can dial but does not listen yet. Must be called within the runtime.
pub(crate) fn endpoint(socket: UdpSocket) -> io::Result<Endpoint> {
    Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))
}

/// Dials all of `addresses`, each with a head start over the next, and takes the first that answers with the key
/// the configuration pins.
pub(crate) async fn connect_any(
    endpoint: &Endpoint,
    config: &ClientConfig,
    addresses: &[SocketAddr],
) -> Option<Connection> {
    let attempts = addresses.iter().enumerate().map(|(place, address)| async move {
        tokio::time::sleep(DIAL_STAGGER * u32::try_from(place).unwrap_or(u32::MAX)).await;
        let connecting = endpoint.connect_with(config.clone(), *address, SERVER_NAME).ok()?;
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await.ok()? {
            Ok(connection) => Some(connection),
            Err(error) => {
                tracing::debug!(%address, %error, "not connected");
                None
            }
        }
    });
    let mut attempts: FuturesUnordered<_> = attempts.collect();
    while let Some(answer) = attempts.next().await {
        if answer.is_some() {
            return answer;
        }
    }
    None
}
