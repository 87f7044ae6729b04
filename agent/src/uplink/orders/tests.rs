use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn id(n: usize) -> CommandId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    CommandId::from_random(bytes)
}

fn command(n: usize) -> SiteCommand {
    SiteCommand { id: id(n), order: Order::Known(SiteOrder::RotateCredential {}) }
}

fn foreign_command(n: usize) -> SiteCommand {
    SiteCommand { id: id(n), order: Order::Foreign { command: "dance".to_owned() } }
}

fn told(orders: &Orders) -> Vec<(CommandId, CommandOutcome)> {
    orders.results().into_iter().map(|result| (result.id, result.outcome)).collect()
}

#[test]
fn c14_unknown_orders_are_reported_back_and_a_flood_is_cut() {
    let mut orders = Orders::default();
    let taken = orders.take((0..10_000).map(foreign_command).collect());
    assert_eq!(taken, []);
    let results = orders.results();
    assert_eq!(results.len(), COMMANDS_MAX);
    assert!(results.iter().all(|result| result.outcome == CommandOutcome::Unsupported));
    assert!(results.first().is_some_and(|result| result.detail.contains("'dance'")));
}

#[test]
fn c14_what_became_of_no_more_commands_is_remembered_than_one_heartbeat_tells() {
    let mut orders = Orders::default();
    for round in 0..100 {
        orders.take((0..COMMANDS_MAX).map(|n| foreign_command(round * 100 + n)).collect());
    }
    assert_eq!(orders.results().len(), COMMAND_RESULTS_MAX);
    assert_eq!(orders.take(vec![command(1_000_000)]), [], "there is no room for its result");
    orders.handle_told(&orders.results());
    assert_eq!(told(&orders), []);
    assert_eq!(orders.take(vec![command(1_000_000)]).len(), 1, "what was told makes room");
}

#[test]
fn a_result_is_told_until_a_heartbeat_that_carried_it_is_answered() {
    let mut orders = Orders::default();
    assert_eq!(orders.take(vec![command(1)]).len(), 1);
    let carried = orders.results();
    assert_eq!(told(&orders), [(id(1), CommandOutcome::Started)]);
    orders.note_progress(id(1), "3 of 7".to_owned());
    assert_eq!(orders.results().first().map(|result| result.detail.as_str()), Some("3 of 7"));
    orders.finish(id(1), Ending::completed("done"));
    // That heartbeat said that it was begun, and not how it ended.
    orders.handle_told(&carried);
    assert_eq!(told(&orders), [(id(1), CommandOutcome::Completed)]);
    assert_eq!(told(&orders), [(id(1), CommandOutcome::Completed)]);
    orders.handle_told(&orders.results());
    assert_eq!(told(&orders), []);
}

#[test]
fn a_command_that_comes_again_is_answered_from_memory() {
    let mut orders = Orders::default();
    orders.take(vec![command(1)]);
    assert_eq!(orders.take(vec![command(1)]), [], "it is under way");
    orders.finish(id(1), Ending::failed("no"));
    orders.handle_told(&orders.results());
    assert_eq!(orders.take(vec![command(1)]), [], "the controller has forgotten");
    assert_eq!(told(&orders), [(id(1), CommandOutcome::Failed)]);
}

#[test]
fn a_command_that_was_put_off_is_carried_out_when_it_comes_again() {
    let mut orders = Orders::default();
    orders.take(vec![command(1)]);
    orders.put_off(id(1));
    assert_eq!(told(&orders), []);
    assert_eq!(orders.take(vec![command(1)]).len(), 1);
}

#[test]
fn a_long_detail_is_cut() {
    let mut orders = Orders::default();
    orders.take(vec![command(1)]);
    orders.finish(id(1), Ending::completed("ä".repeat(10_000)));
    assert!(orders.results().iter().all(|result| result.detail.chars().count() == DETAIL_LEN_MAX));
}

proptest! {
    /// A controller that gives what it has no result of, and a line on which any answer may be lost.
    #[test]
    fn every_command_is_carried_out_once_and_its_end_arrives(losses in vec(any::<bool>(), 0..60)) {
        let mut orders = Orders::default();
        let mut open: Vec<_> = (0..40).collect();
        let mut done = HashMap::new();
        let mut losses = losses.into_iter();
        for _ in 0..200 {
            let carried = orders.results();
            open.retain(|n| !carried.iter().any(|it| it.id == id(*n) && it.outcome == CommandOutcome::Completed));
            let given = open.iter().take(COMMANDS_MAX).map(|n| command(*n)).collect();
            if losses.next() == Some(true) {
                continue;
            }
            orders.handle_told(&carried);
            for task in orders.take(given) {
                *done.entry(task.id).or_insert(0) += 1;
                orders.finish(task.id, Ending::completed(""));
            }
        }
        prop_assert_eq!(open, [0; 0]);
        prop_assert_eq!(done.len(), 40);
        prop_assert!(done.values().all(|times| *times == 1), "{:?}", done);
    }
}
