//! The HTTP cache endpoint: the store as a remote cache of ccache, sccache and Bazel.
//!
//! Participants: programs of this user on this machine, which speak HTTP/1.1 and know the token; the store, which
//! keeps what they put as foreign entries. `docs/http-cache.md` says how each tool is set up.
//!
//! - [`token`] decides who is answered, [`route`] which entry is meant; both are pure but for the token's file.
//! - [`answer`] turns a request into a response; [`upload`] brings a body into the store; [`body`] brings a blob out.
//!
//! Invariants: nobody without the token learns or changes anything; what tools put can never be taken for an action
//! record; contents pass in pieces and are never whole in memory; a request that was not finished leaves nothing.
//! Not goals: TLS and other addresses than loopback (neighbours share through the mesh), listings, ranges.

mod answer;
mod body;
mod route;
mod token;
mod upload;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use barn_cache::Store;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use self::token::Token;
use crate::home::{Home, HomeError};

/// Connections at once: Bazel opens up to 100, the others one per process. Each takes some 100 KiB at worst.
const CONNECTIONS_MAX: usize = 128;
/// How long a connection may take to send a request's head, and may idle between two requests.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// After this a connection takes no further request, so that none is held for ever.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(300);
/// The longest that a request may go on then: at 1 GiB, a tool that takes 4 MiB a second.
const REQUEST_MAX: Duration = Duration::from_secs(300);
/// Header fields of one request; tools send about ten.
const HEADERS_MAX: usize = 64;
/// Bytes of a request's head, and of the pieces in which bodies come.
const BUFFER_BYTES: usize = 32 << 10;
/// How long accepting pauses when the process has no descriptors left.
const SHORTAGE: Duration = Duration::from_millis(100);

/// Why there is no endpoint although one is configured. The node runs without it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointError {
    /// The token is at fault.
    #[error(transparent)]
    Token(#[from] HomeError),
    /// Something else listens there, or the address is not this machine's.
    #[error("cannot listen at {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// The listening endpoint.
pub(crate) struct Endpoint {
    listener: TcpListener,
    address: SocketAddr,
    token_file: String,
    places: Arc<Semaphore>,
    shared: Arc<Shared>,
}

/// What all its connections use.
struct Shared {
    store: Store,
    token: Token,
    counters: Counters,
    /// Bytes of bodies that are on their way into the store.
    uploading: AtomicU64,
}

/// What became of the requests since the node started.
#[derive(Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    stored: AtomicU64,
    refused: AtomicU64,
}

impl Endpoint {
    /// Listens at a loopback address; makes the token if there is none yet.
    ///
    /// # Errors
    /// When the token's file is not fit for a secret, or the address is taken.
    pub(crate) async fn open(address: SocketAddr, home: &Home, store: Store) -> Result<Self, EndpointError> {
        let token = Token::of(home)?;
        let listen = |source| EndpointError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let token_file = home.http_cache_token_path().display().to_string();
        tracing::info!(%address, token_file, "the HTTP cache endpoint listens");
        let shared = Shared { store, token, counters: Counters::default(), uploading: AtomicU64::new(0) };
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Ok(Self { listener, address, token_file, places, shared: Arc::new(shared) })
    }

    /// Serves connections for as long as it is polled; those that are open go on behind it.
    pub(crate) async fn serve(&self) {
        loop {
            let place = self.places.clone().acquire_owned().await.expect("the semaphore is never closed");
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let shared = self.shared.clone();
                    tokio::spawn(async move {
                        converse(stream, shared).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of the HTTP cache endpoint");
                    tokio::time::sleep(SHORTAGE).await;
                }
            }
        }
    }

    /// Where it listens and what it did, for `barn status`.
    pub(crate) fn status(&self) -> Value {
        let Counters { hits, misses, stored, refused } = &self.shared.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "url": format!("http://{}", self.address),
            "token_file": self.token_file,
            "hits": count(hits),
            "misses": count(misses),
            "stored": count(stored),
            "refused": count(refused),
        })
    }
}

/// All requests of one connection.
async fn converse(stream: TcpStream, shared: Arc<Shared>) {
    // Answers are small; waiting for more to send would cost a hit 40 ms.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer::answer(&shared, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = match tokio::time::timeout(CONNECTION_AGE_MAX, connection.as_mut()).await {
        Ok(ended) => ended,
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(REQUEST_MAX, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of the HTTP cache endpoint ended early");
    }
}
