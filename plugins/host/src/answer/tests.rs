use proptest::prelude::*;

use super::*;
use crate::testing::OpenGround;

fn decide(action: RawAction) -> Result<Option<Action>, BadAnswer> {
    let raw = RawDecision { action, set: Vec::new(), reason: None };
    check_decision(raw, &OpenGround).map(|decision| decision.action)
}

fn set(pairs: &[(&str, &str)]) -> Result<Vars, BadAnswer> {
    let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    check_vars(pairs.collect())
}

fn item(key: &str, required: bool) -> CacheItem {
    let key = key.parse().unwrap();
    CacheItem { key, size_kib: None, required, assigned: false, hits: 0, idle: None }
}

const DROP: CacheVerdict = CacheVerdict { store: false, ttl: None, pin: false, priority: 0 };

#[test]
fn a_wait_is_moved_into_its_bounds() {
    assert_eq!(decide(RawAction::Hold(0)), Ok(Some(Action::Hold(5))));
    assert_eq!(decide(RawAction::Hold(u32::MAX)), Ok(Some(Action::Hold(3_600))));
}

#[test]
fn no_policy_installs_a_machine_that_is_not_to_be_installed() {
    let refused = decide(RawAction::Workflow("not wanted".to_owned())).unwrap_err();
    assert!(matches!(refused, BadAnswer::Workflow { .. }), "{refused}");
    assert_eq!(
        decide(RawAction::Workflow("debian".to_owned())),
        Ok(Some(Action::Workflow("debian".to_owned())))
    );
}

#[test]
fn p13_a_chain_leads_only_to_content_that_the_site_holds() {
    let chain = |name: &str| decide(RawAction::Chain(name.to_owned()));
    assert!(matches!(chain("images/lab/boot.ipxe"), Ok(Some(Action::Chain(_)))));
    for name in ["images/missing", "images/../x", "http://other/x", "/etc/passwd", "", "images/"] {
        assert!(matches!(chain(name), Err(BadAnswer::Chain(_))), "{name:?}");
    }
}

#[test]
fn p13_a_script_is_printable_begins_with_its_mark_and_passes_the_linter() {
    let script = |text: &str| decide(RawAction::Script(text.to_owned()));
    assert!(script("#!ipxe\necho hello\n").is_ok());
    let long = format!("#!ipxe\n{}", "#".repeat(SCRIPT_LEN_MAX));
    for text in [
        "",
        "echo hello",
        " #!ipxe\n",
        "#!ipxe2\n",
        "#!ipxe\necho \0",
        "#!ipxe\necho \u{e4}",
        "#!ipxe\r\n",
        &long,
    ] {
        assert!(matches!(script(text), Err(BadAnswer::Script(_))), "{:?}", shortened(text));
    }
    let foreign = script("#!ipxe\nchain http://elsewhere/\n").unwrap_err();
    assert!(foreign.to_string().contains("elsewhere"), "{foreign}");
}

#[test]
fn a_variable_cannot_carry_a_second_line_into_a_script() {
    assert!(set(&[("rack", "a 17"), ("_x.y-z", "\u{e4}")]).is_ok());
    for value in ["a\nb", "a\rb", "a\0", "\u{85}", &"a".repeat(1_025)] {
        assert_eq!(
            set(&[("rack", value)]),
            Err(BadAnswer::VarValue("rack".to_owned())),
            "{value:?}"
        );
    }
    for name in ["", "9", "a b", "a}", "\u{e4}", "a\n", &"a".repeat(65)] {
        assert!(matches!(set(&[(name, "")]), Err(BadAnswer::VarName(_))), "{name:?}");
    }
    assert_eq!(set(&[("a", "1"), ("a", "2")]), Err(BadAnswer::VarTwice("a".to_owned())));
    assert_eq!(set(&[("a", "1"); 65]), Err(BadAnswer::Vars(65)));
}

#[test]
fn a_refusal_is_one_line() {
    assert!(decide(RawAction::Refuse("not in this rack".to_owned())).is_ok());
    for text in ["a\nchain http://x/", &"a".repeat(201)] {
        assert_eq!(decide(RawAction::Refuse((*text).to_owned())), Err(BadAnswer::Line("refusal")));
    }
}

#[test]
fn p12_what_the_site_is_required_to_hold_is_not_given_up() {
    let items = [item("images/a", false), item("bootloaders/ipxe.efi", true)];
    let drop_all = check_verdicts(vec![Some(DROP); 2], &items);
    assert_eq!(drop_all, Err(BadAnswer::Required(items[1].key.clone())));
    let fading = CacheVerdict { store: true, ttl: Some(3_600), ..DROP };
    assert!(
        check_verdicts(vec![None, Some(fading)], &items).is_err(),
        "a life that ends gives it up too"
    );
    assert_eq!(check_verdicts(vec![Some(DROP), None], &items), Ok(vec![Some(DROP), None]));
}

#[test]
fn verdicts_that_cannot_be_told_apart_are_a_bad_answer() {
    let items = [item("images/a", false), item("images/b", false)];
    assert_eq!(
        check_verdicts(vec![Some(DROP)], &items),
        Err(BadAnswer::Verdicts { answers: 1, items: 2 })
    );
    assert_eq!(
        check_verdicts(vec![None; 3], &items),
        Err(BadAnswer::Verdicts { answers: 3, items: 2 })
    );
}

#[test]
fn content_lives_at_least_a_minute() {
    let brief = CacheVerdict { store: true, ttl: Some(0), ..DROP };
    let verdicts = check_verdicts(vec![Some(brief)], &[item("images/a", false)]).unwrap();
    assert_eq!(verdicts[0].unwrap().ttl, Some(60));
}

proptest! {
    #[test]
    fn p6_no_text_makes_a_check_panic_and_none_that_passes_has_a_control_character(text in any::<String>()) {
        for action in [RawAction::Script, RawAction::Chain, RawAction::Refuse] {
            if let Ok(Some(Action::Refuse(line))) = decide(action(text.clone())) {
                prop_assert!(!line.chars().any(char::is_control));
            }
        }
        if let Ok(vars) = set(&[("a", &text)]) {
            prop_assert!(vars.values().all(|value| !value.contains('\n')));
        }
    }
}
