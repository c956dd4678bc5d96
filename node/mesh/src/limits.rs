//! Every limit of the mesh on the wire, with the reason beside it.

use std::time::Duration;

/// The port a node listens on unless told otherwise, TCP and UDP alike.
pub const DEFAULT_PORT: u16 = 7117;
/// How many ports after the wanted one are tried when it is taken: more nodes than anyone starts on one machine.
pub const PORTS_TRIED_MAX: u16 = 32;
/// Longest a security upgrade may take, the exchange of rosters included: a megabyte at 2 Mbit/s.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Control connections being set up by others at once. Strangers can fill these, for five seconds each.
pub const CONTROL_PENDING_IN_MAX: u32 = 64;
/// Control connections this node sets up at once.
pub const CONTROL_PENDING_OUT_MAX: u32 = 64;
/// Control connections per peer: one dialled by either side, and dead ones that TCP has not given up yet.
pub const CONTROL_PER_PEER_MAX: u32 = 8;
/// Control connections in all: one for each of 512 peers, far more than the office the mesh is made for.
pub const CONTROL_CONNECTIONS_MAX: u32 = 512;
/// Streams of one control connection; libp2p's protocols use fewer than ten.
pub const CONTROL_STREAMS_MAX: usize = 64;

/// How often mDNS asks the network who is there.
pub const MDNS_QUERY_INTERVAL: Duration = Duration::from_secs(5);
/// How long an mDNS answer is believed.
pub const MDNS_TTL: Duration = Duration::from_secs(60);
/// How often a node asks Kademlia for the nodes near itself, which finds members on other subnets.
pub const ROUTING_INTERVAL: Duration = Duration::from_secs(30);
/// How soon after a new connection it asks.
pub const ROUTING_DELAY: Duration = Duration::from_millis(500);
/// Longest a Kademlia query runs.
pub const KAD_QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Most keys a node provides: a toolchain per key, and no machine has more.
pub const PROVIDED_KEYS_MAX: usize = 1024;
/// Most keys whose providers a node remembers for others.
pub const PROVIDER_KEYS_MAX: usize = 8192;
/// Providers remembered for one key.
pub const PROVIDERS_PER_KEY_MAX: usize = 20;
/// A provider search ends early with this many: a fetch asks one, and needs few in reserve.
pub const PROVIDERS_ENOUGH: usize = 3;
/// Longest a provider search may take; what was found by then is the answer.
pub const PROVIDERS_TIMEOUT: Duration = Duration::from_secs(5);
/// Provider searches at once; more are answered with nothing.
pub const PROVIDER_SEARCHES_MAX: usize = 64;
/// Addresses taken from what a peer says of itself.
pub const PEER_ADDRESSES_MAX: usize = 8;

/// Shortest time between two adverts: four a second.
pub const ADVERT_INTERVAL_MIN: Duration = Duration::from_millis(250);
/// The same for adverts that surprise nobody (`Advert::surprises`): in a busy office every worker's queue changes all
/// the time, and each advert costs every node a signature to check.
pub const ADVERT_INTERVAL_CALM: Duration = Duration::from_secs(2);
/// Longest time between two adverts; they are also the pulse of a peer without data link.
pub const ADVERT_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// A connected peer that has no data link and is silent for so long is dropped: three adverts were lost.
pub const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Likewise for one that has a data link: it is alive, but its control connection seems not to be.
pub const SILENCE_LINKED_MAX: Duration = Duration::from_secs(60);
/// Shortest time between two publications of the same roster, while peers are seen that lack it.
pub const ROSTER_INTERVAL_MIN: Duration = Duration::from_secs(2);
/// What a gossiped message needs beside its payload: key, signature, sequence number, topic.
pub const GOSSIP_OVERHEAD_BYTES: usize = 4096;

/// First pause before a static address is dialled again; it doubles up to [`STATIC_RETRY_MAX`].
pub const STATIC_RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest pause before a static address is dialled again: a healed network is whole again within 30 s.
pub const STATIC_RETRY_MAX: Duration = Duration::from_secs(15);
/// Most static addresses.
pub const STATIC_PEERS_MAX: usize = 256;

/// How long a QUIC connection is silent before its dialler says something. More often than [`IDLE_TIMEOUT`]
/// asks for, because hosts may be slow to answer.
pub const KEEP_ALIVE: Duration = Duration::from_millis(500);
/// A QUIC connection that heard nothing for so long is dead. The dialler counts from its first unanswered word, so a
/// frozen machine is noticed within 3 s.
pub const IDLE_TIMEOUT: Duration = Duration::from_millis(2500);
/// Streams a peer may have open on a connection; one per action, and no machine runs more at once.
pub const STREAMS_MAX: u32 = 256;
/// Bytes in flight on a stream, which fill 1 Gbit/s at 16 ms. What a stream has sent and the peer not yet read is bounded by
/// it, so it is also what one toolchain stream can take of the connection's windows.
pub const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Bytes in flight on a connection, either way: eight full streams. Of toolchains a node has asked one source for at most
/// two transfers' 3 MiB (`barn_protocol::transfer`), so an action's frames always find room.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Priority of streams that carry actions: what they have to send goes before all else.
pub const ACTION_PRIORITY: i32 = 1;
/// Priority of streams that carry toolchains: what is left of the line is theirs.
pub const BULK_PRIORITY: i32 = -1;
/// Packets that may arrive before an acknowledgement is sent, within quinn's own time limit: a requester that receives an
/// object must not answer every second packet.
pub const ACK_EVERY_PACKETS: u32 = 10;
/// The round-trip time assumed before one was measured: a slow LAN, so that a lost first packet costs little.
pub const FIRST_RTT: Duration = Duration::from_millis(100);
/// Kernel buffers wished for the UDP socket; the kernel's own limit applies.
pub const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// QUIC handshakes of others at once; beyond half of them, addresses are validated first.
pub const DATA_PENDING_MAX: usize = 64;
/// Data connections in all, links being replaced included.
pub const DATA_CONNECTIONS_MAX: usize = 1024;
/// How long the side that should not dial waits for the side that should.
pub const DIAL_PATIENCE: Duration = Duration::from_secs(1);
/// First pause before a data link is dialled again; it doubles up to [`REDIAL_MAX`].
pub const REDIAL_MIN: Duration = Duration::from_millis(250);
/// Longest pause before a data link is dialled again.
pub const REDIAL_MAX: Duration = Duration::from_secs(8);
/// Head start of each address over the next when several are tried.
pub const DIAL_STAGGER: Duration = Duration::from_millis(150);
/// How long a link that was replaced by a better one may finish its streams.
pub const RETIRE_GRACE: Duration = Duration::from_secs(10);
/// Longest wait for a data link, counted from when it was first missing, and for a free stream on it.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// Wait for a data link that nobody has begun to make: the peer may have come up this instant.
pub const OPEN_TIMEOUT_UNEXPECTED: Duration = Duration::from_millis(500);

/// Join attempts served a second, overall: an office may be set up by one command on all machines; a secret of 128 bits is
/// not guessed, and signing costs little.
pub const JOINS_PER_SECOND_MAX: u32 = 64;
/// Longest a join may take once the newcomer is connected.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the addresses of an invitation are tried before the inviter is looked up by mDNS.
pub const JOIN_DIRECT: Duration = Duration::from_secs(2);
/// Longest the inviter is looked for by mDNS.
pub const JOIN_LOOKUP_MAX: Duration = Duration::from_secs(20);

/// Longest wait for the next piece of a frame or blob: 256 KiB over 1 Mbit/s take two seconds.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Events not yet taken by the node; further streams wait at the sender.
pub const EVENTS_MAX: usize = 256;
/// Commands not yet taken by an event loop.
pub const COMMANDS_MAX: usize = 256;
