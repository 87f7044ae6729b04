use expect_test::{Expect, expect};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use pureboot_protocol::{BootMethod, CommandLineTemplate, NodeId, Timestamp, WorkflowId};

use super::*;

const PAST: Freshness = Freshness::Past { age: Duration::from_secs(11_520) };

fn offline() -> Mode {
    Mode::Offline { since: Timestamp::from_unix_ms(1_795_230_245_678) }
}

fn request() -> BootRequest {
    BootRequest::new("52:54:00:12:34:56".parse().expect("an address"))
}

fn workflow() -> Workflow {
    Workflow {
        id: WorkflowId::from_random([1; 16]),
        name: "debian-12".to_owned(),
        description: String::new(),
        templates: Default::default(),
        boot: BootMethod::Kernel {
            kernel: "images/debian-12/linux".parse().expect("a key"),
            initrd: Vec::new(),
            command_line: CommandLineTemplate::default(),
        },
        created_at: Timestamp::from_unix_ms(0),
        updated_at: Timestamp::from_unix_ms(0),
        version: 1,
    }
}

fn record(state: Lifecycle, workflow: Option<Workflow>) -> BootRecord {
    BootRecord {
        hostname: Some("web 1".to_owned()),
        workflow: workflow.map(Assignment::Known),
        ..BootRecord::new(NodeId::from_random([2; 16]), request().mac, state, 7)
    }
}

fn known(record: &BootRecord, freshness: Freshness, mode: Mode, install_given: bool) -> Decision {
    let decisions: Vec<_> = Autonomy::ALL
        .iter()
        .map(|autonomy| {
            decide(&Facts {
                request: &request(),
                knowledge: Knowledge::Known { record, freshness },
                mode,
                autonomy: *autonomy,
                install_given,
                offline_action: OfflineAction::LastKnown,
            })
        })
        .collect();
    // Autonomy is about what a site changes, not about what a node boots.
    assert!(decisions.windows(2).all(|pair| pair[0] == pair[1]), "{decisions:?}");
    decisions.into_iter().next().expect("there is an autonomy")
}

fn word(decision: &Decision) -> String {
    let boot = match &decision.boot {
        Boot::ComeBackLater => "come back",
        Boot::Discovered => "discovered",
        Boot::Install(_) => "INSTALL",
        Boot::PendingWithoutWorkflow => "no workflow",
        Boot::Installing => "installing",
        Boot::InstallFailed => "failed",
        Boot::LocalDisk => "disk",
        Boot::Disputed => "disputed",
        Boot::Foreign { .. } => "foreign",
        Boot::Retired => "retired",
        Boot::Elsewhere => "waits",
        Boot::Guest => "guest",
        Boot::TurnedAway => "away",
        Boot::Chain { .. }
        | Boot::PolicyScript { .. }
        | Boot::Hold { .. }
        | Boot::Refused { .. } => "by a policy",
    };
    let effects = decision.effects.iter().map(|effect| match effect {
        Effect::Discover => " +list",
        Effect::Claim => " +claim",
        Effect::RememberElsewhere(_) => "!",
        Effect::RememberInstall { .. } => " +once",
    });
    boot.chars().chain(effects.flat_map(str::chars)).collect()
}

fn check(rows: impl IntoIterator<Item = (String, Vec<Decision>)>, expect: Expect) {
    let mut table = String::new();
    for (row, decisions) in rows {
        let cells: Vec<_> =
            decisions.iter().map(|decision| format!("{:<18}", word(decision))).collect();
        table.push_str(format!("{row:<30}{}", cells.concat()).trim_end());
        table.push('\n');
    }
    expect.assert_eq(&table);
}

#[test]
fn every_state_boots_what_the_design_says() {
    let columns = [
        (Mode::Online, Freshness::Asked, false),
        (Mode::Degraded, Freshness::Cached, true),
        (Mode::Online, PAST, false),
        (Mode::Degraded, PAST, true),
        (offline(), Freshness::Cached, false),
        (offline(), PAST, false),
        (offline(), PAST, true),
    ];
    let rows = Lifecycle::ALL.iter().flat_map(|state| {
        [Some(workflow()), None].map(|workflow| {
            let with = if workflow.is_some() { "" } else { " (no workflow)" };
            let record = record(*state, workflow);
            let decisions = columns
                .iter()
                .map(|(mode, freshness, given)| known(&record, *freshness, *mode, *given))
                .collect();
            (format!("{state}{with}"), decisions)
        })
    });
    // Columns: online; degraded, cached, given before; online in name only; the same, given before; offline, cached; offline;
    // offline, given before.
    check(
        rows,
        expect![[r#"
            discovered                    discovered        discovered        discovered        discovered        discovered        discovered        discovered
            discovered (no workflow)      discovered        discovered        discovered        discovered        discovered        discovered        discovered
            pending                       INSTALL +once     INSTALL +once     INSTALL +once     disk              INSTALL +once     INSTALL +once     disk
            pending (no workflow)         no workflow       no workflow       no workflow       no workflow       no workflow       no workflow       no workflow
            installing                    installing        installing        installing        installing        installing        installing        installing
            installing (no workflow)      installing        installing        installing        installing        installing        installing        installing
            install_failed                failed            failed            failed            failed            failed            failed            failed
            install_failed (no workflow)  failed            failed            failed            failed            failed            failed            failed
            installed                     disk              disk              disk              disk              disk              disk              disk
            installed (no workflow)       disk              disk              disk              disk              disk              disk              disk
            active                        disk              disk              disk              disk              disk              disk              disk
            active (no workflow)          disk              disk              disk              disk              disk              disk              disk
            reprovision                   disk              disk              disk              disk              disk              disk              disk
            reprovision (no workflow)     disk              disk              disk              disk              disk              disk              disk
            deprovisioning                disk              disk              disk              disk              disk              disk              disk
            deprovisioning (no workflow)  disk              disk              disk              disk              disk              disk              disk
            migrating                     disk              disk              disk              disk              disk              disk              disk
            migrating (no workflow)       disk              disk              disk              disk              disk              disk              disk
            serving_source                disk              disk              disk              disk              disk              disk              disk
            serving_source (no workflow)  disk              disk              disk              disk              disk              disk              disk
            cloning_target                disk              disk              disk              disk              disk              disk              disk
            cloning_target (no workflow)  disk              disk              disk              disk              disk              disk              disk
            retired                       retired           retired           retired           retired           retired           retired           retired
            retired (no workflow)         retired           retired           retired           retired           retired           retired           retired
        "#]],
    );
}

#[test]
fn a_new_machine_is_taken_up_where_the_site_may() {
    let rows = [Knowledge::Unknown, Knowledge::Unreachable].iter().flat_map(|knowledge| {
        Autonomy::ALL.iter().map(move |autonomy| {
            let decisions = [Mode::Online, Mode::Degraded, offline()]
                .map(|mode| {
                    decide(&Facts {
                        request: &request(),
                        knowledge: *knowledge,
                        mode,
                        autonomy: *autonomy,
                        install_given: false,
                        offline_action: OfflineAction::LastKnown,
                    })
                })
                .to_vec();
            (format!("{knowledge:?} {autonomy}"), decisions)
        })
    });
    // Columns: online, degraded, offline.
    check(
        rows,
        expect![[r#"
            Unknown readonly              discovered +list  discovered +list  come back
            Unknown limited               discovered +list  discovered +list  discovered +list
            Unknown full                  discovered +list  discovered +list  discovered +list
            Unreachable readonly          come back         come back         come back
            Unreachable limited           discovered +list  discovered +list  discovered +list
            Unreachable full              discovered +list  discovered +list  discovered +list
        "#]],
    );
}

#[test]
fn a_node_of_another_site_boots_what_the_site_chose_and_never_an_installer() {
    let rows = ForeignBoot::ALL.iter().flat_map(|boots| {
        Autonomy::ALL.iter().map(move |autonomy| {
            let foreign = ForeignNode { boots: *boots, claim_id: None };
            let decisions = [(Mode::Online, Freshness::Asked), (offline(), PAST)]
                .map(|(mode, freshness)| {
                    decide(&Facts {
                        request: &request(),
                        knowledge: Knowledge::Elsewhere { foreign, freshness },
                        mode,
                        autonomy: *autonomy,
                        install_given: false,
                        offline_action: OfflineAction::LastKnown,
                    })
                })
                .to_vec();
            (format!("{boots} {autonomy}"), decisions)
        })
    });
    // Columns: online, offline.
    check(
        rows,
        expect![[r#"
        pending readonly              waits +claim!     waits +claim
        pending limited               waits +claim!     waits +claim
        pending full                  waits +claim!     waits +claim
        normal readonly               waits +claim!     waits +claim
        normal limited                guest +claim!     guest +claim
        normal full                   guest +claim!     guest +claim
        refuse readonly               away +claim!      away +claim
        refuse limited                away +claim!      away +claim
        refuse full                   away +claim!      away +claim
    "#]],
    );
}

#[test]
fn what_is_said_of_a_node_of_another_site_can_be_read_aloud() {
    let claim = Some(ClaimId::from_random([7; 16]));
    let reasons = [
        Reason::Elsewhere { freshness: Freshness::Asked, claim: None },
        Reason::Elsewhere { freshness: PAST, claim },
        Reason::WaitsForMove,
        Reason::BootsAsNew(Autonomy::Limited),
        Reason::NotAsNew(Autonomy::Readonly),
        Reason::NotServed,
    ];
    let text: String = reasons.iter().map(|reason| format!("{reason}\n")).collect();
    expect![[r#"
        it is a node of another site
        it is a node of another site - the controller does not answer and said so 3 h 12 min ago - claim 07070707-0707-4707-8707-070707070707 waits for a decision
        here it waits until somebody decides where it belongs
        autonomy limited lets it boot here as a new machine does
        here it would boot as a new machine does but autonomy readonly leaves those to the controller
        this site serves no nodes of other sites
    "#]].assert_eq(&text);
}

#[test]
fn the_reasons_can_be_read_aloud() {
    let mut text = String::new();
    let mut tell = |decision: Decision| {
        let reasons: Vec<_> = decision.reasons.iter().map(Reason::to_string).collect();
        text.push_str(&format!("{}: {}\n", word(&decision), reasons.join("; ")));
    };
    for state in Lifecycle::ALL {
        tell(known(&record(*state, Some(workflow())), Freshness::Asked, Mode::Online, false));
    }
    tell(known(&record(Lifecycle::Pending, None), Freshness::Cached, Mode::Online, false));
    tell(known(&record(Lifecycle::Reprovision, None), Freshness::Cached, Mode::Online, false));
    tell(known(&record(Lifecycle::Pending, Some(workflow())), PAST, offline(), false));
    tell(known(&record(Lifecycle::Pending, Some(workflow())), PAST, offline(), true));
    for (knowledge, mode, autonomy) in [
        (Knowledge::Unknown, Mode::Online, Autonomy::Readonly),
        (Knowledge::Unreachable, offline(), Autonomy::Limited),
        (Knowledge::Unreachable, offline(), Autonomy::Readonly),
    ] {
        let request = request();
        tell(decide(&Facts {
            request: &request,
            knowledge,
            mode,
            autonomy,
            install_given: false,
            offline_action: OfflineAction::LastKnown,
        }));
    }
    expect![[r#"
        discovered: the controller was asked just now; node web 1 is discovered; nobody has planned anything for it yet
        INSTALL +once: the controller was asked just now; node web 1 is pending; its workflow is debian-12
        installing: the controller was asked just now; node web 1 is installing; its installer was started - it is not started again by itself
        failed: the controller was asked just now; node web 1 is install_failed; its installation failed - an operator decides what follows
        disk: the controller was asked just now; node web 1 is installed; what it is to run is on its disk
        disk: the controller was asked just now; node web 1 is active; what it is to run is on its disk
        disk: the controller was asked just now; node web 1 is reprovision; it is to be installed anew - that begins when it is set to pending
        disk: the controller was asked just now; node web 1 is deprovisioning; nothing is booted from the network in this state
        disk: the controller was asked just now; node web 1 is migrating; nothing is booted from the network in this state
        disk: the controller was asked just now; node web 1 is serving_source; nothing is booted from the network in this state
        disk: the controller was asked just now; node web 1 is cloning_target; nothing is booted from the network in this state
        retired: the controller was asked just now; node web 1 is retired; it is gone for good
        no workflow: the controller was asked a short while ago; node web 1 is pending; no workflow is assigned to it
        disk: the controller was asked a short while ago; node web 1 is reprovision; no workflow is assigned to it; it is to be installed anew - that begins when it is set to pending
        INSTALL +once: the controller does not answer - this is record version 7 of 3 h 12 min ago; node web 1 is pending; its workflow is debian-12; without the controller an installer is given once - this is that time
        disk: the controller does not answer - this is record version 7 of 3 h 12 min ago; node web 1 is pending; its workflow is debian-12; the installer was given before - without the controller it is given once
        discovered +list: the controller does not know this machine; new machines are listed as discovered
        discovered +list: the controller does not answer and nothing is remembered of this machine; autonomy limited lets the site list new machines as discovered
        come back: the controller does not answer and nothing is remembered of this machine; autonomy readonly leaves new machines to the controller
    "#]].assert_eq(&text);
}

#[test]
fn an_age_is_told_in_its_two_largest_units() {
    for (seconds, expected) in [
        (0, "0 s ago"),
        (59, "59 s ago"),
        (60, "1 min ago"),
        (3_599, "59 min ago"),
        (11_520, "3 h 12 min ago"),
        (86_399, "23 h 59 min ago"),
        (31_626_000, "366 d 1 h ago"),
    ] {
        let age = Duration::from_secs(seconds);
        let text = Reason::Record { freshness: Freshness::Past { age }, version: 7 }.to_string();
        assert!(text.ends_with(&format!(" record version 7 of {expected}")), "{text}");
    }
}

#[test]
fn u7_a_method_that_is_not_understood_installs_nothing() {
    let (name, method) = ("by floppy".to_owned(), "floppy".to_owned());
    let workflow = Some(Assignment::Foreign { name, method });
    let record = BootRecord { workflow, ..record(Lifecycle::Pending, None) };
    let decision = known(&record, Freshness::Asked, Mode::Online, false);
    assert!(matches!(decision.boot, Boot::Foreign { .. }), "{decision:?}");
    assert_eq!(decision.effects, []);
    let reason = decision.reasons.last().map(Reason::to_string).unwrap_or_default();
    assert_eq!(reason, "this agent does not understand the install method floppy - update it");
}

#[test]
fn a_node_in_conflict_boots_its_disk_whatever_else_is_known() {
    for state in Lifecycle::ALL {
        let conflict_id = Some(ConflictId::from_random([4; 16]));
        let record = BootRecord { conflict_id, ..record(*state, Some(workflow())) };
        for (freshness, mode) in [
            (Freshness::Asked, Mode::Online),
            (Freshness::Cached, Mode::Degraded),
            (PAST, Mode::Degraded),
            (PAST, offline()),
        ] {
            let decision = known(&record, freshness, mode, false);
            assert_eq!(
                (word(&decision), decision.effects.len()),
                ("disputed".to_owned(), 0),
                "{state}"
            );
            let reason = decision.reasons.last().map(Reason::to_string).unwrap_or_default();
            assert!(reason.contains("nothing is installed until an operator decides"), "{reason}");
        }
    }
}

#[test]
fn what_the_sites_owner_wants_offline_is_done_where_nothing_that_holds_is_known() {
    let fresh = Freshness::Past { age: Duration::from_secs(299) };
    let stale = Freshness::Past { age: Duration::from_secs(300) };
    let (pending, active) =
        (record(Lifecycle::Pending, Some(workflow())), record(Lifecycle::Active, None));
    let known = |record, freshness| Knowledge::Known { record, freshness };
    let columns = [
        (known(&pending, Freshness::Asked), Mode::Online),
        (known(&pending, fresh), offline()),
        (known(&pending, stale), offline()),
        (known(&pending, stale), Mode::Degraded),
        (known(&active, stale), offline()),
        (Knowledge::Unknown, Mode::Online),
        (Knowledge::Unreachable, offline()),
    ];
    let actions = [OfflineAction::LastKnown, OfflineAction::Discovery, OfflineAction::Local];
    let rows = actions.iter().flat_map(|offline_action| {
        Autonomy::ALL.iter().map(move |autonomy| {
            let decisions = columns.map(|(knowledge, mode)| {
                decide(&Facts {
                    request: &request(),
                    knowledge,
                    mode,
                    autonomy: *autonomy,
                    install_given: false,
                    offline_action: *offline_action,
                })
            });
            (format!("{offline_action} {autonomy}"), decisions.to_vec())
        })
    });
    // Columns: pending, asked; pending, offline for less than its record holds; longer; longer, degraded; active, offline; new,
    // asked; new, offline.
    check(
        rows,
        expect![[r#"
        last_known readonly           INSTALL +once     INSTALL +once     INSTALL +once     INSTALL +once     disk              discovered +list  come back
        last_known limited            INSTALL +once     INSTALL +once     INSTALL +once     INSTALL +once     disk              discovered +list  discovered +list
        last_known full               INSTALL +once     INSTALL +once     INSTALL +once     INSTALL +once     disk              discovered +list  discovered +list
        discovery readonly            INSTALL +once     INSTALL +once     disk              disk              disk              discovered +list  come back
        discovery limited             INSTALL +once     INSTALL +once     disk              disk              disk              discovered +list  discovered +list
        discovery full                INSTALL +once     INSTALL +once     disk              disk              disk              discovered +list  discovered +list
        local readonly                INSTALL +once     INSTALL +once     disk              disk              disk              discovered +list  disk
        local limited                 INSTALL +once     INSTALL +once     disk              disk              disk              discovered +list  disk
        local full                    INSTALL +once     INSTALL +once     disk              disk              disk              discovered +list  disk
    "#]],
    );
}

#[test]
fn what_writes_no_disk_is_done_as_often_as_it_is_wanted() {
    let free = BootRecord { once: false, ..record(Lifecycle::Pending, Some(workflow())) };
    assert_eq!(word(&known(&free, PAST, offline(), true)), "INSTALL +once");
    assert_eq!(
        known(&free, PAST, offline(), true).effects,
        [Effect::RememberInstall { wish: 7, is_limited: false }]
    );
}

#[test]
fn an_installation_is_remembered_by_version() {
    let record = record(Lifecycle::Pending, Some(workflow()));
    let decision = known(&record, PAST, offline(), false);
    assert_eq!(decision.boot, Boot::Install(Box::new(workflow())));
    assert_eq!(decision.mac, request().mac);
    let remember = Effect::RememberInstall { wish: 7, is_limited: true };
    assert_eq!(decision.effects, [remember]);
}

/// Facts that own what [`Facts`] borrows.
#[derive(Debug)]
struct Case {
    record: Option<BootRecord>,
    freshness: Freshness,
    is_unreachable: bool,
    mode: Mode,
    autonomy: Autonomy,
    install_given: bool,
    offline_action: OfflineAction,
}

impl Case {
    fn decide(&self) -> Decision {
        let knowledge = match &self.record {
            Some(record) => Knowledge::Known { record, freshness: self.freshness },
            None if self.is_unreachable => Knowledge::Unreachable,
            None => Knowledge::Unknown,
        };
        let Self { mode, autonomy, install_given, offline_action, .. } = *self;
        decide(&Facts {
            request: &request(),
            knowledge,
            mode,
            autonomy,
            install_given,
            offline_action,
        })
    }

    fn is_confirmed(&self) -> bool {
        !self.mode.is_offline() && self.freshness != PAST
    }
}

prop_compose! {
    fn a_record()(
        state in select(Lifecycle::ALL),
        has_workflow: bool,
        hostname in option::of("\\PC{0,200}|[\\x00-\\x7f]{0,40}"),
        is_disputed in proptest::bool::weighted(0.2),
        name in "\\PC{0,200}|[\\x00-\\x7f]{0,40}",
    ) -> BootRecord {
        let workflow = has_workflow.then(|| Workflow { name, ..workflow() });
        let conflict_id = is_disputed.then(|| ConflictId::from_random([4; 16]));
        BootRecord { hostname, conflict_id, ..record(state, workflow) }
    }
}

prop_compose! {
    fn case()(
        record in option::weighted(0.8, a_record()),
        freshness in select(vec![Freshness::Asked, Freshness::Cached, PAST]),
        is_unreachable: bool,
        mode in select(vec![Mode::Online, Mode::Degraded, offline()]),
        autonomy in select(Autonomy::ALL),
        install_given: bool,
        offline_action in select(vec![OfflineAction::LastKnown, OfflineAction::Discovery, OfflineAction::Local]),
    ) -> Case {
        Case { record, freshness, is_unreachable, mode, autonomy, install_given, offline_action }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_is_installed_but_a_pending_node_with_its_own_workflow(case in case()) {
        let decision = case.decide();
        let remembers = decision.effects.iter().any(|effect| matches!(effect, Effect::RememberInstall { .. }));
        prop_assert_eq!(remembers, matches!(decision.boot, Boot::Install(_)));
        if let Boot::Install(workflow) = decision.boot {
            let record = case.record.expect("an installer without a record");
            prop_assert_eq!(record.state, Lifecycle::Pending);
            prop_assert_eq!(record.conflict_id, None);
            prop_assert_eq!(record.workflow, Some(Assignment::Known(*workflow)));
        }
    }

    #[test]
    fn without_the_controller_no_record_installs_twice(mut case in case()) {
        case.install_given = true;
        if !case.is_confirmed() {
            prop_assert!(!matches!(case.decide().boot, Boot::Install(_)));
        }
    }

    #[test]
    fn only_new_machines_are_listed_and_never_by_a_readonly_site_alone(case in case()) {
        let lists = case.decide().effects.contains(&Effect::Discover);
        prop_assert!(!lists || case.record.is_none());
        let is_alone = case.mode.is_offline() || case.is_unreachable;
        prop_assert!(!lists || !is_alone || case.autonomy != Autonomy::Readonly);
    }

    #[test]
    fn h20_every_reason_is_a_line_that_a_script_can_carry(case in case()) {
        let decision = case.decide();
        prop_assert!(decision.reasons.len() >= 2);
        for text in decision.reasons.iter().map(Reason::to_string).chain([case.mode.to_string()]) {
            let is_safe = |c: char| c.is_ascii_alphanumeric() || " ._:/-".contains(c);
            prop_assert!(!text.is_empty() && text.chars().all(is_safe), "{}", text);
        }
    }
}
