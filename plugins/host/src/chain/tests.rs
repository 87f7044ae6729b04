use super::*;

fn speaker(id: &str, mode: Mode, on_failure: OnFailure) -> Speaker {
    Speaker { id: id.parse().unwrap(), mode, on_failure }
}

fn on(id: &str) -> Speaker {
    speaker(id, Mode::On, OnFailure::Builtin)
}

fn shadow(id: &str) -> Speaker {
    speaker(id, Mode::Shadow, OnFailure::Refuse)
}

fn says(action: Option<Action>, set: &[(&str, &str)]) -> Answer<Decision> {
    let set = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Ok(Said::Answer(Decision { action, set, reason: None }))
}

fn fails<T>() -> Answer<T> {
    Err(Failure::Stack.into())
}

fn verdict(answers: &[(Speaker, Answer<Decision>)]) -> Verdict {
    let mut verdict = Verdict::default();
    for (speaker, answer) in answers {
        verdict.offer(speaker, answer.clone());
    }
    verdict
}

fn notes(notes: &[Note]) -> Vec<String> {
    notes.iter().map(Note::to_string).collect()
}

#[test]
fn the_first_action_stands_and_the_first_value_of_each_variable() {
    let verdict = verdict(&[
        (on("a"), says(None, &[("x", "1")])),
        (on("b"), says(Some(Action::LocalDisk), &[("x", "2"), ("y", "2")])),
        (on("c"), says(Some(Action::Discovery), &[("z", "3")])),
    ]);
    assert_eq!((verdict.action, verdict.by), (Some(Action::LocalDisk), Some("b".parse().unwrap())));
    let set: Vec<_> = verdict.set.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(set, ["x=1", "y=2", "z=3"]);
    assert_eq!(notes(&verdict.notes), ["a: no opinion", "b: local-disk", "c: no opinion"]);
}

#[test]
fn a_shadow_changes_nothing_and_says_what_it_would_have_changed() {
    let asked = [
        (shadow("a"), says(Some(Action::Hold(60)), &[("x", "1")])),
        (on("b"), says(Some(Action::LocalDisk), &[])),
        (shadow("c"), says(Some(Action::LocalDisk), &[])),
        (shadow("d"), fails()),
    ];
    let verdict = verdict(&asked);
    assert_eq!((verdict.action, verdict.set.len()), (Some(Action::LocalDisk), 0));
    let expected = [
        "a: would have said hold for 60 s and set x (shadow)",
        "b: local-disk",
        "c: no opinion (shadow)",
        "d: failed: it used up its stack",
    ];
    assert_eq!(notes(&verdict.notes), expected);
}

#[test]
fn p5_a_failure_leaves_the_decision_to_the_next_policy_or_the_built_in_one() {
    let alone = verdict(&[(on("a"), fails())]);
    assert!(!alone.is_decided());
    let followed = verdict(&[(on("a"), fails()), (on("b"), says(Some(Action::LocalDisk), &[]))]);
    assert_eq!(followed.action, Some(Action::LocalDisk));
}

#[test]
fn a_failure_that_is_not_to_be_passed_over_makes_the_machine_wait_or_refuses_it() {
    for silence in [Failure::Stack.into(), Silence::SetAside, Silence::Busy] {
        let held = verdict(&[
            (speaker("a", Mode::On, OnFailure::Hold), Err(silence.clone())),
            (on("b"), says(Some(Action::Workflow("debian".to_owned())), &[])),
        ]);
        assert_eq!(held.action, Some(Action::Hold(FAILURE_HOLD_S)), "{silence}");
    }
    let refused = verdict(&[(speaker("a", Mode::On, OnFailure::Refuse), fails())]);
    assert_eq!(refused.action, Some(Action::Refuse("the site policy a failed".to_owned())));
    let behind = verdict(&[
        (on("a"), says(Some(Action::LocalDisk), &[])),
        (speaker("b", Mode::On, OnFailure::Refuse), fails()),
    ]);
    assert_eq!(behind.action, Some(Action::LocalDisk), "what was decided before stands");
}

#[test]
fn a_policy_s_own_error_is_as_if_it_had_no_opinion() {
    let error = Ok(Said::Error("no such rack".to_owned()));
    let verdict = verdict(&[(speaker("a", Mode::On, OnFailure::Refuse), error)]);
    assert_eq!(verdict.action, None);
    assert_eq!(notes(&verdict.notes), ["a: cannot decide: no such rack"]);
}

#[test]
fn a_policy_that_is_off_leaves_no_trace() {
    let off = speaker("a", Mode::Off, OnFailure::Refuse);
    assert_eq!(verdict(&[(off, says(Some(Action::LocalDisk), &[]))]), Verdict::default());
}

#[test]
fn each_policy_sees_the_script_that_the_one_before_made() {
    let mut patch = Patch::new("#!ipxe\nboot\n".to_owned());
    patch.offer(&on("a"), Ok(Said::Answer(Some("#!ipxe\necho a\nboot\n".to_owned()))));
    patch.offer(&shadow("b"), Ok(Said::Answer(Some("#!ipxe\n".to_owned()))));
    patch.offer(&on("c"), Ok(Said::Answer(Some(patch.script.clone()))));
    patch.offer(&on("d"), fails());
    assert_eq!((patch.script.as_str(), &patch.instead), ("#!ipxe\necho a\nboot\n", &None));
    let expected = [
        "a: a script with 0 lines gone and 1 come",
        "b: would have said a script with 2 lines gone and 0 come (shadow)",
        "c: no opinion",
        "d: failed: it used up its stack",
    ];
    assert_eq!(notes(&patch.notes), expected);
    patch.offer(&speaker("e", Mode::On, OnFailure::Hold), fails());
    let by = "e".parse().unwrap();
    assert_eq!(patch.instead, Some((by, Action::Hold(FAILURE_HOLD_S))));
}

#[test]
fn the_first_opinion_on_an_item_stands() {
    let keep = |priority| Some(CacheVerdict { store: true, ttl: None, pin: false, priority });
    let give_up = || Some(CacheVerdict { store: false, ttl: None, pin: false, priority: 0 });
    let mut judgement = Judgement::new(3);
    judgement.offer(&shadow("s"), Ok(Said::Answer(vec![keep(9), keep(9), keep(9)])));
    judgement.offer(&on("a"), Ok(Said::Answer(vec![keep(1), None, None])));
    judgement.offer(&speaker("f", Mode::On, OnFailure::Refuse), fails());
    judgement.offer(&on("b"), Ok(Said::Answer(vec![keep(2), keep(2), None])));
    judgement.offer(&shadow("t"), Ok(Said::Answer(vec![None, None, give_up()])));
    let word = |by: &str, verdict: Option<CacheVerdict>| {
        verdict.map(|verdict| Word { by: by.parse().unwrap(), verdict })
    };
    assert_eq!(judgement.words, [word("a", keep(1)), word("b", keep(2)), None]);
    let shadows = ["s"; 3].map(|by| word(by, keep(9)));
    assert_eq!(judgement.shadows, shadows, "the first that would have counted");
    let expected = [
        "s: would have said keep 3 items (shadow)",
        "a: keep 1 items",
        "f: failed: it used up its stack",
        "b: keep 1 items",
        "t: would have said give up 1 items (shadow)",
    ];
    assert_eq!(notes(&judgement.notes), expected);
}
