//! Tests that start the real programs: a controller, an agent, and what talks to them.
//!
//! Each trial is a plain function whose name is the sentence that must hold. What it needs of the machine is declared beside
//! it; where that is missing the trial is ignored, and the reason is printed.

mod answers;
mod backup;
mod boots;
mod bucket;
mod cage;
mod cli;
mod commands;
mod content;
mod controllers;
mod credentials;
mod disagree;
mod doctor;
mod drain;
mod endurance;
mod failing;
mod faults;
mod guests;
mod hostile;
mod http;
mod install;
mod join;
mod kept;
mod libraries;
mod loaders;
mod manage;
mod methods;
mod metrics;
mod moments;
mod need;
mod netboot;
mod news;
mod offline;
mod openapi;
mod pasts;
mod policies;
mod proxy;
mod shipped;
mod sync;
mod tftp;
mod tidy;
mod tour;
mod update;

use std::io::Write;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use pureboot_tests::process;

use crate::need::Need;

/// One sentence that must hold.
struct Case {
    name: &'static str,
    needs: &'static [Need],
    run: fn() -> Result<()>,
}

/// Names a trial after its module and function; what it needs stands after the function.
macro_rules! case {
    ($run:ident $(, $need:expr)* $(,)?) => {
        $crate::Case {
            name: concat!(module_path!(), "::", stringify!($run)),
            needs: &[$($need),*],
            run: $run,
        }
    };
}
pub(crate) use case;

impl Case {
    /// What libtest-mimic runs; `filter` is what names must contain to be run.
    fn into_trial(self, filter: Option<&str>) -> Trial {
        let missing: Vec<_> = self.needs.iter().filter_map(Need::missing).collect();
        let name = self.name.strip_prefix("it::").unwrap_or(self.name);
        if !missing.is_empty() && filter.is_none_or(|filter| name.contains(filter)) {
            let note = format!("test {name} is ignored: {}", missing.join("; "));
            // Nothing is lost but the note when standard output is closed.
            _ = writeln!(std::io::stdout(), "{note}");
        }
        Trial::test(name, move || explain((self.run)())).with_ignored_flag(!missing.is_empty())
    }
}

/// Adds the logs of the programs that took part to the error.
fn explain(outcome: Result<()>) -> Result<(), Failed> {
    let logs = process::take_logs().join("\n");
    outcome.map_err(|error| Failed::from(format!("{error:#}\n{logs}")))
}

fn main() {
    if std::env::var_os(libraries::SERVE).is_some() {
        return libraries::serve();
    }
    let arguments = Arguments::from_args();
    let groups = [
        tidy::cases(),
        libraries::cases(),
        tftp::cases(),
        http::cases(),
        loaders::cases(),
        commands::cases(),
        credentials::cases(),
        join::cases(),
        manage::cases(),
        cage::cases(),
        install::cases(),
        shipped::cases(),
        boots::cases(),
        offline::cases(),
        drain::cases(),
        endurance::cases(),
        moments::cases(),
        proxy::cases(),
        disagree::cases(),
        doctor::cases(),
        controllers::cases(),
        backup::cases(),
        content::cases(),
        cli::cases(),
        tour::cases(),
        update::cases(),
        sync::cases(),
        faults::cases(),
        failing::cases(),
        answers::cases(),
        kept::cases(),
        news::cases(),
        pasts::cases(),
        policies::cases(),
        openapi::cases(),
        metrics::cases(),
        guests::cases(),
        hostile::cases(),
        netboot::cases(),
        methods::cases(),
    ];
    let filter = arguments.filter.as_deref();
    let trials = groups.into_iter().flatten().map(|case| case.into_trial(filter)).collect();
    libtest_mimic::run(&arguments, trials).exit();
}
