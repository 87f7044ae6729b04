use super::*;

fn beat(site: u8) -> Beat {
    let site_id = format!("00000000-0000-4000-8000-0000000000{site:02x}");
    let agent = Agent {
        id: pureboot_protocol::AgentId::from_random([site; 16]),
        site_id: site_id.parse().expect("an id"),
    };
    let received_at = Timestamp::from_unix_ms(0);
    Beat {
        instance: None,
        engine: None,
        address: None,
        correlation_id: String::new(),
        agent,
        agent_version: String::new(),
        command_results: Vec::new(),
        body: String::new(),
        received_at,
    }
}

#[test]
fn no_statement_names_a_site_twice_and_lengths_are_powers_of_two() {
    let lens = |sites: &[u8]| {
        let beats: Vec<_> = sites.iter().map(|site| beat(*site)).collect();
        let lens: Vec<_> = rounds(&beats).iter().map(|round| round.len()).collect();
        assert_eq!(lens.iter().sum::<usize>(), sites.len());
        lens
    };
    assert_eq!(lens(&[]), [0; 0]);
    assert_eq!(lens(&[1]), [1]);
    assert_eq!(lens(&[1, 1, 1]), [1, 1, 1]);
    assert_eq!(lens(&[1, 2, 3, 1, 2]), [2, 2, 1]);
    assert_eq!(lens(&(0..=200).collect::<Vec<_>>()), [128, 64, 8, 1]);
}
