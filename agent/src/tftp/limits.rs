//! Which request may begin a transfer (FAULTS §11).
//!
//! A request costs its sender one datagram with any address on it. So there are limits on how often each address asks, on how
//! often all of them do, and on the transfers that have not proved yet that their machine exists. Of those the oldest makes room
//! for a new one: a machine on the LAN answers within milliseconds, and is not locked out by 256 that never will. Who asks from
//! elsewhere than a [network](super::sources) that the host is in, or that the operator names, is not answered at all.
//!
//! Loaders have places of their own beside those of large files: however many machines load images, another one can start.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::options::BLOCK_LEN_MAX;
use super::sources::{Network, Sources};
use crate::rate::{Bucket, Rate};

/// The ports that answer whatever they are sent, so that two programs would never stop talking (F11): none, echo, chargen, TFTP
/// itself, DNS.
const PORTS_REFUSED: [u16; 5] = [0, 7, 19, 53, 69];
/// How long a machine has to answer before its transfer may have to make room.
const ANSWER_MIN: Duration = Duration::from_millis(100);

/// How many loaders may be sent at a time when large files have all of [`Limits::transfers_max`].
const LOADERS_BESIDE_MAX: usize = 128;

/// What a request is for, as far as limits tell that apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// What firmware loads first: small, soon done, and without it nothing else happens.
    Loader,
    /// Everything else.
    Content,
}

/// The limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Networks from which machines may ask besides those that this host is in.
    pub allow_from: Vec<Network>,
    /// Transfers at a time.
    pub transfers_max: usize,
    /// Transfers at a time to one address; as many of loaders go beside them.
    pub transfers_per_client_max: usize,
    /// Transfers whose machine has not answered, once each had a moment to.
    pub unanswered_max: usize,
    /// Requests of one address.
    pub client_rate: Rate,
    /// Requests of all addresses.
    pub total_rate: Rate,
    /// Addresses whose requests are counted at a time.
    pub clients_max: usize,
    /// The longest block that is agreed on, in bytes.
    pub block_len_max: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            allow_from: Vec::new(),
            transfers_max: 1_024,
            transfers_per_client_max: 8,
            unanswered_max: 256,
            client_rate: Rate { per_second: 20, burst: 40 },
            total_rate: Rate { per_second: 2_000, burst: 2_000 },
            clients_max: 4_096,
            block_len_max: BLOCK_LEN_MAX,
        }
    }
}

/// One admitted transfer. Later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferId(u64);

impl TransferId {
    /// The transfer of this number.
    pub(super) fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// Its number; they are counted from 0.
    pub(super) fn number(self) -> u64 {
        self.0
    }
}

/// Why a request gets no answer. The log gets this text.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error,
)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Answering would begin a loop, or hit somebody who never asked.
    #[error("no machine asks from such an address")]
    Source,
    /// The address is neither in a network of this host nor in one that the operator names.
    #[error("the address is in no network of this host")]
    Elsewhere,
    /// It was not sent to this host alone.
    #[error("the request was sent to a group of hosts")]
    Destination,
    /// The address asks too often.
    #[error("the address asks too often")]
    ClientRate,
    /// All addresses together ask too often.
    #[error("too many requests from all addresses")]
    TotalRate,
    /// The address has its share of transfers.
    #[error("the address has as many transfers as it may")]
    ClientTransfers,
    /// There is no room for another transfer.
    #[error("as many transfers run as may")]
    Transfers,
    /// The same request is being answered already (F5).
    #[error("the request repeats one that is being answered")]
    Repeated,
}

impl Refusal {
    /// What an operator does about it where the machine is an honest one; none if there is no such.
    pub fn cure(self) -> Option<&'static str> {
        match self {
            Self::Elsewhere => Some(
                "where a router, relay or NAT is between machines and agent, name their network in [tftp], as in allow_from = [\"10.9.0.0/16\"]",
            ),
            Self::ClientRate => Some(
                "where many machines ask from one address (NAT), raise requests_per_address_per_s in [tftp]",
            ),
            Self::ClientTransfers => Some(
                "where many machines ask from one address (NAT), raise transfers_per_address_max in [tftp]",
            ),
            Self::TotalRate | Self::Transfers => Some(
                "machines ask again by themselves; if it goes on, look for who floods the agent",
            ),
            Self::Source | Self::Destination | Self::Repeated => None,
        }
    }
}

/// A transfer that may begin.
#[derive(Debug, PartialEq, Eq)]
pub struct Admitted {
    /// What it is called here.
    pub id: TransferId,
    /// The transfer that has to end for it.
    pub ended: Option<TransferId>,
}

/// Who is being answered, and who asked lately.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    sources: Sources,
    next_id: u64,
    transfers: HashMap<TransferId, Transfer>,
    by_peer: HashMap<SocketAddr, TransferId>,
    by_client: HashMap<IpAddr, usize>,
    unanswered: BTreeMap<TransferId, Instant>,
    clients: HashMap<IpAddr, Bucket>,
    total: Bucket,
}

#[derive(Debug)]
struct Transfer {
    peer: SocketAddr,
    request: Box<[u8]>,
}

impl Admission {
    /// Nobody yet.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            sources: Sources::new(limits.allow_from.clone()),
            next_id: 0,
            transfers: HashMap::new(),
            by_peer: HashMap::new(),
            by_client: HashMap::new(),
            unanswered: BTreeMap::new(),
            clients: HashMap::new(),
            total: Bucket::full(limits.total_rate, now),
            limits,
        }
    }

    /// Whether it should first be told [which networks](Self::set_networks) this host is in.
    pub fn wants_networks(&self, peer: SocketAddr, now: Instant) -> bool {
        self.sources.wants_networks(peer.ip(), now)
    }

    /// Learns which networks this host is in now; none if the system does not tell.
    pub fn set_networks(&mut self, networks: Option<Vec<Network>>, now: Instant) {
        self.sources.set_networks(networks, now);
    }

    /// Whether a datagram of `peer` to the address `local` may be answered at all, be it by an error.
    ///
    /// # Errors
    /// It has to be dropped without a word.
    pub fn handle_datagram(
        &mut self,
        peer: SocketAddr,
        local: IpAddr,
        now: Instant,
    ) -> Result<(), Refusal> {
        if !is_machine(peer) || peer.ip() == local && !local.is_loopback() {
            return Err(Refusal::Source);
        }
        if local.is_multicast() || local == Ipv4Addr::BROADCAST {
            return Err(Refusal::Destination);
        }
        if !self.sources.admit(peer.ip()) {
            return Err(Refusal::Elsewhere);
        }
        let client = client_of(peer);
        let rate = self.limits.client_rate;
        let mut bucket =
            self.clients.get(&client).copied().unwrap_or_else(|| Bucket::full(rate, now));
        // The address first, so that one that floods does not use up what all of them have.
        if !bucket.take(rate, now) {
            return Err(Refusal::ClientRate);
        }
        if !self.total.take(self.limits.total_rate, now) {
            return Err(Refusal::TotalRate);
        }
        if self.clients.len() >= self.limits.clients_max && !self.clients.contains_key(&client) {
            self.clients.retain(|_, bucket| !bucket.is_full(rate, now));
            if self.clients.len() >= self.limits.clients_max {
                return Err(Refusal::TotalRate);
            }
        }
        self.clients.insert(client, bucket);
        Ok(())
    }

    /// Whether `request`, the datagram as it came, may begin a transfer.
    ///
    /// # Errors
    /// It has to be dropped without a word.
    pub fn handle_request(
        &mut self,
        peer: SocketAddr,
        request: &[u8],
        weight: Weight,
        now: Instant,
    ) -> Result<Admitted, Refusal> {
        let Limits { transfers_max, transfers_per_client_max, .. } = self.limits;
        let (transfers_max, per_client_max) = match weight {
            Weight::Loader => (transfers_max + LOADERS_BESIDE_MAX, 2 * transfers_per_client_max),
            Weight::Content => (transfers_max, transfers_per_client_max),
        };
        let mut ended = None;
        if let Some(id) = self.by_peer.get(&peer).copied() {
            if self.transfers.get(&id).is_some_and(|transfer| *transfer.request == *request) {
                return Err(Refusal::Repeated);
            }
            // A machine reads one file through a port: it has turned to another, and its ERROR got lost.
            ended = Some(id);
        } else if self.by_client.get(&client_of(peer)).copied().unwrap_or_default()
            >= per_client_max
        {
            return Err(Refusal::ClientTransfers);
        } else {
            let is_full = self.transfers.len() >= transfers_max;
            if is_full || self.unanswered.len() >= self.limits.unanswered_max {
                let oldest = self.unanswered.first_key_value();
                let is_late = |(_, began): &(&_, &Instant)| now >= **began + ANSWER_MIN;
                ended = oldest.filter(is_late).map(|(id, _)| *id);
            }
            if is_full && ended.is_none() {
                return Err(Refusal::Transfers);
            }
        }
        if let Some(id) = ended {
            self.handle_end(id);
        }
        let id = TransferId(self.next_id);
        self.next_id += 1;
        self.transfers.insert(id, Transfer { peer, request: request.into() });
        self.by_peer.insert(peer, id);
        *self.by_client.entry(client_of(peer)).or_default() += 1;
        self.unanswered.insert(id, now);
        Ok(Admitted { id, ended })
    }

    /// Learns that the first word to the machine of a transfer is said only `now`: a thousand requests at once take their time,
    /// which is not the machine's.
    pub fn handle_begin(&mut self, id: TransferId, now: Instant) {
        if let Some(began) = self.unanswered.get_mut(&id) {
            *began = now;
        }
    }

    /// Learns that the machine of a transfer has answered.
    pub fn handle_answer(&mut self, id: TransferId) {
        self.unanswered.remove(&id);
    }

    /// Learns that a transfer is over; once more does no harm.
    pub fn handle_end(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.remove(&id) else { return };
        self.unanswered.remove(&id);
        self.by_peer.remove(&transfer.peer);
        let client = client_of(transfer.peer);
        if let Some(count) = self.by_client.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.by_client.remove(&client);
            }
        }
    }

    /// How many transfers run.
    pub fn transfers(&self) -> usize {
        self.transfers.len()
    }
}

/// Whether a machine can ask from `peer`.
fn is_machine(peer: SocketAddr) -> bool {
    let ip = peer.ip();
    let is_broadcast = ip == Ipv4Addr::BROADCAST;
    !(PORTS_REFUSED.contains(&peer.port())
        || ip.is_unspecified()
        || ip.is_multicast()
        || is_broadcast)
}

/// What counts as one address: a machine chooses freely within its IPv6 network.
fn client_of(peer: SocketAddr) -> IpAddr {
    match peer.ip() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => {
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::from(u64::MAX) << 64)))
        }
    }
}

#[cfg(test)]
mod tests;
