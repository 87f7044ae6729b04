use std::rc::Rc;
use std::time::Duration;

use pureboot_protocol::{CommandOutcome, Lifecycle, Order};
use smol::LocalExecutor;
use smol::Timer;
use smol::future::block_on;

use super::*;
use crate::data_dir::DataDir;
use crate::store::CachedNode;
use crate::store::tests::{at, event, mac, open, record};
use crate::uplink::testing::{Centre, about};

/// How a test waits for what is carried out beside it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Content that is brought up to date for as long as the test wants.
struct Slow(Receiver<()>);

impl Content for Slow {
    async fn sync(&self, _: bool, _: &[Category], progress: impl Fn(String)) -> Option<Ending> {
        progress("1 of 2".to_owned());
        self.0.recv().await.ok()?;
        Some(Ending::completed("2 of 2"))
    }

    fn hear(&self, _: Option<u64>, _: Timestamp) {}

    async fn revalidate(&self, _: &ContentKey) -> Option<Ending> {
        None
    }
}

/// Content that no order concerns.
struct Unneeded;

impl Content for Unneeded {
    async fn sync(&self, _: bool, _: &[Category], _: impl Fn(String)) -> Option<Ending> {
        None
    }

    fn hear(&self, _: Option<u64>, _: Timestamp) {}

    async fn revalidate(&self, _: &ContentKey) -> Option<Ending> {
        None
    }
}

fn command(n: u8, order: SiteOrder) -> SiteCommand {
    SiteCommand { id: CommandId::from_random([n; 16]), order: Order::Known(order) }
}

fn no_settings() -> Ending {
    Ending::failed("none")
}

/// Lets an agent that remembers machine 1, at version 3, obey a controller that gives `answers`.
fn with_obeyer<C: Content>(
    content: &C,
    answers: Vec<(u16, String)>,
    test: impl AsyncFnOnce(&Obeyer<'_, C>, &Store),
) {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("agent");
    let data_dir = DataDir::create(&root).expect("a directory");
    let store = open(&root);
    let executor = Rc::new(LocalExecutor::new());
    let controller = Centre::start(answers).client(&executor);
    block_on(executor.run(async {
        store.save_record(record(1, Lifecycle::Active, 3), at(0)).await.expect("saved");
        let rotation = Rotation::new(&data_dir, &controller);
        let obeyer = Obeyer::new(&controller, &store, &rotation, content);
        let late = async {
            Timer::after(PATIENCE).await;
            panic!("nothing has come of it");
        };
        let work = async {
            obeyer.run().await;
            panic!("the work has no end");
        };
        smol::future::or(test(&obeyer, &store), smol::future::or(work, late)).await;
    }));
}

fn version(store: &Store) -> Option<u64> {
    Some(store.node(mac(1))?.known?.record.version)
}

#[test]
fn what_is_to_be_asked_about_is_asked_about() {
    let answers = vec![(200, about(mac(1), Some(record(1, Lifecycle::Active, 4))))];
    with_obeyer(&Unneeded, answers, async |obeyer, store| {
        let about = SiteOrder::Invalidate(Invalid::Node { mac: mac(1) });
        obeyer.handle_answer(&[], vec![command(1, about)], no_settings());
        obeyer.news().await;
        while obeyer.results().iter().any(|result| result.outcome == CommandOutcome::Started) {
            obeyer.news().await;
        }
        assert_eq!(version(store), Some(4));
        let results = obeyer.results();
        assert_eq!(results.first().map(|it| it.outcome), Some(CommandOutcome::Completed));
    });
}

#[test]
fn c15_what_is_remembered_stays_while_the_controller_does_not_say_what_it_has_become() {
    for (answer, outcome) in [
        ((500, "broken".to_owned()), None),
        ((200, about(mac(1), None)), Some(CommandOutcome::Completed)),
    ] {
        with_obeyer(&Unneeded, vec![answer], async |obeyer, store| {
            let about = SiteOrder::Invalidate(Invalid::Node { mac: mac(1) });
            obeyer.handle_answer(&[], vec![command(1, about)], no_settings());
            let underway = |it: &CommandResult| it.outcome == CommandOutcome::Started;
            while obeyer.results().iter().any(underway) {
                Timer::after(Duration::from_millis(5)).await;
            }
            assert_eq!(obeyer.results().first().map(|it| it.outcome), outcome);
            assert_eq!(version(store), Some(3));
        });
    }
}

#[test]
fn nothing_waits_for_content_and_its_progress_is_told() {
    let (go, wait) = bounded(1);
    let answers = vec![(200, about(mac(1), Some(record(1, Lifecycle::Active, 4))))];
    with_obeyer(&Slow(wait), answers, async |obeyer, store| {
        let sync = SiteOrder::Sync { force: false, categories: Vec::new() };
        let about = SiteOrder::Invalidate(Invalid::Node { mac: mac(1) });
        obeyer.handle_answer(&[], vec![command(1, sync), command(2, about)], no_settings());
        while version(store) != Some(4) {
            Timer::after(Duration::from_millis(5)).await;
        }
        let told: Vec<_> = obeyer.results();
        let first = told.first().map(|it| (it.outcome, it.detail.as_str()));
        assert_eq!(first, Some((CommandOutcome::Started, "1 of 2")));
        go.send(()).await.expect("it waits");
        while obeyer.results().iter().any(|it| it.outcome == CommandOutcome::Started) {
            obeyer.news().await;
        }
    });
}

#[test]
fn the_end_of_an_order_for_settings_is_what_became_of_them() {
    with_obeyer(&Unneeded, Vec::new(), async |obeyer, _| {
        let commands = vec![command(1, SiteOrder::UpdateConfig {})];
        obeyer.handle_answer(&[], commands, Ending::completed("version 7"));
        let results = obeyer.results();
        let first = results.first().map(|it| (it.outcome, it.detail.as_str()));
        assert_eq!(first, Some((CommandOutcome::Completed, "version 7")));
    });
}

#[test]
fn an_answer_that_does_not_know_of_the_sites_own_reports_is_asked_for_again() {
    let answers = vec![(200, about(mac(1), Some(record(1, Lifecycle::Active, 3))))];
    with_obeyer(&Unneeded, answers, async |obeyer, store| {
        let move_it = |node: &mut CachedNode| {
            node.known.as_mut().expect("a record").record.state = Lifecycle::Installed;
        };
        store.record(event(1, 1, 100), move_it).await.expect("recorded");
        let about = SiteOrder::Invalidate(Invalid::Node { mac: mac(1) });
        obeyer.handle_answer(&[], vec![command(1, about)], no_settings());
        while !obeyer.results().is_empty() {
            Timer::after(Duration::from_millis(5)).await;
        }
        let state = store.node(mac(1)).and_then(|node| Some(node.known?.record.state));
        assert_eq!(state, Some(Lifecycle::Installed));
    });
}
