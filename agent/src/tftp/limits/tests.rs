use super::*;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn begin() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "limits need some instant to begin at")]
    Instant::now()
}

/// Nobody yet, on a host that is in one network with everybody.
fn everywhere(limits: Limits, now: Instant) -> Admission {
    let mut admission = Admission::new(limits, now);
    let networks = ["0.0.0.0/0", "::/0"].map(|network| network.parse().expect("a network"));
    admission.set_networks(Some(networks.to_vec()), now);
    admission
}

fn peer(client: u32, port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + client), port))
}

fn admit(admission: &mut Admission, peer: SocketAddr, now: Instant) -> Result<Admitted, Refusal> {
    admission.handle_request(peer, b"request", Weight::Content, now)
}

#[test]
fn f11_nobody_asks_from_these_addresses() {
    let now = begin();
    let mut admission = everywhere(Limits::default(), now);
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
    let mut admission = everywhere(Limits::default(), now);
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
    let mut admission = everywhere(Limits::default(), now);
    let mut answered = 0;
    for client in 0..50_000 {
        let now = now + Duration::from_micros(u64::from(client) * 20);
        answered += u32::from(admission.handle_datagram(peer(client, 2000), LOCAL, now).is_ok());
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
    let mut admission = everywhere(Limits::default(), now);
    let first = admit(&mut admission, peer(1, 2000), now).expect("room");
    assert_eq!(admit(&mut admission, peer(1, 2000), now), Err(Refusal::Repeated));
    let other = admission
        .handle_request(peer(1, 2000), b"another file", Weight::Content, now)
        .expect("room");
    assert_eq!(other.ended, Some(first.id));
    // What ended for it may say so late.
    admission.handle_end(first.id);
    assert_eq!(admission.transfers(), 1);
    let result = admission.handle_request(peer(1, 2000), b"another file", Weight::Content, now);
    assert_eq!(result, Err(Refusal::Repeated));
}

#[test]
fn an_address_has_eight_transfers_at_a_time() {
    let now = begin();
    let mut admission = everywhere(Limits::default(), now);
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
    let mut admission = everywhere(Limits::default(), now);
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
    let mut admission = everywhere(limits, begin);
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
    let mut admission = everywhere(Limits::default(), now);
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
    let mut admission = everywhere(Limits::default(), now);
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
    let mut admission = everywhere(Limits::default(), now);
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

#[test]
fn f11_who_asks_from_elsewhere_is_not_answered_unless_the_operator_names_the_network() {
    let now = begin();
    let allow_from = vec!["10.9.0.0/16".parse().expect("a network")];
    let mut admission = Admission::new(Limits { allow_from, ..Limits::default() }, now);
    let own = vec!["192.0.2.0/24".parse().expect("a network")];
    admission.set_networks(Some(own), now);
    for (peer, expected) in [
        ("192.0.2.77:2000", Ok(())),
        ("10.9.200.1:2000", Ok(())),
        ("198.51.100.1:2000", Err(Refusal::Elsewhere)),
        ("10.10.0.1:2000", Err(Refusal::Elsewhere)),
    ] {
        let peer = peer.parse().expect("an address");
        assert_eq!(admission.handle_datagram(peer, LOCAL, now), expected, "{peer}");
    }
    assert_eq!(admission.clients.len(), 2, "nothing is remembered of others");
}

#[test]
fn a_loader_has_a_place_while_as_many_large_files_are_sent_as_may() {
    let now = begin();
    let mut admission = everywhere(Limits::default(), now);
    for client in 0..1_024 {
        let id = admit(&mut admission, peer(client, 2000), now).expect("room").id;
        admission.handle_answer(id);
    }
    assert_eq!(admit(&mut admission, peer(5_000, 2000), now), Err(Refusal::Transfers));
    let mut load =
        |client| admission.handle_request(peer(client, 2000), b"loader", Weight::Loader, now);
    for client in 5_000..5_000 + 128 {
        let id = load(client).expect("a place").id;
        assert!(id.number() >= 1_024);
    }
    for id in 1_024..1_152 {
        admission.handle_answer(TransferId(id));
    }
    let beyond = admission.handle_request(peer(9_000, 2000), b"loader", Weight::Loader, now);
    assert_eq!(beyond, Err(Refusal::Transfers), "there is a bound for them too");
}

#[test]
fn a_loader_goes_to_an_address_that_has_its_share_of_large_files() {
    let now = begin();
    let mut admission = everywhere(Limits::default(), now);
    for port in 2_000..2_008 {
        admit(&mut admission, peer(1, port), now).expect("room");
    }
    for port in 3_000..3_009 {
        let admitted = admission.handle_request(peer(1, port), b"loader", Weight::Loader, now);
        assert_eq!(admitted.is_ok(), port < 3_008, "{port}");
    }
}
