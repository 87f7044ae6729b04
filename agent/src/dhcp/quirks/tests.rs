use super::*;
use crate::clock::monotonic;

const PXE: &[u8] = b"PXEClient:Arch:00007:UNDI:003016";

fn mac(text: &str) -> Mac {
    text.parse().expect("an address")
}

/// Plays the DISCOVERs of a machine at these seconds; answers the modes that it was offered.
fn play(learned: &mut Learned, mac: Mac, seconds: &[u64]) -> Vec<OfferMode> {
    let start = monotonic();
    let offer = |at: &u64| {
        let now = start + Duration::from_secs(*at);
        learned.learn(mac, Sight::Asked, now);
        let mode = learned.mode(mac).unwrap_or(OfferMode::Direct);
        learned.learn(mac, Sight::Offered(mode), now);
        mode
    };
    seconds.iter().map(offer).collect()
}

/// All lessons, oldest first.
fn entries(learned: &Learned) -> Vec<Lesson> {
    let mut lessons: Vec<_> = learned.lessons.values().copied().collect();
    lessons.sort_unstable_by_key(|(number, _)| *number);
    lessons.into_iter().map(|(_, lesson)| lesson).collect()
}

fn lesson(mac: Mac, mode: OfferMode, proof: Proof) -> Lesson {
    Lesson { mac, mode, proof }
}

#[test]
fn every_row_of_the_table_is_found_by_its_keys() {
    for (address, class, code, mode) in [
        ("b8:27:eb:00:00:01", PXE, Some(0x00), Some(OfferMode::PiMenu)),
        ("2c:cf:67:00:00:01", PXE, Some(0x00), Some(OfferMode::PiMenu)),
        ("b8:27:eb:00:00:01", PXE, Some(0x0b), None),
        ("52:54:00:00:00:01", PXE, Some(0x29), Some(OfferMode::PiMenu)),
        ("52:54:00:00:00:01", b"U-Boot.armv8", Some(0x16), Some(OfferMode::Direct)),
        ("94:18:82:00:00:01", PXE, Some(0x07), Some(OfferMode::BootServer)),
        ("94:18:82:00:00:01", PXE, Some(0x00), None),
        ("ac:1f:6b:00:00:01", PXE, Some(0x09), Some(OfferMode::BootServer)),
        ("ac:1f:6b:00:00:01", PXE, None, None),
        ("52:54:00:00:00:01", PXE, Some(0x07), None),
    ] {
        assert_eq!(
            find(mac(address), class, code).map(|quirk| quirk.mode),
            mode,
            "{address} {code:?}"
        );
    }
}

#[test]
fn every_key_of_every_row_finds_it() {
    for quirk in QUIRKS {
        let other = [[0x52, 0x54, 0x00]];
        let ouis = if quirk.ouis.is_empty() { &other } else { quirk.ouis };
        let codes: Vec<_> = quirk.codes.iter().map(|code| Some(*code)).collect();
        let codes = if codes.is_empty() { vec![None] } else { codes };
        for ([a, b, c], code) in ouis.iter().flat_map(|oui| codes.iter().map(move |it| (*oui, *it)))
        {
            let address = Mac::from_bytes([a, b, c, 0, 0, 1]).expect("unicast");
            let class = [quirk.class_prefix, b":more"].concat();
            let found = find(address, &class, code).map(|found| found.name);
            assert_eq!(found, Some(quirk.name), "{address} {code:?}");
            assert_eq!(find(address, b"MSFT 5.0", code).map(|found| found.name), None);
        }
    }
}

#[test]
fn option_43_of_each_mode_is_well_formed() {
    assert_eq!(OfferMode::Direct.vendor_options(), Some(&[6, 1, 8, 255][..]));
    assert_eq!(OfferMode::BootServer.vendor_options(), None);
    let mut rest = OfferMode::PiMenu.vendor_options().expect("a menu");
    let mut codes = Vec::new();
    while let [code, len, tail @ ..] = rest {
        codes.push(*code);
        rest = tail.get(usize::from(*len)..).expect("complete");
    }
    assert_eq!((codes.as_slice(), rest), (&[6, 10, 9][..], &[255][..]));
}

#[test]
fn a_client_that_ignores_mode_a_twice_gets_mode_b() {
    use OfferMode::{BootServer as B, Direct as A};
    let client = mac("52:54:00:12:34:56");
    let mut learned = Learned::default();
    assert_eq!(play(&mut learned, client, &[0, 4, 12, 28]), [A, A, B, B]);
    assert_eq!(entries(&learned), [lesson(client, B, Proof::Untried)]);
    assert_eq!(play(&mut learned, client, &[0]), [B]);
    assert_eq!(play(&mut learned, mac("52:54:00:12:34:57"), &[0]), [A]);
}

#[test]
fn a_client_that_the_table_sends_to_4011_and_that_ignores_that_twice_gets_mode_a() {
    let client = mac("94:18:82:00:00:01");
    let mut learned = Learned::default();
    let start = monotonic();
    let mut lessons = Vec::new();
    for second in [0, 10, 20] {
        let now = start + Duration::from_secs(second);
        lessons.extend(learned.learn(client, Sight::Asked, now));
        learned.learn(client, Sight::Offered(OfferMode::BootServer), now);
        // It takes its lease each time and never comes to port 4011.
        assert_eq!(learned.learn(client, Sight::Leased, now + Duration::from_secs(1)), None);
    }
    assert_eq!(lessons, [lesson(client, OfferMode::Direct, Proof::Untried)]);
    let now = start + Duration::from_secs(30);
    learned.learn(client, Sight::Offered(OfferMode::Direct), now);
    learned.learn(client, Sight::Leased, now);
    let worked = lesson(client, OfferMode::Direct, Proof::Worked);
    assert_eq!(learned.learn(client, Sight::WentOn, now), Some(worked));
}

#[test]
fn a_client_that_ignores_both_is_left_with_the_tables_form_and_is_no_news_again() {
    use OfferMode::{BootServer as B, Direct as A};
    let client = mac("52:54:00:12:34:56");
    let mut learned = Learned::default();
    assert_eq!(play(&mut learned, client, &[0, 4, 12, 16, 20]), [A, A, B, B, A]);
    let hopeless = lesson(client, A, Proof::BothIgnored);
    assert_eq!(entries(&learned), [hopeless]);
    assert_eq!(play(&mut learned, client, &[0, 4, 12, 16, 20, 24, 28, 32]), [A; 8]);
    assert_eq!(entries(&learned), [hopeless]);
}

#[test]
fn what_has_worked_is_not_given_up_when_no_address_is_leased() {
    let client = mac("52:54:00:12:34:56");
    let worked = lesson(client, OfferMode::BootServer, Proof::Worked);
    let mut learned = Learned::restore([worked]);
    assert_eq!(play(&mut learned, client, &[0, 4, 12, 28, 32, 36]), [OfferMode::BootServer; 6]);
    assert_eq!(entries(&learned), [worked]);
}

#[test]
fn a_question_heard_twice_is_not_an_ignored_offer() {
    let client = mac("52:54:00:12:34:56");
    let mut learned = Learned::default();
    assert_eq!(play(&mut learned, client, &[0, 0, 1, 1, 1]), [OfferMode::Direct; 5]);
    // Nor is one that comes back after a restart.
    assert_eq!(play(&mut learned, client, &[0, 100, 200, 300]), [OfferMode::Direct; 4]);
}

#[test]
fn a_client_that_goes_on_has_not_ignored_the_offer() {
    let client = mac("52:54:00:12:34:56");
    for sight in [Sight::Leased, Sight::WentOn] {
        let mut learned = Learned::default();
        let start = monotonic();
        for second in [0, 10, 20, 30, 40] {
            let now = start + Duration::from_secs(second);
            assert_eq!(learned.learn(client, Sight::Asked, now), None);
            learned.learn(client, Sight::Offered(OfferMode::Direct), now);
            assert_eq!(learned.learn(client, sight, now + Duration::from_secs(1)), None);
        }
        assert_eq!(learned.mode(client), None);
    }
}

#[test]
fn success_after_mode_b_is_remembered_once() {
    let client = mac("52:54:00:12:34:56");
    let mut learned = Learned::default();
    let start = monotonic();
    play(&mut learned, client, &[0, 4, 12]);
    assert_eq!(learned.learn(client, Sight::Leased, start + Duration::from_secs(13)), None);
    let worked = Some(lesson(client, OfferMode::BootServer, Proof::Worked));
    assert_eq!(learned.learn(client, Sight::WentOn, start + Duration::from_secs(14)), worked);
    assert_eq!(learned.learn(client, Sight::WentOn, start + Duration::from_secs(15)), None);
    assert_eq!(entries(&learned).as_slice(), worked.as_slice());
}

#[test]
fn lessons_survive_a_restart_and_the_oldest_goes_first() {
    let address = |n: usize| {
        let [.., high, low] = n.to_be_bytes();
        Mac::from_bytes([0x52, 0x54, 0, 0, high, low]).expect("unicast")
    };
    let lessons: Vec<_> = (0..LESSONS_MAX)
        .rev()
        .map(|n| lesson(address(n), OfferMode::BootServer, Proof::Worked))
        .collect();
    let mut learned = Learned::restore(lessons.clone());
    assert_eq!(entries(&learned), lessons);
    play(&mut learned, address(LESSONS_MAX), &[0, 4, 12]);
    assert_eq!(entries(&learned).len(), LESSONS_MAX);
    assert_eq!(learned.mode(address(LESSONS_MAX - 1)), None);
    assert_eq!(learned.mode(address(LESSONS_MAX)), Some(OfferMode::BootServer));
}

#[test]
fn a_flood_of_addresses_costs_bounded_memory() {
    let mut learned = Learned::default();
    let start = monotonic();
    for n in 0..3 * WAITING_MAX {
        let [.., high, low] = n.to_be_bytes();
        let client = Mac::from_bytes([0x52, 0x54, 0, 0, high, low]).expect("unicast");
        learned.learn(client, Sight::Offered(OfferMode::Direct), start);
    }
    assert_eq!(learned.waiting.len(), WAITING_MAX);
}
