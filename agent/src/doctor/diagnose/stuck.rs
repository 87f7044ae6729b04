//! What to say of a boot that no case of firmware explains: where it stands, why that is so as a rule, and what to do.

use super::{Boot, Finding};
use crate::session::outcome::{Outcome, Stuck};
use crate::session::step::{Answer, Gives, Protocol, Role, Transfer, What};

pub(super) fn explain(boot: &Boot<'_>) -> Option<Finding> {
    let at = match boot.session.outcome(boot.now) {
        Outcome::Stuck { at } => at,
        Outcome::Failed => return Some(failed(boot)),
        Outcome::UnderWay | Outcome::LeftToDisk | Outcome::CalledBack { .. } => return None,
    };
    let (finding, cause, cure) = match at {
        // One offer without a request is a machine that boots its disk; the other cases have rules of their own.
        Stuck::Offer
        | Stuck::BootServer
        | Stuck::Refused
        | Stuck::Unsent
        | Stuck::LoaderTransfer
        | Stuck::FileTransfer => return None,
        Stuck::SizeProbe => (
            boot.warn("asked for the size of a file and did not fetch it"),
            "it has no room for the file, or its second request was lost",
            "start it again; if it happens again, offer a smaller loader",
        ),
        Stuck::MissingFile => return missing(boot),
        Stuck::LoaderStart => (
            boot.warn("its loader arrived whole and asked for nothing more"),
            "the loader has no driver for the network card, or is for another architecture",
            "read its screen; offer the loader that uses the firmware's driver (snponly-x64.efi, undionly.kpxe)",
        ),
        Stuck::FirstScript => (
            boot.fail("has the first script and did not ask what to boot"),
            if has_first_script_by(boot, Protocol::Http) {
                "it has lost its network since, or somebody stopped it (Ctrl-B)"
            } else {
                "the HTTP port of the agent does not reach it"
            },
            "read its screen; open the port of [boot] listen (8080/tcp) to machines",
        ),
        Stuck::Script => return Some(unanswered(boot)),
        Stuck::Waiting => (
            boot.warn("was told to ask again later and did not"),
            "somebody switched it off or left iPXE",
            "start it again",
        ),
        Stuck::Kernel => (
            boot.fail("has its script and did not fetch the kernel"),
            "iPXE stopped at the script: it cannot read this kernel, or HTTP to the agent broke",
            "read its screen, where iPXE names the error and its page on ipxe.org",
        ),
        Stuck::CallBack => (
            boot.fail("has the files of its installer, and nothing called back"),
            "the kernel does not start, has no driver for the network card, or does not reach the agent",
            "look at its console: kernel arguments, initrd and network",
        ),
        Stuck::Installer => return Some(silent(boot)),
    };
    Some(finding.because(cause).cure(cure))
}

fn has_first_script_by(boot: &Boot<'_>, protocol: Protocol) -> bool {
    boot.any(|step| {
        matches!(step, What::Transfer(Transfer { role: Role::FirstScript, by, .. }) if *by == protocol)
    })
}

fn missing(boot: &Boot<'_>) -> Option<Finding> {
    let name = boot.steps().rev().find_map(|step| match step {
        What::Missing { name, .. } => Some(name),
        _ => None,
    })?;
    let is_key = name.contains('/');
    let key = if is_key { name.to_string() } else { super::loader_key(name) };
    let finding = boot
        .fail(format!("asked for '{name}', which the cache does not hold, and went no further"))
        .because("nobody has put the file there, or what names it is misspelt")
        .cure(format!("`pureboot-agent cache add {key} FILE`, or correct the name"));
    Some(finding)
}

fn unanswered(boot: &Boot<'_>) -> Finding {
    let because = boot.steps().rev().find_map(|step| match step {
        What::Script { answer: Some(Answer { gives: Gives::Error, because, .. }) } => Some(because),
        _ => None,
    });
    let finding = boot.fail("could not be told what to boot");
    let finding = match because {
        Some(because) => finding.because(because.as_ref()),
        None => finding.because("the agent did not come to a decision"),
    };
    finding.cure("look at the agent's log and at the machine's workflow")
}

fn silent(boot: &Boot<'_>) -> Finding {
    let last = boot.steps().rev().find(|step| matches!(step, What::Reported { .. }));
    let last = last.map(|step| format!(" after it {step}")).unwrap_or_default();
    boot.fail(format!("its installer fell silent{last}"))
        .because("it waits for an answer, has crashed, or lost its network")
        .cure("look at its console")
}

fn failed(boot: &Boot<'_>) -> Finding {
    let last = boot.steps().rev().find_map(|step| match step {
        What::Reported { message, .. } => message.as_ref(),
        _ => None,
    });
    let finding = boot.fail("its installation failed").cure("look at the installer's log");
    match last {
        Some(message) => finding.because(message.as_str()),
        None => finding,
    }
}
