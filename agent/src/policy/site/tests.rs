//! Hostile and honest policies in the boots of a site (FAULTS §9), from a signed manifest to the script.

mod content;

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use hyper::body::Bytes;
use pureboot_plugin_host::compile;
use pureboot_plugin_host::engine::ENGINE_ID;
use pureboot_plugin_host::package::{self, Header};
use pureboot_plugin_host::policies;
use pureboot_plugin_host::seal::SealedFiles;
use pureboot_protocol::{
    BootId, BootRecord, BootRequest, Capability, Lifecycle, Mac, Manifest, ManifestEntry, NodeId,
    OnFailure, PluginMode, PluginVersion, PolicyReport, PolicyState, PublicKey, Signature,
    SignedManifest, package_key,
};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use sha2::{Digest as _, Sha256};
use smol::LocalExecutor;
use smol::stream;
use tempfile::TempDir;
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::load::engine_id;
use super::*;
use crate::answers::keeper::Answers;
use crate::boot::booter::{self, Booter};
use crate::boot::decide::{Boot, Freshness, Mode, OfflineAction};
use crate::boot::inputs::Found;
use crate::boot::render::Renderer;
use crate::cache::Expected;
use crate::data_dir;
use crate::http::testing::run;
use crate::nodes::follow::Follower;
use crate::outbox::Outbox;
use crate::session::recorder::Recorder;
use crate::store::{Quota, StoreOptions};
use crate::uplink::controller::Controller;
use crate::uplink::tls;

static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new().expect("an engine"));

/// What a machine waits for.
const BOOT_TIME: Duration = Duration::from_secs(2);

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("32 bytes are a seed")
}

fn public(pair: &Ed25519KeyPair) -> PublicKey {
    PublicKey::from_bytes(pair.public_key().as_ref().try_into().expect("32 bytes"))
}

fn sign(pair: &Ed25519KeyPair, bytes: &[u8]) -> Signature {
    Signature::from_bytes(pair.sign(bytes).as_ref().try_into().expect("64 bytes"))
}

fn hash_of(bytes: &[u8]) -> ContentHash {
    ContentHash::from_digest(Sha256::digest(bytes).into())
}

fn version(text: &str) -> PluginVersion {
    text.parse().expect("a version")
}

fn mac() -> Mac {
    "52:54:00:12:34:56".parse().expect("an address")
}

/// A policy of `plugins/cases`, made for a world of the contract and packed.
struct Guest {
    plugin: PluginId,
    version: PluginVersion,
    wasm: ContentHash,
    header: Header,
    code: Vec<u8>,
    package: Vec<u8>,
}

impl Guest {
    fn new(case: &str, world: &str, number: &str) -> Self {
        Self::signed(case, world, number, &pair(1))
    }

    fn signed(case: &str, world: &str, number: &str, signer: &Ed25519KeyPair) -> Self {
        let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins");
        let case = plugins.join("cases").join(format!("{case}.wat"));
        let mut module = wat::parse_file(case).expect("a module");
        let mut resolve = Resolve::default();
        let contract = plugins.join("wit/since-0.1");
        let (contract, _) = resolve.push_path(contract).expect("the contract");
        let hooks = match world {
            "site-policy" => [Hook::Boot, Hook::Script, Hook::Cache].into(),
            "cache-policy" => [Hook::Cache].into(),
            _ => [Hook::Boot].into(),
        };
        let world = format!("pureboot:policy/{world}");
        let world = resolve.select_world(&[contract], Some(&world)).expect("a world of it");
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
            .expect("the module fits the world");
        let component = compile::componentize(&module).expect("a component");
        let code = compile::compile(&ENGINE, &component).expect("code");
        let header = Header {
            id: "p".parse().expect("a name"),
            version: version(number),
            engine: ENGINE_ID.to_owned(),
            wasm: hash_of(&component),
            hooks,
            capabilities: [Capability::Nodes].into(),
            memory_mib: 16,
            settings: [].into(),
        };
        let package = package::emit(&header, &code, |bytes| sign(signer, bytes)).expect("packed");
        let (plugin, version, wasm) = (header.id.clone(), header.version, header.wasm);
        Self { plugin, version, wasm, header, code, package }
    }

    fn assigned(&self, on_failure: OnFailure) -> PolicyAssignment {
        PolicyAssignment {
            plugin: self.plugin.clone(),
            version: self.version,
            wasm: self.wasm,
            mode: PluginMode::On,
            on_failure,
            grants: [Capability::Nodes].into(),
            settings: [].into(),
        }
    }

    fn key(&self) -> ContentKey {
        package_key(&self.plugin, self.version, &engine_id())
    }
}

/// What outlives a run of the agent. Database and cache stay open from one run to the next: what policies keep is beside them.
struct Disk {
    dir: TempDir,
    store: Store,
    cache: Cache,
}

impl Disk {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let data_dir = DataDir::create(&dir.path().join("data")).expect("a data directory");
        fs::create_dir_all(data_dir.root().join("state")).expect("a directory");
        let key = public(&pair(1)).to_string();
        data_dir::write_private(&data_dir.signing_key_file(), &key).expect("written");
        let options =
            StoreOptions { data_dir: data_dir.root().to_owned(), quota: Quota::default() };
        let store = Store::open(options).await.expect("a database");
        let cache = Cache::open(&data_dir.cache()).expect("a cache");
        Self { dir, store, cache }
    }

    fn data_dir(&self) -> DataDir {
        DataDir::open(&self.dir.path().join("data")).expect("a data directory")
    }

    fn site() -> SiteId {
        SiteId::from_random([7; 16])
    }

    /// The manifest that the site goes by from its next start on.
    fn assign(&self, number: u64, guests: &[&Guest], policies: Vec<PolicyAssignment>) {
        self.assign_beside(&[], number, guests, policies);
    }

    /// As [`Self::assign`], with other content beside the packages.
    fn assign_beside(
        &self,
        content: &[ManifestEntry],
        number: u64,
        guests: &[&Guest],
        policies: Vec<PolicyAssignment>,
    ) {
        let entry = |guest: &&Guest| ManifestEntry {
            key: guest.key(),
            size_bytes: guest.package.len() as u64,
            sha256: hash_of(&guest.package),
            pinned: true,
            chunks: None,
        };
        let manifest = Manifest {
            site_id: Self::site(),
            version: number,
            issued_at: Timestamp::from_unix_ms(1_000),
            expires_at: Timestamp::from_unix_ms(4_000_000_000_000),
            entries: guests.iter().map(entry).chain(content.iter().cloned()).collect(),
            policies,
        };
        let payload = serde_json::to_string(&manifest).expect("JSON");
        let signature = sign(&pair(1), &SignedManifest::signed_bytes(&payload));
        let signed = SignedManifest::new(payload, signature, &public(&pair(1)));
        let text = serde_json::to_string(&signed).expect("JSON");
        data_dir::write_private(&self.data_dir().manifest_file(), &text).expect("written");
    }

    async fn start(&self, executor: &Rc<LocalExecutor<'static>>) -> Running {
        let data_dir = self.data_dir();
        let (store, cache) = (self.store.clone(), self.cache.clone());
        let standing = Rc::new(Standing::new(None));
        let url = "http://127.0.0.1:9".parse().expect("a URL");
        let tls = tls::connector(None).expect("a connector");
        let controller = Rc::new(Controller::new(Rc::clone(executor), url, tls));
        let manifest =
            Keeper::load(&data_dir, Self::site(), Rc::clone(&controller), Rc::clone(&standing));
        let policies = Rc::new(SitePolicies::new(Parts {
            data_dir,
            site_id: Self::site(),
            content: Some(Content { cache, manifest: Rc::new(manifest) }),
            store: store.clone(),
            standing: Rc::clone(&standing),
        }));
        policies.apply().await;
        Running { policies, store, standing, controller }
    }
}

/// A run of the agent.
struct Running {
    policies: Rc<SitePolicies>,
    store: Store,
    standing: Rc<Standing>,
    controller: Rc<Controller>,
}

impl Running {
    async fn hold(&self, guest: &Guest) {
        let bytes = stream::iter([Ok(Bytes::from(guest.package.clone()))]);
        let content = self.policies.parts.content.as_ref().expect("a site with content");
        content.cache.add(guest.key(), bytes, Expected::default()).await.expect("it is kept");
        self.policies.apply().await;
    }

    async fn boot(&self) -> Decision {
        self.boot_by(clock::monotonic() + BOOT_TIME).await
    }

    async fn boot_by(&self, deadline: Instant) -> Decision {
        self.policies.decide(&inputs(), &base(), None, deadline).await.0
    }

    fn report(&self) -> PolicyReport {
        self.policies.report().policies.into_iter().next().expect("one is assigned")
    }

    fn booter(&self, recorder: &Rc<Recorder>) -> Booter {
        let Self { policies, store, standing, controller } = self;
        let answers = Rc::new(Answers::new(
            store.clone(),
            policies.parts.data_dir.clone(),
            Disk::site(),
            Rc::clone(controller),
            Rc::clone(standing),
        ));
        let follower = Follower::new(
            Rc::clone(controller),
            store.clone(),
            Rc::clone(standing),
            Rc::clone(&answers),
        );
        Booter::new(booter::Parts {
            store: store.clone(),
            outbox: Outbox::new(store.clone()).0,
            standing: Rc::clone(standing),
            controller: Rc::clone(controller),
            renderer: Renderer::new().expect("templates"),
            sightings: bounded(1).0,
            recorder: Rc::clone(recorder),
            answers,
            follower: Rc::new(follower),
            policies: Rc::clone(policies),
            offline_action: OfflineAction::LastKnown,
        })
    }
}

fn base() -> BaseUrl {
    "http://192.0.2.1:8080".parse().expect("a base")
}

fn record() -> BootRecord {
    BootRecord::new(NodeId::from_random([2; 16]), mac(), Lifecycle::Active, 7)
}

fn inputs() -> Inputs {
    Inputs {
        request: BootRequest::new(mac()),
        found: Found::Known { record: Box::new(record()), freshness: Freshness::Asked },
        mode: Mode::Online,
        autonomy: pureboot_protocol::Autonomy::Limited,
        install_given: false,
        offline_action: OfflineAction::LastKnown,
    }
}

const GOLDEN: (&str, &str) = ("golden/since-0.1", "site-policy");
const LOOP: (&str, &str) = ("hostile/p1-loop", "boot-policy");
const QUIET: (&str, &str) = ("hostile/p9-log-many", "boot-policy");
const TRAP: (&str, &str) = ("hostile/p5-unreachable", "boot-policy");

fn guest((case, world): (&str, &str), number: &str) -> Guest {
    Guest::new(case, world, number)
}

#[test]
fn p1_a_policy_that_loops_ends_with_its_fuel_or_its_time_and_never_leads_to_an_installation() {
    for (on_failure, is_held) in [(OnFailure::Builtin, false), (OnFailure::Hold, true)] {
        run(async |executor| {
            let (disk, guest) = (Disk::new().await, guest(LOOP, "1.0.0"));
            disk.assign(1, &[&guest], vec![guest.assigned(on_failure)]);
            let site = disk.start(&executor).await;
            assert_eq!(site.report().state, PolicyState::Awaited, "its package is not here");
            site.hold(&guest).await;
            let in_time = site.boot().await;
            let too_late = site.boot_by(clock::monotonic()).await;
            let told = too_late.reasons.last().expect("a reason").to_string();
            assert!(told.ends_with("it had not answered when its time was up"), "{told}");
            for decision in [in_time, too_late] {
                match is_held {
                    true => assert!(matches!(decision.boot, Boot::Hold { .. }), "{decision:?}"),
                    false => assert_eq!(decision.boot, Boot::LocalDisk),
                }
            }
            assert_eq!(site.report().failures, 2);
        });
    }
}

#[test]
fn p14_what_was_set_aside_is_set_aside_after_a_restart_and_is_asked_again_when_it_is_told_to() {
    run(async |executor| {
        let (disk, guest) = (Disk::new().await, guest(TRAP, "1.0.0"));
        disk.assign(1, &[&guest], vec![guest.assigned(OnFailure::Builtin)]);
        {
            let site = disk.start(&executor).await;
            site.hold(&guest).await;
            for _ in 0..3 {
                assert_eq!(site.boot().await.boot, Boot::LocalDisk);
            }
            site.policies.settle().await;
            assert_eq!(site.report().state, PolicyState::SetAside);
        }
        let site = disk.start(&executor).await;
        let report = site.report();
        assert_eq!((report.state, report.failures), (PolicyState::SetAside, 0));
        site.boot().await;
        assert_eq!((site.report().skipped, site.report().failures), (1, 0), "it is not asked");
        assert!(site.policies.reset(&guest.plugin).await);
        site.boot().await;
        assert_eq!(site.report().failures, 1, "it is");
        assert!(!site.policies.reset(&"other".parse().expect("a name")).await);
    });
}

#[test]
fn p14_a_version_that_fails_soon_after_it_came_gives_way_also_after_a_restart() {
    run(async |executor| {
        let disk = Disk::new().await;
        let (old, new) = (guest(GOLDEN, "1.0.0"), guest(TRAP, "2.0.0"));
        disk.assign(1, &[&old, &new], vec![new.assigned(OnFailure::Builtin)]);
        {
            let site = disk.start(&executor).await;
            site.hold(&old).await;
            site.hold(&new).await;
            assert_eq!(site.report().running, Some(new.version));
            for _ in 0..3 {
                site.boot().await;
            }
            site.policies.settle().await;
            let report = site.report();
            assert_eq!(
                (report.state, report.running),
                (PolicyState::RolledBack, Some(old.version))
            );
        }
        let site = disk.start(&executor).await;
        let report = site.report();
        assert_eq!((report.state, report.running), (PolicyState::RolledBack, Some(old.version)));
        drop(site);
        let newer = guest(GOLDEN, "2.0.1");
        disk.assign(2, &[&old, &new, &newer], vec![newer.assigned(OnFailure::Builtin)]);
        let site = disk.start(&executor).await;
        site.hold(&newer).await;
        let report = site.report();
        assert_eq!((report.state, report.running), (PolicyState::Running, Some(newer.version)));
    });
}

#[test]
fn p11_a_package_that_the_controller_has_not_signed_is_refused_and_the_version_before_runs() {
    run(async |executor| {
        let disk = Disk::new().await;
        let good = guest(GOLDEN, "1.0.0");
        let forged = Guest::signed(GOLDEN.0, GOLDEN.1, "2.0.0", &pair(9));
        disk.assign(1, &[&good, &forged], vec![good.assigned(OnFailure::Builtin)]);
        {
            let site = disk.start(&executor).await;
            site.hold(&good).await;
            site.hold(&forged).await;
        }
        disk.assign(2, &[&good, &forged], vec![forged.assigned(OnFailure::Builtin)]);
        let site = disk.start(&executor).await;
        let report = site.report();
        assert_eq!((report.state, report.running), (PolicyState::Refused, Some(good.version)));
        let why = report.failure.expect("a reason");
        assert!(why.contains("not signed by a key that this site trusts"), "{why}");
    });
}

#[test]
fn p10_a_package_that_was_changed_on_the_disk_is_not_run() {
    run(async |executor| {
        let (disk, guest) = (Disk::new().await, guest(GOLDEN, "1.0.0"));
        disk.assign(1, &[&guest], vec![guest.assigned(OnFailure::Builtin)]);
        disk.start(&executor).await.hold(&guest).await;
        let name = hash_of(&guest.package).to_string();
        let path = disk.data_dir().cache().join("objects").join(&name[..2]).join(&name);
        let mut bytes = fs::read(&path).expect("the package");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).expect("changed");
        let site = disk.start(&executor).await;
        let report = site.report();
        assert_eq!((report.state, report.running), (PolicyState::Awaited, None));
        assert!(report.failure.is_some_and(|why| why.contains(&guest.key().to_string())));
    });
}

#[test]
fn a_policy_sees_the_sites_nodes_where_it_was_granted_to_and_is_refused_where_it_was_not() {
    run(async |executor| {
        let (disk, guest) = (Disk::new().await, guest(GOLDEN, "1.0.0"));
        let assigned = guest.assigned(OnFailure::Builtin);
        disk.assign(1, &[&guest], vec![assigned.clone()]);
        {
            let site = disk.start(&executor).await;
            site.hold(&guest).await;
            assert_eq!(site.boot().await.boot, Boot::LocalDisk, "the site does not know it");
            site.store.save_record(record(), clock::now()).await.expect("kept");
            let reason = mac().to_string();
            let refused = Boot::Refused { by: guest.plugin.clone(), reason };
            assert_eq!(site.boot().await.boot, refused);
        }
        disk.assign(2, &[&guest], vec![PolicyAssignment { grants: [].into(), ..assigned }]);
        let report = disk.start(&executor).await.report();
        assert_eq!(report.state, PolicyState::Refused);
        assert!(report.failure.is_some_and(|why| why.contains("has not granted")));
    });
}

#[test]
fn a_boot_of_the_past_is_played_again_to_the_byte() {
    // Before the test's own stack is full of futures: compilers go deep.
    let (guest, quiet) = (guest(GOLDEN, "1.0.0"), guest(QUIET, "2.0.0"));
    let forged = Guest::signed(QUIET.0, QUIET.1, "2.0.0", &pair(9));
    run(async |executor| {
        let disk = Disk::new().await;
        disk.assign(1, &[&guest], vec![guest.assigned(OnFailure::Builtin)]);
        let site = disk.start(&executor).await;
        site.hold(&guest).await;
        site.store.save_record(record(), clock::now()).await.expect("kept");
        executor.spawn(site.policies.records().clone().keep()).detach();
        let recorder = Rc::new(Recorder::default());
        let booter = site.booter(&recorder);
        let script = Box::pin(booter.script(BootRequest::new(mac()), None, None, base())).await;
        assert!(script.contains("This site does not serve machine"), "{script}");
        let mut records = Vec::new();
        while records.is_empty() {
            smol::future::yield_now().await;
            records = site.policies.records().load().await;
        }
        let session: BootId = records[0].session;
        assert_eq!(records[0].script_sha256, hash_of(script.as_bytes()));
        // What the site knows of its nodes is another thing by now.
        let gone = BootRecord { hostname: Some("other".to_owned()), version: 8, ..record() };
        site.store.save_record(gone, clock::now()).await.expect("kept");
        let past = Box::pin(booter.explain_past(session)).await.expect("it is written down");
        let replay = past.replay.clone().expect("it was played again");
        assert!(replay.is_same, "{:?}", replay.differences);
        assert_eq!((past.built_in.as_str(), past.decision.as_str()), ("local_disk", "refused"));
        let now = Box::pin(booter.explain(mac(), base())).await;
        assert_eq!((now.decision.as_str(), now.policies.len()), ("refused", 2));
        assert_eq!(site.report().answers, 2, "an explanation is no boot");
        let all = Box::pin(booter.replay_all(None)).await.boots;
        assert!(all.len() == 1 && all[0].replay.is_same);
        // Another version that has no opinion, once signed and once compiled here.
        let signed = site.policies.candidate(&quiet.package).await.expect("the controller's");
        let forged = site.policies.candidate(&forged.package).await.err().expect("nobody's");
        assert!(forged.contains("not signed by a key that this site trusts"), "{forged}");
        let files = SealedFiles::open(&disk.data_dir().sealed_policies(), [7; 32]).expect("files");
        files.keep(quiet.wasm, &quiet.code).expect("kept");
        let header = serde_json::to_vec(&quiet.header).expect("JSON");
        let sealed = site.policies.candidate(&header).await.expect("this host's");
        for candidate in [signed, sealed] {
            let all = Box::pin(booter.replay_all(Some(&candidate))).await.boots;
            let differences = &all[0].replay.differences;
            assert_eq!(differences[0], format!("p said: refuse: {}; now: no opinion", mac()));
            let boots = "the machine booted refused; now local_disk".to_owned();
            assert!(differences.contains(&boots), "{differences:?}");
        }
        let path = disk.data_dir().sealed_policies().join(format!("{}.sealed", quiet.wasm));
        fs::write(&path, b"somebody else's").expect("changed");
        let refused = site.policies.candidate(&header).await.err().expect("not this host's");
        assert!(refused.contains("is deleted") && !path.exists(), "{refused}");
    });
}

#[test]
fn a_boot_is_played_again_in_the_mode_it_had_also_where_the_manifest_was_ahead_of_it() {
    let guests = [guest(GOLDEN, "1.0.0"), guest(QUIET, "1.0.0")];
    for guest in guests {
        run(async |executor| {
            let disk = Disk::new().await;
            disk.assign(1, &[&guest], vec![guest.assigned(OnFailure::Builtin)]);
            let site = disk.start(&executor).await;
            site.hold(&guest).await;
            let shadow = policies::Assignment { mode: PluginMode::Shadow, ..Default::default() };
            assert!(site.policies.running().assign(&guest.plugin, shadow));
            executor.spawn(site.policies.records().clone().keep()).detach();
            let recorder = Rc::new(Recorder::default());
            let booter = site.booter(&recorder);
            Box::pin(booter.script(BootRequest::new(mac()), None, None, base())).await;
            let mut records = Vec::new();
            while records.is_empty() {
                smol::future::yield_now().await;
                records = site.policies.records().load().await;
            }
            assert_eq!(records[0].decided[0].mode, PluginMode::Shadow);
            let all = Box::pin(booter.replay_all(None)).await.boots;
            assert!(all[0].replay.is_same, "{:?}", all[0].replay.differences);
        });
    }
}
