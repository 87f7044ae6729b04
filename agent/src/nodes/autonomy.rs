//! What a site does by itself, and what it leaves to the controller: the one table of autonomy (DESIGN §4 and §8).
//!
//! | step | readonly | limited | full |
//! |---|---|---|---|
//! | a machine that nobody knows is listed as discovered | controller | site | site |
//! | a machine was seen to install itself: pending → installing → installed → active | site | site | site |
//! | a person at the site wants a move of that kind, or installing → install_failed | controller | site | site |
//! | a person at the site wants install_failed → pending | controller | controller | controller |
//! | a person at the site wants any other move that the lifecycle has | controller | controller | site |
//!
//! What is left to the controller is written down for it all the same. What was seen is never left to it: a machine that was
//! seen to install must not be given its installer again.

use pureboot_protocol::{Autonomy, Lifecycle, LifecycleError};

/// Something that is to happen to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A machine that nobody knows is listed as discovered.
    Discover,
    /// The machine was seen to go from one state to another.
    Seen {
        /// Where it was.
        from: Lifecycle,
        /// Where it is.
        to: Lifecycle,
    },
    /// A person at the site wants it to go from one state to another.
    Wished {
        /// Where it is.
        from: Lifecycle,
        /// Where it is to be.
        to: Lifecycle,
    },
}

/// Who decides about a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decides {
    /// The site goes by it from now on.
    Site,
    /// It counts once the controller has applied it.
    Controller,
}

/// Who decides about `step` at a site with this autonomy.
///
/// # Errors
/// The lifecycle has no such move, so nobody does.
pub fn decides(autonomy: Autonomy, step: Step) -> Result<Decides, LifecycleError> {
    use Autonomy::{Full, Limited, Readonly};
    use Decides::{Controller, Site};
    if let Step::Seen { from, to } | Step::Wished { from, to } = step {
        from.transition(to)?;
    }
    Ok(match (step, autonomy) {
        (Step::Seen { .. }, _) => Site,
        (Step::Discover, Readonly) => Controller,
        (Step::Discover, Limited | Full) => Site,
        (Step::Wished { from: Lifecycle::InstallFailed, to: Lifecycle::Pending }, _) => Controller,
        (Step::Wished { .. }, Readonly) => Controller,
        (Step::Wished { from, to }, Limited) if is_report(from, to) => Site,
        (Step::Wished { .. }, Limited) => Controller,
        (Step::Wished { .. }, Full) => Site,
    })
}

/// Whether a move only says what the machine has done already. It leads to no disk being written and to no node being retired.
fn is_report(from: Lifecycle, to: Lifecycle) -> bool {
    use Lifecycle::{Active, InstallFailed, Installed, Installing, Pending};
    matches!(
        (from, to),
        (Pending, Installing) | (Installing, Installed | InstallFailed) | (Installed, Active)
    )
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn row(name: &str, step: Step) -> String {
        let cells = Autonomy::ALL.iter().map(|autonomy| match decides(*autonomy, step) {
            Ok(Decides::Site) => "site       ",
            Ok(Decides::Controller) => "controller ",
            Err(_) => "-          ",
        });
        let cells: String = cells.collect();
        format!("{name:<44}{}\n", cells.trim_end())
    }

    #[test]
    fn every_move_of_the_lifecycle_is_decided_by_one_table() {
        let mut table = row("discover", Step::Discover);
        for from in Lifecycle::ALL {
            for to in from.successors() {
                table.push_str(&row(
                    &format!("wished {from} -> {to}"),
                    Step::Wished { from: *from, to },
                ));
            }
        }
        // Columns: readonly, limited, full.
        expect![[r#"
            discover                                    controller site       site
            wished discovered -> pending                controller controller site
            wished discovered -> cloning_target         controller controller site
            wished discovered -> retired                controller controller site
            wished pending -> installing                controller site       site
            wished pending -> retired                   controller controller site
            wished installing -> install_failed         controller site       site
            wished installing -> installed              controller site       site
            wished installing -> retired                controller controller site
            wished install_failed -> pending            controller controller controller
            wished install_failed -> retired            controller controller site
            wished installed -> active                  controller site       site
            wished installed -> reprovision             controller controller site
            wished installed -> retired                 controller controller site
            wished active -> reprovision                controller controller site
            wished active -> deprovisioning             controller controller site
            wished active -> migrating                  controller controller site
            wished active -> serving_source             controller controller site
            wished active -> cloning_target             controller controller site
            wished active -> retired                    controller controller site
            wished reprovision -> pending               controller controller site
            wished reprovision -> retired               controller controller site
            wished deprovisioning -> retired            controller controller site
            wished migrating -> active                  controller controller site
            wished migrating -> retired                 controller controller site
            wished serving_source -> active             controller controller site
            wished serving_source -> retired            controller controller site
            wished cloning_target -> installed          controller controller site
            wished cloning_target -> retired            controller controller site
        "#]]
        .assert_eq(&table);
    }

    #[test]
    fn what_was_seen_counts_at_every_site_and_what_cannot_be_at_none() {
        for autonomy in Autonomy::ALL {
            for from in Lifecycle::ALL {
                for to in Lifecycle::ALL {
                    let (from, to) = (*from, *to);
                    let seen = decides(*autonomy, Step::Seen { from, to });
                    assert_eq!(seen, from.transition(to).map(|_| Decides::Site));
                    let wished = decides(*autonomy, Step::Wished { from, to });
                    assert_eq!(wished.map(|_| to), from.transition(to));
                }
            }
        }
    }

    #[test]
    fn limited_lets_no_site_write_a_disk_or_retire_a_node_by_itself() {
        for from in Lifecycle::ALL {
            for to in [
                Lifecycle::Pending,
                Lifecycle::Reprovision,
                Lifecycle::CloningTarget,
                Lifecycle::Deprovisioning,
                Lifecycle::Retired,
            ] {
                for autonomy in [Autonomy::Readonly, Autonomy::Limited] {
                    let decided = decides(autonomy, Step::Wished { from: *from, to });
                    assert_ne!(decided, Ok(Decides::Site), "{autonomy} {from} {to}");
                }
            }
        }
    }
}
