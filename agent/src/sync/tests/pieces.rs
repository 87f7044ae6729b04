//! What a new version costs, what waits for whom, and what is done by the clock.

use std::rc::Rc;

use super::*;
use crate::rng::Rng;
use crate::sync::config::SyncConfig;
use crate::sync::demand::Found;
use crate::sync::rhythm::Rhythm;

/// Every night at a time that is not now, whenever the tests run.
fn nightly() -> SyncConfig {
    SyncConfig { schedule: vec!["0 0 29 2 *".to_owned()], ..SyncConfig::default() }
}

/// Waits, as long as a slow machine may take, until something holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..3_000 {
        if holds().await {
            return;
        }
        smol::Timer::after(Duration::from_millis(20)).await;
    }
    panic!("{what} does not come about");
}

#[test]
fn a_new_version_costs_its_difference() {
    let before = noise(6 << 20);
    let mut after = before.clone();
    after.splice(3_000_000..3_000_100, noise(50_000));
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(KERNEL, &before)]);
        let site = Site::new(&executor, &upstream);
        site.sync.sync(Order::default()).await;
        // The pieces of a new name are looked for too, in what is called alike.
        for (version, name) in [(2, KERNEL), (3, "images/debian-13/linux")] {
            let mut content = after.clone();
            content[4_000_000] ^= u8::try_from(version).expect("small");
            upstream.issue(version, &[(name, &content)]);
            let sent = upstream.sent_bytes();
            let outcome = site.sync.sync(Order::default()).await;
            assert_eq!((outcome.status, outcome.files_synced), (Status::Completed, 1));
            assert_eq!(read(&site.cache, name).await.as_ref(), Some(&content));
            let size_bytes = content.len() as u64;
            assert!(outcome.bytes_transferred < 1_600_000, "{outcome:?}");
            assert_eq!(outcome.bytes_transferred + outcome.bytes_reused, size_bytes);
            assert_eq!(upstream.sent_bytes() - sent, outcome.bytes_transferred);
        }
    });
}

#[test]
fn d7_a_piece_that_has_come_to_harm_here_is_fetched() {
    let before = noise(3 << 20);
    let mut after = before.clone();
    after[2_900_000] ^= 1;
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(KERNEL, &before)]);
        let site = Site::new(&executor, &upstream);
        site.sync.sync(Order::default()).await;
        let name = hash_of(&before).to_string();
        let path = site.data_dir.cache().join("objects").join(&name[..2]).join(&name);
        let mut damaged = before.clone();
        damaged[1_000_000] ^= 1;
        fs::write(path, damaged).expect("damaged");
        upstream.issue(2, &[(KERNEL, &after)]);
        assert_eq!(site.sync.sync(Order::default()).await.status, Status::Completed);
        assert_eq!(read(&site.cache, KERNEL).await, Some(after));
    });
}

#[test]
fn d7_what_is_found_damaged_by_a_machine_is_set_aside_and_comes_again() {
    let content = noise(3 << 20);
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(KERNEL, &content)]);
        let site = Site::with(&executor, &upstream, &nightly());
        site.sync.sync(Order::default()).await;
        let (mending, running) = (Rc::clone(&site.sync), Rc::clone(&site.sync));
        let rhythm = Rhythm::load(&nightly(), super::super::testing::site(), &site.data_dir);
        let rhythm = rhythm.expect("a rhythm");
        executor.spawn(async move { mending.mend().await }).detach();
        executor.spawn(async move { running.run(rhythm, &mut Rng::from_seed(1)).await }).detach();
        let name = hash_of(&content).to_string();
        let path = site.data_dir.cache().join("objects").join(&name[..2]).join(&name);
        let mut damaged = content.clone();
        damaged[1_000_000] ^= 1;
        fs::write(path, damaged).expect("damaged");
        let object = site.cache.find(&key(KERNEL)).await.expect("it is held");
        assert!(object.read_at(0, content.len()).await.is_err());
        drop(object);
        until("the replacement", async || {
            let Some(object) = site.cache.find(&key(KERNEL)).await else { return false };
            object.read_at(0, content.len()).await.is_ok_and(|bytes| bytes == content)
        })
        .await;
        assert_eq!(site.cache.stats().damaged, 1);
    });
}

#[test]
fn d7_what_the_agent_itself_finds_damaged_comes_again_and_does_not_wait_for_the_schedule() {
    let content = noise(100_000);
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(KERNEL, &content)]);
        let site = Site::with(&executor, &upstream, &nightly());
        site.sync.sync(Order::default()).await;
        let name = hash_of(&content).to_string();
        let path = site.data_dir.cache().join("objects").join(&name[..2]).join(&name);
        let mut damaged = content.clone();
        damaged[50_000] ^= 1;
        fs::write(&path, damaged).expect("damaged");
        let rhythm = Rhythm::load(&nightly(), super::super::testing::site(), &site.data_dir);
        let (running, rhythm) = (Rc::clone(&site.sync), rhythm.expect("a rhythm"));
        executor.spawn(async move { running.run(rhythm, &mut Rng::from_seed(1)).await }).detach();
        until("the replacement", async || fs::read(&path).is_ok_and(|bytes| bytes == content))
            .await;
    });
}

#[test]
fn by_a_schedule_images_wait_for_their_time_or_for_a_machine() {
    const OTHER: &str = "images/other/linux";
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(
            1,
            &[
                (LOADER, b"loader"),
                (KERNEL, b"kernel"),
                (INITRD, b"initrd"),
                (OTHER, b"other"),
                ("images/pinned/linux", b"pinned"),
            ],
        );
        let site = Site::with(&executor, &upstream, &nightly());
        site.pinned.set(&key("images/pinned/linux"), true).await.expect("pinned");
        let running = Rc::clone(&site.sync);
        let rhythm = Rhythm::load(&nightly(), super::super::testing::site(), &site.data_dir);
        let rhythm = rhythm.expect("a rhythm");
        executor.spawn(async move { running.run(rhythm, &mut Rng::from_seed(1)).await }).detach();
        until("the first sync", async || site.sync.state().next_sync_at.is_some()).await;
        let names = |site: &Site| {
            let names = site.cache.entries().into_iter().map(|entry| entry.key.to_string());
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(&site), [LOADER, "images/pinned/linux"]);
        let found = site.demand.find(&key(KERNEL)).await;
        assert!(matches!(found, Found::Here(_)), "a machine waits for it");
        until("what belongs to it", async || site.cache.named(&key(INITRD)).is_some()).await;
        assert_eq!(site.cache.named(&key(OTHER)), None);
        assert_eq!(site.sync.sync(Order::default()).await.files_synced, 1, "by hand all of it");
        assert_eq!(site.sync.state().names_missing, 0);
    });
}

#[test]
fn what_is_fetched_ahead_makes_way_for_a_machine() {
    const OTHER: &str = "images/other/linux";
    let (wanted, ahead) = (noise(10 << 20), noise(12 << 20));
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(KERNEL, &ahead)]);
        // The first pieces take so long that both are under way together however slow the test's machine is.
        upstream.set_pause(Duration::from_millis(500));
        let site = Site::new(&executor, &upstream);
        let syncing = Rc::clone(&site.sync);
        let sync = executor.spawn(async move { syncing.sync(Order::default()).await });
        until("the beginning", async || upstream.sent_bytes() > 0).await;
        upstream.issue(2, &[(KERNEL, &ahead), (OTHER, &wanted)]);
        let demand = Rc::clone(&site.demand);
        let machine = executor.spawn(async move { demand.find(&key(OTHER)).await });
        let Found::Coming(_, arrival) = machine.await else { panic!("it is long enough to flow") };
        upstream.set_pause(Duration::from_millis(20));
        arrival.whole().await.expect("it comes");
        let done =
            |site: &Site| site.sync.state().progress.map_or(0, |progress| progress.bytes_done);
        assert!(done(&site) < ahead.len() as u64, "what is ahead was not finished first");
        assert!(site.cache.holds(&hash_of(&wanted)) && !site.cache.holds(&hash_of(&ahead)));
        assert_eq!(sync.await.status, Status::Completed);
        assert_eq!(read(&site.cache, KERNEL).await, Some(ahead));
    });
}

#[test]
fn what_a_person_has_pinned_stays_until_it_is_unpinned() {
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(KERNEL, b"kernel"), (INITRD, b"initrd")]);
        let site = Site::new(&executor, &upstream);
        site.sync.sync(Order::default()).await;
        assert!(site.pinned.set(&key(KERNEL), true).await.expect("pinned"));
        assert!(!site.pinned.set(&key(KERNEL), true).await.expect("pinned"), "it is already");
        upstream.issue(2, &[]);
        let site = site.restart(&executor, &upstream);
        site.set_config(|config| config.cache_retention_days = 0);
        smol::Timer::after(Duration::from_millis(5)).await;
        site.sync.sync(Order::default()).await;
        let all = EvictionOrder { policy: Eviction::All, category: None, max_evict: None };
        site.housekeeper.evict(&all).await.expect("evicted");
        assert_eq!(read(&site.cache, KERNEL).await.as_deref(), Some(&b"kernel"[..]));
        assert_eq!(read(&site.cache, INITRD).await, None);
        site.pinned.set(&key(KERNEL), false).await.expect("unpinned");
        site.sync.sync(Order::default()).await;
        assert_eq!(read(&site.cache, KERNEL).await, None);
    });
}
