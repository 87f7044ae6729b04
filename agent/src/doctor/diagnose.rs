//! From boot sessions to what went wrong: each case that was reproduced on real firmware, with cause and cure.
//!
//! Pure. A rule looks at one boot and says at most one thing; what is normal, such as firmware that asks for the length of a
//! file first, is no finding. A rule judges by an absence only where what it misses is seen by the same listener.

mod stuck;

use pureboot_protocol::Timestamp;

use super::finding::Finding;
use crate::dhcp::answer::BOOT_SERVER_PORT;
use crate::dhcp::loaders::LoaderFile;
use crate::session::outcome::Outcome;
use crate::session::step::{Boots, Ending, Phase, Protocol, Role, Session, Step, Transfer, What};

/// How many findings are told; the rest is counted.
const FINDINGS_MAX: usize = 32;
/// What ended so long ago is told by nobody any more, in seconds.
const AGE_MAX_S: i64 = 24 * 3_600;
/// A machine that comes back so soon without having got further tries the same boot again, in seconds.
const RETRY_GAP_S: i64 = 300;
/// After so much silence a boot counts as stuck, in seconds.
const QUIET_S: u64 = 30;
/// So often the same loader is a loop.
const LOOP_LOADS: usize = 3;
/// Blocks of a file that is larger need a path that carries whole Ethernet frames.
const SMALL_FILE_LEN: u64 = 1_024;
/// A transfer by TFTP is worth a word if it is this large and slower than this: a window of four blocks is not.
const SLOW_SIZE_BYTES: u64 = 128 * 1024;
const SLOW_BYTES_PER_S: u64 = 100_000;

type Rule = fn(&Boot<'_>) -> Option<Finding>;

/// In the order of the table of BOOT §9, what explains most first.
const RULES: &[Rule] = &[
    unsent,
    refused,
    loader_missing,
    boot_server_unanswered,
    offer_ignored,
    looped,
    shim_without_directory,
    second_stage_missing,
    shim_stuck,
    unread,
    grub_behind_proxy,
    access_denied,
    large_blocks_lost,
    broken_off,
    script_not_fetched,
    stuck::explain,
    slow,
];

/// One boot of one machine and the time at which it is judged.
struct Boot<'a> {
    /// The latest attempt.
    session: &'a Session,
    /// What was seen, that of the attempts before it first.
    steps: Vec<&'a Step>,
    now: Timestamp,
}

impl<'a> Boot<'a> {
    fn steps(&self) -> impl DoubleEndedIterator<Item = &'a What> {
        self.steps.iter().map(|step| &step.what)
    }

    /// Those after the last one that `is` says yes to.
    fn after_last(&self, is: impl Fn(&What) -> bool) -> Option<Vec<&'a What>> {
        let mut rest: Vec<_> = self.steps().rev().take_while(|step| !is(step)).collect();
        rest.reverse();
        (rest.len() < self.steps.len()).then_some(rest)
    }

    /// The last step that `is` says yes to, unless the machine has got an answer since.
    fn last_word(&self, is: impl Fn(&What) -> bool) -> Option<&'a What> {
        let is_answer = |step: &What| is_progress(step) || is_loader_offer(step);
        let rest = self.after_last(&is)?;
        let step = self.steps().rev().find(|step| is(step))?;
        (!rest.into_iter().any(is_answer)).then_some(step)
    }

    /// Whether nothing is under way and nothing was seen for a while.
    fn is_quiet(&self) -> bool {
        let is_open = |step: &What| matches!(step, What::Transfer(Transfer { ending: None, .. }));
        !self.any(is_open) && self.session.silence(self.now).as_secs() >= QUIET_S
    }

    fn any(&self, is: impl Fn(&What) -> bool) -> bool {
        self.steps().any(is)
    }

    fn name(&self) -> String {
        let Session { id, mac, address, .. } = self.session;
        match (mac, address) {
            (Some(mac), _) => format!("boot {mac}"),
            (None, Some(address)) => format!("boot {address}"),
            (None, None) => format!("boot {id}"),
        }
    }

    fn fail(&self, what: impl Into<String>) -> Finding {
        Finding::fail(self.name(), what)
    }

    fn warn(&self, what: impl Into<String>) -> Finding {
        Finding::warn(self.name(), what)
    }
}

/// What went wrong with the latest boot of each machine, at `now`.
pub fn diagnose(sessions: &[&Session], now: Timestamp) -> Vec<Finding> {
    let is_latest = |session: &&&Session| {
        let is_later = |other: &&Session| other.started_at > session.started_at;
        !sessions.iter().any(|other| is_same_machine(session, other) && is_later(other))
    };
    let is_recent = |session: &&&Session| now.seconds_since(end(session)) < AGE_MAX_S;
    let latest = sessions.iter().filter(is_recent).filter(is_latest);
    let mut findings: Vec<_> =
        latest.filter_map(|session| explain(session, sessions, now)).collect();
    let hidden = findings.len().saturating_sub(FINDINGS_MAX);
    findings.truncate(FINDINGS_MAX);
    if hidden > 0 {
        findings.push(Finding::warn("boots", format!("{hidden} more boots went wrong")));
    }
    findings
}

/// What went wrong with one session, at `now`. Among `known` may be those of earlier attempts: firmware that asks anew begins a
/// new session.
pub fn explain(session: &Session, known: &[&Session], now: Timestamp) -> Option<Finding> {
    let mut before: Vec<&Session> = known
        .iter()
        .copied()
        .filter(|other| is_same_machine(session, other) && other.started_at < session.started_at)
        .collect();
    before.sort_by_key(|other| std::cmp::Reverse(other.started_at));
    let mut attempts = vec![session];
    for earlier in before {
        let next = attempts.last().map_or(session.started_at, |next| next.started_at);
        if earlier.reached > Phase::Loader || next.seconds_since(end(earlier)) >= RETRY_GAP_S {
            break;
        }
        attempts.push(earlier);
    }
    let steps = attempts.iter().rev().flat_map(|attempt| &attempt.steps).collect();
    let boot = Boot { session, steps, now };
    let is_well = matches!(session.outcome(now), Outcome::LeftToDisk | Outcome::CalledBack { .. });
    if is_well { slow(&boot) } else { RULES.iter().find_map(|rule| rule(&boot)) }
}

fn is_same_machine(one: &Session, other: &Session) -> bool {
    match (one.mac, other.mac) {
        (None, None) => one.address.is_some() && one.address == other.address,
        (one, other) => one == other,
    }
}

/// When something of a session was last seen.
fn end(session: &Session) -> Timestamp {
    let last_ms = i64::try_from(session.last_ms()).unwrap_or(i64::MAX);
    Timestamp::from_unix_ms(session.started_at.unix_ms().saturating_add(last_ms))
}

/// The last part of a path or URL.
fn base(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or(file)
}

fn is_shim(file: &str) -> bool {
    base(file).contains("shim")
}

fn is_grub(file: &str) -> bool {
    base(file).starts_with("grub")
}

/// The loader that was fetched whole.
fn loader(step: &What) -> Option<&str> {
    match step {
        What::Transfer(Transfer {
            role: Role::Loader, ending: Some(Ending::Whole), name, ..
        }) => Some(name),
        _ => None,
    }
}

/// A transfer that ended before the file did, by the machine or on the way.
fn cut(step: &What) -> Option<&Transfer> {
    match step {
        What::Transfer(transfer)
            if matches!(transfer.ending, Some(Ending::Cut | Ending::Silent)) =>
        {
            Some(transfer)
        }
        _ => None,
    }
}

fn is_loader_offer(step: &What) -> bool {
    matches!(step, What::Offered(offer) if offer.port != BOOT_SERVER_PORT && !offer.boots.is_script())
}

fn is_script_offer(step: &What) -> bool {
    matches!(step, What::Offered(offer) if offer.boots.is_script())
}

fn is_progress(step: &What) -> bool {
    match step {
        What::Transfer(_) | What::Missing { .. } | What::Script { .. } | What::Reported { .. } => {
            true
        }
        What::Offered(_) => is_script_offer(step),
        What::Unsent { .. } | What::Refused { .. } | What::Leased { .. } => false,
    }
}

/// A host without a default route, or a link that is down.
fn unsent(boot: &Boot<'_>) -> Option<Finding> {
    let last = boot.last_word(|step| matches!(step, What::Unsent { .. }))?;
    let What::Unsent { error, .. } = last else { return None };
    let finding = boot
        .fail(format!("the answer could not be sent: {error}"))
        .because("the link is down or a packet filter rejects broadcasts to port 68")
        .cure("look at `ip link`, and let the agent send from ports 67 and 4011");
    Some(finding)
}

fn refused(boot: &Boot<'_>) -> Option<Finding> {
    let last = boot.last_word(
        |step| matches!(step, What::Refused { port, .. } if *port != BOOT_SERVER_PORT),
    )?;
    let What::Refused { reason, .. } = last else { return None };
    let finding = boot
        .warn(format!("got no answer: {reason}"))
        .cure("none is needed if it is to boot its disk; else give it a file in [[dhcp.quirk]]");
    Some(finding)
}

fn loader_missing(boot: &Boot<'_>) -> Option<Finding> {
    let is_offered = |file: &str| {
        boot.any(|step| match step {
            What::Offered(offer) => !offer.boots.is_script() && base(&offer.file) == base(file),
            _ => false,
        })
    };
    boot.steps().find_map(|step| {
        let What::Missing { name, .. } = step else { return None };
        is_offered(name).then(|| {
            boot.fail(format!("was sent for the loader '{name}', which the cache does not hold"))
                .cure(format!("`pureboot-agent cache add {} FILE`", loader_key(name)))
        })
    })
}

/// The content of a loader's name, which over HTTP follows the category.
fn loader_key(name: &str) -> String {
    format!("bootloaders/{}", name.rsplit("bootloaders/").next().unwrap_or(name))
}

/// Mode B: the machine comes to port 4011, tries four times and says PXE-E16.
fn boot_server_unanswered(boot: &Boot<'_>) -> Option<Finding> {
    let is_offer = |step: &What| {
        is_loader_offer(step)
            && matches!(step, What::Offered(offer) if offer.boots == Boots::LoaderByBootServer)
    };
    let rest = boot.after_last(is_offer)?;
    let is_leased = rest.iter().any(|step| matches!(step, What::Leased { .. }));
    let is_answered = rest
        .iter()
        .any(|step| matches!(step, What::Offered(offer) if offer.port == BOOT_SERVER_PORT));
    let refusal = rest.iter().find_map(|step| match step {
        What::Refused { port: BOOT_SERVER_PORT, reason, .. } => Some(reason),
        _ => None,
    });
    if is_answered || rest.iter().any(|step| is_progress(step)) {
        return None;
    }
    let finding = match refusal {
        Some(reason) => boot
            .fail("asked port 4011 and was not answered; firmware tries four times, then PXE-E16")
            .because(reason.as_ref()),
        None if is_leased && boot.is_quiet() => boot
            .fail("took its lease and was not heard on port 4011 (PXE-E16 on its screen)")
            .because("port 4011/udp does not reach the agent, or this firmware wants option 43"),
        None => return None,
    };
    Some(finding.cure(
        "open 4011/udp between machine and agent; else give its model mode = \"direct\" in [[dhcp.quirk]]",
    ))
}

fn offer_ignored(boot: &Boot<'_>) -> Option<Finding> {
    let offers = boot.steps.iter().filter(|step| is_loader_offer(&step.what));
    let offers: u32 = offers.map(|step| step.times).sum();
    let went_on = boot.any(|step| {
        is_progress(step)
            || matches!(step, What::Leased { .. })
            || matches!(step, What::Offered(offer) if offer.port == BOOT_SERVER_PORT)
    });
    (offers >= 2 && !went_on && boot.is_quiet()).then(|| {
        boot.fail(format!("was offered a loader {offers} times and never asked for a lease"))
            .because("nobody leases it an address, or its firmware ignores this form of offer")
            .cure(
                "see that a DHCP server answers on its network; the other form is tried by itself, \
                 mode = in [[dhcp.quirk]] settles it",
            )
    })
}

/// An iPXE that does not say that it is one, or a loader that starts firmware's PXE anew.
fn looped(boot: &Boot<'_>) -> Option<Finding> {
    let rest = boot.after_last(|step| matches!(step, What::Script { .. }));
    let rest = rest.unwrap_or_else(|| boot.steps().collect());
    let loaders: Vec<&str> = rest.iter().filter_map(|step| loader(step)).collect();
    let loads = |file: &&&str| loaders.iter().filter(|other| other == file).count();
    let repeated = loaders.iter().find(|file| loads(file) >= LOOP_LOADS);
    let is_broken = rest.iter().any(
        |step| matches!(step, What::Offered(offer) if offer.boots == Boots::ScriptByLoopGuard),
    );
    (is_broken || repeated.is_some()).then(|| {
        let loader = repeated.map(|file| format!(" ('{file}')")).unwrap_or_default();
        boot.warn(format!("came back for the same loader{loader} three times: a loop"))
            .because("the loader asks as if it were firmware, with neither option 175 nor the user class iPXE, or Secure Boot refuses it each time")
            .cure("use an iPXE build that sends option 175 (any of ipxe.org or Debian), or one with autoexec.ipxe; for Secure Boot a signed shim")
    })
}

/// shim reads the directory from the header field `file` alone.
fn shim_without_directory(boot: &Boot<'_>) -> Option<Finding> {
    let shim = boot.steps().filter_map(loader).find(|file| is_shim(file) && file.contains('/'))?;
    let at_root = |step: &What| match step {
        What::Missing { name, by: Protocol::Tftp } => !name.contains('/') && is_grub(name),
        _ => false,
    };
    boot.any(at_root).then(|| {
        boot.fail(format!("shim ('{shim}') asks for its next file without the directory"))
            .because("the DHCP server names the boot file in option 67 and not in the header")
            .cure("set the header's file too (dnsmasq: dhcp-boot in place of dhcp-option=67), or enable [dhcp] here")
    })
}

fn second_stage_missing(boot: &Boot<'_>) -> Option<Finding> {
    let shim = boot.steps().filter_map(loader).find(|file| is_shim(file))?;
    let name = shim.rsplit("bootloaders/").next().unwrap_or(shim);
    let next = name.parse::<LoaderFile>().ok()?.second_stage()?;
    let missing = |step: &What| match step {
        What::Missing { name, .. } => base(name) == base(next.path()),
        _ => false,
    };
    boot.any(missing).then(|| {
        boot.fail(format!("shim ('{shim}') was told that '{}' is missing", base(next.path())))
            .because("a shim starts the second stage beside it and nothing else")
            .cure(format!("`pureboot-agent cache add {next} FILE`"))
    })
}

/// shim 16.1 waits for ever on a 404 without body. Ours have one.
fn shim_stuck(boot: &Boot<'_>) -> Option<Finding> {
    let What::Missing { name, by: Protocol::Http } = boot.steps().next_back()? else { return None };
    let has_shim = boot.steps().filter_map(loader).any(is_shim);
    (has_shim && boot.is_quiet()).then(|| {
        boot.fail(format!("runs shim and is silent since '{name}' was answered 404"))
            .because(
                "shim waits for the body of an error for ever, and something on the way strips it",
            )
            .cure("let no proxy between machine and agent strip the bodies of errors")
    })
}

fn unread(boot: &Boot<'_>) -> Option<Finding> {
    let is_unread =
        |step: &What| matches!(step, What::Transfer(Transfer { ending: Some(Ending::Unread), .. }));
    let rest = boot.after_last(is_unread)?;
    let What::Transfer(Transfer { name, .. }) = boot.steps().rev().find(|step| is_unread(step))?
    else {
        return None;
    };
    (!rest.iter().any(|step| fetched_whole(step, name))).then(|| {
        boot.fail(format!("asked for '{name}', which the agent could not read"))
            .because("the disk does not give the file back")
            .cure("look at the agent's log and `dmesg`; `pureboot-agent cache add` puts the file there anew")
    })
}

fn fetched_whole(step: &What, file: &str) -> bool {
    matches!(step, What::Transfer(Transfer { ending: Some(Ending::Whole), name, .. }) if **name == *file)
}

/// Signed GRUB asks TFTP at the server that leases addresses.
fn grub_behind_proxy(boot: &Boot<'_>) -> Option<Finding> {
    let rest = boot.after_last(|step| loader(step).is_some_and(is_grub))?;
    let went_on = rest.iter().any(|step| is_progress(step));
    (boot.any(is_loader_offer) && !went_on && boot.is_quiet()).then(|| {
        boot.fail("loaded GRUB and asked this agent for nothing more")
            .because("GRUB asks TFTP at the server that leased its address, which ProxyDHCP is not")
            .cure("chain iPXE and not GRUB (ipxe-shimx64.efi with ipxe.efi), or let the site's DHCP server name the agent")
    })
}

/// Secure Boot loads an unsigned loader whole and then refuses to start it.
fn access_denied(boot: &Boot<'_>) -> Option<Finding> {
    let file = boot.steps().rev().find_map(loader).filter(|file| file.ends_with(".efi"))?;
    let rest = boot.after_last(|step| loader(step) == Some(file))?;
    let went_on = rest.iter().any(|step| {
        is_progress(step) || is_loader_offer(step) || matches!(step, What::Leased { .. })
    });
    if went_on || !boot.is_quiet() || is_shim(file) || is_grub(file) {
        return None;
    }
    let loads = boot.steps().filter(|step| loader(step) == Some(file)).count();
    let finding = if loads > 1 {
        boot.fail(format!("loaded '{file}' {loads} times whole, then fell silent"))
    } else {
        boot.warn(format!("loaded '{file}' whole, then fell silent"))
    };
    Some(
        finding
            .because("Secure Boot refuses a loader that is not signed (Access Denied on its screen)")
            .cure("name a signed shim in [dhcp.loaders] (ipxe-shimx64.efi with ipxe.efi), or switch Secure Boot off"),
    )
}

/// The request came and nothing of the file arrived. A machine that has learned the size before gets small packets.
fn large_blocks_lost(boot: &Boot<'_>) -> Option<Finding> {
    let lost = boot.steps().rev().find_map(cut)?;
    let Transfer { name, .. } = lost;
    let is_lost = lost.by == Protocol::Tftp && lost.ending == Some(Ending::Silent);
    let is_large = lost.size_bytes.is_none_or(|size| size > SMALL_FILE_LEN);
    let is_repaired = boot.any(|step| fetched_whole(step, name));
    if !is_lost || lost.sent_bytes > 0 || !is_large || is_repaired {
        return None;
    }
    let is_probe = |step: &What| matches!(step, What::Transfer(Transfer { ending: Some(Ending::Probe), name: probed, .. }) if probed == name);
    let finding = boot.fail(format!("'{name}' by TFTP stalled at its first block"));
    Some(if boot.any(is_probe) {
        finding
            .because("small packets pass and full ones do not: the MTU of the path is smaller than that of its ends")
            .cure("give every switch, bridge and tunnel between machine and agent the MTU 1500")
    } else {
        finding
            .because("full packets do not pass (the MTU of the path), or a firewall drops what does not come from port 69")
            .cure("give every switch, bridge and tunnel on the way the MTU 1500; let UDP from the agent's high ports pass (conntrack: nf_conntrack_tftp)")
    })
}

/// Neither UEFI nor iPXE resumes.
fn broken_off(boot: &Boot<'_>) -> Option<Finding> {
    let rest = boot.after_last(|step| cut(step).is_some())?;
    let Transfer { name, by, sent_bytes, .. } = boot.steps().rev().find_map(cut)?;
    (!rest.iter().any(|step| fetched_whole(step, name))).then(|| {
        boot.fail(format!("'{name}' by {by} broke off after {sent_bytes} bytes"))
            .because("the machine left, or the network lost it; firmware does not resume")
            .cure("start the machine again; if it happens again, look at cable, switch port and duplex")
    })
}

fn script_not_fetched(boot: &Boot<'_>) -> Option<Finding> {
    let is_told = |step: &What| {
        // One that came over HTTP shows that HTTP reaches the agent.
        let is_first_script = matches!(
            step,
            What::Transfer(Transfer { role: Role::FirstScript, by: Protocol::Tftp, .. })
        );
        is_script_offer(step) || is_first_script
    };
    let rest = boot.after_last(is_told)?;
    (!rest.iter().any(|step| is_progress(step)) && boot.is_quiet()).then(|| {
        boot.fail("runs iPXE, was told where its script is, and never asked for it")
            .because("the HTTP port of the agent does not reach it, or another DHCP server names a file")
            .cure("open the port of [boot] listen (8080/tcp) to machines; `pureboot-agent doctor --interface NAME` looks for other servers")
    })
}

fn slow(boot: &Boot<'_>) -> Option<Finding> {
    boot.steps.iter().rev().find_map(|step| {
        let What::Transfer(transfer) = &step.what else { return None };
        let Transfer { name, by, ending, sent_bytes, .. } = transfer;
        let took_ms = step.took_ms?;
        let per_second = sent_bytes.saturating_mul(1_000).checked_div(took_ms)?;
        let is_slow = *by == Protocol::Tftp
            && *ending == Some(Ending::Whole)
            && *sent_bytes >= SLOW_SIZE_BYTES
            && per_second < SLOW_BYTES_PER_S;
        is_slow.then(|| {
            boot.warn(format!("took {took_ms} ms for the {sent_bytes} bytes of '{name}'"))
                .because("its firmware asks for no window (RFC 7440), so each block waits for a round trip, or the line is slow")
                .cure("boot it by UEFI HTTP, or load a small iPXE first and the rest by HTTP")
        })
    })
}

#[cfg(test)]
mod tests;
