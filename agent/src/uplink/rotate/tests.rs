use std::fs;
use std::rc::Rc;

use smol::LocalExecutor;
use smol::future::block_on;
use tempfile::TempDir;

use super::*;
use crate::uplink::testing::Centre;

const OLD: &str = "old";

/// An agent that has joined.
fn joined() -> (TempDir, DataDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let data_dir = DataDir::create(&dir.path().join("agent")).expect("a directory");
    fs::create_dir(data_dir.root().join("state")).expect("a directory");
    data_dir::write_private(&data_dir.credential_file(), OLD).expect("written");
    (dir, data_dir)
}

/// Obeys `command` in a new life of the agent, while the controller gives `answers`; returns how it ended, and how many calls
/// that took.
fn obey(data_dir: &DataDir, command: CommandId, answers: &[u16]) -> (Option<Ending>, usize) {
    let problem = r#"{"type": "", "title": "", "status": 409, "detail": "no", "code": "c", "correlation_id": ""}"#;
    let answer = |status: &u16| (*status, if *status == 200 { "{}" } else { problem }.to_owned());
    let centre = Centre::start(answers.iter().map(answer).collect());
    let executor = Rc::new(LocalExecutor::new());
    let controller = centre.client(&executor);
    let ending = block_on(executor.run(async {
        controller.authenticate(credential(data_dir).expect("a credential"));
        Rotation::new(data_dir, &controller).obey(command).await
    }));
    (ending, centre.heard().len())
}

fn held(data_dir: &DataDir) -> String {
    credential(data_dir).expect("a credential").reveal().to_owned()
}

fn command(n: u8) -> CommandId {
    CommandId::from_random([n; 16])
}

#[test]
fn k10_an_order_that_comes_again_after_a_sudden_end_changes_nothing_more() {
    let (_dir, data_dir) = joined();
    let (ending, calls) = obey(&data_dir, command(1), &[200]);
    assert_eq!((ending, calls), (Some(Ending::completed("the credential has been changed")), 1));
    let new = held(&data_dir);
    assert_ne!(new, OLD);
    let (ending, calls) = obey(&data_dir, command(1), &[200]);
    let before = Ending::completed("the credential has been changed before");
    assert_eq!((ending, calls), (Some(before), 0));
    assert_eq!(held(&data_dir), new);
    obey(&data_dir, command(2), &[200]);
    assert_ne!(held(&data_dir), new, "another order is another change");
}

#[test]
fn k10_cut_short_before_any_of_its_steps_it_is_gone_on_with() {
    // Where the order is written down and nothing else; where the next credential is made too; where it has taken its place.
    for step in 0..3 {
        let (_dir, data_dir) = joined();
        let begun = Begun { command: command(1), before: hash(&Secret::new(OLD.to_owned())) };
        let text = serde_json::to_string(&begun).expect("JSON");
        data_dir::write_private(&data_dir.rotation_file(), &text).expect("written");
        let next = data_dir.next_credential_file();
        if step > 0 {
            data_dir::write_private(&next, "prepared").expect("written");
        }
        if step > 1 {
            data_dir::promote(&next, &data_dir.credential_file()).expect("moved");
        }
        let (ending, calls) = obey(&data_dir, command(1), &[200]);
        assert!(ending.is_some(), "step {step}");
        assert_eq!(calls, usize::from(step < 2), "step {step}");
        assert_eq!(held(&data_dir) == "prepared", step > 0, "step {step}");
        assert!(!next.exists() && held(&data_dir) != OLD, "step {step}");
    }
}

#[test]
fn k10_while_the_controller_is_away_the_old_credential_stays_and_the_order_is_open() {
    let (_dir, data_dir) = joined();
    let (ending, _) = obey(&data_dir, command(1), &[500]);
    assert_eq!((ending, held(&data_dir).as_str()), (None, OLD));
    let (ending, _) = obey(&data_dir, command(1), &[200]);
    assert!(ending.is_some() && held(&data_dir) != OLD);
}

#[test]
fn a_next_credential_that_is_refused_is_given_up() {
    let (_dir, data_dir) = joined();
    let (ending, _) = obey(&data_dir, command(1), &[409]);
    let failed = ending.expect("an end").to_string();
    assert!(failed.starts_with("failed: the controller has not taken"), "{failed}");
    assert!(held(&data_dir) == OLD && !data_dir.next_credential_file().exists());
}
