//! The accept loop: connections in, within limits of number, size and time, until told to end.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::extract::Peer;
use crate::forwarded::Proxies;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 1_024;
/// Connections at a time from one address; a site's agent needs a handful, an operator's scripts some more.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 128;
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the head of a request may take, and how long a connection may stay without one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest head of a request, in bytes.
const HEAD_LEN_MAX: usize = 16 << 10;
/// The most fields in a head.
const HEAD_FIELDS_MAX: usize = 64;
/// How long a connection may last; one that reads slowly, or never ends, does not keep its place for ever.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(300);
/// How often a connection that is older is looked at, which may go on for as long as content moves on it.
const PROGRESS_PERIOD: Duration = Duration::from_secs(30);
/// The bytes of content that have to move within that time.
const PROGRESS_LEN_MIN: u64 = 256 << 10;
/// How long requests that are under way may take to end when the controller ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait before accepting again after it failed, as it does when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until `shutdown` is done. Each of `proxies` may have as many connections as there may be.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    proxies: Proxies,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = pin!(shutdown);
    let places = Places::default();
    let (ending, _) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut is_failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                is_failing = false;
                // Whoever finds no place is let go at once: waiting would tie up a descriptor as well.
                let own_max = match proxies.trust(peer.ip()) {
                    true => CONNECTIONS_MAX,
                    false => CONNECTIONS_PER_ADDRESS_MAX,
                };
                let Some(place) = places.take(peer.ip(), own_max) else {
                    tracing::debug!(%peer, "no place for a connection of {peer}");
                    continue;
                };
                let service = router.clone().layer(axum::Extension(Peer(peer)));
                let (tls, ending) = (tls.clone(), ending.subscribe());
                connections.spawn(async move {
                    connection(stream, peer, tls, service, ending).await;
                    drop(place);
                });
            }
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(error = %error, "cannot accept a connection for now: {error}");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    _ = ending.send(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        tracing::info!("ending {} connections that are still busy", connections.len());
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    service: Router,
    ending: watch::Receiver<bool>,
) {
    // An answer is one write; waiting to fill a packet would only delay it.
    _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return exchange(stream, peer, service, ending).await };
    match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => exchange(stream, peer, service, ending).await,
        Ok(Err(error)) => tracing::debug!(%peer, "no TLS with {peer}: {error}"),
        Err(_) => tracing::debug!(%peer, "no TLS with {peer} in time"),
    }
}

/// Requests and answers on one connection.
async fn exchange<I>(stream: I, peer: SocketAddr, router: Router, mut ending: watch::Receiver<bool>)
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let progress = Progress::default();
    let router = router.layer(axum::Extension(progress.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_LEN_MAX)
        .max_headers(HEAD_FIELDS_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = async { _ = ending.wait_for(|ending| *ending).await } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = tokio::time::sleep(CONNECTION_AGE_MAX) => {
            connection.as_mut().graceful_shutdown();
            loop {
                let moved = progress.moved();
                match timeout(PROGRESS_PERIOD, connection.as_mut()).await {
                    Ok(result) => break result,
                    Err(_) if progress.moved() - moved >= PROGRESS_LEN_MIN => {}
                    Err(_) => break Ok(()),
                }
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, "connection of {peer} ended: {error}");
    }
}

/// How much content has moved on a connection, either way. Clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    bytes: Arc<AtomicU64>,
}

impl Progress {
    /// Counts `bytes` that have moved.
    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn moved(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// That of the connection that the request came on; of none where there is no connection, as in tests.
impl<S: Sync> FromRequestParts<S> for Progress {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// How many connections there are, by address.
#[derive(Debug, Clone, Default)]
struct Places {
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection's place, free again when this is dropped.
#[derive(Debug)]
struct Place {
    places: Places,
    address: IpAddr,
}

impl Places {
    /// A place for `address`, which may have `own_max`.
    fn take(&self, address: IpAddr, own_max: usize) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = taken.values().sum();
        let own = taken.get(&address).copied().unwrap_or(0);
        if total >= CONNECTIONS_MAX || own >= own_max {
            return None;
        }
        taken.insert(address, own + 1);
        Some(Place { places: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.address) {
            Some(own) if *own > 1 => *own -= 1,
            _ => _ = taken.remove(&self.address),
        }
    }
}

#[cfg(test)]
mod tests;
