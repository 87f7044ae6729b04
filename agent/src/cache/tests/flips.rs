//! An index whose bits have flipped on the disk.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn d8_flipped_bits_in_the_index_never_show_other_content_and_lose_no_object(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..40),
    ) {
        let contents: [(&str, &[u8]); 4] = [
            (LOADER, b"loader"),
            (IMAGE, b"image"),
            ("images/b", b"another image"),
            ("images/c", b"a third one, which is longer"),
        ];
        let site = Site::with(&contents);
        let index = site.path("index.db");
        let mut bytes = fs::read(&index).unwrap();
        for (place, bit) in flips {
            *place.get_mut(&mut bytes) ^= 1 << bit;
        }
        fs::write(&index, bytes).unwrap();
        site.run(async |cache| {
            _ = cache.recover().await;
            for (name, content) in contents {
                if let Some(found) = read(&cache, name).await {
                    assert_eq!(found, content, "{name}");
                }
                // What the index has lost comes back by a fill, as at any other site.
                add(&cache, name, content).await.unwrap();
                assert_eq!(read(&cache, name).await.as_deref(), Some(content), "{name}");
            }
        });
    }
}

#[test]
fn d8_an_index_that_one_bit_has_made_unwritable_is_rebuilt() {
    /// Where the header has the version that is needed for writing (SQLite's file format, §1.3.3).
    const WRITE_VERSION: usize = 18;
    let site = Site::with(&[(LOADER, b"loader"), (IMAGE, b"image")]);
    let index = site.path("index.db");
    let mut bytes = fs::read(&index).unwrap();
    bytes[WRITE_VERSION] ^= 4;
    fs::write(&index, bytes).unwrap();
    site.run(async |cache| {
        _ = cache.recover().await;
        assert_eq!(read(&cache, IMAGE).await.as_deref(), Some(&b"image"[..]));
        add(&cache, "images/b", b"another image").await.unwrap();
    });
}

#[test]
fn d8_an_index_whose_statements_one_bit_has_made_others_is_rebuilt() {
    let site = Site::with(&[(LOADER, b"loader"), (IMAGE, b"image")]);
    let index = site.path("index.db");
    let mut bytes = fs::read(&index).unwrap();
    let reference: &[u8] = b"REFERENCES object (sha256";
    let at = bytes.windows(reference.len()).position(|window| window == reference).unwrap();
    bytes[at + reference.len() - 1] ^= 1;
    fs::write(&index, bytes).unwrap();
    site.run(async |cache| {
        _ = cache.recover().await;
        assert_eq!(read(&cache, IMAGE).await.as_deref(), Some(&b"image"[..]));
        add(&cache, "images/b", b"another image").await.unwrap();
    });
}
