//! What policies have the site keep, from a signed manifest to the cache.

use pureboot_protocol::{BootMethod, WorkflowId};

use super::*;
use crate::cache::evict::Need;
use crate::cache::manage::Kept;
use crate::policy::judge::{self, CacheJury};
use crate::policy::record::JudgementRecorded;
use crate::sync::housekeeper::Housekeeper;
use crate::sync::jury::Jury as _;
use crate::sync::pinned::Pinned;

const TONIGHT: (&str, &str) = ("content/tonight", "cache-policy");
const DROP_ALL: (&str, &str) = ("hostile/p12-drop-everything", "cache-policy");
const LOOP_IN_JUDGE: (&str, &str) = ("hostile/p1-loop-in-judge", "site-policy");

/// What the site's node is installed with.
const NEEDED: &str = "images/flow/kernel";
/// What nobody needs.
const SPARE: &str = "images/spare";
/// What the manifest pins.
const REQUIRED: &str = "images/required";
/// What a person has put there.
const BY_HAND: &str = "images/by-hand";
/// What a person has pinned.
const PINNED: &str = "images/pinned";
const LOADER: &str = "bootloaders/ipxe.efi";

fn key(name: &str) -> ContentKey {
    name.parse().expect("a name")
}

/// A site with content, and who keeps house there.
struct House {
    site: Running,
    jury: CacheJury,
    housekeeper: Housekeeper,
}

impl House {
    /// A site that has the content above and is assigned `guest`.
    async fn new(
        executor: &Rc<LocalExecutor<'static>>,
        disk: &Disk,
        guest: &Guest,
        mode: PluginMode,
    ) -> Self {
        let names = [NEEDED, SPARE, REQUIRED, PINNED, LOADER];
        let entries = names.map(|name| ManifestEntry {
            key: key(name),
            size_bytes: name.len() as u64,
            sha256: hash_of(name.as_bytes()),
            pinned: name == REQUIRED,
            chunks: None,
        });
        let assigned = PolicyAssignment { mode, ..guest.assigned(OnFailure::Builtin) };
        disk.assign_beside(&entries, 1, &[guest], vec![assigned]);
        let site = disk.start(executor).await;
        site.hold(guest).await;
        let workflow = Workflow {
            id: WorkflowId::from_random([1; 16]),
            name: "flow".to_owned(),
            description: String::new(),
            templates: Default::default(),
            boot: BootMethod::Chain { target: key(NEEDED) },
            created_at: Timestamp::from_unix_ms(0),
            updated_at: Timestamp::from_unix_ms(0),
            version: 1,
        };
        let record = BootRecord { workflow: Some(Assignment::Known(workflow)), ..record() };
        site.store.save_record(record, clock::now()).await.expect("kept");
        let content = site.policies.parts.content.as_ref().expect("a site with content");
        let (cache, keeper) = (content.cache.clone(), Rc::clone(&content.manifest));
        for name in [&names[..], &[BY_HAND]].concat() {
            let bytes = stream::iter([Ok(Bytes::from(name.as_bytes().to_owned()))]);
            cache.add(key(name), bytes, Expected::default()).await.expect("it is kept");
        }
        cache.manage(names.map(key).into()).await.expect("it is the manifest's");
        let pinned = Rc::new(Pinned::load(&disk.data_dir()).expect("names"));
        pinned.set(&key(PINNED), true).await.expect("pinned");
        let standing = Rc::clone(&site.standing);
        let housekeeper = Housekeeper::new(cache.clone(), Rc::clone(&keeper), standing, pinned);
        let jury = CacheJury::new(judge::Parts {
            policies: Rc::clone(&site.policies),
            cache,
            keeper,
            store: site.store.clone(),
        });
        // What has just come is not given up by a word of the same millisecond.
        smol::Timer::after(Duration::from_millis(5)).await;
        Self { site, jury, housekeeper }
    }

    /// Asks the policies, and does as they say; whether they were asked.
    async fn keep_house(&self) -> bool {
        let verdicts = self.jury.judge(&self.housekeeper).await;
        let was_asked = verdicts.is_some();
        if let Some(verdicts) = verdicts {
            self.housekeeper.obey(verdicts);
        }
        self.housekeeper.tidy().await.expect("tidied");
        was_asked
    }

    fn held(&self) -> Vec<String> {
        let content = self.site.policies.parts.content.as_ref().expect("a site with content");
        let mut names: Vec<_> =
            content.cache.entries().iter().map(|entry| entry.key.to_string()).collect();
        names.retain(|name| !name.starts_with("plugins/"));
        names
    }
}

const ALL: [&str; 6] = [LOADER, BY_HAND, NEEDED, PINNED, REQUIRED, SPARE];

#[test]
fn p12_a_policy_pins_what_is_needed_and_gives_up_what_is_not_and_nothing_that_is_not_its_to_give() {
    let guest = guest(TONIGHT, "1.0.0");
    run(async |executor| {
        let disk = Disk::new().await;
        let house = House::new(&executor, &disk, &guest, PluginMode::On).await;
        assert_eq!(house.held(), ALL);
        assert!(house.keep_house().await);
        assert_eq!(house.held(), [LOADER, BY_HAND, NEEDED, PINNED, REQUIRED]);
        let kept = [LOADER, BY_HAND, NEEDED, PINNED, REQUIRED]
            .map(|name| house.housekeeper.kept(&key(name)));
        let expected = [Kept::Loader, Kept::ByHand, Kept::Policy, Kept::Pinned, Kept::Manifest];
        assert_eq!(kept, expected);
        let gone = house.housekeeper.gone();
        assert_eq!((gone.len(), &gone[0].name, &gone[0].by), (1, &key(SPARE), &guest.plugin));
        assert!(!house.keep_house().await, "what it said holds for a while");
        let report = house.site.report();
        assert_eq!((report.answers, report.failures), (1, 0));
        // A machine that waits does not get the room of what is pinned.
        let room = house.housekeeper.make_room(u64::MAX, Need::Machine).await;
        assert!(room.is_err(), "{room:?}");
        assert!(house.held().contains(&NEEDED.to_owned()));
    });
}

#[test]
fn a_shadow_is_heard_and_written_down_and_nothing_comes_of_it() {
    let guest = guest(TONIGHT, "1.0.0");
    run(async |executor| {
        let disk = Disk::new().await;
        let house = House::new(&executor, &disk, &guest, PluginMode::Shadow).await;
        let judgements = house.site.policies.judgements();
        executor.spawn(judgements.clone().keep()).detach();
        assert!(house.keep_house().await);
        assert_eq!(house.held(), ALL);
        let told = |name| house.housekeeper.verdicts().told(&key(name)).map(|told| told.words());
        assert_eq!(told(SPARE).as_deref(), Some("p would give it up (shadow)"));
        assert_eq!(told(NEEDED).as_deref(), Some("p would pin it (shadow)"));
        assert_eq!(told(REQUIRED), None);
        let mut recorded: Vec<JudgementRecorded> = Vec::new();
        while recorded.is_empty() {
            smol::future::yield_now().await;
            recorded = judgements.load().await;
        }
        let said = "would have said pin 1, give up 1 items (shadow)";
        assert_eq!((recorded[0].items.len(), recorded[0].called[0].said.as_str()), (6, said));
    });
}

#[test]
fn p12_a_policy_that_gives_up_everything_has_failed_and_the_built_in_rules_stand() {
    let guest = guest(DROP_ALL, "1.0.0");
    run(async |executor| {
        let disk = Disk::new().await;
        let house = House::new(&executor, &disk, &guest, PluginMode::On).await;
        house.keep_house().await;
        assert_eq!(house.held(), ALL);
        let report = house.site.report();
        assert_eq!(report.failures, 1);
        assert!(report.failure.is_some_and(|why| why.contains("required to hold")));
    });
}

#[test]
fn p1_a_policy_that_loops_about_content_costs_a_machine_neither_its_answer_nor_its_turn() {
    let guest = guest(LOOP_IN_JUDGE, "1.0.0");
    run(async |executor| {
        let disk = Disk::new().await;
        let house = House::new(&executor, &disk, &guest, PluginMode::On).await;
        let mut judging = std::pin::pin!(house.keep_house());
        let mut is_over = smol::future::poll_once(judging.as_mut()).await;
        assert!(is_over.is_none(), "it is a loop");
        while is_over.is_none() {
            let decision = house.site.boot().await;
            assert_eq!(decision.boot, Boot::LocalDisk);
            assert_eq!(house.site.report().skipped, 0, "nobody waits for a turn");
            is_over = smol::future::poll_once(judging.as_mut()).await;
        }
        assert_eq!(house.site.report().failures, 1);
        assert_eq!(house.held(), ALL);
        assert!(house.site.report().answers > 1, "machines were answered meanwhile");
    });
}

#[test]
fn what_a_policy_said_is_forgotten_with_the_policy() {
    let guest = guest(TONIGHT, "1.0.0");
    run(async |executor| {
        let disk = Disk::new().await;
        let house = House::new(&executor, &disk, &guest, PluginMode::On).await;
        house.keep_house().await;
        assert_eq!(house.housekeeper.kept(&key(NEEDED)), Kept::Policy);
        house.site.policies.policies.arrange(&[]);
        assert!(house.keep_house().await);
        assert_eq!(house.housekeeper.kept(&key(NEEDED)), Kept::Manifest);
        assert!(!house.keep_house().await, "nobody is left to be asked");
    });
}
