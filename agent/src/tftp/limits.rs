//! Which request may begin a transfer (FAULTS §11).
//!
//! A request costs its sender one datagram with any address on it. So there are limits on how often each address asks, on how
//! often all of them do, and on the transfers that have not proved yet that their machine exists. Of those the oldest makes room
//! for a new one: a machine on the LAN answers within milliseconds, and is not locked out by 256 that never will.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

/// The ports that answer whatever they are sent, so that two programs would never stop talking (F11): none, echo, chargen, TFTP
/// itself, DNS.
const PORTS_REFUSED: [u16; 5] = [0, 7, 19, 53, 69];
/// How long a machine has to answer before its transfer may have to make room.
const ANSWER_MIN: Duration = Duration::from_millis(100);

/// The numbers of the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Transfers at a time.
    pub transfers_max: usize,
    /// Transfers at a time to one address.
    pub transfers_per_client_max: usize,
    /// Transfers whose machine has not answered, once each had a moment to.
    pub unanswered_max: usize,
    /// Requests of one address.
    pub client_rate: Rate,
    /// Requests of all addresses.
    pub total_rate: Rate,
    /// Addresses whose requests are counted at a time.
    pub clients_max: usize,
}

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            transfers_max: 1_024,
            transfers_per_client_max: 8,
            unanswered_max: 256,
            client_rate: Rate { per_second: 20, burst: 40 },
            total_rate: Rate { per_second: 2_000, burst: 2_000 },
            clients_max: 4_096,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Answering would begin a loop, or hit somebody who never asked.
    #[error("no machine asks from such an address")]
    Source,
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

/// How many requests an address has left.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Admission {
    /// Nobody yet.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            next_id: 0,
            transfers: HashMap::new(),
            by_peer: HashMap::new(),
            by_client: HashMap::new(),
            unanswered: BTreeMap::new(),
            clients: HashMap::new(),
            total: Bucket::full(limits.total_rate, now),
        }
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
        now: Instant,
    ) -> Result<Admitted, Refusal> {
        let mut ended = None;
        if let Some(id) = self.by_peer.get(&peer).copied() {
            if self.transfers.get(&id).is_some_and(|transfer| *transfer.request == *request) {
                return Err(Refusal::Repeated);
            }
            // A machine reads one file through a port: it has turned to another, and its ERROR got lost.
            ended = Some(id);
        } else if self.by_client.get(&client_of(peer)).copied().unwrap_or_default()
            >= self.limits.transfers_per_client_max
        {
            return Err(Refusal::ClientTransfers);
        } else {
            let is_full = self.transfers.len() >= self.limits.transfers_max;
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

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self { left: rate.burst.into(), at: now }
    }

    fn level(&self, rate: Rate, now: Instant) -> f64 {
        let gained =
            now.saturating_duration_since(self.at).as_secs_f64() * f64::from(rate.per_second);
        (self.left + gained).min(rate.burst.into())
    }

    fn is_full(&self, rate: Rate, now: Instant) -> bool {
        self.level(rate, now) >= f64::from(rate.burst)
    }

    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        *self = Self { left: self.level(rate, now), at: now };
        let is_left = self.left >= 1.0;
        if is_left {
            self.left -= 1.0;
        }
        is_left
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
mod tests {
    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    fn begin() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "limits need some instant to begin at")]
        Instant::now()
    }

    fn peer(client: u32, port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + client), port))
    }

    fn admit(
        admission: &mut Admission,
        peer: SocketAddr,
        now: Instant,
    ) -> Result<Admitted, Refusal> {
        admission.handle_request(peer, b"request", now)
    }

    #[test]
    fn f11_nobody_asks_from_these_addresses() {
        let now = begin();
        let mut admission = Admission::new(Limits::default(), now);
        for peer in [
            "10.0.0.1:0",
            "10.0.0.1:19",
            "10.0.0.1:53",
            "10.0.0.1:69",
            "255.255.255.255:2000",
            "224.0.0.1:2000",
            "0.0.0.0:2000",
            "192.0.2.1:2000",
            "[ff02::1]:2000",
        ] {
            let peer = peer.parse().expect("an address");
            assert_eq!(admission.handle_datagram(peer, LOCAL, now), Err(Refusal::Source), "{peer}");
        }
        for local in ["255.255.255.255", "224.0.0.1", "ff02::1"] {
            let local = local.parse().expect("an address");
            let result = admission.handle_datagram(peer(1, 2000), local, now);
            assert_eq!(result, Err(Refusal::Destination), "{local}");
        }
        assert_eq!(admission.handle_datagram(peer(1, 2000), LOCAL, now), Ok(()));
    }

    #[test]
    fn f17_an_address_that_floods_does_not_use_up_what_all_have() {
        let now = begin();
        let mut admission = Admission::new(Limits::default(), now);
        let mut ask = |client, now| admission.handle_datagram(peer(client, 2000), LOCAL, now);
        for _ in 0..40 {
            assert_eq!(ask(1, now), Ok(()));
        }
        for _ in 0..50_000 {
            assert_eq!(ask(1, now), Err(Refusal::ClientRate));
        }
        assert_eq!(ask(2, now), Ok(()));
        assert_eq!(ask(1, now + Duration::from_millis(50)), Ok(()));
        assert_eq!(ask(1, now + Duration::from_millis(50)), Err(Refusal::ClientRate));
    }

    #[test]
    fn f17_a_flood_of_addresses_is_bounded_and_forgotten() {
        let now = begin();
        let mut admission = Admission::new(Limits::default(), now);
        let mut answered = 0;
        for client in 0..50_000 {
            let now = now + Duration::from_micros(u64::from(client) * 20);
            answered +=
                u32::from(admission.handle_datagram(peer(client, 2000), LOCAL, now).is_ok());
        }
        assert_eq!(answered, 3_999);
        assert!(admission.clients.len() <= 4_096);
        let later = now + Duration::from_secs(2);
        for client in 50_000..52_000 {
            assert_eq!(admission.handle_datagram(peer(client, 2000), LOCAL, later), Ok(()));
        }
        assert!(admission.clients.len() <= 4_096);
    }

    #[test]
    fn f5_a_repeated_request_is_one_transfer() {
        let now = begin();
        let mut admission = Admission::new(Limits::default(), now);
        let first = admit(&mut admission, peer(1, 2000), now).expect("room");
        assert_eq!(admit(&mut admission, peer(1, 2000), now), Err(Refusal::Repeated));
        let other = admission.handle_request(peer(1, 2000), b"another file", now).expect("room");
        assert_eq!(other.ended, Some(first.id));
        // What ended for it may say so late.
        admission.handle_end(first.id);
        assert_eq!(admission.transfers(), 1);
        let result = admission.handle_request(peer(1, 2000), b"another file", now);
        assert_eq!(result, Err(Refusal::Repeated));
    }

    #[test]
    fn an_address_has_eight_transfers_at_a_time() {
        let now = begin();
        let mut admission = Admission::new(Limits::default(), now);
        let admitted: Vec<_> = (2000..2008)
            .map(|port| admit(&mut admission, peer(1, port), now).expect("room").id)
            .collect();
        assert_eq!(admit(&mut admission, peer(1, 3000), now), Err(Refusal::ClientTransfers));
        assert!(admit(&mut admission, peer(2, 3000), now).is_ok());
        admission.handle_end(admitted[3]);
        assert!(admit(&mut admission, peer(1, 3000), now).is_ok());
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let now = begin();
        let mut admission = Admission::new(Limits::default(), now);
        for host in 0..9 {
            let peer = SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, host), 2000));
            assert_eq!(admit(&mut admission, peer, now).is_ok(), host < 8);
        }
        let other = SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1), 2000));
        assert!(admit(&mut admission, other, now).is_ok());
    }

    #[test]
    fn f9_a_machine_has_its_moment_from_when_it_was_spoken_to() {
        let begin = begin();
        let limits = Limits { unanswered_max: 1, ..Limits::default() };
        let mut admission = Admission::new(limits, begin);
        let first = admit(&mut admission, peer(1, 2000), begin).expect("room").id;
        admission.handle_begin(first, begin + ANSWER_MIN);
        let soon = begin + ANSWER_MIN * 2 - Duration::from_millis(1);
        assert_eq!(admit(&mut admission, peer(2, 2000), soon).expect("room").ended, None);
        let late = begin + ANSWER_MIN * 2;
        assert_eq!(admit(&mut admission, peer(3, 2000), late).expect("room").ended, Some(first));
    }

    #[test]
    fn f9_the_oldest_that_never_answered_makes_room() {
        let now = begin();
        let mut admission = Admission::new(Limits::default(), now);
        for client in 0..256 {
            let admitted = admit(&mut admission, peer(client, 2000), now).expect("room");
            assert_eq!(admitted.ended, None);
        }
        let honest = TransferId(0);
        admission.handle_answer(honest);
        assert_eq!(
            admit(&mut admission, peer(300, 2000), now).map(|admitted| admitted.ended),
            Ok(None)
        );
        let later = now + ANSWER_MIN;
        for client in 1_000..1_256 {
            let admitted = admit(&mut admission, peer(client, 2000), later).expect("room");
            assert!(admitted.ended.is_some_and(|id| id != honest));
        }
        assert_eq!(admission.transfers(), 257);
        assert!(admission.transfers.contains_key(&honest));
    }

    #[test]
    fn f9_a_thousand_machines_at_once_all_begin() {
        let now = begin();
        let mut admission = Admission::new(Limits::default(), now);
        for client in 0..1_024 {
            assert_eq!(admission.handle_datagram(peer(client, 2000), LOCAL, now), Ok(()));
            let admitted = admit(&mut admission, peer(client, 2000), now).expect("room");
            assert_eq!(admitted.ended, None);
        }
        assert_eq!(admit(&mut admission, peer(2_000, 2000), now), Err(Refusal::Transfers));
        for client in 0..1_024 {
            admission.handle_answer(TransferId(client));
        }
        let later = now + ANSWER_MIN;
        assert_eq!(admit(&mut admission, peer(2_000, 2000), later), Err(Refusal::Transfers));
        admission.handle_end(TransferId(7));
        assert!(admit(&mut admission, peer(2_000, 2000), later).is_ok());
    }

    #[test]
    fn what_has_ended_leaves_nothing() {
        let now = begin();
        let mut admission = Admission::new(Limits::default(), now);
        for client in 0..100 {
            let id = admit(&mut admission, peer(client, 2000), now).expect("room").id;
            admission.handle_answer(id);
            admission.handle_end(id);
            admission.handle_end(id);
        }
        assert_eq!(admission.transfers(), 0);
        assert!(admission.by_peer.is_empty() && admission.by_client.is_empty());
        assert!(admission.unanswered.is_empty());
    }
}
