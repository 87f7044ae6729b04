use pureboot_protocol::{PublicKey, Signature};

use super::*;

const SITE: [u8; 16] = [1; 16];

fn version(text: &str) -> ProgramVersion {
    text.parse().expect("a version")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_unix_ms(second * 1_000)
}

fn command(number: u8) -> CommandId {
    CommandId::from_random([number; 16])
}

/// A program of `text`; its hash is its version.
fn slot(text: &str) -> Slot {
    let version = version(text);
    let byte = u8::try_from(version.minor).expect("a small number");
    let key = PublicKey::from_bytes([0; 32]);
    Slot {
        version,
        sha256: ContentHash::from_digest([byte; 32]),
        signed: SignedUpdate::new(String::new(), Signature::from_bytes([0; 64]), &key),
        installed: self::version("1.0.0"),
    }
}

fn offer(text: &str, second: i64) -> AgentUpdate {
    AgentUpdate {
        site_id: SiteId::from_random(SITE),
        issued_at: at(second),
        version: version(text),
        target: Target::X86_64,
        size_bytes: 5 << 20,
        sha256: slot(text).sha256,
        allow_downgrade: false,
    }
}

fn here(running: &str) -> Here {
    Here { site_id: SiteId::from_random(SITE), target: Target::X86_64, running: version(running) }
}

/// How a program that is tested or started behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    Good,
    /// It says that it would not serve.
    FailsItsTest,
    /// It is tested and never answers, and the machine is switched off.
    CutsItsTest,
    /// It ends as soon as it is started, whatever it should do first.
    Dies,
    /// It runs and is never heard by the controller.
    IsNotHeard,
}

/// What runs after one start of the machine, which loses its power at `cut`: before the journal is on disk, after it, or never.
fn start(disk: &mut Journal, nature: Nature, cut: Option<(usize, Cut)>) -> Option<ProgramVersion> {
    let mut journal = disk.clone();
    for round in 0.. {
        assert!(round < 4, "a start does not go round in circles: {journal:?}");
        let step = journal.step(version("1.0.0"), at(50));
        if cut == Some((round, Cut::BeforeSaving)) {
            return None;
        }
        *disk = journal.clone();
        if cut == Some((round, Cut::AfterSaving)) {
            return None;
        }
        match step {
            Step::RunInstalled => return Some(version("1.0.0")),
            Step::Run(slot) => return Some(slot.version),
            Step::Test(_) => match nature {
                Nature::CutsItsTest => return None,
                Nature::FailsItsTest => journal.fail("no".to_owned(), at(51)),
                _ => journal.pass(),
            },
            Step::Try(slot) => match nature {
                Nature::Dies => return None,
                Nature::IsNotHeard => {
                    disk.go_back("it was not heard".to_owned(), at(52));
                    return None;
                }
                _ => {
                    disk.prove(slot.sha256, at(53));
                    return Some(slot.version);
                }
            },
        }
    }
    None
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    BeforeSaving,
    AfterSaving,
}

fn staged(text: &str) -> Journal {
    let mut journal = Journal::default();
    journal.stage(slot(text), at(10), command(1));
    journal
}

fn last(journal: &Journal) -> (UpdateFate, String) {
    let last = journal.report(None, Target::X86_64).last.expect("an update has ended");
    (last.fate, last.why)
}

#[test]
fn u2_whatever_a_new_version_does_the_site_serves_again_within_three_tries() {
    for (nature, serves, starts, fate, why) in [
        (Nature::Good, "1.1.0", 1, UpdateFate::Proven, ""),
        (Nature::FailsItsTest, "1.0.0", 1, UpdateFate::Refused, "no"),
        (Nature::CutsItsTest, "1.0.0", 4, UpdateFate::Refused, "3 tests of it were cut short"),
        (Nature::Dies, "1.0.0", 4, UpdateFate::GoneBack, "ended 3 times"),
        (Nature::IsNotHeard, "1.0.0", 2, UpdateFate::GoneBack, "not heard"),
    ] {
        let mut disk = staged("1.1.0");
        let runs: Vec<_> = (0..starts).map(|_| start(&mut disk, nature, None)).collect();
        assert_eq!(runs.last(), Some(&Some(version(serves))), "{nature:?}: {runs:?}");
        assert!(runs.iter().rev().skip(1).all(Option::is_none), "{nature:?}: {runs:?}");
        let told = last(&disk);
        assert!(told.0 == fate && told.1.contains(why), "{nature:?}: {told:?}");
        assert_eq!(start(&mut disk, nature, None), Some(version(serves)), "and it stays so");
    }
}

#[test]
fn k18_u4_wherever_a_start_is_cut_the_next_ones_end_in_a_version_that_serves() {
    for nature in [Nature::Good, Nature::FailsItsTest, Nature::Dies, Nature::IsNotHeard] {
        for round in 0..4 {
            for cut in [Cut::BeforeSaving, Cut::AfterSaving] {
                let mut disk = staged("1.1.0");
                _ = start(&mut disk, nature, Some((round, cut)));
                let serves = (0..5).find_map(|_| start(&mut disk, nature, None));
                let expected = if nature == Nature::Good { "1.1.0" } else { "1.0.0" };
                assert_eq!(serves, Some(version(expected)), "{nature:?} cut at {round}, {cut:?}");
            }
        }
    }
}

#[test]
fn k18_power_that_fails_at_every_start_costs_the_update_and_not_the_site() {
    let mut disk = staged("1.1.0");
    let serves = (0..6).find_map(|_| {
        let cut = disk.waits().then_some((0, Cut::AfterSaving));
        start(&mut disk, Nature::Good, cut)
    });
    assert_eq!(serves, Some(version("1.0.0")));
}

#[test]
fn the_version_before_is_kept_until_the_next_but_one() {
    let mut disk = staged("1.1.0");
    start(&mut disk, Nature::Good, None);
    disk.stage(slot("1.2.0"), at(20), command(2));
    let kept = |disk: &Journal| disk.kept().collect::<Vec<_>>();
    assert_eq!(kept(&disk), [slot("1.1.0").sha256, slot("1.2.0").sha256]);
    start(&mut disk, Nature::Good, None);
    assert_eq!(kept(&disk), [slot("1.2.0").sha256, slot("1.1.0").sha256]);
    let previous = disk.report(Some(slot("1.2.0").sha256), Target::X86_64).previous;
    assert_eq!(previous, Some(version("1.1.0")));

    assert_eq!(disk.roll_back(at(60)), Ok(Some(version("1.1.0"))));
    assert_eq!(start(&mut disk, Nature::Good, None), Some(version("1.1.0")));
    assert_eq!(disk.roll_back(at(61)), Ok(None));
    assert_eq!(start(&mut disk, Nature::Good, None), Some(version("1.0.0")));
    assert_eq!(disk.roll_back(at(62)), Err(NothingBefore));
}

#[test]
fn a_good_version_whose_file_is_damaged_gives_way_to_the_one_before() {
    let mut disk = staged("1.1.0");
    start(&mut disk, Nature::Good, None);
    disk.stage(slot("1.2.0"), at(20), command(2));
    start(&mut disk, Nature::Good, None);
    disk.lose(&slot("1.2.0"), "its bytes have changed".to_owned(), at(70));
    assert_eq!(start(&mut disk, Nature::Good, None), Some(version("1.1.0")));
    assert_eq!(last(&disk).1, "its bytes have changed");
}

#[test]
fn a_package_that_was_installed_later_is_meant_unless_it_is_older() {
    for (installed, runs) in
        [("1.0.0", Some("1.1.0")), ("1.0.5", Some("1.1.0")), ("1.1.0", None), ("2.0.0", None)]
    {
        let mut disk = staged("1.1.0");
        start(&mut disk, Nature::Good, None);
        let expected = match runs {
            Some(_) => Step::Run(slot("1.1.0")),
            None => Step::RunInstalled,
        };
        assert_eq!(disk.step(version(installed), at(80)), expected, "{installed}");
    }
    let mut disk = staged("1.1.0");
    assert_eq!(disk.step(version("1.1.0"), at(80)), Step::RunInstalled);
    assert_eq!(
        last(&disk),
        (UpdateFate::Refused, "version 1.1.0 was installed meanwhile".to_owned())
    );
}

#[test]
fn u1_u3_what_is_not_to_run_here_is_refused_with_the_reason() {
    let foreign = SiteId::from_random([9; 16]);
    let mut obeyed = staged("1.1.0");
    start(&mut obeyed, Nature::Good, None);
    for (offer, expected) in [
        (offer("1.2.0", 20), Ok(Verdict::Stage)),
        (offer("1.1.0", 20), Ok(Verdict::Runs)),
        (
            AgentUpdate { site_id: foreign, ..offer("1.2.0", 20) },
            Err(Refusal::ForeignSite(foreign)),
        ),
        (
            AgentUpdate { target: Target::Armv7, ..offer("1.2.0", 20) },
            Err(Refusal::ForeignTarget { offered: Target::Armv7, here: Target::X86_64 }),
        ),
        (
            AgentUpdate { size_bytes: u64::MAX, ..offer("1.2.0", 20) },
            Err(Refusal::TooLarge(u64::MAX)),
        ),
        (
            offer("1.0.9", 20),
            Err(Refusal::Downgrade { offered: version("1.0.9"), running: version("1.1.0") }),
        ),
        (AgentUpdate { allow_downgrade: true, ..offer("1.0.9", 20) }, Ok(Verdict::Stage)),
        // What was ordered before what has been obeyed, and that itself, come to nothing.
        (
            AgentUpdate { allow_downgrade: true, ..offer("1.0.9", 10) },
            Err(Refusal::Replayed { offered: at(10), obeyed: at(10) }),
        ),
        (offer("1.2.0", 9), Err(Refusal::Replayed { offered: at(9), obeyed: at(10) })),
    ] {
        assert_eq!(obeyed.weigh(command(7), &offer, here("1.1.0")), expected, "{offer:?}");
    }
}

#[test]
fn an_order_that_comes_again_is_told_how_it_stands() {
    let mut disk = staged("1.1.0");
    let order = offer("1.1.0", 10);
    assert_eq!(disk.weigh(command(1), &order, here("1.0.0")), Ok(Verdict::UnderWay));
    start(&mut disk, Nature::FailsItsTest, None);
    let Ok(Verdict::Ended(ended)) = disk.weigh(command(1), &order, here("1.0.0")) else {
        panic!("it has ended");
    };
    assert_eq!((ended.fate, ended.why.as_str()), (UpdateFate::Refused, "no"));
}

#[test]
fn only_the_program_that_is_on_trial_can_prove_itself() {
    let mut disk = staged("1.1.0");
    assert!(!disk.prove(slot("1.1.0").sha256, at(1)), "it has not been started");
    disk.step(version("1.0.0"), at(1));
    disk.pass();
    assert_eq!(disk.trial(), None, "it has passed its test, and not been started");
    disk.step(version("1.0.0"), at(1));
    assert!(!disk.prove(slot("1.2.0").sha256, at(1)), "another one");
    assert!(disk.prove(slot("1.1.0").sha256, at(1)));
}

#[test]
fn how_things_stand_is_told() {
    let of = |disk: &Journal, launched: Option<&str>| {
        let report = disk.report(launched.map(|text| slot(text).sha256), Target::X86_64);
        let text =
            |version: Option<ProgramVersion>| version.map_or("-".to_owned(), |it| it.to_string());
        format!("{} {} {}", report.state, text(report.candidate), text(report.previous))
    };
    let mut disk = Journal::default();
    assert_eq!(of(&disk, None), "installed - -");
    disk.stage(slot("1.1.0"), at(10), command(1));
    assert_eq!(of(&disk, None), "staged 1.1.0 -");
    disk.step(version("1.0.0"), at(1));
    disk.pass();
    disk.step(version("1.0.0"), at(1));
    assert_eq!(of(&disk, Some("1.1.0")), "on_trial 1.1.0 1.0.0");
    disk.prove(slot("1.1.0").sha256, at(1));
    assert_eq!(of(&disk, Some("1.1.0")), "updated - 1.0.0");
}
