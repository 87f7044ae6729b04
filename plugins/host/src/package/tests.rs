use proptest::prelude::*;
use ring::signature::{Ed25519KeyPair, KeyPair};

use super::*;

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn public(pair: &Ed25519KeyPair) -> PublicKey {
    PublicKey::from_bytes(pair.public_key().as_ref().try_into().unwrap())
}

fn signed_by(pair: &Ed25519KeyPair) -> impl FnOnce(&[u8]) -> Signature {
    |bytes| Signature::from_bytes(pair.sign(bytes).as_ref().try_into().unwrap())
}

fn header() -> Header {
    Header {
        id: "rack-window".parse().unwrap(),
        version: "1.2.3".parse().unwrap(),
        engine: "wt1-pulley64-pb1".to_owned(),
        wasm: ContentHash::from_digest([1; 32]),
        hooks: [Hook::Boot].into(),
        capabilities: [Capability::Nodes].into(),
        memory_mib: 16,
        settings: BTreeMap::new(),
    }
}

fn packed() -> Vec<u8> {
    emit(&header(), b"code", signed_by(&pair(1))).unwrap()
}

fn check(bytes: &[u8], seed: u8) -> Result<Signed<'_>, PackageError> {
    Unchecked::parse(bytes)?.check(&[public(&pair(seed))])
}

fn any_header() -> impl Strategy<Value = Header> {
    let settings = prop::collection::btree_map("[a-z]{1,9}", (".{0,9}", ".{0,20}"), 0..4);
    (
        "[a-z][a-z0-9-]{0,62}",
        any::<[u32; 3]>(),
        ".{0,20}",
        any::<[u8; 32]>(),
        0_u8..7,
        any::<bool>(),
        MEMORY_MIB,
        settings,
    )
        .prop_map(
            |(id, [major, minor, patch], engine, wasm, hooks, nodes, memory_mib, settings)| {
                Header {
                    id: id.parse().unwrap(),
                    version: Version { major, minor, patch },
                    engine,
                    wasm: ContentHash::from_digest(wasm),
                    hooks: [Hook::Boot, Hook::Script, Hook::Cache]
                        .into_iter()
                        .enumerate()
                        .filter(|(bit, _)| (hooks + 1) >> bit & 1 == 1)
                        .map(|(_, hook)| hook)
                        .collect(),
                    capabilities: nodes.then_some(Capability::Nodes).into_iter().collect(),
                    memory_mib,
                    settings: settings
                        .into_iter()
                        .map(|(name, (default, help))| (name, Setting { default, help }))
                        .collect(),
                }
            },
        )
}

proptest! {
    #[test]
    fn what_was_packed_is_read_as_it_was(header in any_header(), code in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = emit(&header, &code, signed_by(&pair(1))).unwrap();
        let signed = check(&bytes, 1).unwrap();
        prop_assert_eq!(signed.header(), &header);
        prop_assert_eq!(signed.code().bytes(), &code[..]);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), is_ours in any::<bool>()) {
        let bytes = if is_ours { [DOMAIN, &bytes].concat() } else { bytes };
        prop_assert!(check(&bytes, 1).is_err());
    }
}

#[test]
fn p10_a_package_with_any_bit_changed_is_refused() {
    let bytes = packed();
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[place] ^= 1 << bit;
            assert!(check(&changed, 1).is_err(), "byte {place}, bit {bit}");
        }
    }
}

#[test]
fn p10_a_package_that_lost_or_gained_bytes_is_refused() {
    let bytes = packed();
    for len in 0..bytes.len() {
        assert!(check(&bytes[..len], 1).is_err(), "cut to {len}");
    }
    assert!(check(&[&bytes[..], b"x"].concat(), 1).is_err());
}

#[test]
fn p11_a_package_that_no_trusted_key_signed_is_refused_by_name() {
    let bytes = packed();
    let refused = check(&bytes, 2).unwrap_err();
    assert_eq!(refused, PackageError::Signature(public(&pair(2)).id()));
    let untrusting = Unchecked::parse(&bytes).unwrap().check(&[]).unwrap_err();
    assert!(untrusting.to_string().contains("it trusts none"), "{untrusting}");
    let keys = [public(&pair(2)), public(&pair(1))];
    let signed = Unchecked::parse(&bytes).unwrap().check(&keys).unwrap();
    assert_eq!(signed.key(), keys[1], "one of several keys is enough");
}

#[test]
fn p11_an_older_version_does_not_follow_a_newer_one() {
    let at = |version: &str, wasm: u8| Header {
        version: version.parse().unwrap(),
        wasm: ContentHash::from_digest([wasm; 32]),
        ..header()
    };
    let installed = at("1.2.3", 1);
    let follows = |offered: &Header| succeeds(offered, Some(&installed));
    assert!(matches!(follows(&at("1.2.2", 2)), Err(SuccessionError::Older { .. })));
    assert_eq!(follows(&at("1.2.3", 2)), Err(SuccessionError::Ambiguous(installed.version)));
    assert_eq!(follows(&at("1.2.3", 1)), Ok(()), "the same one again, for another engine");
    assert_eq!(follows(&at("1.10.0", 2)), Ok(()), "numbers, not texts, are compared");
    assert_eq!(succeeds(&installed, None), Ok(()));
}

#[test]
fn a_header_with_a_field_of_tomorrow_is_refused_and_the_field_is_named() {
    let mut value = serde_json::to_value(header()).unwrap();
    value["only_on"] = "tuesdays".into();
    let refused = Header::parse(value.to_string().as_bytes()).unwrap_err();
    assert!(refused.to_string().contains("only_on"), "{refused}");
}

#[test]
fn a_header_that_asks_for_too_much_or_offers_nothing_is_not_even_packed() {
    let greedy = Header { memory_mib: 65, ..header() };
    let refused = emit(&greedy, b"", signed_by(&pair(1))).unwrap_err();
    assert!(refused.to_string().contains("memory_mib is 65"), "{refused}");
    let idle = Header { hooks: BTreeSet::new(), ..header() };
    assert!(emit(&idle, b"", signed_by(&pair(1))).is_err());
}
