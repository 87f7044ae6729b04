//! Bytes that the disk gives back otherwise than it took them (FAULTS D7, I6).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use super::*;

/// Longer than a chunk, with a length that no chunk ends at.
fn image() -> Vec<u8> {
    (0..3_000_007_u32).map(|at| (at ^ (at >> 9)).to_le_bytes()[0]).collect()
}

/// Flips one bit behind the back of everybody: not even the file's time tells.
fn flip(site: &Site, bytes: &[u8], at: u64) {
    let path = site.object_path(bytes);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.set_modified(modified).unwrap();
}

async fn read_at(cache: &Cache, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    cache.find(&key(IMAGE)).await.expect("it is held").read_at(offset, len).await
}

#[test]
fn d7_a_flipped_bit_is_given_to_nobody_and_what_is_before_it_is() {
    let bytes = image();
    let site = Site::with(&[(IMAGE, &bytes)]);
    flip(&site, &bytes, 2_000_000);
    site.run(async |cache| {
        assert_eq!(read_at(&cache, 0, 1_000_000).await.unwrap(), bytes[..1_000_000]);
        for (offset, len) in [(2_000_000, 1), (1_999_000, 2_000), (0, bytes.len())] {
            let error = read_at(&cache, offset, len).await.expect_err("it is damaged");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
        let object = cache.find(&key(IMAGE)).await.expect("it is held");
        assert_eq!(object.read_now(2_000_000, 1).unwrap(), None);
        let damage = cache.damaged().await;
        assert_eq!(damage.sha256, hash_of(&bytes));
        cache.set_aside(damage).await.unwrap();
        assert_eq!(read(&cache, IMAGE).await, None);
        // Who read the damaged file says so once more, when a sound one has long taken its place.
        add(&cache, IMAGE, &bytes).await.unwrap();
        cache.set_aside(damage).await.unwrap();
        assert_eq!(read(&cache, IMAGE).await.as_ref(), Some(&bytes));
    });
    assert_eq!(site.count("quarantine"), 1);
}

#[test]
fn d7_every_bit_of_a_short_file_counts_too() {
    let site = Site::with(&[(IMAGE, b"a kernel, say")]);
    flip(&site, b"a kernel, say", 12);
    site.run(async |cache| {
        assert!(read_at(&cache, 0, 1).await.is_err(), "its one chunk is all of it");
    });
}

#[test]
fn d7_what_was_verified_is_not_hashed_again_until_somebody_writes_to_the_file() {
    let bytes = image();
    let site = Site::with(&[(IMAGE, &bytes)]);
    site.run(async |cache| {
        assert_eq!(read_at(&cache, 0, bytes.len()).await.unwrap(), bytes);
        let object = cache.find(&key(IMAGE)).await.expect("it is held");
        // Read as it is: a second hash would notice.
        flip(&site, &bytes, 2_000_000);
        assert_ne!(object.read_at(2_000_000, 1).await.unwrap(), bytes[2_000_000..2_000_001]);
        let file = File::open(site.object_path(&bytes)).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
        assert!(read_at(&cache, 2_000_000, 1).await.is_err(), "somebody has been there");
    });
}

#[test]
fn d7_what_is_lent_ends_before_the_first_chunk_that_is_not_verified() {
    let bytes = image();
    let site = Site::with(&[(IMAGE, &bytes)]);
    flip(&site, &bytes, 2_000_000);
    site.run(async |cache| {
        let object = cache.find(&key(IMAGE)).await.expect("it is held");
        let lent_len = |offset| object.lend(offset, bytes.len()).map(|lent| lent.len() as u64);
        assert_eq!(lent_len(0), None, "nothing is verified yet");
        object.read_at(0, 1).await.unwrap();
        let end = lent_len(0).expect("the first chunk is verified and in memory");
        assert!(end <= 2_000_000, "{end}");
        assert_eq!(lent_len(7), Some(end - 7));
        assert_eq!(lent_len(end), None);
        object.read_at(2_000_000, 1).await.expect_err("it is damaged");
        assert_eq!(lent_len(2_000_000), None);
    });
}

#[test]
fn d7_a_list_that_is_lost_or_damaged_is_made_anew_and_believed_by_nobody() {
    let bytes = image();
    for damage in [None, Some(0), Some(40), Some(100)] {
        let site = Site::with(&[(IMAGE, &bytes)]);
        let list = site.path("chunks").join(hash_of(&bytes).to_string());
        let text = fs::read(&list).unwrap();
        match damage {
            None => fs::remove_file(&list).unwrap(),
            Some(at) => {
                let mut text = text.clone();
                text[at] ^= 1;
                fs::write(&list, text).unwrap();
            }
        }
        site.run(async |cache| {
            assert_eq!(read(&cache, IMAGE).await.as_ref(), Some(&bytes));
        });
        assert_eq!(fs::read(&list).unwrap(), text, "{damage:?}");
        flip(&site, &bytes, 2_999_999);
        fs::remove_file(&list).unwrap();
        site.run(async |cache| {
            assert!(cache.find(&key(IMAGE)).await.is_none(), "it is read whole first");
            assert_eq!(cache.damaged().await.sha256, hash_of(&bytes));
        });
    }
}

#[test]
fn a_list_goes_with_its_object() {
    let bytes = image();
    let site = Site::with(&[(IMAGE, &bytes)]);
    site.run(async |cache| _ = cache.remove(&key(IMAGE)).await.unwrap());
    assert_eq!(site.count("chunks"), 0);
    fs::write(site.path("chunks").join("ab".repeat(32)), "nobody's").unwrap();
    site.run(async |_| {});
    assert_eq!(site.count("chunks"), 0);
}
