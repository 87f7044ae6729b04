//! The cache on a real directory, left and found in every state that FAULTS §2 and §3 name.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use hyper::body::Bytes;
use sha2::{Digest, Sha256};
use smol::stream;
use tempfile::TempDir;

use crate::http::testing::run;

use super::*;

mod flips;
mod sound;

const LOADER: &str = "bootloaders/a.efi";
const IMAGE: &str = "images/a.img";

fn key(text: &str) -> ContentKey {
    text.parse().unwrap()
}

fn hash_of(bytes: &[u8]) -> ContentHash {
    ContentHash::from_digest(Sha256::digest(bytes).into())
}

/// Adds `bytes` in chunks of 1000.
async fn add(cache: &Cache, name: &str, bytes: &[u8]) -> Result<Added, FillError> {
    let chunks: Vec<_> =
        bytes.chunks(1_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    cache.add(key(name), stream::iter(chunks), Expected::default()).await
}

async fn read(cache: &Cache, name: &str) -> Option<Vec<u8>> {
    let object = cache.find(&key(name)).await?;
    let len = usize::try_from(object.size_bytes).unwrap();
    Some(object.read_at(0, len).await.unwrap())
}

/// A directory with a cache in it that several runs of the agent use.
struct Site {
    directory: TempDir,
}

impl Site {
    /// A site whose cache has been filled and closed.
    fn with(contents: &[(&str, &[u8])]) -> Self {
        let site = Self { directory: tempfile::tempdir().unwrap() };
        site.run(async |cache| {
            for (name, bytes) in contents {
                add(&cache, name, bytes).await.unwrap();
            }
        });
        site
    }

    /// One run of the agent.
    fn run(&self, test: impl AsyncFnOnce(Cache)) {
        let cache = Cache::open(self.directory.path()).unwrap();
        run(async |_| test(cache).await);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn object_path(&self, bytes: &[u8]) -> PathBuf {
        let name = hash_of(bytes).to_string();
        self.path("objects").join(&name[..2]).join(&name)
    }

    fn count(&self, directory: &str) -> usize {
        fs::read_dir(self.path(directory)).unwrap().count()
    }
}

#[test]
fn what_was_added_is_found_by_name_and_by_hash_after_a_restart() {
    let bytes: Vec<u8> = (0..700_000u32).map(|number| number.to_le_bytes()[1]).collect();
    let site = Site::with(&[(IMAGE, &bytes), ("scripts/empty", b"")]);
    site.run(async |cache| {
        assert_eq!(read(&cache, IMAGE).await.as_ref(), Some(&bytes));
        assert_eq!(read(&cache, "scripts/empty").await, Some(vec![]));
        let object = cache.find_by_hash(hash_of(&bytes)).await.expect("it is there");
        assert_eq!(object.read_at(699_000, 5_000).await.unwrap(), bytes[699_000..]);
        assert_eq!(object.read_at(u64::MAX, 1).await.ok().unwrap_or_default(), b"");
        assert_eq!(read(&cache, "images/other").await, None);
        let stats = cache.stats();
        assert_eq!((stats.entries, stats.size_bytes, stats.hits, stats.misses), (2, 700_000, 3, 1));
        assert_eq!(stats.hit_rate(), Some(0.75));
        let images = CategoryStats { entries: 1, size_bytes: 700_000 };
        assert_eq!(stats.categories[&Category::Images], images);
        assert_eq!(stats.categories[&Category::Templates], CategoryStats::default());
    });
}

#[test]
fn content_is_kept_once_and_as_long_as_it_has_a_name() {
    let site = Site::with(&[("images/a", b"same"), ("images/b", b"same")]);
    site.run(async |cache| {
        assert_eq!((cache.stats().entries, cache.stats().size_bytes), (2, 4));
        let removed = cache.remove(&key("images/a")).await.unwrap();
        assert_eq!(removed.map(|entry| entry.size_bytes), Some(4));
        assert_eq!(cache.remove(&key("images/a")).await.unwrap(), None);
        assert_eq!(read(&cache, "images/b").await, Some(b"same".to_vec()));
        cache.remove(&key("images/b")).await.unwrap();
        assert_eq!((read(&cache, "images/b").await, cache.stats().size_bytes), (None, 0));
    });
    assert!(!site.object_path(b"same").exists());
    site.run(async |cache| assert_eq!(cache.entries(), []));
}

#[test]
fn f16_who_reads_an_object_reads_on_when_it_is_replaced_or_removed() {
    let site = Site::with(&[(IMAGE, b"old")]);
    site.run(async |cache| {
        let old = cache.find(&key(IMAGE)).await.expect("it is there");
        add(&cache, IMAGE, b"new").await.unwrap();
        assert_eq!(read(&cache, IMAGE).await, Some(b"new".to_vec()));
        let new = cache.find(&key(IMAGE)).await.expect("it is there");
        cache.remove(&key(IMAGE)).await.unwrap();
        assert_eq!(old.read_at(0, 9).await.unwrap(), b"old");
        assert_eq!(new.read_at(0, 9).await.unwrap(), b"new");
    });
    assert!(!site.object_path(b"old").exists());
}

/// Takes everything away that is on the disk.
fn lose_the_disk(site: &Site) {
    fs::rename(site.path("objects"), site.path("gone")).unwrap();
    fs::remove_dir_all(site.path("gone")).unwrap();
}

#[test]
fn a_loader_is_read_whatever_becomes_of_the_disk() {
    let loader: Vec<u8> = (0..300_000u32).map(|number| number.to_le_bytes()[1]).collect();
    let site = Site::with(&[(LOADER, &loader), (IMAGE, b"image")]);
    for is_added_in_this_run in [false, true] {
        site.run(async |cache| {
            if is_added_in_this_run {
                add(&cache, "bootloaders/b.efi", b"new").await.unwrap();
            }
            lose_the_disk(&site);
            assert_eq!(read(&cache, LOADER).await, Some(loader.clone()));
            assert_eq!(read(&cache, IMAGE).await, None);
            if is_added_in_this_run {
                assert_eq!(read(&cache, "bootloaders/b.efi").await, Some(b"new".to_vec()));
            }
            let object = cache.find(&key(LOADER)).await.expect("it is there");
            assert_eq!(object.read_now(299_990, 100).unwrap().unwrap(), loader[299_990..]);
            // For the next run.
            fs::create_dir(site.path("objects")).unwrap();
        });
        site.run(async |cache| {
            add(&cache, LOADER, &loader).await.unwrap();
            add(&cache, IMAGE, b"image").await.unwrap();
        });
    }
}

#[test]
fn a_loader_waits_for_no_disk_however_many_wait_for_it() {
    let site = Site::with(&[(LOADER, b"loader"), (IMAGE, b"image")]);
    site.run(async |cache| {
        // As if the disk had been hanging since others began to open and to read.
        let mut hanging = Vec::new();
        for waiting in [&cache.opens, cache.readers.permits()] {
            hanging.extend(std::iter::from_fn(|| waiting.try_acquire_arc()));
        }
        assert!(hanging.len() > OPENS_MAX);
        assert_eq!(read(&cache, LOADER).await, Some(b"loader".to_vec()));
        let image = smol::future::or(async { Some(read(&cache, IMAGE).await) }, async {
            smol::Timer::after(std::time::Duration::from_millis(50)).await;
            None
        });
        assert_eq!(image.await, None, "everything else waits");
    });
}

#[test]
fn a_loader_in_memory_is_the_one_that_its_name_stands_for() {
    let site = Site::with(&[(LOADER, b"old")]);
    site.run(async |cache| {
        add(&cache, LOADER, b"new").await.unwrap();
        assert_eq!(read(&cache, LOADER).await, Some(b"new".to_vec()));
        assert!(lock(&cache.shared.pins).get(hash_of(b"old")).is_none());
        cache.remove(&key(LOADER)).await.unwrap();
        assert_eq!(read(&cache, LOADER).await, None);
        assert!(lock(&cache.shared.pins).get(hash_of(b"new")).is_none());
        // The same bytes under another name are no loader.
        add(&cache, IMAGE, b"new").await.unwrap();
        assert!(lock(&cache.shared.pins).get(hash_of(b"new")).is_none());
    });
}

#[test]
fn d7_a_loader_that_is_damaged_on_disk_does_not_come_into_memory() {
    let site = Site::with(&[(LOADER, b"sound"), ("bootloaders/b.efi", b"well")]);
    fs::write(site.object_path(b"sound"), b"rotte").unwrap();
    site.run(async |cache| {
        assert_eq!(read(&cache, LOADER).await, None);
        assert_eq!(read(&cache, "bootloaders/b.efi").await, Some(b"well".to_vec()));
    });
}

#[test]
fn i7_loaders_in_memory_have_a_bound_and_the_small_ones_come_first() {
    let mib = 1 << 20;
    let site = Site::with(&[
        ("bootloaders/large", &vec![1; 2 * mib]),
        ("bootloaders/small", &vec![2; mib]),
        ("bootloaders/medium", &vec![3; mib + mib / 2]),
    ]);
    site.run(async |cache| {
        let is_pinned = |bytes: &[u8]| lock(&cache.shared.pins).get(hash_of(bytes)).is_some();
        assert!(is_pinned(&vec![2; mib]) && is_pinned(&vec![3; mib + mib / 2]));
        assert!(!is_pinned(&vec![1; 2 * mib]));
        assert_eq!(read(&cache, "bootloaders/large").await, Some(vec![1; 2 * mib]));
    });
}

#[test]
fn c11_content_that_is_not_what_was_said_leaves_nothing() {
    let site = Site::with(&[(IMAGE, b"good")]);
    site.run(async |cache| {
        let size = |size| Expected { size_bytes: Some(size), sha256: None };
        let hash = Expected { size_bytes: None, sha256: Some(hash_of(b"other")) };
        let wrong_hash =
            format!("the content hashes to {} and not to {}", hash_of(b"evil"), hash_of(b"other"));
        let broken = || Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        for (chunks, expected, text) in [
            (vec![Ok("evil")], size(5), "the content has 4 bytes instead of 5"),
            (vec![Ok("ev"), Ok("il")], size(3), "the content has more than 3 bytes instead of 3"),
            (vec![Ok("ev"), broken()], size(4), "the content broke off: unexpected end of file"),
            (vec![Ok("evil")], hash, &wrong_hash),
        ] {
            let chunks = chunks.into_iter().map(|chunk| chunk.map(Bytes::from));
            let error = cache.add(key(IMAGE), stream::iter(chunks), expected).await.unwrap_err();
            assert_eq!(error.to_string(), text);
            assert_eq!(read(&cache, IMAGE).await, Some(b"good".to_vec()));
        }
    });
    // Temporary files go on threads of their own; the next start sweeps what was not done.
    site.run(async |cache| assert_eq!(cache.stats().size_bytes, 4));
    assert_eq!(site.count("tmp"), 0);
}

#[test]
fn k11_half_a_download_is_swept_at_the_start() {
    let site = Site::with(&[(IMAGE, b"good")]);
    fs::write(site.path("tmp/fill-0"), "hal").unwrap();
    fs::write(site.path("tmp/fill-1"), "f").unwrap();
    site.run(async |cache| {
        assert_eq!(
            add(&cache, "images/b", b"next").await.map(|added| added.size_bytes).ok(),
            Some(4)
        );
    });
    assert_eq!(site.count("tmp"), 0);
}

#[test]
fn k12_an_object_without_row_is_never_served_and_is_swept() {
    let site = Site::with(&[(IMAGE, b"good")]);
    let path = site.object_path(b"stray");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "stray").unwrap();
    site.run(async |cache| {
        assert!(cache.find_by_hash(hash_of(b"stray")).await.is_none());
        assert_eq!(read(&cache, IMAGE).await, Some(b"good".to_vec()));
    });
    assert!(!path.exists());
}

#[test]
fn k13_k14_a_row_without_object_is_a_miss_and_can_be_filled_again() {
    let site = Site::with(&[(IMAGE, b"good"), (LOADER, b"loader")]);
    site.run(async |cache| {
        fs::remove_file(site.object_path(b"good")).unwrap();
        assert_eq!(read(&cache, IMAGE).await, None);
        add(&cache, IMAGE, b"good").await.unwrap();
        assert_eq!(read(&cache, IMAGE).await, Some(b"good".to_vec()));
    });
    fs::remove_file(site.object_path(b"good")).unwrap();
    fs::write(site.object_path(b"loader"), "load").unwrap();
    site.run(async |cache| {
        assert_eq!(cache.entries(), [], "the start drops what is lost or has another length");
    });
}

#[test]
fn d7_a_boot_loader_with_a_flipped_bit_goes_into_quarantine() {
    let site = Site::with(&[(LOADER, b"loader"), ("bootloaders/b.efi", b"sound")]);
    fs::write(site.object_path(b"loader"), "lOader").unwrap();
    site.run(async |cache| {
        assert_eq!(read(&cache, LOADER).await, None);
        assert!(cache.find_by_hash(hash_of(b"loader")).await.is_none());
        assert_eq!(read(&cache, "bootloaders/b.efi").await, Some(b"sound".to_vec()));
        assert_eq!(site.count("quarantine"), 1);
        add(&cache, LOADER, b"loader").await.unwrap();
    });
    site.run(async |cache| assert_eq!(read(&cache, LOADER).await, Some(b"loader".to_vec())));
}

#[test]
fn those_who_read_an_object_at_once_share_its_file_and_the_next_one_opens_it_anew() {
    let site = Site::with(&[(IMAGE, b"good")]);
    site.run(async |cache| {
        let held = cache.find(&key(IMAGE)).await.expect("it is there");
        fs::remove_file(site.object_path(b"good")).unwrap();
        assert_eq!(read(&cache, IMAGE).await.as_deref(), Some(&b"good"[..]));
        assert_eq!(held.read_now(1, 2).unwrap().as_deref(), Some(&b"oo"[..]));
        drop(held);
        assert_eq!(read(&cache, IMAGE).await, None);
    });
}

#[test]
fn a_lack_of_descriptors_says_nothing_of_the_object() {
    assert!(is_exhausted(&Errno::EMFILE.into()));
    assert!(!is_exhausted(&Errno::ENOENT.into()));
}

#[test]
fn d15_links_and_pipes_in_place_of_an_object_are_misses() {
    let site = Site::with(&[(IMAGE, b"good")]);
    let path = site.object_path(b"good");
    let aside = site.path("aside");
    fs::write(&aside, "evil").unwrap();
    site.run(async |cache| {
        for plant in [
            (|path, aside| symlink(aside, path)) as fn(&PathBuf, &PathBuf) -> io::Result<()>,
            |path, aside| fs::hard_link(aside, path),
            |path, _| Ok(nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU)?),
            |path, _| fs::create_dir(path),
        ] {
            fs::remove_file(&path).unwrap();
            plant(&path, &aside).unwrap();
            assert_eq!(read(&cache, IMAGE).await, None);
        }
        fs::remove_dir(&path).unwrap();
        fs::remove_dir(path.parent().unwrap()).unwrap();
        let elsewhere = site.path("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join(path.file_name().unwrap()), "good").unwrap();
        symlink(&elsewhere, path.parent().unwrap()).unwrap();
        assert_eq!(read(&cache, IMAGE).await, None, "a directory may be a link, too");
        assert!(matches!(add(&cache, IMAGE, b"good").await, Err(FillError::Storage(_))));
    });
}

#[test]
fn d15_a_linked_directory_or_index_is_refused() {
    for name in ["objects", "tmp", "index.db", "names.log"] {
        let site = Site { directory: tempfile::tempdir().unwrap() };
        let elsewhere = tempfile::tempdir().unwrap();
        let target = elsewhere.path().join("target");
        if name.contains('.') {
            fs::write(&target, "").unwrap()
        } else {
            fs::create_dir(&target).unwrap()
        }
        symlink(&target, site.path(name)).unwrap();
        assert!(Cache::open(site.directory.path()).is_err(), "{name}");
    }
}

#[test]
fn d16_a_second_agent_is_refused() {
    let site = Site::with(&[(IMAGE, b"good")]);
    site.run(async |cache| {
        let error = Cache::open(site.directory.path()).err().expect("the first one has it");
        assert!(error.to_string().ends_with("is in use by another agent"), "{error:#}");
        assert_eq!(read(&cache, IMAGE).await, Some(b"good".to_vec()));
    });
}

/// Ways to lose `index.db`.
const LOSSES: [fn(&PathBuf); 5] = [
    |path| fs::remove_file(path).unwrap(),
    |path| fs::write(path, "").unwrap(),
    |path| {
        fs::write(path, "this is no database, but it is longer than a header ".repeat(99)).unwrap()
    },
    |path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[4_000..6_000].fill(0xff);
        fs::write(path, bytes).unwrap();
    },
    |path| {
        fs::remove_file(path).unwrap();
        let foreign = rusqlite::Connection::open(path).unwrap();
        foreign.execute_batch("CREATE TABLE name (foreign_column)").unwrap();
    },
];

#[test]
fn d8_d18_a_lost_index_is_rebuilt_boot_loaders_first() {
    for (number, lose) in LOSSES.into_iter().enumerate() {
        let contents: [(&str, &[u8]); 4] =
            [(LOADER, b"loader"), (IMAGE, b"image"), ("images/b", b"image"), ("images/c", b"bad")];
        let site = Site::with(&contents);
        lose(&site.path("index.db"));
        fs::write(site.object_path(b"bad"), "BAD").unwrap();
        site.run(async |cache| {
            assert_eq!(read(&cache, LOADER).await, Some(b"loader".to_vec()), "loss {number}");
            assert_eq!(read(&cache, IMAGE).await, None, "not served before it is read again");
        });
        // The rebuild was interrupted; nothing is lost by that.
        site.run(async |cache| {
            assert_eq!(cache.recover().await.unwrap(), 1, "loss {number}");
            assert_eq!(cache.recover().await.unwrap(), 0);
            assert_eq!(read(&cache, IMAGE).await, Some(b"image".to_vec()));
            assert_eq!(read(&cache, "images/c").await, None);
        });
        site.run(async |cache| {
            let names: Vec<_> = cache.entries().iter().map(|entry| entry.key.to_string()).collect();
            assert_eq!(names, [LOADER, IMAGE, "images/b"], "loss {number}");
        });
        assert_eq!(site.count("quarantine"), 1);
    }
}

#[test]
fn d18_without_names_objects_are_still_found_by_hash() {
    let site = Site::with(&[(IMAGE, b"image")]);
    fs::remove_file(site.path("index.db")).unwrap();
    fs::remove_file(site.path("names.log")).unwrap();
    site.run(async |cache| assert_eq!(cache.recover().await.unwrap(), 1));
    site.run(async |cache| {
        assert!(cache.find_by_hash(hash_of(b"image")).await.is_some());
        assert_eq!(cache.entries(), []);
        add(&cache, IMAGE, b"image").await.unwrap();
        assert_eq!(cache.stats().entries, 1);
    });
}

#[test]
fn d18_a_name_given_anew_during_the_rebuild_is_not_taken_back() {
    let site = Site::with(&[(IMAGE, b"old"), ("images/b", b"b")]);
    fs::remove_file(site.path("index.db")).unwrap();
    site.run(async |cache| {
        add(&cache, IMAGE, b"new").await.unwrap();
        cache.recover().await.unwrap();
        assert_eq!(read(&cache, IMAGE).await, Some(b"new".to_vec()));
    });
}

#[test]
fn d18_a_torn_log_is_mended() {
    let site = Site::with(&[(IMAGE, b"image")]);
    let mut log = fs::read_to_string(site.path("names.log")).unwrap();
    log += "+ 4f2d69";
    fs::write(site.path("names.log"), log).unwrap();
    site.run(async |cache| _ = add(&cache, "images/b", b"b").await.unwrap());
    fs::remove_file(site.path("index.db")).unwrap();
    site.run(async |cache| {
        assert_eq!(cache.recover().await.unwrap(), 2);
        assert_eq!(cache.entries().len(), 2);
    });
}

#[test]
fn an_add_that_is_given_up_leaves_nothing() {
    let site = Site::with(&[]);
    site.run(async |cache| {
        let endless = stream::unfold(0, |count| async move {
            if count > 2 {
                smol::future::pending::<()>().await
            }
            Some((Ok(Bytes::from(vec![0; 300_000])), count + 1))
        });
        {
            let adding = cache.add(key(IMAGE), Box::pin(endless), Expected::default());
            let mut adding = std::pin::pin!(adding);
            // It has written something once its file is there.
            while site.count("tmp") == 0 {
                assert!(smol::future::poll_once(adding.as_mut()).await.is_none());
                smol::future::yield_now().await;
            }
        }
        while site.count("tmp") > 0 {
            smol::future::yield_now().await;
        }
        assert_eq!(read(&cache, IMAGE).await, None);
    });
}
