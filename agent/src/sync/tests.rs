//! The whole way of content on loopback: a controller that says what a test wants, the cache on a real directory, machines.

mod demand;
mod pieces;

use std::fs;
use std::time::Duration;

use pureboot_protocol::{Category, ContentKey};

use crate::cache::evict::Need;
use crate::cache::{Cache, ChunkList, Expected};
use crate::clock;
use crate::data_dir;
use crate::http::testing::run;

use super::report::{Eviction, EvictionOrder, Order, Status};
use super::testing::{Fault, Site, Upstream, chunk_list, entry, hash_of};

const LOADER: &str = "bootloaders/a.efi";
const KERNEL: &str = "images/debian/linux";
const INITRD: &str = "images/debian/initrd";

fn key(name: &str) -> ContentKey {
    name.parse().expect("a name")
}

/// Bytes that no two offsets share.
fn noise(len: usize) -> Vec<u8> {
    let mut rng = crate::rng::Rng::from_seed(len as u64);
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| rng.next_u64().to_le_bytes())
        .take(len.div_ceil(8))
        .flatten()
        .collect();
    bytes.truncate(len);
    bytes
}

/// Where the chunk begins that the byte at `at` is in.
fn chunk_start(bytes: &[u8], at: u64) -> usize {
    let chunks = ChunkList::parse(&chunk_list(bytes), bytes.len() as u64).expect("a list");
    usize::try_from(chunks.at(at).expect("it is within").start).expect("a test's length")
}

async fn read(cache: &Cache, name: &str) -> Option<Vec<u8>> {
    let object = cache.find(&key(name)).await?;
    let len = usize::try_from(object.size_bytes).expect("a test's length");
    Some(object.read_at(0, len).await.expect("readable"))
}

#[test]
fn a_heartbeat_that_tells_the_manifest_spares_the_question_and_a_newer_one_has_it_asked() {
    const MINUTE: Duration = Duration::from_secs(60);
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(7, &[]);
        let site = Site::new(&executor, &upstream);
        let keeper = &site.keeper;
        let hear = |version| keeper.hear(version, clock::now());
        assert!(hear(Some(7)), "none is held yet");
        assert!(!keeper.is_told(MINUTE));
        keeper.refresh(Duration::ZERO, false).await.expect("the manifest");
        assert!(!keeper.is_told(MINUTE), "nobody has told it");
        assert!(!hear(Some(7)));
        assert!(keeper.is_told(MINUTE));
        assert_eq!(keeper.coming(), None);
        assert!(hear(Some(8)), "there is another one");
        assert!(!keeper.is_told(MINUTE));
        assert_eq!(keeper.coming(), Some(8));
        assert!(!hear(Some(7)) && keeper.is_told(MINUTE));
        assert_eq!(keeper.coming(), None);
        assert!(!hear(None), "a controller that does not tell gives no reason to ask at once");
        assert!(!keeper.is_told(MINUTE), "and is asked in its time");
    });
}

#[test]
fn what_the_manifest_names_comes_and_comes_once() {
    let (loader, kernel) = (noise(5_000), noise(3_000_000));
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(LOADER, &loader), (KERNEL, &kernel)]);
        let site = Site::new(&executor, &upstream);
        let outcome = site.sync.sync(Order::default()).await;
        assert_eq!((outcome.status, &outcome.errors[..]), (Status::Completed, &[][..]));
        assert_eq!((outcome.files_synced, outcome.bytes_transferred), (2, 3_005_000));
        assert_eq!(read(&site.cache, LOADER).await.as_ref(), Some(&loader));
        assert_eq!(read(&site.cache, KERNEL).await.as_ref(), Some(&kernel));
        let again = site.sync.sync(Order::default()).await;
        assert_eq!((again.status, again.files_synced), (Status::Completed, 0));
        assert_eq!(
            (upstream.objects_asked(), upstream.manifests_sent()),
            (2, 1),
            "304 and nothing"
        );
        let state = site.sync.state();
        assert_eq!((state.manifest_version, state.names_missing), (Some(1), 0));
    });
}

#[test]
fn an_object_with_names_in_two_directories_is_one_file_of_a_sync() {
    let kernel = noise(30_000);
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(KERNEL, &kernel), ("images/rescue/linux", &kernel)]);
        let site = Site::new(&executor, &upstream);
        let outcome = site.sync.sync(Order::default()).await;
        assert_eq!((outcome.files_synced, outcome.bytes_transferred), (1, 30_000));
        assert_eq!(read(&site.cache, KERNEL).await.as_ref(), Some(&kernel));
        assert_eq!(read(&site.cache, "images/rescue/linux").await.as_ref(), Some(&kernel));
    });
}

#[test]
fn only_the_categories_of_an_order_are_fetched() {
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(LOADER, b"loader"), (KERNEL, b"kernel")]);
        let site = Site::new(&executor, &upstream);
        let order = Order { force: false, categories: vec![Category::Bootloaders] };
        assert_eq!(site.sync.sync(order).await.files_synced, 1);
        assert_eq!(read(&site.cache, KERNEL).await, None);
    });
}

#[test]
fn c12_a_manifest_that_goes_back_changes_nothing() {
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(2, &[(KERNEL, b"new")]);
        let site = Site::new(&executor, &upstream);
        site.sync.sync(Order::default()).await;
        upstream.issue(1, &[(KERNEL, b"old")]);
        let outcome = site.sync.sync(Order::default()).await;
        assert_eq!(outcome.status, Status::Failed);
        assert!(outcome.errors[0].contains("version 1 is older than version 2"), "{outcome:?}");
        assert_eq!(read(&site.cache, KERNEL).await.as_deref(), Some(&b"new"[..]));
        // Neither does it after a restart.
        let site = site.restart(&executor, &upstream);
        assert_eq!(site.sync.sync(Order::default()).await.status, Status::Failed);
        assert_eq!(site.sync.state().manifest_version, Some(2));
    });
}

#[test]
fn n7_a_captive_portal_leaves_no_trace() {
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(KERNEL, b"kernel")]);
        let site = Site::new(&executor, &upstream);
        upstream.set_fault(Fault::Portal);
        let outcome = site.sync.sync(Order::default()).await;
        assert_eq!(outcome.status, Status::Failed);
        assert!(!site.data_dir.manifest_file().exists());
        upstream.set_fault(Fault::None);
        site.sync.sync(Order::default()).await;
        upstream.issue(2, &[(KERNEL, b"other")]);
        site.keeper.refresh(Duration::ZERO, false).await.expect("a manifest");
        // The portal comes back for the content only.
        upstream.set_fault(Fault::PortalForObjects);
        let outcome = site.sync.sync(Order::default()).await;
        assert!(outcome.errors[0].contains("not the controller's"), "{outcome:?}");
        assert_eq!(read(&site.cache, KERNEL).await.as_deref(), Some(&b"kernel"[..]));
    });
}

#[test]
fn k15_a_manifest_is_on_disk_whole_or_not_at_all() {
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(KERNEL, b"kernel")]);
        let site = Site::new(&executor, &upstream);
        site.sync.sync(Order::default()).await;
        let path = site.data_dir.manifest_file();
        let text = fs::read_to_string(&path).expect("it is kept");
        // What a kill in the middle of the next one leaves.
        fs::write(path.with_added_extension("new"), &text[..text.len() / 2]).expect("written");
        assert_eq!(site.kept_version(&executor, &upstream), Some(1));
        // What no kill leaves, but a failing disk.
        for damage in [&text[..text.len() / 2], &text.replace("linux", "linex"), "", "{}"] {
            data_dir::write_private(&path, damage).expect("written");
            assert_eq!(site.kept_version(&executor, &upstream), None);
        }
    });
}

#[test]
fn c11_content_that_is_not_what_the_manifest_says_never_takes_a_name() {
    for fault in [Fault::WrongBytes, Fault::Longer, Fault::Shorter, Fault::Endless] {
        for len in [1_000, 3 << 20] {
            run(async |executor| {
                let upstream = Upstream::start(&executor).await;
                upstream.issue(1, &[(KERNEL, b"old")]);
                let site = Site::new(&executor, &upstream);
                site.sync.sync(Order::default()).await;
                upstream.issue(2, &[(KERNEL, &noise(len))]);
                upstream.set_fault(fault);
                let outcome = site.sync.sync(Order::default()).await;
                assert_eq!(outcome.status, Status::Failed, "{fault:?}, {len} bytes");
                assert_eq!(read(&site.cache, KERNEL).await.as_deref(), Some(&b"old"[..]));
                assert!(upstream.sent_bytes() < 40 << 20, "{} bytes", upstream.sent_bytes());
                upstream.set_fault(Fault::None);
                assert_eq!(site.sync.sync(Order::default()).await.status, Status::Completed);
                assert_eq!(read(&site.cache, KERNEL).await, Some(noise(len)));
            });
        }
    }
}

#[test]
fn c12_a_kernel_and_its_initrd_change_together() {
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(KERNEL, b"kernel 1"), (INITRD, b"initrd 1")]);
        let site = Site::new(&executor, &upstream);
        site.sync.sync(Order::default()).await;
        upstream.issue(2, &[(KERNEL, b"kernel 2"), (INITRD, b"a longer initrd 2")]);
        upstream.withhold(hash_of(b"a longer initrd 2"));
        assert_eq!(site.sync.sync(Order::default()).await.status, Status::Failed);
        assert!(site.cache.holds(&hash_of(b"kernel 2")));
        assert_eq!(read(&site.cache, KERNEL).await.as_deref(), Some(&b"kernel 1"[..]));
        assert_eq!(read(&site.cache, INITRD).await.as_deref(), Some(&b"initrd 1"[..]));
        upstream.withhold_nothing();
        assert_eq!(site.sync.sync(Order::default()).await.files_synced, 1);
        assert_eq!(read(&site.cache, KERNEL).await.as_deref(), Some(&b"kernel 2"[..]));
        assert_eq!(read(&site.cache, INITRD).await.as_deref(), Some(&b"a longer initrd 2"[..]));
        assert!(!site.cache.holds(&hash_of(b"kernel 1")), "nobody needs it");
    });
}

#[test]
fn k11_a_broken_line_costs_what_it_lost_and_not_the_beginning() {
    let content = noise(5 << 20);
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(KERNEL, &content)]);
        let site = Site::new(&executor, &upstream);
        upstream.set_fault(Fault::CutAfter(1_500_000));
        assert_eq!(site.sync.sync(Order::default()).await.status, Status::Completed);
        assert_eq!(read(&site.cache, KERNEL).await.as_ref(), Some(&content));
        assert!(upstream.objects_asked() >= 4, "{} tries", upstream.objects_asked());
        // What is collected for one write is lost with the line.
        let most = content.len() as u64 + 4 * (1 << 20);
        assert!(upstream.sent_bytes() < most, "{} bytes", upstream.sent_bytes());
    });
}

#[test]
fn k11_half_a_download_of_an_earlier_life_is_hashed_and_gone_on_with() {
    let content = noise((5 << 20) + 7);
    let half = 2_700_000;
    // (what lies there, what has to come): sound, sound at first, longer than it can be, and nothing of it.
    let mut damaged = content[..half].to_vec();
    damaged[1_500_000] ^= 1;
    let mut too_long = content.clone();
    too_long.push(0);
    for (left, fetched) in [
        (content[..half].to_vec(), content.len() - half),
        (damaged, content.len() - chunk_start(&content, 1_500_000)),
        (too_long, content.len()),
        (noise(half), content.len()),
        (content.clone(), 0),
    ] {
        run(async |executor| {
            let upstream = Upstream::start(&executor).await;
            upstream.issue(1, &[(KERNEL, &content)]);
            let directory = tempfile::tempdir().expect("a directory");
            drop(Site::at(&executor, &upstream, directory.path()));
            let part = format!("data/cache/tmp/part-{}", hash_of(&content));
            fs::write(directory.path().join(part), &left).expect("written");
            let site = Site::at(&executor, &upstream, directory.path());
            let outcome = site.sync.sync(Order::default()).await;
            assert_eq!(outcome.status, Status::Completed);
            assert_eq!(outcome.bytes_transferred, fetched as u64);
            assert_eq!(read(&site.cache, KERNEL).await.as_ref(), Some(&content));
        });
    }
}

#[test]
fn k11_parts_that_nobody_wants_any_more_are_swept() {
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(KERNEL, b"kernel")]);
        let site = Site::new(&executor, &upstream);
        let part = site.data_dir.cache().join(format!("tmp/part-{}", hash_of(b"other")));
        fs::write(&part, "oth").expect("written");
        site.sync.sync(Order::default()).await;
        assert!(!part.exists());
    });
}

#[test]
fn k11_what_is_on_its_way_and_in_no_manifest_is_not_swept() {
    const PAUSE: Duration = Duration::from_millis(700);
    let program = noise(2 << 20);
    let name = "agents/7.2.0/pureboot-agent-x86_64";
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(name, &program)]);
        upstream.issue(2, &[]);
        let site = Site::new(&executor, &upstream);
        upstream.set_pause(PAUSE);
        let arrival = site.flights.join(&entry(name, &program), Need::Stock).expect("room");
        let part = site.data_dir.cache().join(format!("tmp/part-{}", hash_of(&program)));
        while !part.exists() {
            clock::Timer::after(Duration::from_millis(1)).await;
        }
        let outcome = site.sync.sync(Order::default()).await;
        assert_eq!(outcome.status, Status::Completed);
        assert!(part.exists(), "the sync came while it was on its way, and left it there");
        assert!(arrival.whole().await.is_ok());
    });
}

#[test]
fn d7_a_damaged_object_is_found_set_aside_and_fetched_again() {
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(KERNEL, b"kernel"), (INITRD, b"initrd")]);
        let site = Site::new(&executor, &upstream);
        site.sync.sync(Order::default()).await;
        let name = hash_of(b"kernel").to_string();
        let object = site.data_dir.cache().join("objects").join(&name[..2]).join(&name);
        fs::write(object, "kErnel").expect("damaged");
        let order = Order { force: true, categories: vec![] };
        let outcome = site.sync.sync(order).await;
        assert_eq!((outcome.status, outcome.files_synced), (Status::Completed, 1));
        assert_eq!(read(&site.cache, KERNEL).await.as_deref(), Some(&b"kernel"[..]));
        assert!(site.data_dir.cache().join("quarantine").join(name).exists());
    });
}

async fn add(site: &Site, name: &str, bytes: &[u8]) {
    let chunk = Ok(hyper::body::Bytes::copy_from_slice(bytes));
    let source = smol::stream::iter([chunk]);
    site.cache.add(key(name), source, Expected::default()).await.expect("added");
}

#[test]
fn what_the_manifest_drops_goes_when_it_is_unused_and_what_a_person_added_stays() {
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(KERNEL, b"kernel"), (INITRD, b"initrd"), (LOADER, b"loader")]);
        let site = Site::new(&executor, &upstream);
        add(&site, "images/by-hand", b"by hand").await;
        site.sync.sync(Order::default()).await;
        upstream.issue(2, &[(KERNEL, b"kernel")]);
        site.sync.sync(Order::default()).await;
        assert_eq!(read(&site.cache, INITRD).await.as_deref(), Some(&b"initrd"[..]), "for now");
        // What is the manifest's is known in the next life too.
        let site = site.restart(&executor, &upstream);
        site.set_config(|config| config.cache_retention_days = 0);
        smol::Timer::after(Duration::from_millis(5)).await;
        site.sync.sync(Order::default()).await;
        assert_eq!(read(&site.cache, INITRD).await, None);
        for (name, bytes) in
            [(KERNEL, &b"kernel"[..]), (LOADER, b"loader"), ("images/by-hand", b"by hand")]
        {
            assert_eq!(read(&site.cache, name).await.as_deref(), Some(bytes), "{name}");
        }
    });
}

#[test]
fn evict_takes_all_but_what_a_boot_needs_and_a_person_added() {
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(KERNEL, b"kernel"), (INITRD, b"initrd"), (LOADER, b"loader")]);
        let site = Site::new(&executor, &upstream);
        add(&site, "images/by-hand", b"by hand").await;
        site.sync.sync(Order::default()).await;
        let held = site.cache.find(&key(INITRD)).await;
        let order = EvictionOrder { policy: Eviction::All, category: None, max_evict: None };
        let evicted = site.housekeeper.evict(&order).await.expect("evicted");
        assert_eq!((evicted.evicted_count, evicted.freed_bytes), (1, 6), "who reads reads on");
        drop(held);
        let names: Vec<_> =
            site.cache.entries().iter().map(|entry| entry.key.to_string()).collect();
        assert_eq!(names, [LOADER, "images/by-hand", INITRD]);
        assert_eq!(site.sync.sync(Order::default()).await.files_synced, 1, "it comes back");
    });
}

#[test]
fn c15_what_is_invalidated_stays_until_its_replacement_is_here() {
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(KERNEL, b"kernel")]);
        let site = Site::new(&executor, &upstream);
        site.sync.sync(Order::default()).await;
        upstream.issue(2, &[(KERNEL, b"new")]);
        upstream.withhold(hash_of(b"new"));
        assert_eq!(site.sync.invalidate(&key(KERNEL)).await.status, Status::Failed);
        assert_eq!(read(&site.cache, KERNEL).await.as_deref(), Some(&b"kernel"[..]));
        upstream.withhold_nothing();
        assert_eq!(site.sync.invalidate(&key(KERNEL)).await.status, Status::Completed);
        assert_eq!(read(&site.cache, KERNEL).await.as_deref(), Some(&b"new"[..]));
    });
}
